"""Can the server serve over HTTP? What it needs for that is read, and the identity provider is asked for its keys."""

import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio.to_thread

from token_tools.certificates import read_certificates
from token_tools.cli.checks.check import Check, report_failure
from token_tools.cli.checks.network import EXPIRES_SOON
from token_tools.cluster.certificate_chain import Certificate
from token_tools.configuration import find_http_settings
from token_tools.credentials import is_readable_by_others
from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.operator_input import format_input
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.issuer_metadata import Metadata, parse_endpoints
from token_tools.server.http.listening import load_tls
from token_tools.server.http.named_keys import read_keys
from token_tools.times import Clock, format_relative_time, format_time

_ISSUER_MEND: Final = (
    "QUMULO_HTTP_ISSUER has to be the issuer's URL as its metadata has it, this machine has to reach it, and "
    "QUMULO_HTTP_ISSUER_CA_FILE names a private authority"
)


_SIGN_IN_MEND: Final = (
    "that takes an issuer of OpenID Connect with the authorization code flow and PKCE; without QUMULO_HTTP_CLIENT_ID "
    "there are no pages"
)


def check_http_settings(options: Mapping[str, Any]) -> tuple[HttpSettings | None, Check | None]:
    """Return the settings of the service over HTTP and what is the case with them; nothing if none is about that."""
    try:
        settings = find_http_settings(options)
    except SettingsError as failure:
        return None, Check(
            "HTTP", "failed", str(failure), "correct what this line names: docs/http.md has all settings"
        )
    return settings, None if settings is None else _tell_settings(settings)


async def check_http_files(settings: HttpSettings, clock: Clock) -> AsyncIterator[Check]:
    """Yield what is the case with the certificate, the keys of machines, the issuer and its client that are set."""
    if settings.http_tls_certificate is not None:
        yield await anyio.to_thread.run_sync(_check_certificate, settings, settings.http_tls_certificate, clock())
    if settings.http_keys_file is not None:
        yield await anyio.to_thread.run_sync(_check_keys, settings.http_keys_file)
    if settings.http_issuer is not None:
        yield await _check_issuer(settings.http_issuer, settings, clock)
    if settings.offers_pickup:
        yield await anyio.to_thread.run_sync(_check_client, settings)


def _tell_settings(settings: HttpSettings) -> Check:
    details = [f"audience  {settings.http_audience}"] if settings.http_issuer else []
    if settings.http_issuer is not None:
        details += [f"readers   {' '.join(settings.http_readers)}", f"writers   {' '.join(settings.http_writers)}"]
    text = f"clients call {settings.resource}; the server listens on {settings.http_listen}"
    if settings.http_anonymous:
        mend = "name an issuer or a keys file, unless that is meant"
        return Check("HTTP", "warning", f"{text}, and lets in whoever reaches that", mend)
    return Check("HTTP", "ok", text, details=details)


def _check_certificate(settings: HttpSettings, path: Path, now: datetime) -> Check:
    """Load the certificate with its key, as the server does, and tell when it expires."""
    try:
        load_tls(settings)
        own = Certificate.decode(read_certificates(path))
    except SettingsError as failure:
        return report_failure("certificate", failure)
    details = [
        f"names    {', '.join(own.names) or 'none'}",
        f"until    {format_time(own.valid_until)} ({format_relative_time(own.valid_until, now=now)})",
    ]
    if own.valid_until <= now:
        return Check("certificate", "failed", "the certificate of this server has expired", f"renew {path}", details)
    if own.valid_until - now < EXPIRES_SOON:
        return Check("certificate", "warning", "the certificate of this server expires soon", f"renew {path}", details)
    return Check("certificate", "ok", f"{path} and its key belong together", details=details)


def _check_keys(path: Path) -> Check:
    try:
        keys = read_keys(path)
    except SettingsError as failure:
        return report_failure("keys", failure)
    return Check("keys", "ok", f"{path} has {len(keys)}", details=[f"{key.name}  {key.role}" for key in keys])


def _check_client(settings: HttpSettings) -> Check:
    """Read the secret of the client with which people sign in, and tell what its entry at the issuer needs."""
    try:
        settings.read_client_secret()
    except SettingsError as failure:
        return report_failure("client", failure)
    details = [f"redirect  {settings.redirect_uri}"]
    path = settings.http_client_secret_file
    if path is None:
        return Check("client", "ok", "people sign in with a public client, which has no secret", details=details)
    if is_readable_by_others(path):
        mend = f"`chmod 600 {shlex.quote(str(path))}` by its owner mends that"
        return Check("client", "warning", f"other users of this machine can read {path}", mend, details)
    return Check("client", "ok", f"people sign in with a client whose secret is in {path}", details=details)


async def _check_issuer(url: str, settings: HttpSettings, clock: Clock) -> Check:
    """Read what the issuer tells now: its keys and, for pages where people sign in, its endpoints."""
    try:
        published = await Issuer(url, ca_file=settings.http_issuer_ca_file, transport=None, clock=clock).read()
    except SettingsError as failure:
        return report_failure("issuer", failure)
    except ValueError as reason:
        return Check("issuer", "failed", f"the keys of {url} cannot be read: {reason}", _ISSUER_MEND)
    try:
        details = _list_endpoints(published.metadata) if settings.offers_pickup else ()
    except ValueError as reason:
        return Check("issuer", "failed", f"nobody can sign in at pages: the metadata of {url} {reason}", _SIGN_IN_MEND)
    algorithms = sorted({algorithm for key in published.keys for algorithm in key.by_algorithm})
    text = f"{url} tells usable keys: {len(published.keys)}, for {', '.join(algorithms)}"
    return Check("issuer", "ok", text, details=details)


def _list_endpoints(metadata: Metadata) -> Sequence[str]:
    endpoints = parse_endpoints(metadata)
    return [f"sign-in  {format_input(endpoints.authorization)}", f"tokens   {format_input(endpoints.token)}"]
