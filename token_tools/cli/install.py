"""Lets a host start this server: the command `install`.

An entry has a command and settings, and never a secret.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from token_tools.cli.hosts.catalogue import Host, Scope
from token_tools.cli.hosts.change import NotOurs, carry_out, plan_install, read_entry, render_snippet
from token_tools.cli.hosts.choice import add_host_options, choose_hosts
from token_tools.cli.hosts.entries import Entry
from token_tools.cli.hosts.executable import find_executable
from token_tools.cli.hosts.probe import probe
from token_tools.cli.hosts.reports import write_dry_run, write_lines, write_outcome, write_refusal
from token_tools.cli.setting_options import add_cluster_option, add_setting_options
from token_tools.configuration import format_variables, load_given_variables
from token_tools.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    add_host_options(parser)
    parser.add_argument(
        "--print", dest="print_only", action="store_true", help="Only print the entry, and where it goes"
    )
    parser.add_argument(
        "--demo", action="store_true", default=argparse.SUPPRESS, help="An entry that serves an embedded cluster"
    )
    add_cluster_option(parser, "An entry that serves only this one of the clusters in config.toml; may be repeated")
    add_setting_options(parser, without={"verify_tls"})


def run(  # noqa: PLR0913 - the options of the command
    settings: Mapping[str, Any],
    *,
    client: str,
    scope: Scope,
    print_only: bool,
    dry_run: bool,
    clusters: Sequence[str] = (),
    demo: bool = False,
) -> int:
    """Add our entry to hosts, start what it says, and return the exit status.

    It is 1 if an entry could not be added or does not start.

    Raises:
        SettingsError: If there is nothing to serve yet, or a setting is wrong.
        UsageError: If the options contradict each other, or name no host.
    """
    if demo and clusters:
        raise UsageError("--demo serves the embedded cluster alone, so that --cluster chooses nothing.")
    entry = _create_entry(settings, clusters, demo=demo)
    act = _print_entry if print_only else _show_change if dry_run else _install
    # A comprehension, so that a failure at one host does not keep the others waiting.
    return max([act(host, scope, entry) for host in choose_hosts(client, scope)])


def _create_entry(settings: Mapping[str, Any], clusters: Sequence[str], *, demo: bool) -> Entry:
    started = find_executable()
    if demo:
        return started.with_more(["--demo"], format_variables(settings))
    chosen = [word for name in clusters for word in ("--cluster", name)]
    return started.with_more(chosen, load_given_variables(settings, clusters=clusters))


def _print_entry(host: Host, scope: Scope, entry: Entry) -> int:
    write_lines(f"{host.title} reads this from {host.find_file(scope)}:", "", render_snippet(host, entry))
    return 0


def _show_change(host: Host, scope: Scope, entry: Entry) -> int:
    try:
        write_dry_run(host, plan_install(host, scope, entry))
    except (ValueError, OSError) as failure:
        write_refusal(host, scope, failure)
        return 1
    return 0


def _install(host: Host, scope: Scope, entry: Entry) -> int:
    try:
        outcome = carry_out(partial(plan_install, host, scope, entry))
    except (ValueError, OSError) as failure:
        write_refusal(host, scope, failure)
        if not isinstance(failure, NotOurs):
            write_lines("  Put this there yourself:", "", render_snippet(host, entry))
        return 1
    write_outcome(host, outcome, "added to" if outcome.change.is_needed else "nothing to change in")
    return _try_entry(host, scope)


def _try_entry(host: Host, scope: Scope) -> int:
    """Start what the host's file says now."""
    proof = probe(read_entry(host, scope))
    if proof.reason is not None:
        write_lines(f"  It was started and does not work: {proof.reason}")
        return 1
    write_lines(f"  It was started, and has {proof.tools} tools. {host.afterwards}")
    return 0
