"""Takes our entry out of a host's file again: the command `uninstall`. An entry of another program stays."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from token_tools.cli.hosts.catalogue import Host, Scope
from token_tools.cli.hosts.change import carry_out, plan_removal
from token_tools.cli.hosts.choice import add_host_options, choose_hosts
from token_tools.cli.hosts.reports import write_dry_run, write_outcome, write_refusal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    add_host_options(parser)


def run(_settings: Mapping[str, Any], *, client: str, scope: Scope, dry_run: bool) -> int:
    """Remove our entry from hosts, and return the exit status, which is 1 if one could not be removed.

    Raises:
        UsageError: If the options name no host.
    """
    return max([_remove(host, scope, dry_run=dry_run) for host in choose_hosts(client, scope)])


def _remove(host: Host, scope: Scope, *, dry_run: bool) -> int:
    plan = partial(plan_removal, host, scope)
    try:
        if dry_run:
            write_dry_run(host, plan())
        else:
            outcome = carry_out(plan)
            write_outcome(host, outcome, "removed from" if outcome.change.is_needed else "no entry of this program in")
    except (ValueError, OSError) as failure:
        write_refusal(host, scope, failure)
        return 1
    return 0
