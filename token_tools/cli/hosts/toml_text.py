"""Edits one entry of a TOML file, with everything else left as it is."""

import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

import tomlkit

from token_tools.cli.hosts.nested import update_in_place


def parse(text: str) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        ValueError: If it is no TOML; the text is a predicate for the file.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        raise ValueError("is not TOML") from None


def set_entry(text: str, path: Sequence[str], value: Mapping[str, Any]) -> str:
    """Return the text with this value at a path of two keys; what is missing on the way is added."""
    root, name = path
    document = cast(MutableMapping[str, Any], tomlkit.parse(text))
    servers: MutableMapping[str, Any] = document.get(root, {})
    if name in servers:
        update_in_place(servers[name], value)
    elif _is_toml(appended := _append_table(text, path, value)):
        return appended
    else:
        # The root key has a value of its own, to which no table can be added.
        servers[name] = value
    return tomlkit.dumps(document)


def _append_table(text: str, path: Sequence[str], value: Mapping[str, Any]) -> str:
    root, name = path
    table = tomlkit.table(is_super_table=True)
    table[name] = value
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + tomlkit.dumps({root: table})


def _is_toml(text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


def remove_entry(text: str, path: Sequence[str]) -> str:
    """Return the text without what is at a path of two keys, which has to be there."""
    cut = _cut_tables(text, path)
    if cut != text:
        return cut
    # It is no table with a header of its own, but a value somewhere.
    document = tomlkit.parse(text)
    root, name = path
    del cast(MutableMapping[str, Any], document[root])[name]
    return tomlkit.dumps(document)


def _cut_tables(text: str, path: Sequence[str]) -> str:
    """Return the text without the tables below a path. A comment above the next table belongs to that one."""
    kept, trailing, is_cut = list[str](), list[str](), False
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            is_cut = _is_header(line, path)
            # The empty line above a table goes with it.
            if is_cut and kept and not kept[-1].strip():
                kept.pop()
        if not is_cut:
            kept += [*trailing, line]
            trailing.clear()
        elif line.lstrip()[:1] in {"", "#"}:
            trailing.append(line)
        else:
            trailing.clear()
    return "".join([*kept, *trailing])


def _is_header(line: str, path: Sequence[str]) -> bool:
    """Tell whether a line begins a table at a path, or below it."""
    root, name = path
    try:
        return name in tomllib.loads(line).get(root, {})
    except tomllib.TOMLDecodeError:
        return False
