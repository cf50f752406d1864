"""Edits the text of a host's file, and accepts the result only if it says exactly what was intended.

No editor of comments and layouts is trusted: the result is parsed again, and everything but our entry has to be equal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from token_tools.cli.hosts import json_text, toml_text, yaml_text
from token_tools.cli.hosts.catalogue import FileFormat

_BYTE_ORDER_MARK: Final = "\ufeff"


class _Format(NamedTuple):
    parse: Callable[[str], dict[str, Any]]
    set_entry: Callable[[str, Sequence[str], Mapping[str, Any]], str]
    remove_entry: Callable[[str, Sequence[str]], str]


_FORMATS: Final[Mapping[FileFormat, _Format]] = {
    "json": _Format(json_text.parse, json_text.set_entry, json_text.remove_entry),
    "toml": _Format(toml_text.parse, toml_text.set_entry, toml_text.remove_entry),
    "yaml": _Format(yaml_text.parse, yaml_text.set_entry, yaml_text.remove_entry),
}


def find_entry(text: str, file_format: FileFormat, path: Sequence[str]) -> object:
    """Return what a file has at a path of keys, None if there is nothing.

    Raises:
        ValueError: If the file does not parse; the text is a predicate for the file.
    """
    return _find(_FORMATS[file_format].parse(_normalize(text)), path)


def edit(text: str, file_format: FileFormat, path: Sequence[str], value: Mapping[str, Any] | None) -> str:
    """Return the text with this value at a path of two keys, or with nothing there if the value is None.

    Raises:
        ValueError: If the file does not parse, or cannot be changed with certainty; the text is a predicate for it.
    """
    chosen, plain = _FORMATS[file_format], _normalize(text)
    intended = _change(chosen.parse(plain), path, value)
    edited = chosen.remove_entry(plain, path) if value is None else chosen.set_entry(plain, path, value)
    if not _says(edited, chosen, intended, path[0]):
        raise ValueError("is written in a way that cannot be edited without a risk for the rest of it")
    return _restore(edited, text)


def _says(text: str, chosen: _Format, intended: Mapping[str, Any], root: str) -> bool:
    try:
        return _drop_empty(chosen.parse(text), root) == _drop_empty(intended, root)
    except ValueError:
        return False


def _drop_empty(document: Mapping[str, Any], root: str) -> Mapping[str, Any]:
    """Return a document without the mapping of servers if none is in it, since TOML has no place for that."""
    return {key: value for key, value in document.items() if key != root or value}


def _find(document: Mapping[str, Any], path: Sequence[str]) -> object:
    root, name = path
    servers = document.get(root)
    return cast(Mapping[str, object], servers).get(name) if isinstance(servers, Mapping) else None


def _change(document: Mapping[str, Any], path: Sequence[str], value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a file should say after a change."""
    root, name = path
    # A key without a value has null.
    servers: object = document.get(root) or {}
    if isinstance(servers, Mapping):
        others = {key: other for key, other in cast(Mapping[str, Any], servers).items() if key != name}
        return {**document, root: others if value is None else {**others, name: value}}
    raise ValueError(f"has something else than servers at `{root}`")


def _normalize(text: str) -> str:
    """Return a text with line breaks of one kind and without a byte order mark."""
    return (text.replace("\r\n", "\n") if _has_windows_lines(text) else text).removeprefix(_BYTE_ORDER_MARK)


def _restore(edited: str, original: str) -> str:
    mark = _BYTE_ORDER_MARK if original.startswith(_BYTE_ORDER_MARK) else ""
    return mark + (edited.replace("\n", "\r\n") if _has_windows_lines(original) else edited)


def _has_windows_lines(text: str) -> bool:
    """Tell whether each line ends as on Windows: of a mixture, each is kept as it is."""
    return "\r\n" in text and text.count("\r\n") == text.count("\n")
