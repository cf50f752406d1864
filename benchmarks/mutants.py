"""`python -m benchmarks.mutants`: change the modules that matter most, place by place, and report what no test notices.

It works on a copy of the checkout and takes an hour, in which the machine should do nothing else. The exit status is 1
if fewer than nine tenths of the mutants are killed, or if one survives for which `survivors.txt` has no reason.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

BENCHMARKS_FOLDER: Final = Path(__file__).parent
SURVIVORS_FILE: Final = BENCHMARKS_FOLDER / "survivors.txt"
MUTATED_MODULES: Final = (
    "cluster.identity",
    "cluster.responses",
    "operations.consent",
    "operations.create",
    "operations.delete",
    "operations.policy",
    "operations.read",
    "operations.rotate",
    "operations.update",
    "storage.delivery",
    "storage.journal",
    "storage.state",
)
"""Modules, and packages with all their modules, by their names below `token_tools`."""
MIN_KILLED_SHARE: Final = 0.9
TEST_ROOMS: Final = ("cluster", "ground", "operations", "server", "storage", "tools", "views")
"""The rooms of tests that are run. The others start processes, and a mutant only exists in the process of the tests."""

_RESULT_LINE: Final = re.compile(r"^\s*(token_tools\.(\w+\.\w+)\.\S+): (.+)$", re.MULTILINE)


def main() -> int:
    """Run it, print how many mutants of each module were killed and which survived, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__, allow_abbrev=False)
    parser.add_argument("--module", action="append", choices=MUTATED_MODULES, help="Only this one; may be repeated")
    modules: Sequence[str] = parser.parse_args().module or MUTATED_MODULES
    with TemporaryDirectory(prefix="mutants-") as folder:
        _copy_checkout(Path(folder), modules)
        mutmut = Path(sys.executable).with_name("mutmut")
        if subprocess.run([mutmut, "run"], cwd=folder, check=False).returncode:
            sys.exit("The tests have to pass on the code as it is, before it is broken.")
        listing = subprocess.run(
            [mutmut, "results", "--all", "true"], cwd=folder, check=True, capture_output=True, text=True
        )
    results = {name: (module, result) for name, module, result in _RESULT_LINE.findall(listing.stdout)}
    reasons = _read_survivor_reasons()
    survivors = sorted(name for name, (_, result) in results.items() if result not in {"killed", "timeout"})
    total = Counter(module for module, _ in results.values())
    survived = Counter(results[name][0] for name in survivors)
    for module in modules:
        killed = total[module] - survived[module]
        sys.stdout.write(f"{module:22} {killed:5,} of {total[module]:5,} killed ({killed / total[module]:.1%})\n")
    killed = len(results) - len(survivors)
    sys.stdout.write(f"{'all':22} {killed:5,} of {len(results):5,} killed ({killed / len(results):.1%})\n")
    for name in survivors:
        sys.stdout.write(f"  {name}: {reasons.get(name, 'no reason given')}\n")
    for name in sorted(name for name in reasons.keys() - {*survivors} if ".".join(name.split(".")[1:3]) in modules):
        sys.stdout.write(f"  {name}: was killed, and needs no reason any more\n")
    return 0 if killed >= MIN_KILLED_SHARE * len(results) and set(survivors) <= reasons.keys() else 1


def _copy_checkout(folder: Path, modules: Sequence[str]) -> None:
    root = BENCHMARKS_FOLDER.parent
    for name in ("token_tools", "tests"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "server.json"):
        shutil.copy(root / name, folder)
    mutated = [_find_source(folder, module) for module in modules]
    tests = [f"tests/{room}" for room in TEST_ROOMS]
    configuration = f"""
[tool.mutmut]
source_paths = ["token_tools"]
only_mutate = {mutated}
also_copy = ["README.md", "server.json"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-o", "addopts=", "-p", "no:xdist", "-p", "no:cacheprovider"]
"""
    (folder / "pyproject.toml").write_text((root / "pyproject.toml").read_text() + configuration)


def _find_source(folder: Path, module: str) -> str:
    """Return the pattern of a module's file, or of all files of a package.

    Raises:
        FileNotFoundError: If there is neither; mutmut itself says nothing about a pattern that matches no file.
    """
    path = f"token_tools/{module.replace('.', '/')}"
    pattern = f"{path}/*.py" if (folder / path).is_dir() else f"{path}.py"
    if not any(folder.glob(pattern)):
        raise FileNotFoundError(pattern)
    return pattern


def _read_survivor_reasons() -> Mapping[str, str]:
    """Return the survivors that somebody has looked at, each with the reason why no test has to notice it."""
    lines = SURVIVORS_FILE.read_text().splitlines() if SURVIVORS_FILE.exists() else []
    pairs = [line.partition(": ") for line in lines if line and not line.startswith("#")]
    return {name: reason for name, _, reason in pairs}


if __name__ == "__main__":
    sys.exit(main())
