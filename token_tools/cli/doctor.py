"""Checks all that has to be right, and says what mends what is not: the command `doctor`."""

import argparse
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio

from token_tools import __version__
from token_tools.cli.checks.check import Check
from token_tools.cli.checks.cluster import check_cluster
from token_tools.cli.checks.hosts import check_hosts
from token_tools.cli.checks.http import check_http_files, check_http_settings
from token_tools.cli.checks.machine import check_credential, check_program, check_settings
from token_tools.cli.checks.network import check_network
from token_tools.cli.checks.storage import check_storage
from token_tools.cli.hosts.catalogue import HOSTS, Host
from token_tools.cli.hosts.change import list_found_entries
from token_tools.cli.hosts.probe import run_entry
from token_tools.cli.setting_options import add_cluster_option, add_setting_options
from token_tools.cli.terminal import print_line
from token_tools.configuration import Profile, find_profiles
from token_tools.errors import SettingsError, UsageError
from token_tools.http_settings import HttpSettings
from token_tools.server.app import SERVER_NAME
from token_tools.times import utc_now

_SETTINGS_MEND: Final = f"correct what this line names; if nothing is set yet, `{SERVER_NAME} setup` asks for all of it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--json", dest="as_json", action="store_true", help="Print one JSON object, for programs")
    parser.add_argument(
        "--client",
        choices=[*HOSTS],
        metavar="NAME",
        help="Check what this host's entry says instead of what is set here, such as claude-code",
    )
    add_cluster_option(parser, "Only this one of the clusters in config.toml; may be repeated (default: all)")
    add_setting_options(parser, without={"verify_tls"})


def run(settings: Mapping[str, Any], *, as_json: bool, client: str | None = None, clusters: Sequence[str] = ()) -> int:
    """Check everything and print it; return the exit status: 1 if there is something to mend.

    Raises:
        UsageError: If the host has no entry that can be started, or if a cluster or a setting is given in vain.
    """
    if client is not None:
        if settings:
            raise UsageError("--client checks with the settings of that host's entry: give no others.")
        chosen = [word for name in clusters for word in ("--cluster", name)]
        return _run_as_host(HOSTS[client], [*chosen, *(["--json"] if as_json else [])])
    report = _JsonReport() if as_json else _TextReport()
    anyio.run(partial(_report_all, report, settings, clusters))
    report.finish()
    return 1 if any(check.has_to_be_mended for check in report.checks) else 0


def _run_as_host(host: Host, options: Sequence[str]) -> int:
    """Let the program that an entry starts check everything, with the variables of that entry."""
    found_entries = [found for found in list_found_entries() if found.host is host]
    entries = [found.entry for found in found_entries if found.may_be_started and found.entry is not None]
    install = f"`{SERVER_NAME} install --client {host.name}`"
    if not entries:
        for found in found_entries:
            if found.problem is not None:
                raise UsageError(f"{host.title}: {found.path} {found.problem}. Mend that file first.")
        raise UsageError(f"{host.title} has no entry of this program: {install} writes one.")
    try:
        return run_entry(entries[0], ["doctor", *options])
    except OSError as failure:
        raise UsageError(f"{host.title} starts {entries[0].command}: {failure.strerror}. {install} mends it.") from None


@dataclass
class _TextReport:
    """Tells people: each check at once, and at the end how many have something to mend."""

    checks: list[Check] = field(default_factory=list[Check])
    cluster: str | None = None

    def add(self, check: Check) -> None:
        """Print a check."""
        if check.cluster != self.cluster:
            print_line(f"\n{check.cluster}:" if check.cluster else "")
            self.cluster = check.cluster
        self.checks.append(check)
        for line in check.render():
            print_line(line)

    def finish(self) -> None:
        """Print what all of it comes to."""
        count = sum(check.has_to_be_mended for check in self.checks)
        print_line()
        print_line(f"{count} {'thing has' if count == 1 else 'things have'} to be mended." if count else "All is well.")


@dataclass
class _JsonReport:
    """Tells programs: one object at the end."""

    checks: list[Check] = field(default_factory=list[Check])

    def add(self, check: Check) -> None:
        """Keep a check."""
        self.checks.append(check)

    def finish(self) -> None:
        """Print all checks."""
        checks = [check.as_json() for check in self.checks]
        print_line(json.dumps({"version": __version__, "checks": checks}, ensure_ascii=False, indent=2))


async def _report_all(report: _TextReport | _JsonReport, settings: Mapping[str, Any], clusters: Sequence[str]) -> None:
    report.add(check_program())
    try:
        profiles = find_profiles(settings, clusters=clusters)
        http_settings, http_check = check_http_settings(settings)
        for profile in profiles:
            served = profile if http_settings is None else profile.for_distant_callers(http_settings)
            async for check in _check_profile(served, http_settings):
                report.add(check.about(profile))
        if http_check is not None:
            report.add(http_check)
        if http_settings is not None:
            async for check in check_http_files(http_settings, utc_now):
                report.add(check)
    except UsageError:
        raise
    except SettingsError as failure:
        report.add(Check("settings", "failed", str(failure), _SETTINGS_MEND))
    async for check in check_hosts():
        report.add(check)


async def _check_profile(profile: Profile, service: HttpSettings | None) -> AsyncIterator[Check]:
    yield check_settings(profile)
    credential = await anyio.to_thread.run_sync(check_credential, profile)
    yield credential
    is_reached = True
    async for check in check_network(profile, utc_now):
        yield check
        is_reached = check.outcome != "failed"
    if is_reached and credential.outcome != "failed":
        async for check in check_cluster(profile, utc_now):
            yield check
    else:
        yield Check("cluster", "skipped", "was not asked, since what failed above has to be mended first")
    async for check in check_storage(profile, service, utc_now):
        yield check
