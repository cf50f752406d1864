"""The programs of stores of secrets, as far as `docs/delivery.md` and `docs/hand-over.md` call them.

Run by the name of a store's program, this module takes its other words and its stdin as that program does, and notes
what it was called with and what the store keeps. It refuses whatever it does not know.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tests.support.page_names import REPOSITORY

_CALLS: Final = "calls"
_FIELD: Final = {"id", "type", "label", "value"}


@dataclass(frozen=True)
class Entry:
    """What a store keeps: a secret under a name, with details that all who see the name may read."""

    secret: str
    name: str
    details: Sequence[str] = ()


@dataclass(frozen=True)
class Call:
    """What a program was called with, and what its store keeps by that; None if the call kept nothing."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    kept: Entry | None = None


def install_program(name: str, folder: Path) -> None:
    """Put a program into a folder for the PATH."""
    command = f"PYTHONPATH='{REPOSITORY}' exec '{sys.executable}' -m {__name__} '{folder / _CALLS}' {name}"
    (folder / name).write_text(f'#!/bin/sh\n{command} "$@"\n')
    (folder / name).chmod(0o755)


def read_calls(folder: Path) -> Sequence[Call]:
    """Return the calls of all programs in a folder, the first one first."""
    return [msgspec.json.decode(line, type=Call) for line in (folder / _CALLS).read_bytes().splitlines()]


def _take_vault(words: Sequence[str]) -> Entry | None:
    match words:
        case ["token", "lookup"]:
            return None
        case ["kv", "put", "-mount=secret", path, "bearer_token=-", *details]:
            # A value that begins so would be read from a file, and this one from stdin.
            assert not [pair for pair in details if pair.partition("=")[2].startswith(("@", "-"))]
            return Entry(sys.stdin.read(), path, details)
        case ["kv", "put", "-mount=secret", path, file] if file.startswith("@"):
            return Entry(json.loads(Path(file.removeprefix("@")).read_bytes())["bearer_token"], path)
        case _:
            raise SystemExit(f"unknown: {words}")


def _take_kubectl(words: Sequence[str]) -> Entry | None:
    match words:
        case ["auth", "can-i", "create", "secrets", "--namespace=backup"]:
            return None
        case ["create", "secret", "generic", name, "--namespace=backup", "--from-file=bearer-token=/dev/stdin"]:
            return Entry(Path("/dev/stdin").read_text(), name)
        case _:
            raise SystemExit(f"unknown: {words}")


def _take_aws(words: Sequence[str]) -> Entry | None:
    match words:
        case ["sts", "get-caller-identity"]:
            return None
        case ["secretsmanager", "create-secret", "--name", name, "--description", details, "--secret-string", source]:
            # What begins so is read from the file, and anything else is the value itself.
            assert source.startswith("file://")
            assert not details.startswith("file://")
            return Entry(Path(source.removeprefix("file://")).read_text(), name, [details])
        case _:
            raise SystemExit(f"unknown: {words}")


def _take_op(words: Sequence[str]) -> Entry | None:
    match words:
        case ["vault", "get", "Qumulo"]:
            return None
        case ["item", "create", "--vault=Qumulo", "-"]:
            item = json.load(sys.stdin)
        case _:
            raise SystemExit(f"unknown: {words}")
    assert item.keys() == {"title", "category", "fields"}
    assert item["category"] == "API_CREDENTIAL"
    assert all(each.keys() == _FIELD for each in item["fields"])
    # Older versions show what is concealed, too.
    sys.stdout.write(json.dumps(item))
    [secret] = [each["value"] for each in item["fields"] if each["type"] == "CONCEALED"]
    return Entry(secret, item["title"], [each["value"] for each in item["fields"] if each["type"] == "STRING"])


PROGRAMS: Final[Mapping[str, Callable[[Sequence[str]], Entry | None]]] = {
    "vault": _take_vault,
    "bao": _take_vault,
    "kubectl": _take_kubectl,
    "aws": _take_aws,
    "op": _take_op,
}


if __name__ == "__main__":
    calls, program, *given = sys.argv[1:]
    call = Call(given, {**os.environ}, PROGRAMS[program](given))
    with Path(calls).open("ab") as file:
        file.write(msgspec.json.encode(call) + b"\n")
