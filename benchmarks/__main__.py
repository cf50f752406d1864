"""`python -m benchmarks`: measure everything, print the table, write the figures and their picture beside this file."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import psutil

from benchmarks.figures import QUICK_REPETITIONS, Figure, Measure, Repetitions
from benchmarks.measures import MEASURES
from benchmarks.picture import render_svg
from benchmarks.table import render_table

BENCHMARKS_FOLDER: Final = Path(__file__).parent
REPORTED_PACKAGES: Final = ("qumulo-token-tools", "mcp", "fastmcp", "qumulo-api", "pydantic", "httpx")


def main() -> None:
    """Measure and report; the exit status is 0 whatever the figures are, since they depend on the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="Repeat less often: a few minutes, rougher figures")
    parser.add_argument("--only", metavar="WORD", default="", help="Only the measures with this word in their name")
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, help="Where results.* go: beside the code if all is measured"
    )
    options = parser.parse_args()
    chosen = [measure for measure in MEASURES if options.only in measure.__name__]
    if not chosen:
        parser.error(f"no measure has {options.only!r} in its name")
    repetitions = QUICK_REPETITIONS if options.quick else Repetitions()
    if folder := options.output or (None if options.only else BENCHMARKS_FOLDER):
        # Nothing is measured whose figures have no place.
        Path(folder).mkdir(parents=True, exist_ok=True)
    figures = anyio.run(_measure, chosen, repetitions)
    sys.stdout.write(f"{render_table(figures)}\n")
    if folder:
        results = {
            "machine": _describe_machine(),
            "repetitions": asdict(repetitions),
            "figures": [asdict(figure) for figure in figures],
        }
        Path(folder, "results.json").write_text(f"{json.dumps(results, indent=2)}\n")
        Path(folder, "results.svg").write_text(render_svg(figures))


async def _measure(measures: Sequence[Measure], repetitions: Repetitions) -> Sequence[Figure]:
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="benchmark-state-") as state:
        for measure in measures:
            sys.stderr.write(f"{measure.__name__} …\n")
            figures += await measure(Path(state), repetitions)
    return figures


def _describe_machine() -> dict[str, object]:
    """Return what absolute figures depend on, without a name of the machine."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processors": psutil.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in REPORTED_PACKAGES},
    }


if __name__ == "__main__":
    main()
