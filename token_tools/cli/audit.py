"""Audits the tokens of all clusters, for people and for jobs at night: the command `audit`.

What it saw and told is kept once its report is written, apart from what an assistant's audits saw.
"""

import argparse
import difflib
import io
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast, get_args

import anyio
import msgspec

from token_tools.cli.setting_options import add_cluster_option, add_setting_options
from token_tools.configuration import Profile, load_profiles
from token_tools.errors import UsageError
from token_tools.operations.findings import FINDINGS
from token_tools.operations.fleet import FleetAnswers
from token_tools.operations.inventory import Inventory, InventoryRequest, take_inventories
from token_tools.operations.selection import DEFAULT_EXPIRING_WITHIN
from token_tools.server.app import SERVER_NAME, open_fleet
from token_tools.server.callers import describe_local_user
from token_tools.storage.atomic_file import replace_file
from token_tools.times import format_duration_argument, parse_duration, utc_now
from token_tools.views.report.csv import render_csv
from token_tools.views.report.document import AuditDocument, create_report
from token_tools.views.report.page import render_page
from token_tools.views.report.text import render_text

_FOUND: Final = 1
_NOT_WRITTEN: Final = 2
_NOT_READ: Final = 3

OutputFormat = Literal["text", "json", "csv", "html"]
ANY: Final = "any"
CHANGED: Final = "changed"
_FAIL_WORDS: Final = (*(finding.name for finding in FINDINGS), CHANGED, ANY)
"""What `--fail-on` takes: a finding, any of them, or that a token is new, gone or another than at the last audit."""

_JOB: Final = re.compile(r"[A-Za-z0-9_.-]{0,40}", re.ASCII)


def _render_json(document: AuditDocument) -> str:
    return f"{msgspec.json.encode(document).decode()}\n"


_RENDERERS: Final[Mapping[OutputFormat, Callable[[AuditDocument], str]]] = {
    "text": render_text,
    "json": _render_json,
    "csv": render_csv,
    "html": render_page,
}


class AuditQuery(NamedTuple):
    """What is to be told, in which form and where, and what the exit status is to tell.

    `since_last` names the job whose last audit told what is old, and is None if all is to be told.
    """

    output_format: OutputFormat = "text"
    output: Path | None = None
    fail_on: Collection[str] = ()
    since_last: str | None = None
    thresholds: Sequence[timedelta] = (DEFAULT_EXPIRING_WITHIN,)

    @property
    def series(self) -> str:
        """The series of the audit: each job has one, and people who want all have one."""
        return "people" if self.since_last is None else f"job {self.since_last}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--format",
        dest="output_format",
        choices=get_args(OutputFormat),
        default="text",
        metavar="WORD",
        help="text for people (default), html for a page to look at, csv for spreadsheets, or json",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="Write this file, whole or not at all, instead of stdout"
    )
    parser.add_argument(
        "--fail-on",
        type=_parse_fail_on,
        default=(),
        metavar="WORDS",
        help=f"Exit with status 1 if something of this is found: {', '.join(_FAIL_WORDS)}; several with commas",
    )
    parser.add_argument(
        "--since-last",
        type=_parse_job,
        nargs="?",
        const="",
        metavar="JOB",
        help="Only what the last audit with this option did not tell. Two jobs need a name each",
    )
    usual = format_duration_argument(DEFAULT_EXPIRING_WITHIN)
    parser.add_argument(
        "--expiring-within",
        dest="thresholds",
        type=_parse_thresholds,
        default=(DEFAULT_EXPIRING_WITHIN,),
        metavar="TIMES",
        help="How soon is soon to expire; with --since-last, each of several is told of, such as 30d,14d,1d "
        f"(default: {usual})",
    )
    add_cluster_option(parser, "Only this one of the clusters in config.toml; may be repeated (default: all)")
    add_setting_options(parser)


def run(settings: Mapping[str, Any], *, clusters: Sequence[str] = (), **query: Any) -> int:  # noqa: ANN401 - the fields of a query
    """Audit the clusters, write the report, and return the exit status.

    It is 3 if a cluster could not be read, or its list may not be whole; 2 if the report could not be written; 1 if
    something was found that was to be told so; and otherwise 0.

    Raises:
        SettingsError: If a setting is wrong, or if there is no such cluster.
    """
    return anyio.run(_audit, load_profiles(settings, clusters=clusters), AuditQuery(**query))


async def _audit(profiles: Sequence[Profile], query: AuditQuery) -> int:
    caller = describe_local_user(f"{SERVER_NAME} audit")
    request = InventoryRequest(caller, query.series, query.thresholds)
    _check_output(query.output)
    async with open_fleet(profiles) as fleet:
        found = await take_inventories(fleet, request)
        document = create_report(found, request, time=utc_now(), only_new=query.since_last is not None)
        try:
            _write(_RENDERERS[query.output_format](document), query)
        except OSError as failure:
            return _tell_unwritten(query.output, failure)
        if query.output is not None or query.output_format != "text":
            _tell_failed(document)
        await _keep(found)
    if document.failed or any(cluster.not_whole for cluster in document.clusters):
        return _NOT_READ
    return _FOUND if any(_has_what_fails(inventory, query) for _, inventory in found.answers) else 0


def _check_output(path: Path | None) -> None:
    """Check that what a report would replace is a file; who writes to /dev/stdout as root would replace that.

    Raises:
        UsageError: If it is something else.
    """
    if path is not None and path.exists() and not path.is_file():
        raise UsageError(f"--output {path} is no file: name one, or leave it out for stdout.")


def _write(report: str, query: AuditQuery) -> None:
    if query.output is not None:
        replace_file(query.output, report.encode())
        return
    # A person's terminal may lack a sign; what programs read is in UTF-8 everywhere.
    is_text = query.output_format == "text"
    stream = cast(io.TextIOWrapper, sys.stdout)
    stream.reconfigure(encoding=stream.encoding if is_text else "utf-8", errors="backslashreplace")
    stream.write(report)
    stream.flush()


def _tell_unwritten(path: Path | None, failure: OSError) -> int:
    where = "The report" if path is None else f"The report {path}"
    sys.stderr.write(f"{SERVER_NAME}: {where} cannot be written: {failure.strerror}. Nothing counts as told.\n")
    return _NOT_WRITTEN


def _tell_failed(document: AuditDocument) -> None:
    """Say on stderr what the report may not say, or say only to who opens it."""
    for failed in document.failed:
        sys.stderr.write(f"{SERVER_NAME}: {failed.name} could not be read: {failed.reason}\n")
    for cluster in document.clusters:
        for reason in cluster.not_whole:
            sys.stderr.write(f"{SERVER_NAME}: {cluster.name}: {reason}\n")


async def _keep(found: FleetAnswers[Inventory]) -> None:
    """Keep what was seen for the next audit; what could not be kept will be told again."""
    for label, inventory in found.answers:
        for reason in await inventory.keep():
            sys.stderr.write(f"{SERVER_NAME}: {label.prefix}{reason}\n")


def _has_what_fails(inventory: Inventory, query: AuditQuery) -> bool:
    """Tell whether something of `--fail-on` was found; with `--since-last`, only what is new counts."""
    if query.since_last is None:
        found = {finding.name for finding, tally in inventory.result.audit.tallies.items() if tally.count}
    else:
        found = {name for listed in inventory.tokens for name in listed.new_findings}
    found |= {ANY} if found else set()
    found |= {CHANGED} if inventory.has_changes else set()
    return not found.isdisjoint(query.fail_on)


def _parse_fail_on(text: str) -> Collection[str]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in _FAIL_WORDS:
            nearest = difflib.get_close_matches(word, _FAIL_WORDS, n=1)
            hint = f"nearest is {nearest[0]}" if nearest else f"there are {', '.join(_FAIL_WORDS)}"
            raise argparse.ArgumentTypeError(f"there is no such finding; {hint}")
    return words


def _parse_job(text: str) -> str:
    if _JOB.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError("a job's name has at most 40 letters, digits, dots, dashes and underscores")


def _parse_thresholds(text: str) -> Sequence[timedelta]:
    try:
        return [parse_duration(part) for part in text.split(",")]
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None
