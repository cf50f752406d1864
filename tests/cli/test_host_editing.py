"""Test that one entry of a host's file is changed, and everything else in it stays as it is."""

import re
from collections.abc import Mapping
from typing import Final

import pytest

from token_tools.cli.hosts.catalogue import FileFormat
from token_tools.cli.hosts.editing import edit, find_entry

ENTRY: Final[Mapping[str, object]] = {
    "command": "/opt/bin/qumulo-token-tools",
    "args": [],
    "env": {"QUMULO_HOST": "münchen.example.com"},
}
OTHER_ENTRY: Final[Mapping[str, object]] = {
    "command": "/opt/bin/qumulo-token-tools",
    "args": ["--demo"],
    "env": {},
    "timeout": 330,
}
PATHS: Final[Mapping[FileFormat, tuple[str, str]]] = {
    "json": ("mcpServers", "qumulo-tokens"),
    "toml": ("mcp_servers", "qumulo-tokens"),
    "yaml": ("extensions", "qumulo-tokens"),
}

WORD: Final = re.compile(r"[^\s,{}\ufeff]+")
"""What is neither layout nor punctuation."""
WITH_COMMENTS: Final = """{
  // "quoted", and with /* a comment in a comment
  "theme": "One // Dark",
  "tabs": [1, 2,], /* behind the value */
  "mcpServers": {
    "github": {"command": "gh", "env": {"URL": "https://example.com/*,]}"}} // keep me
  },
}
"""
WITH_OTHER_ENTRIES: Final = [
    pytest.param("json", WITH_COMMENTS, id="comments and trailing commas"),
    pytest.param("json", '{\n\t"mcpServers": {\n\t\t"a": {}\n\t},\n\t"b": null\n}\n', id="tabs"),
    pytest.param("json", '{\r\n  "mcpServers": {\r\n    "a": {}\r\n  }\r\n}\r\n', id="line breaks of Windows"),
    pytest.param("json", '{\r\n  "mcpServers": {\n    "a": {}\r\n  }\n}', id="line breaks of both kinds"),
    pytest.param("json", '\ufeff{\n  "mcpServers": {\n    "a": {}\n  }\n}', id="a byte order mark"),
    pytest.param("json", '{"mcpServers": {"a": {"command": "x"}}, "b": 1}', id="one line"),
    pytest.param("json", '{"mcpServers": {"a": 1}, "mcpServers": {"b": "\\""}}', id="the root key twice"),
    pytest.param("json", '{\n  "mcpServers": {}\n}\n', id="an empty place for entries"),
    pytest.param("toml", '# mine\nmodel = "o"\n\n[mcp_servers.a]\ncommand = "x" # y\n\n[tui]\nx = 1\n', id="TOML"),
    pytest.param("toml", "a = 1\n\n[mcp_servers]\n\n# of b\n[[b]]\nc = [\n  [2,\n  3]\n]\n", id="an empty table"),
    pytest.param("toml", "[mcp_servers.a]\r\ncommand = 'x'\r\n", id="TOML with line breaks of Windows"),
    pytest.param("toml", "mcp_servers = {a = {command = 'x'}}\nb = 1\n", id="inline tables"),
    pytest.param("toml", "", id="an empty TOML file"),
    pytest.param("yaml", "extensions:\n  a: # mine\n    args:\n    - 'x'\n    on: yes\nb: 1\n", id="as Goose writes"),
    pytest.param("yaml", "---\n# top\nextensions:\n    a:\n        args:\n          - x\n    b: 1\n", id="wide YAML"),
    pytest.param("yaml", "extensions: {a: {b: 1}}\nc: &c 1\nd: *c\n", id="YAML in braces, with anchors"),
]
WITHOUT_ENTRIES: Final = [
    pytest.param("json", "", id="an empty file"),
    pytest.param("json", "{}", id="an empty object"),
    pytest.param("json", "// nothing yet", id="a comment alone"),
    pytest.param("json", '{\n    "a": 1 // last\n}\n', id="a comment behind the last member"),
    pytest.param("json", '{"mcpServers": null, "a": 1e400}', id="null as the root key"),
    pytest.param("toml", "a = 1\n", id="TOML without tables"),
    pytest.param("toml", 'mcp_servers.a.command = "x"\n', id="dotted keys"),
    pytest.param("yaml", "", id="an empty YAML file"),
    pytest.param("yaml", "# nothing yet\n", id="a comment alone in YAML"),
    pytest.param("yaml", "extensions:\nb: 1\n", id="a root key without a value"),
    pytest.param("yaml", "a:\n- {b: 1,   c: 2}\n\n\n", id="YAML in a layout of its own"),
]


@pytest.mark.parametrize(("file_format", "text"), [*WITH_OTHER_ENTRIES, *WITHOUT_ENTRIES])
def test_an_entry_is_added_changed_and_removed_and_each_line_is_kept(file_format: FileFormat, text: str) -> None:
    path = PATHS[file_format]

    added = edit(text, file_format, path, ENTRY)
    changed = edit(added, file_format, path, OTHER_ENTRY)
    removed = edit(changed, file_format, path, None)

    assert find_entry(added, file_format, path) == ENTRY
    assert find_entry(changed, file_format, path) == OTHER_ENTRY
    assert find_entry(removed, file_format, path) is None
    for edited in (added, changed, removed):
        left = iter(WORD.findall(edited))
        # Each word is looked for behind the one before it.
        assert [word for word in WORD.findall(text.replace("null", "")) if word not in left] == []


@pytest.mark.parametrize(("file_format", "text"), WITH_OTHER_ENTRIES)
def test_a_file_to_which_an_entry_was_added_is_the_same_once_it_is_removed(file_format: FileFormat, text: str) -> None:
    added = edit(text, file_format, PATHS[file_format], ENTRY)

    assert edit(added, file_format, PATHS[file_format], None) == text


def test_an_entry_stands_where_a_person_would_write_it() -> None:
    assert edit(WITH_COMMENTS, "json", PATHS["json"], {"command": "x"}) == WITH_COMMENTS.replace(
        "}} // keep me\n", '}}, // keep me\n    "qumulo-tokens": {\n      "command": "x"\n    }\n'
    )


def test_a_comma_that_ends_a_list_of_entries_is_used() -> None:
    text = '{\n  "mcpServers": {\n    "a": {}, // one\n    // two\n  }\n}\n'

    added = edit(text, "json", PATHS["json"], {})

    assert added == text.replace("// two\n", '// two\n    "qumulo-tokens": {}\n')


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"mcpServers": {"qumulo-tokens": 1, "a": 2}}', '{"mcpServers": { "a": 2}}'),
        ('{\n "mcpServers": {\n  "a": 1,\n  "qumulo-tokens": 2,\n  "b": 3\n }\n}', None),
        ('{"mcpServers": {"qumulo-tokens": 1}}', '{"mcpServers": {}}'),
    ],
    ids=["first", "between", "only"],
)
def test_an_entry_is_removed_with_its_comma(text: str, left: str | None) -> None:
    expected = text.replace('\n  "qumulo-tokens": 2,', "") if left is None else left

    assert edit(text, "json", PATHS["json"], None) == expected


def test_a_comment_above_the_next_table_is_kept_when_an_entry_is_removed() -> None:
    text = '[mcp_servers.qumulo-tokens]\ncommand = "x"\n# within\n[mcp_servers."qumulo-tokens".env]\nA = "b"\n'

    assert edit(f"{text}\n# of c\n[c]\nd = 1\n", "toml", PATHS["toml"], None) == "\n# of c\n[c]\nd = 1\n"


def test_comments_within_an_entry_of_toml_are_kept_when_it_changes() -> None:
    text = (
        '[mcp_servers.qumulo-tokens] # a\ncommand = "x" # b\nold = 1\n\n[mcp_servers.qumulo-tokens.env]\nA = "1" # c\n'
    )

    changed = edit(text, "toml", PATHS["toml"], {"command": "x", "env": {"A": "1", "B": "2"}})

    assert changed == text.replace("old = 1\n", "") + 'B = "2"\n'


@pytest.mark.parametrize(
    ("file_format", "text", "reason"),
    [
        ("json", '{"mcpServers": {', "is not JSON"),
        ("json", "{'a': 1}", "is not JSON"),
        ("json", '{"a": 1 /* open', "is not JSON"),
        ("json", "[" * 100_000, "is not JSON"),
        pytest.param("json", '{"a": "' + '\\"' * 100_000, "is not JSON", id="json, cut off in a string"),
        pytest.param("json", '{"a": 1 ' + "/* " * 100_000, "is not JSON", id="json, cut off in a comment"),
        ("json", "[]", "is no JSON object"),
        ("json", '{"mcpServers": [1]}', "has something else than servers at `mcpServers`"),
        ("toml", "a = [", "is not TOML"),
        ("toml", "mcp_servers = 1", "has something else than servers at `mcp_servers`"),
        ("yaml", "a: [", "is not YAML"),
        ("yaml", "a: !python/object:os.system 1\n---\nb: 1", "is not YAML"),
        ("yaml", "- a", "is no mapping in YAML"),
        ("yaml", "extensions: [1]", "has something else than servers at `extensions`"),
    ],
)
def test_a_file_that_is_something_else_is_refused(file_format: FileFormat, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        edit(text, file_format, PATHS[file_format], ENTRY)


def test_an_entry_that_stands_there_twice_is_not_removed_by_halves() -> None:
    text = '{"mcpServers": {"qumulo-tokens": 1, "qumulo-tokens": 2}}'

    with pytest.raises(ValueError, match="cannot be edited without a risk"):
        edit(text, "json", PATHS["json"], None)


def test_a_text_that_looks_like_a_table_is_not_taken_for_one() -> None:
    text = "a = '''\n[mcp_servers.qumulo-tokens]\n'''\n[mcp_servers.qumulo-tokens]\nb = 1\n"

    with pytest.raises(ValueError, match="cannot be edited without a risk"):
        edit(text, "toml", PATHS["toml"], None)
