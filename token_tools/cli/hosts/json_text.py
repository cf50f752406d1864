"""Edits one entry of a JSON file as text, so that comments, order and layout of everything else stay as they are.

Comments and commas before a closing bracket are allowed, since many hosts allow them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

# What has no end, as in a file that was cut off, is matched too: it would be searched again from each place in it.
_STRING: Final = r'"(?:[^"\\\n]|\\.)*"?'
_STRING_OR_COMMENT: Final = re.compile(rf"({_STRING}|/\*(?!.*?\*/).*)|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_STRING_OR_LAST_COMMA: Final = re.compile(rf"({_STRING})|,(?=\s*[}}\]])")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_INDENT: Final = re.compile(r"^([ \t]+)\S", re.MULTILINE)
_DEFAULT_INDENT: Final = "  "


class _Member(NamedTuple):
    """Where a key of an object and its value stand."""

    key: str
    start: int
    value_start: int
    end: int


class _Object(NamedTuple):
    """Where the braces of an object stand, and its members."""

    start: int
    close: int
    members: Sequence[_Member]

    @property
    def by_key(self) -> Mapping[str, _Member]:
        """The members by their names; of several with one name, the last one counts."""
        return {member.key: member for member in self.members}


def parse(text: str) -> dict[str, Any]:
    """Return what a file says; nothing at all is an empty object.

    Raises:
        ValueError: If it is no JSON object; the text is a predicate for the file.
    """
    try:
        value = json.loads(_strip_commas(_strip_comments(text)).strip() or "{}")
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    raise ValueError("is no JSON object")


def set_entry(text: str, path: Sequence[str], value: Mapping[str, Any]) -> str:
    """Return the text with this value at a path of two keys; what is missing on the way is added."""
    root, name = path
    editor = _Editor(text if _strip_comments(text).strip() else _add_object(text))
    top = editor.read_object(0)
    if root not in top.by_key:
        return editor.insert(top, root, {name: value})
    owner = top.by_key[root]
    if not editor.is_object(owner.value_start):
        return editor.replace(owner, {name: value})
    servers = editor.read_object(owner.value_start)
    if name not in servers.by_key:
        return editor.insert(servers, name, value)
    return editor.replace(servers.by_key[name], value)


def remove_entry(text: str, path: Sequence[str]) -> str:
    """Return the text without what is at a path of two keys, which has to be there."""
    root, name = path
    editor = _Editor(text)
    servers = editor.read_object(editor.read_object(0).by_key[root].value_start)
    return editor.remove(servers, servers.by_key[name])


def _add_object(text: str) -> str:
    # A comment may end in the last line.
    return f"{text}\n{{}}\n".lstrip()


def _strip_comments(text: str) -> str:
    return _STRING_OR_COMMENT.sub(_blank, text)


def _strip_commas(text: str) -> str:
    return _STRING_OR_LAST_COMMA.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    """Return a string as it is, and in the place of anything else white space of the same length."""
    return found[1] or re.sub(r"[^\r\n]", " ", found[0])


def _skip_space(text: str, at: int) -> int:
    """Return the place of the first character from a place on that is no white space."""
    return next(_SPACE.finditer(text, at)).end()


class _Editor:
    """A text, and the strict JSON that has each character at the same place."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._with_commas = _strip_comments(text)
        self._plain = _strip_commas(self._with_commas)
        self._decoder = json.JSONDecoder()
        indented = _INDENT.search(self._with_commas)
        self._unit = indented[1] if indented else _DEFAULT_INDENT

    def is_object(self, start: int) -> bool:
        """Tell whether an object stands at a place."""
        return self._plain[start] == "{"

    def read_object(self, start: int) -> _Object:
        """Return the object that stands at a place, or after it behind white space."""
        start = at = self._skip(start)
        members = list[_Member]()
        while self._plain[at := self._skip(at + 1)] != "}":
            key, key_end = self._decoder.raw_decode(self._plain, at)
            value_start = self._skip(self._skip(key_end) + 1)
            _, end = self._decoder.raw_decode(self._plain, value_start)
            members.append(_Member(key, at, value_start, end))
            if self._plain[at := self._skip(end)] == "}":
                break
        return _Object(start, at, members)

    def insert(self, into: _Object, key: str, value: Mapping[str, Any]) -> str:
        """Return the text with a new last member in an object."""
        if not into.members:
            indent = self._indent_of(into.start)
            member = f"\n{indent}{self._unit}{self._format(key, value, indent + self._unit)}"
            kept = self._text[: into.close].rstrip()
            return f"{kept}{member}\n{indent}{self._text[into.close :]}"
        last = into.members[-1]
        comma = "" if self._with_commas[_skip_space(self._with_commas, last.end)] == "," else ","
        kept = self._text[last.end : into.close].rstrip()
        rest = self._text[last.end + len(kept) :]
        is_on_lines = "\n" in self._text[into.start : into.close]
        indent = self._indent_of(last.start) if is_on_lines else self._indent_of(into.start) + self._unit
        gap = f"\n{indent}" if is_on_lines else " "
        return f"{self._text[: last.end]}{comma}{kept}{gap}{self._format(key, value, indent)}{rest}"

    def replace(self, member: _Member, value: Mapping[str, Any]) -> str:
        """Return the text with another value of a member."""
        indent = self._indent_of(member.start)
        return f"{self._text[: member.value_start]}{self._format_value(value, indent)}{self._text[member.end :]}"

    def remove(self, owner: _Object, member: _Member) -> str:
        """Return the text without a member, and without the comma that would be one too many."""
        before, after = self._text[: member.start].rstrip(), self._text[member.end :]
        comma = _skip_space(self._with_commas, member.end)
        if self._with_commas[comma] == ",":
            after = self._text[member.end : comma] + self._text[comma + 1 :]
        elif member is not owner.members[0]:
            comma = self._skip(owner.members[owner.members.index(member) - 1].end)
            before = self._text[:comma] + self._text[comma + 1 : len(before)]
        is_empty = before.endswith("{") and after.lstrip().startswith("}")
        return before + (after.lstrip() if is_empty else after)

    def _skip(self, at: int) -> int:
        return _skip_space(self._plain, at)

    def _indent_of(self, at: int) -> str:
        """Return the white space at the beginning of the line in which a place is."""
        line = self._text[self._text.rfind("\n", 0, at) + 1 :]
        return line[: len(line) - len(line.lstrip(" \t"))]

    def _format(self, key: str, value: Mapping[str, Any], indent: str) -> str:
        return f"{json.dumps(key, ensure_ascii=False)}: {self._format_value(value, indent)}"

    def _format_value(self, value: Mapping[str, Any], indent: str) -> str:
        lines = json.dumps(value, indent=self._unit, ensure_ascii=False).splitlines()
        return f"\n{indent}".join(lines)
