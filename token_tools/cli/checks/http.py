"""Can the server serve over HTTP? What it needs for that is read, and the identity provider is asked for its keys."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import anyio.to_thread

from token_tools.certificates import read_certificates
from token_tools.cli.checks.check import Check, report_failure
from token_tools.cli.checks.network import EXPIRES_SOON
from token_tools.cluster.certificate_chain import Certificate
from token_tools.configuration import find_http_settings
from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import Issuer
from token_tools.server.http.listening import load_tls
from token_tools.server.http.named_keys import read_keys
from token_tools.times import Clock, format_relative_time, format_time

_ISSUER_MEND: Final = (
    "QUMULO_HTTP_ISSUER has to be the issuer's URL as its metadata has it, this machine has to reach it, and "
    "QUMULO_HTTP_ISSUER_CA_FILE names a private authority"
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
    """Yield what is the case with the certificate, the keys of machines, and the identity provider that are set."""
    if settings.http_tls_certificate is not None:
        yield await anyio.to_thread.run_sync(_check_certificate, settings, settings.http_tls_certificate, clock())
    if settings.http_keys_file is not None:
        yield await anyio.to_thread.run_sync(_check_keys, settings.http_keys_file)
    if settings.http_issuer is not None:
        yield await _check_issuer(settings.http_issuer, settings.http_issuer_ca_file, clock)


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


async def _check_issuer(url: str, ca_file: Path | None, clock: Clock) -> Check:
    try:
        keys = await Issuer(url, ca_file=ca_file, transport=None, clock=clock).read_keys()
    except SettingsError as failure:
        return report_failure("issuer", failure)
    except ValueError as reason:
        return Check("issuer", "failed", f"the keys of {url} cannot be read: {reason}", _ISSUER_MEND)
    algorithms = sorted({algorithm for key in keys for algorithm in key.by_algorithm})
    return Check("issuer", "ok", f"{url} tells usable keys: {len(keys)}, for {', '.join(algorithms)}")
