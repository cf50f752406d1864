"""Write an audit to a file: a row for each token, in the delivery folder. The file is complete, or it is not there.

The findings that a token shows by itself are known while the list is read, and are written to a file without a name. In
the end that file is copied row by row into the file that stays, with the findings that only the whole list tells.

Spreadsheets, which open CSV files, round a number to 15 digits unless there is a letter in it. In a CSV file an id is
therefore `id:184…`, just as a user may be `auth_id:500`. In JSON each value is as the cluster tells it.
"""

import csv
import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final, Literal

from token_tools.cluster.identity import FORMULA_STARTS
from token_tools.cluster.models import AccessToken
from token_tools.errors import DeliveryError
from token_tools.operations.audit_users import UserKey, user_key_of
from token_tools.storage.private_files import (
    HOW_TO_SET_FOLDER,
    create_private_file,
    ensure_private_folder,
    flush,
    remove_if_exists,
    rename,
    try_or_log,
)

ReportFormat = Literal["csv", "json"]

COLUMNS: Final = ("id", "user", "creator", "creation_time", "expiration_time", "enabled", "findings")

_FORMULA_START: Final = re.compile(rf"(?<!\w)[{re.escape(FORMULA_STARTS)}]")
"""What makes a spreadsheet read a cell as a formula. Some spreadsheets begin a cell after a semicolon or a space."""


@dataclass(frozen=True)
class ReportWriter:
    """A report that is being written; `row_file` has the rows so far."""

    folder: Path
    file_name: str
    file_format: ReportFormat
    row_file: IO[str]

    def add(self, tokens: Sequence[tuple[AccessToken, Sequence[str]]]) -> None:
        """Add a row for each token, with the names of the findings that it shows by itself.

        Raises:
            DeliveryError: If the disk is full or fails.
        """
        with _explaining_failures(self.folder):
            self.row_file.writelines(f"{json.dumps(_to_row(token, found))}\n" for token, found in tokens)

    def finish(self, complete_findings: Callable[[UserKey, Sequence[str]], Sequence[str]]) -> Path:
        """Write the file that stays, and return its path.

        `complete_findings` returns all findings of a token, given its user and the findings that it shows by itself.

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
            with open(file, "w", encoding="utf-8", newline="", closefd=False) as stream:
                _WRITERS[self.file_format](stream, self._read_rows(complete_findings))
            flush(file)
            rename(pending, self.file_name, folder)
            rollback.callback(remove_if_exists, self.file_name, folder)
            flush(folder)
            rollback.pop_all()
        return self.folder / self.file_name

    def _read_rows(
        self, complete_findings: Callable[[UserKey, Sequence[str]], Sequence[str]]
    ) -> Iterator[dict[str, Any]]:
        self.row_file.seek(0)
        for line in self.row_file:
            row: dict[str, Any] = json.loads(line)
            row["findings"] = complete_findings(row.pop("user_key"), row["findings"])
            yield row


@contextmanager
def open_report(folder: Path, name: str, file_format: ReportFormat) -> Generator[ReportWriter]:
    """Open a report of that name in the folder, which is created if it is missing.

    A report that is not finished leaves no trace.

    Raises:
        DeliveryError: If the folder cannot be used.
    """
    with ExitStack() as cleanup:
        with _explaining_failures(folder):
            os.close(ensure_private_folder(folder))
            row_file = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 - closed below, where nothing depends on it any more
            cleanup.callback(try_or_log, f"A file in {folder} could not be closed", row_file.close)
        yield ReportWriter(folder, f"{name}.{file_format}", file_format, row_file)


def _to_row(token: AccessToken, found: Sequence[str]) -> dict[str, Any]:
    return {
        "id": token.id,
        "user": str(token.user),
        "creator": str(token.creator or ""),
        "creation_time": token.creation_time,
        "expiration_time": token.expiration_time,
        "enabled": not token.is_disabled,
        "findings": found,
        "user_key": user_key_of(token.user),
    }


def _write_csv(stream: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for row in rows:
        cells = row | {
            "id": f"id:{row['id']}",
            "user": to_text_cell(row["user"]),
            "creator": to_text_cell(row["creator"]),
            "enabled": str(row["enabled"]).lower(),
            "findings": " ".join(row["findings"]),
        }
        writer.writerow(escape_formula(cells[column] or "") for column in COLUMNS)


def to_text_cell(user: str) -> str:
    """Return a user's spelling so that no spreadsheet reads it as a number or a date, as it does a bare `1e5`."""
    return user if not user or ":" in user or user.startswith('"') else json.dumps(user)


def escape_formula(cell: str) -> str:
    """Return a cell without anything that begins a formula.

    Only names between JSON's quotes have such characters, and there an escape means the same character.
    """
    return _FORMULA_START.sub(lambda match: f"\\u{ord(match[0]):04x}", cell)


def _close(path: Path, fd: int) -> None:
    try_or_log(f"{path} could not be closed", partial(os.close, fd))


def _write_json(stream: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    stream.write("[")
    for number, row in enumerate(rows):
        stream.write(",\n" if number else "\n")
        json.dump(row, stream, ensure_ascii=False)
    stream.write("\n]\n")


_WRITERS: Final = {"csv": _write_csv, "json": _write_json}


@contextmanager
def _explaining_failures(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or os.strerror(failure.errno or errno.EIO)
        raise DeliveryError(
            f"The report cannot be written to {folder}: {reason}. {HOW_TO_SET_FOLDER}; "
            "without `report`, the audit needs none."
        ) from failure
