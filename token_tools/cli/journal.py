"""Prints the record of all changes, for people and for other programs: the command `journal`.

It needs no cluster and no credential, and reading creates no database.
"""

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from token_tools.cli.setting_options import add_setting_option
from token_tools.cluster.identity import Identity, parse_user
from token_tools.configuration import find_address, load_state_settings
from token_tools.errors import JournalError
from token_tools.operations.changes import select_changes
from token_tools.operations.csv_cells import format_id_cell, format_text_cell, format_user_cell
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Attempt, Operation
from token_tools.storage.journal import read_entries
from token_tools.storage.state import open_state
from token_tools.storage.state.connections import Connections
from token_tools.times import format_rfc3339, format_time_without_zone, parse_since, utc_now
from token_tools.views.record import render_details, render_outcome, render_tokens, render_user

COLUMNS: Final = (
    "time", "ended", "cluster", "operation", "user", "id", "replaces", "before", "after", "outcome", "unfinished",
    "reason", "actor", "consent", "question", "location", "settled", "settlement",
)  # fmt: skip
"""The columns of a CSV file, and the names in a line of JSON."""

_CELLS: Final = {"user": format_user_cell, "id": format_id_cell, "replaces": format_id_cell}
"""How the cells of some columns of a CSV file are written; all others are texts."""

_UNKNOWN_SIZE: Final = (120, 24)
"""Columns and lines where there is no terminal, or one that does not tell them."""

_INDENT: Final = "    "
OutputFormat = Literal["text", "json", "csv"]


class JournalQuery(NamedTuple):
    """Which entries of the record are to be printed, and how; what is None excludes none."""

    since: datetime | None = None
    cluster: str | None = None
    user: Identity | None = None
    token: str | None = None
    operation: str | None = None
    unfinished: bool = False
    output_format: OutputFormat = "text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command; it needs no cluster, and no other setting."""
    add_setting_option(parser, "state_dir")
    add_setting_option(parser, "config")
    parser.add_argument(
        "--since",
        type=_parse_since,
        metavar="TIME",
        help="Only from then on, such as 7d or 2026-11-17T09:00:00Z (default: all)",
    )
    parser.add_argument("--cluster", metavar="NAME", help="Only of this cluster: its name in config.toml, or HOST:PORT")
    parser.add_argument("--user", type=_parse_user, help="Only this user's, such as local:jane")
    parser.add_argument(
        "--token", type=_parse_token_id, metavar="ID", help="Only of this token: changed, created or replaced"
    )
    parser.add_argument(
        "--operation",
        choices=get_args(Operation),
        metavar="WORD",
        help="Only these: create, rotate, update, delete, export or pickup",
    )
    parser.add_argument(
        "--unfinished",
        action="store_true",
        help="Only what has no known end and nobody has settled; the exit status is 1 if there is something",
    )
    parser.add_argument(
        "--format",
        dest="output_format",
        choices=get_args(OutputFormat),
        default="text",
        metavar="WORD",
        help="text for people, the newest last (default), json with an entry a line, or csv",
    )


def run(settings: Mapping[str, Any], *, cluster: str | None = None, **query: Any) -> int:  # noqa: ANN401 - the fields of a query
    """Print the entries that are asked for, and return the exit status: that of `print_journal`.

    Raises:
        SettingsError: If a setting is wrong, or if there is no such cluster.
    """
    address = None if cluster is None else find_address(settings, cluster)
    return print_journal(load_state_settings(settings), JournalQuery(cluster=address, **query))


def print_journal(settings: StateSettings, query: JournalQuery) -> int:
    """Print the entries that are asked for, the newest last, and return the exit status.

    It is 2 if the record cannot be read or printed, 1 if what is unfinished was asked for and there is something, and 0
    otherwise.
    """
    connections = open_state(settings, utc_now)
    try:
        entries = _read_entries(connections, query)
    except JournalError as failure:
        sys.stderr.write(f"qumulo-token-tools: {failure}\n")
        return 2
    try:
        _print_entries(entries, query, connections)
    except BrokenPipeError:
        raise
    except OSError as failure:
        sys.stderr.write(f"qumulo-token-tools: The journal cannot be printed: {failure.strerror}\n")
        return 2
    return 1 if query.unfinished and entries else 0


def _print_entries(entries: Sequence[Attempt], query: JournalQuery, connections: Connections) -> None:
    if not entries and query.output_format == "text":
        # Who named another folder than they meant sees it here.
        sys.stdout.write(f"no such entries in the journal {connections.database.where}\n")
    else:
        _PRINTERS[query.output_format](entries)
    # A reader that has gone, such as `head`, or a full disk is only seen when something is written to it.
    sys.stdout.flush()


def _read_entries(connections: Connections, query: JournalQuery) -> Sequence[Attempt]:
    try:
        entries = read_entries(connections, since=query.since)
    finally:
        connections.close()
    return [
        entry
        for entry in select_changes(entries, user=query.user, token_id=query.token)
        if query.cluster in {None, entry.cluster}
        if query.operation in {None, entry.operation}
        if entry.is_unfinished or not query.unfinished
    ]


def _print_table(entries: Sequence[Attempt]) -> None:
    table = _Table.fit(entries, columns=shutil.get_terminal_size(_UNKNOWN_SIZE).columns)
    sys.stdout.writelines(f"{line}\n" for line in table.render())


@dataclass(frozen=True)
class _Table:
    """A row for each entry, with what does not fit beside it below; `widths` are those of all cells but the last."""

    entries: Sequence[Attempt]
    rows: Sequence[Sequence[str]]
    widths: Sequence[int]
    columns: int

    @classmethod
    def fit(cls, entries: Sequence[Attempt], *, columns: int) -> Self:
        """Return the table of some entries for a terminal of so many columns."""
        rows = [("TIME (UTC)", "CHANGE", "OUTCOME", "USER"), *map(_list_cells, entries)]
        widths = [max(map(len, cells)) for cells in zip(*(row[:-1] for row in rows), strict=True)]
        return cls(entries, rows, widths, columns)

    def render(self) -> Iterator[str]:
        """Yield the lines of the table."""
        header, *rows = self.rows
        clusters = {entry.cluster for entry in self.entries}
        if len(clusters) == 1:
            yield f"On {self.entries[0].cluster}:"
        yield self._align(header)
        for entry, row in zip(self.entries, rows, strict=True):
            line = self._align(row)
            # A user is never cut, since another one may begin with the same letters.
            is_short = len(line) <= self.columns
            yield line if is_short else self._align([*row[:-1], ""])
            details = [
                *([] if is_short else [row[-1]]),
                *([] if len(clusters) == 1 else [f"on {entry.cluster}"]),
                *([f"token {tokens}"] if (tokens := render_tokens(entry)) else []),
                *render_details(entry),
            ]
            yield from self._wrap("; ".join(details))

    def _align(self, cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells[:-1], self.widths, strict=True)]
        return "  ".join([*padded, cells[-1]]).rstrip()

    def _wrap(self, text: str) -> Iterator[str]:
        """Yield a text in indented lines; a path or an id stays whole, so that it can be copied."""
        line = _INDENT
        for word in text.split(" "):
            if len(line) + len(word) > self.columns and line != _INDENT:
                yield line.rstrip()
                line = _INDENT
            line += f"{word} "
        yield line.rstrip()


def _list_cells(entry: Attempt) -> Sequence[str]:
    begun = format_time_without_zone(entry.begun)
    return begun, entry.operation, render_outcome(entry), render_user(entry.user)


def _print_json(entries: Sequence[Attempt]) -> None:
    for entry in entries:
        fields = {name: value for name, value in _to_row(entry).items() if value is not None}
        sys.stdout.write(f"{json.dumps(fields, ensure_ascii=False)}\n")


def _print_csv(entries: Sequence[Attempt]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    for entry in entries:
        row = _to_row(entry) | {"unfinished": str(entry.is_unfinished).lower()}
        writer.writerow(
            "" if value is None else _CELLS.get(name, format_text_cell)(str(value)) for name, value in row.items()
        )


def _to_row(entry: Attempt) -> dict[str, str | bool | None]:
    values = (
        _format_time(entry.begun), _format_time(entry.ended), entry.cluster, entry.operation, entry.user,
        entry.token_id, entry.replaces, entry.before, entry.after, entry.outcome, entry.is_unfinished, entry.reason,
        entry.actor, entry.consent, entry.question, None if entry.location is None else entry.location.render(),
        _format_time(entry.settled), entry.settlement,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _format_time(time: datetime | None) -> str | None:
    return None if time is None else format_rfc3339(time)


_PRINTERS: Final = {"text": _print_table, "json": _print_json, "csv": _print_csv}


def _parse_since(text: str) -> datetime:
    try:
        return parse_since(text, now=utc_now())
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def _parse_user(text: str) -> Identity:
    try:
        user = parse_user(text)
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None
    if isinstance(user, Identity):
        return user
    raise argparse.ArgumentTypeError("must be a user by name or number: only a cluster knows who self is")


def _parse_token_id(text: str) -> str:
    if text.isascii() and text.isdecimal():
        return text
    raise argparse.ArgumentTypeError("must be the digits of a token, about 22 of them")
