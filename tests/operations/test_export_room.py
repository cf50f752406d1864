"""Test that the place of an exported file is tried with something in it, and that nothing of that is kept."""

from pathlib import Path

import pytest

from token_tools.errors import DeliveryError
from token_tools.operations.export_file import ExportWriter, open_export


def test_what_was_tried_is_not_kept(tmp_path: Path) -> None:
    with open_export(tmp_path / "reports", "tokens", "csv") as export:
        export.try_room()

        assert export.spool.read() == b""


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    spool = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 - a buffer could not be closed
    with spool, pytest.raises(DeliveryError, match="No space left"):
        ExportWriter(tmp_path, "tokens.csv", "csv", spool).try_room()
