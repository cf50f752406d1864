"""Can the cluster be reached, and is its certificate trusted? Nothing is sent to it, and no credential is needed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Final

import anyio

from token_tools.cli.checks.check import Check, find_first_sentence, render_command
from token_tools.cli.trust import render_reason, render_trust
from token_tools.cluster.certificate_chain import Certificate, fetch_chain
from token_tools.cluster.transport import check_handshake, read_trust
from token_tools.configuration import Profile
from token_tools.errors import SettingsError, Unreachable
from token_tools.settings import Settings
from token_tools.times import Clock, format_relative_time, format_time

EXPIRES_SOON: Final = timedelta(days=30)
"""A certificate that is verified is told to expire from so many days before."""

_PORT_MEND: Final = "QUMULO_PORT has to be the port of the cluster's REST API, 8000 unless somebody changed it"
_REACH_MEND: Final = (
    f"{_PORT_MEND}; the cluster has to be up; and a firewall or a missing VPN may be between it and this machine"
)


async def check_network(profile: Profile, clock: Clock) -> AsyncIterator[Check]:
    """Yield what is the case with the name, the port and the certificate; the first failure is the last check."""
    steps: Sequence[Callable[[], Awaitable[Check]]] = (
        partial(_check_name, profile.settings),
        partial(_check_port, profile.settings),
        partial(_check_tls, profile, clock),
    )
    for step in steps:
        found = await step()
        yield found
        if found.outcome == "failed":
            return


async def _check_name(settings: Settings) -> Check:
    try:
        ip_address(settings.host)
    except ValueError:
        return await _resolve(settings)
    return Check("name", "ok", f"{settings.host} is an address")


async def _resolve(settings: Settings) -> Check:
    try:
        with anyio.fail_after(settings.timeout.total_seconds()):
            found = await anyio.getaddrinfo(settings.host, settings.port)
    except OSError as failure:
        return Check(
            "name",
            "failed",
            f"{settings.host} is not found: {render_reason(failure)}",
            "write the name as it stands in DNS, or the cluster's address, in QUMULO_HOST",
        )
    addresses = sorted({str(each[4][0]) for each in found})
    return Check("name", "ok", f"{settings.host} is {', '.join(addresses)}")


async def _check_port(settings: Settings) -> Check:
    try:
        with anyio.fail_after(settings.timeout.total_seconds()):
            stream = await anyio.connect_tcp(settings.host, settings.port)
            await stream.aclose()
    except OSError as failure:
        return Check("TCP", "failed", f"{settings.address} does not answer: {render_reason(failure)}", _REACH_MEND)
    return Check("TCP", "ok", f"{settings.address} accepts connections")


async def _check_tls(profile: Profile, clock: Clock) -> Check:
    try:
        chain = await fetch_chain(profile.settings)
    except (OSError, ValueError) as failure:
        return Check("TLS", "failed", render_reason(failure), _PORT_MEND)
    return await _check_certificate(profile, chain[0], clock())


async def _check_certificate(profile: Profile, own: Certificate, now: datetime) -> Check:
    settings = profile.settings
    details = [
        f"names    {', '.join(own.names) or 'none'}",
        f"issuer   {'itself' if own.is_self_signed else own.issuer}",
        f"from     {format_time(own.valid_from)}",
        f"until    {format_time(own.valid_until)} ({format_relative_time(own.valid_until, now=now)})",
        f"SHA-256  {own.fingerprint}",
    ]
    trust_command = f"`{render_command('trust', profile)}`"
    try:
        trust = read_trust(settings)
        if trust.fingerprint not in {None, own.fingerprint}:
            details.append(f"trusted  {trust.fingerprint}")
        await check_handshake(settings, trust)
    except (SettingsError, Unreachable) as failure:
        return Check("TLS", "failed", find_first_sentence(failure), f"{trust_command} shows it, and asks", details)
    if not settings.verify_tls:
        mend = f"remove {profile.origins['verify_tls']}, and run {trust_command}"
        return Check("TLS", "warning", "the certificate is not verified", mend, details)
    if trust.fingerprint is None and own.valid_until - now < EXPIRES_SOON:
        mend = "the cluster's administrator has to renew it before that"
        return Check("TLS", "warning", "the certificate expires soon", mend, details)
    return Check("TLS", "ok", f"the certificate is trusted {render_trust(profile)}", details=details)
