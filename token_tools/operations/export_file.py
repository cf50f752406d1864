"""Write all tokens to a file, with a row for each. The file is complete, or it is not there.

What a token shows by itself is known while the list is read, and is written to a file without a name. In the end that
file is copied row by row into the file that stays, with the findings that only the whole list tells.

The CSV file is for people: a spreadsheet opens it with every id intact, and can sort and filter it by time. The JSON
file is for programs: each value is as the cluster tells it, and findings have their names.
"""

import csv
import errno
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final, Literal

import msgspec

from token_tools.errors import DeliveryError
from token_tools.operations.audit_users import UserKey
from token_tools.operations.csv_cells import format_id_cell, format_text_cell, format_user_cell
from token_tools.operations.findings import FINDINGS, OLD_AFTER, STALE_AFTER, TokenStatus
from token_tools.storage.private_files import (
    create_private_file,
    ensure_private_folder,
    flush,
    remove_if_exists,
    rename,
    try_or_log,
)
from token_tools.times import format_duration_argument, format_rfc3339, parse_rfc3339

ExportFormat = Literal["csv", "json"]

COLUMNS: Final = (
    "cluster", "id", "user", "creator", "created (UTC)", "expires (UTC)", "days left", "state", "findings",
    "since last audit",
)  # fmt: skip
"""The columns of a CSV file. `days left` are whole days, rounded down; it is empty if a token never expires or has
expired, so that those which expire next can be sorted to the top."""

JSON_VERSION: Final = 1

_HOW_TO_SET_FOLDER: Final = "The operator names the folder by QUMULO_REPORT_DIR, or without it by QUMULO_STATE_DIR"
_WORDS_BY_FINDING: Final = {finding.name: finding.words for finding in FINDINGS}


class TokenRow(msgspec.Struct):
    """A token in an exported file, as JSON has it; `findings` are names, and times are as the cluster wrote them."""

    cluster: str
    id: str
    user: str
    creator: str | None
    creation_time: str
    expiration_time: str | None
    enabled: bool
    state: TokenStatus
    findings: Sequence[str]
    since_last_audit: str


@dataclass(frozen=True)
class ExportHeader:
    """What an exported file tells besides its tokens: the clusters, their time, the thresholds, what is not known."""

    time: datetime
    clusters: Sequence[str]
    expiring_within: timedelta
    not_known: Sequence[str]


FindingsOf = Callable[[TokenRow, UserKey], Sequence[str]]
"""Returns all findings of a token; its row has those that the token shows by itself."""

_SpooledRow = tuple[TokenRow, UserKey]


@dataclass(frozen=True)
class ExportWriter:
    """A file that is being written; `spool` has the rows so far, each as a line of JSON."""

    folder: Path
    file_name: str
    file_format: ExportFormat
    spool: IO[bytes]

    def add(self, rows: Iterable[_SpooledRow]) -> None:
        """Add rows, each with the key of its user.

        Raises:
            DeliveryError: If the disk is full or fails.
        """
        with _explaining_failures(self.folder):
            self.spool.write(msgspec.json.Encoder().encode_lines(rows))

    def try_room(self) -> None:
        """Write something that is not kept: the disk may be full, which an empty file does not show.

        Raises:
            DeliveryError: If the disk is full or fails.
        """
        with _explaining_failures(self.folder):
            self.spool.write(b"-")
            self.spool.flush()
            self.spool.seek(0)
            self.spool.truncate()

    def finish(self, header: ExportHeader, findings_of: FindingsOf) -> Path:
        """Write the file that stays, and return its path.

        Raises:
            DeliveryError: If the file could not be written; nothing is left of it then.
        """
        pending = f".{secrets.token_hex(8)}"
        # The file gets its name only when it is complete. It is removed again if the name may not be on the disk.
        with _explaining_failures(self.folder), ExitStack() as cleanup, ExitStack() as rollback:
            folder = ensure_private_folder(self.folder)
            cleanup.callback(_close, self.folder, folder)
            file = create_private_file(pending, folder)
            cleanup.callback(_close, self.folder / pending, file)
            rollback.callback(remove_if_exists, pending, folder)
            _WRITERS[self.file_format](file, header, self._read_rows(findings_of))
            flush(file)
            rename(pending, self.file_name, folder)
            rollback.callback(remove_if_exists, self.file_name, folder)
            flush(folder)
            rollback.pop_all()
        return self.folder / self.file_name

    def _read_rows(self, findings_of: FindingsOf) -> Iterator[TokenRow]:
        decoder = msgspec.json.Decoder(_SpooledRow)
        self.spool.seek(0)
        for line in self.spool:
            row, user = decoder.decode(line)
            row.findings = findings_of(row, user)
            yield row


@contextmanager
def open_export(folder: Path, name: str, file_format: ExportFormat) -> Generator[ExportWriter]:
    """Open a file of that name in the folder, which is created if it is missing.

    A file that is not finished leaves no trace.

    Raises:
        DeliveryError: If the folder cannot be used.
    """
    with ExitStack() as cleanup:
        with _explaining_failures(folder):
            os.close(ensure_private_folder(folder))
            spool = TemporaryFile("w+b", dir=folder)  # noqa: SIM115 - closed below, where nothing depends on it any more
            cleanup.callback(try_or_log, f"A file in {folder} could not be closed", spool.close)
        yield ExportWriter(folder, f"{name}.{file_format}", file_format, spool)


def _write_csv(file: int, header: ExportHeader, rows: Iterator[TokenRow]) -> None:
    # With a byte order mark at the beginning, Excel reads UTF-8.
    with open(file, "w", encoding="utf-8-sig", newline="", closefd=False) as stream:
        write_csv_rows(stream, ((row, header.time) for row in rows))


def write_csv_rows(stream: IO[str], rows: Iterable[tuple[TokenRow, datetime]]) -> None:
    """Write rows as CSV with a header, each with the present time on its cluster."""
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    writer.writerows(_list_cells(row, now) for row, now in rows)


def _list_cells(row: TokenRow, now: datetime) -> Sequence[str]:
    expires = None if row.expiration_time is None else parse_rfc3339(row.expiration_time)
    return (
        format_text_cell(row.cluster),
        format_id_cell(row.id),
        format_user_cell(row.user),
        format_user_cell(row.creator or ""),
        _format_time_cell(parse_rfc3339(row.creation_time)),
        "never" if expires is None else _format_time_cell(expires),
        "" if expires is None or expires <= now else str((expires - now).days),
        row.state,
        "; ".join(_WORDS_BY_FINDING[name] for name in row.findings),
        format_text_cell(row.since_last_audit),
    )


def _format_time_cell(time: datetime) -> str:
    # Spreadsheets take this form for a time, and no form with a zone.
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _write_json(file: int, header: ExportHeader, rows: Iterator[TokenRow]) -> None:
    envelope = {
        "version": JSON_VERSION,
        "time": format_rfc3339(header.time),
        "clusters": header.clusters,
        "thresholds": {
            "expiring_within": format_duration_argument(header.expiring_within),
            "old_after": format_duration_argument(OLD_AFTER),
            "stale_after": format_duration_argument(STALE_AFTER),
        },
        "not_known": header.not_known,
    }
    encoder = msgspec.json.Encoder()
    with open(file, "wb", closefd=False) as stream:
        stream.write(encoder.encode(envelope).removesuffix(b"}") + b',"tokens":[')
        stream.writelines((b",\n" if number else b"\n") + encoder.encode(row) for number, row in enumerate(rows))
        stream.write(b"\n]}\n")


_WRITERS: Final = {"csv": _write_csv, "json": _write_json}


def _close(path: Path, fd: int) -> None:
    try_or_log(f"{path} could not be closed", partial(os.close, fd))


@contextmanager
def _explaining_failures(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or os.strerror(failure.errno or errno.EIO)
        raise DeliveryError(f"The file cannot be written to {folder}: {reason}. {_HOW_TO_SET_FOLDER}.") from failure
