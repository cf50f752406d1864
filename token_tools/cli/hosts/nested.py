"""Changes nested mappings that remember their comments, as both the editor of TOML and that of YAML have them."""

from collections.abc import Mapping, MutableMapping
from typing import Any, cast


def update_in_place(old: MutableMapping[str, Any], new: Mapping[str, Any]) -> None:
    """Give a mapping the content of another one, and leave alone what is equal, with the comments beside it."""
    for key in [*old]:
        if key not in new:
            del old[key]
    for key, value in new.items():
        present = old.get(key)
        if isinstance(value, Mapping) and isinstance(present, MutableMapping):
            update_in_place(cast(MutableMapping[str, Any], present), cast(Mapping[str, Any], value))
        elif present != value or key not in old:
            old[key] = value
