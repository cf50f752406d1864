"""Shows the certificates of a cluster, and trusts its own one if a person agrees: the command `trust`."""

import argparse
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from token_tools.certificates import parse_fingerprint
from token_tools.cli.setting_options import add_cluster_option, add_setting_option
from token_tools.cli.terminal import ask_whether, print_line
from token_tools.cluster.certificate_chain import Certificate, fetch_chain
from token_tools.cluster.transport import Trust, check_handshake, read_trust
from token_tools.cluster.trusted import find_saved_certificate
from token_tools.config_file import name_table_keys
from token_tools.configuration import Profile, find_profiles
from token_tools.errors import SettingsError, Unreachable, Untrusted
from token_tools.paths import find_trusted_file
from token_tools.settings import Settings
from token_tools.storage.atomic_file import replace_file
from token_tools.times import format_time

_REACH_SETTINGS: Final = ("host", "port", "ca_file", "fingerprint", "timeout", "config")
"""The settings that say how a cluster is reached and what is trusted."""


class Agreement(NamedTuple):
    """What a person, or a script for them, says about a certificate: `expect` is the SHA-256 that it has to have."""

    expect: str | None = None
    yes: bool = False

    def is_given(self, own: Certificate, saving: "_Saving") -> bool:
        """Tell whether a certificate may be saved; a person is asked if no option says it.

        Raises:
            SettingsError: If nobody can be asked.
        """
        if self.expect is not None:
            is_expected = self.expect in {own.fingerprint, saving.certificate.fingerprint}
            if not is_expected:
                print_line(f"--expect is {self.expect}, that of another certificate.")
            return is_expected
        if self.yes:
            return True
        print_line(saving.render_meaning(own))
        return ask_whether(f"Trust it from now on, and save it in {saving.path}?", option="--expect SHA256 or --yes")


class _Saving(NamedTuple):
    """Which certificate is to be saved, and where.

    `others` are the certificates in that file that stay. `is_pin` says that it is to be trusted alone, by a file of
    ours.
    """

    path: Path
    certificate: Certificate
    others: str = ""
    is_pin: bool = False

    @property
    def content(self) -> str:
        """What the file will hold."""
        return "".join(f"{part.strip()}\n" for part in (self.others, self.certificate.pem) if part.strip())

    def render_meaning(self, own: Certificate) -> str:
        """Return what a person agrees to, and what they have to compare."""
        compare = f"Compare {self.certificate.fingerprint} with what the cluster's administrator tells you."
        if self.certificate == own:
            return compare
        return f"The last one is the authority: whatever it issues will be trusted.\n{compare}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_agreement_options(parser)
    add_cluster_option(parser, "Only this one of the clusters in config.toml; may be repeated (default: all)")
    for name in _REACH_SETTINGS:
        add_setting_option(parser, name)


def add_agreement_options(parser: argparse.ArgumentParser, yes_help: str = "Trust what answers, unasked") -> None:
    """Add the options that answer the question whether a certificate is trusted."""
    parser.add_argument(
        "--expect", type=_parse_fingerprint, metavar="SHA256", help="Trust the certificate if it has this SHA-256"
    )
    parser.add_argument("--yes", action="store_true", help=yes_help)


def run(settings: Mapping[str, Any], *, clusters: Sequence[str] = (), **answers: Any) -> int:  # noqa: ANN401 - the fields of `Agreement`
    """Show the certificates of each cluster, ask, and save; return the exit status: 1 if one is not trusted then.

    Raises:
        SettingsError: If a setting is wrong, or if nobody can be asked.
    """
    agreement = Agreement(**answers)
    profiles = find_profiles(settings, clusters=clusters)
    return 0 if anyio.run(_trust_all, profiles, agreement) else 1


async def _trust_all(profiles: Sequence[Profile], agreement: Agreement) -> bool:
    results = [await trust_cluster(profile, agreement) for profile in profiles]
    return all(results)


async def trust_cluster(profile: Profile, agreement: Agreement) -> bool:
    """Show the certificates of a cluster, ask, and save; return whether it is trusted then.

    Raises:
        SettingsError: If a file with certificates is unusable, or if nobody can be asked.
    """
    try:
        chain = await fetch_chain(profile.settings)
    except (OSError, ValueError) as failure:
        print_line(f"{profile.label} shows no certificate: {render_reason(failure)}.")
        return False
    _print_chain(profile.label, chain)
    try:
        return await _trust_chain(profile, chain, agreement)
    except Unreachable as failure:
        print_line(name_table_keys(str(failure), profile.table))
        return False


async def _trust_chain(profile: Profile, chain: Sequence[Certificate], agreement: Agreement) -> bool:
    if not profile.settings.verify_tls:
        print_line(
            f"Nothing is verified, since {profile.origins['verify_tls']} is false: remove that, and run this again."
        )
        return False
    if await _find_refusal(profile.settings) is None:
        print_line(f"It is trusted already: {render_trust(profile)}.")
        return True
    saving = await _plan_saving(profile, chain)
    if saving is None:
        return False
    if not agreement.is_given(chain[0], saving):
        print_line("It is not trusted. Nothing was changed.")
        return False
    _save(saving)
    return await _check_saved(profile)


def _print_chain(label: str, chain: Sequence[Certificate]) -> None:
    print_line(f"{label} shows {len(chain)} certificate{'' if len(chain) == 1 else 's'}, its own first:")
    for certificate in chain:
        lines = (
            f"subject  {certificate.subject or '(empty)'}",
            f"names    {', '.join(certificate.names) or '(none: no machine is named in it)'}",
            f"issuer   {'itself (self-signed)' if certificate.is_self_signed else certificate.issuer}",
            f"valid    {format_time(certificate.valid_from)} to {format_time(certificate.valid_until)}",
            f"SHA-256  {certificate.fingerprint}",
        )
        print_line("\n".join(f"  {line}" for line in lines) + "\n")


async def _find_refusal(settings: Settings) -> Untrusted | None:
    try:
        await check_handshake(settings, _read_usable_trust(settings))
    except Untrusted as refusal:
        return refusal
    return None


def _read_usable_trust(settings: Settings) -> Trust:
    """Return what is trusted, without what is not there yet, and without a saved certificate that cannot be used.

    Raises:
        SettingsError: If the operator's own file of certificates is unusable.
    """
    if settings.ca_file is not None and not settings.ca_file.exists():
        return Trust(None, None)
    try:
        return read_trust(settings)
    except SettingsError:
        if find_saved_certificate(settings) is None:
            raise
        return Trust(None, None)


async def _plan_saving(profile: Profile, chain: Sequence[Certificate]) -> _Saving | None:
    """Return what has to be saved where. If nothing can be, say what has to be done instead, and return None."""
    settings = profile.settings
    if settings.fingerprint is not None:
        print_line(
            f"{profile.origins['fingerprint']} is {settings.fingerprint}, that of another certificate. If the "
            f"cluster's administrator tells the new one, set it to {chain[0].fingerprint}."
        )
        return None
    if settings.ca_file is not None:
        return await _plan_adding(profile, settings.ca_file, chain[-1])
    path = find_trusted_file(settings.host, settings.port)
    if path is None:
        raise SettingsError(
            f"there is no home folder to save it in: set QUMULO_FINGERPRINT to {chain[0].fingerprint} instead."
        )
    return _Saving(path, chain[0], is_pin=True)


async def _plan_adding(profile: Profile, ca_file: Path, certificate: Certificate) -> _Saving | None:
    """Return what the operator's own file of certificates has to hold, if that lets the cluster be trusted."""
    saving = _Saving(ca_file, certificate, _read_usable_trust(profile.settings).certificates or "")
    try:
        await check_handshake(profile.settings, Trust(None, saving.content))
    except Untrusted as refusal:
        reason = getattr(refusal.__cause__, "verify_message", None) or "it was not verified"
        if not certificate.is_self_signed:
            print_line(f"The authority that issued it does not come with it: save that one's certificate in {ca_file}.")
        print_line(
            f"To save it in {ca_file} would not help: {reason.rstrip('.')}. Remove {profile.origins['ca_file']}, and "
            "run this again: then the cluster's own certificate is trusted, and no other."
        )
        return None
    return saving


def _save(saving: _Saving) -> None:
    try:
        if saving.is_pin:
            # A file that others may write must not keep its mode.
            saving.path.unlink(missing_ok=True)
        replace_file(saving.path, saving.content.encode())
    except OSError as failure:
        raise SettingsError(f"{saving.path} cannot be written: {render_reason(failure)}.") from None


async def _check_saved(profile: Profile) -> bool:
    """Tell whether the cluster is trusted by what was saved."""
    refusal = await _find_refusal(profile.settings)
    print_line(
        f"It is trusted now: {render_trust(profile)}. A server that runs already needs no restart."
        if refusal is None
        else f"It was saved, and still: {name_table_keys(str(refusal), profile.table)}"
    )
    return refusal is None


def render_trust(profile: Profile) -> str:
    """Return by what the cluster is trusted."""
    settings = profile.settings
    if settings.fingerprint is not None:
        return f"by {profile.origins['fingerprint']}"
    if settings.ca_file is not None:
        return f"by {settings.ca_file} or by this system"
    saved = find_saved_certificate(settings)
    return "by this system" if saved is None else f"by {saved}, this certificate and no other"


def render_reason(failure: Exception) -> str:
    """Return why something failed, without what the other side sent."""
    match failure:
        case TimeoutError():
            return "there was no answer in time"
        case ssl.SSLError():
            return "what answers there does not speak TLS"
        case OSError(strerror=str(reason)):
            return reason
        case (
            OSError(__cause__=OSError(errno=int(number)))
            # A name with several addresses, none of which answers.
            | OSError(__cause__=BaseExceptionGroup(exceptions=(OSError(errno=int(number)), *_)))
        ):
            return os.strerror(number)
        case OSError():
            return "no connection could be made"
        case _:
            return "its certificate cannot be understood"


def _parse_fingerprint(text: str) -> str:
    try:
        return parse_fingerprint(text)
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None
