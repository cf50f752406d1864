"""Edits one entry of a YAML file, with comments and order kept, and the layout where it is a usual one."""

import io
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, Protocol, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from token_tools.cli.hosts.nested import update_in_place

_LAYOUTS: Final = [(mapping, dash + 2, dash) for mapping in (2, 4) for dash in (0, 2, 4)]
"""How far mappings, sequences and the dashes in these are indented, in spaces; the first is that of Goose itself."""
_MAX_LINE_CHARS: Final = 1_000_000
"""A longer line would be broken into several."""


class _Yaml(Protocol):
    """What is used of `YAML`, with types."""

    def load(self, stream: str) -> Any:  # noqa: ANN401 - a file may have anything
        """Return what a text says."""
        ...

    def dump(self, data: object, stream: io.StringIO) -> None:
        """Write data as text."""
        ...


def parse(text: str) -> dict[str, Any]:
    """Return what a file says; nothing at all is an empty mapping.

    Raises:
        ValueError: If it is no mapping in YAML; the text is a predicate for the file.
    """
    try:
        value = _create_safe_yaml().load(text)
    except (YAMLError, ValueError, RecursionError):
        raise ValueError("is not YAML") from None
    if value is None:
        return {}
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    raise ValueError("is no mapping in YAML")


def set_entry(text: str, path: Sequence[str], value: Mapping[str, Any]) -> str:
    """Return the text with this value at a path of keys; what is missing on the way is added."""
    if not parse(text):
        return f"{text}{_dump(_create_yaml(*_LAYOUTS[0]), {path[0]: {path[1]: dict(value)}})}"
    yaml, document = _load(text)
    root, name = path
    if document.get(root) is None:
        document[root] = {}
    servers = cast(MutableMapping[str, Any], document[root])
    if name in servers:
        update_in_place(servers[name], value)
    else:
        servers[name] = dict(value)
    return _dump(yaml, document)


def remove_entry(text: str, path: Sequence[str]) -> str:
    """Return the text without what is at a path of keys, which has to be there."""
    yaml, document = _load(text)
    root, name = path
    del document[root][name]
    return _dump(yaml, document)


def _load(text: str) -> tuple[_Yaml, MutableMapping[str, Any]]:
    """Return what a file says with its comments, and what writes it in the layout that the file has."""
    candidates = [*_create_candidates(text)]
    yaml = next((yaml for yaml in candidates if _dump(yaml, yaml.load(text)) == text), candidates[0])
    return yaml, yaml.load(text)


def _create_candidates(text: str) -> Iterator[_Yaml]:
    for layout in _LAYOUTS:
        yield _create_yaml(*layout, has_start=text.startswith("---"))


def _create_safe_yaml() -> _Yaml:
    return YAML(typ="safe", pure=True)


def _create_yaml(mapping: int, sequence: int, offset: int, *, has_start: bool = False) -> _Yaml:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _MAX_LINE_CHARS
    yaml.explicit_start = has_start
    yaml.indent(mapping=mapping, sequence=sequence, offset=offset)
    return yaml


def _dump(yaml: _Yaml, document: object) -> str:
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()
