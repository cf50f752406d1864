"""Removes files with bearer tokens whose tokens are gone: the command `prune`. It changes no token."""

import argparse
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread

from token_tools.cli.setting_options import add_cluster_option, add_setting_option
from token_tools.cli.terminal import ask_whether, print_line
from token_tools.cluster.client import connect
from token_tools.cluster.clock import ClusterClock
from token_tools.configuration import Profile, load_profiles
from token_tools.errors import DeliveryError, JournalError
from token_tools.operations.prune import AskedCluster, ExaminedFile, State, examine_files, list_files, remove_file
from token_tools.storage.attempts import Attempt
from token_tools.storage.journal import read_entries
from token_tools.storage.state import open_state
from token_tools.times import utc_now
from token_tools.views.prune import render_examined
from token_tools.views.tokens import format_count

_SETTINGS: Final = (
    "host", "port", "ca_file", "fingerprint", "timeout", "config", "bearer_token_file", "credentials_file",
    "credentials_command", "keyring", "delivery_dir", "state_dir",
)  # fmt: skip
"""The settings that say where the files and the journal are, and how a cluster is reached."""

_UNCLEAR_STATUS: Final = 3
_LEFT_STATUS: Final = 1
_FAILED_STATUS: Final = 2


class Wishes(NamedTuple):
    """What the options say: `expired` that files of expired tokens go too, `yes` that nobody is asked."""

    yes: bool
    dry_run: bool
    expired: bool

    @property
    def removed_states(self) -> frozenset[State]:
        """The states of the files that are to be removed."""
        return frozenset({"gone", "expired"} if self.expired else {"gone"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--expired", action="store_true", help="Remove files of expired tokens too, which could get a new expiry"
    )
    parser.add_argument("--dry-run", action="store_true", help="Say what would be removed, and remove nothing")
    parser.add_argument("--yes", action="store_true", help="Remove without asking")
    add_cluster_option(parser, "Ask only this one of the clusters in config.toml; may be repeated (default: all)")
    for name in _SETTINGS:
        add_setting_option(parser, name)


def run(settings: Mapping[str, Any], *, clusters: Sequence[str] = (), **wishes: Any) -> int:  # noqa: ANN401 - the fields of `Wishes`
    """Print what is known of each file, ask, and remove those of tokens that are gone; return the exit status.

    It is 3 if a cluster did not clearly say what became of a token, 2 if a folder or the journal cannot be read, 1 if
    a file is left that was to be removed, and 0 otherwise.

    Raises:
        SettingsError: If a setting is wrong, or if nobody can be asked.
    """
    profiles = load_profiles(settings, clusters=clusters)
    return anyio.run(_prune, profiles, Wishes(**wishes))


async def _prune(profiles: Sequence[Profile], wishes: Wishes) -> int:
    async with _connect_all(profiles) as clusters:
        try:
            return await _prune_files(profiles, clusters, wishes)
        except (DeliveryError, JournalError) as failure:
            sys.stderr.write(f"qumulo-token-tools: {failure}\n")
            return _FAILED_STATUS


async def _prune_files(profiles: Sequence[Profile], clusters: Sequence[AskedCluster], wishes: Wishes) -> int:
    files = await list_files(profile.settings.delivery_dir for profile in profiles)
    examined = await examine_files(files, clusters, await _read_attempts(profiles))
    for each in examined:
        print_line(render_examined(each))
    chosen = [each.file for each in examined if each.file is not None and each.state in wishes.removed_states]
    is_all_clear = not any(each.state == "unclear" for each in examined)
    is_left = False
    if not chosen:
        print_line("No file is to be removed.")
    elif wishes.dry_run:
        print_line(f"{format_count(len(chosen), 'file')} would be removed. Nothing was changed.")
    elif not _is_agreed(len(chosen), wishes):
        print_line("Nothing was changed.")
        is_left = True
    else:
        # A person may have taken long to answer, and a token may have come back meanwhile.
        again = await examine_files(chosen, clusters, await _read_attempts(profiles))
        is_left = not all([await _remove(each, wishes) for each in again])
        is_all_clear = is_all_clear and not any(each.state == "unclear" for each in again)
    return (_LEFT_STATUS if is_left else 0) if is_all_clear else _UNCLEAR_STATUS


def _is_agreed(count: int, wishes: Wishes) -> bool:
    return wishes.yes or ask_whether(f"Remove {format_count(count, 'file')}?", option="--yes or --dry-run")


async def _remove(examined: ExaminedFile, wishes: Wishes) -> bool:
    """Remove a file if what was known of it still holds; print what came of that, and return whether it is gone."""
    if examined.file is None or examined.state not in wishes.removed_states:
        print_line(render_examined(examined))
        return False
    try:
        was_there = await remove_file(examined.file)
    except DeliveryError as failure:
        print_line(str(failure))
        return False
    print_line(f"{examined.path}: {'removed' if was_there else 'was removed by somebody else meanwhile'}")
    return True


async def _read_attempts(profiles: Sequence[Profile]) -> Sequence[Attempt]:
    """Return the entries of the journal, of all clusters."""
    connections = open_state(profiles[0].settings, utc_now)
    try:
        return await anyio.to_thread.run_sync(read_entries, connections)
    finally:
        connections.close()


@asynccontextmanager
async def _connect_all(profiles: Sequence[Profile]) -> AsyncGenerator[Sequence[AskedCluster]]:
    async with AsyncExitStack() as stack:
        clusters: list[AskedCluster] = []
        for settings in (profile.settings for profile in profiles):
            clock = ClusterClock(utc_now)
            client = await stack.enter_async_context(connect(settings, on_date=clock.observe_date))
            clusters.append(AskedCluster(settings.host, settings.port, settings.address, client, clock))
        yield clusters
