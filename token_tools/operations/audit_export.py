"""An audit as a file: a row for each token, in the delivery folder, whole or not there.

What is found about a token alone is known when it comes by, and goes into a file without a name; what only the whole
list tells is added when that is copied, row by row, into the file that stays.

A CSV file is opened in spreadsheets, which round a number to 15 digits and know no other way to be told that it is text
than a letter in it: an id there is `id:184…`, as a key of a user is `auth_id:500`. In JSON each value is as it is.
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
from token_tools.operations.user_census import UserKey, user_key_of
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
"""What a spreadsheet takes for more than text where a cell begins: for some, that is after a semicolon or a space."""


@dataclass(frozen=True)
class ReportWriter:
    """A report in the making."""

    folder: Path
    file_name: str
    file_format: ReportFormat
    row_file: IO[str]

    def add(self, tokens: Sequence[tuple[AccessToken, Sequence[str]]]) -> None:
        """Add a row for each token, with what was found about it.

        Raises:
            DeliveryError: If there is no room for it.
        """
        with _explained(self.folder):
            self.row_file.writelines(f"{json.dumps(_to_row(token, found))}\n" for token, found in tokens)

    def finish(self, complete_findings: Callable[[UserKey, Sequence[str]], Sequence[str]]) -> Path:
        """The finished file; `complete_findings` has the last word on the findings of a user's tokens.

        Raises:
            DeliveryError: If it could not be written; nothing is left of it then.
        """
        pending = f".{secrets.token_hex(8)}"
        with _explained(self.folder), ExitStack() as closing, ExitStack() as unless_finished:
            folder = ensure_private_folder(self.folder)
            closing.callback(_close, self.folder, folder)
            file = create_private_file(pending, folder)
            closing.callback(_close, self.folder / pending, file)
            unless_finished.callback(remove_if_exists, pending, folder)
            with open(file, "w", encoding="utf-8", newline="", closefd=False) as stream:
                _WRITERS[self.file_format](stream, self._read_rows(complete_findings))
            flush(file)
            rename(pending, self.file_name, folder)
            unless_finished.callback(remove_if_exists, self.file_name, folder)
            flush(folder)
            unless_finished.pop_all()
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
    """A report of that name in the folder, which is made if it is not there; what is not finished leaves no trace.

    Raises:
        DeliveryError: If the folder cannot be used.
    """
    with ExitStack() as ending:
        with _explained(folder):
            os.close(ensure_private_folder(folder))
            rows = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 - closed below, where nothing depends on it any more
            ending.callback(try_or_log, f"A file in {folder} could not be closed", rows.close)
        yield ReportWriter(folder, f"{name}.{file_format}", file_format, rows)


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
            "user": _to_text_cell(row["user"]),
            "creator": _to_text_cell(row["creator"]),
            "enabled": str(row["enabled"]).lower(),
            "findings": " ".join(row["findings"]),
        }
        writer.writerow(_escape_formula(cells[column] or "") for column in COLUMNS)


def _to_text_cell(user: str) -> str:
    """The spelling of a user, which no spreadsheet takes for a number or a date as it does a bare `1e5` or `sept2`."""
    return user if not user or ":" in user or user.startswith('"') else json.dumps(user)


def _escape_formula(cell: str) -> str:
    """Only a name between JSON's quotes has any of it, where an escape stands for the same."""
    return _FORMULA_START.sub(lambda found: f"\\u{ord(found[0]):04x}", cell)


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
def _explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or os.strerror(failure.errno or errno.EIO)
        raise DeliveryError(
            f"The report cannot be written to {folder}: {reason}. {HOW_TO_SET_FOLDER}; "
            "without `report`, the audit needs none."
        ) from failure
