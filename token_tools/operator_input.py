"""Text that an operator gave, in a setting, an argument or a file, before it is known to be what it should be.

A secret sits in the wrong place one day, a client hands on `${NAME}` instead of what that stands for, and an editor
leaves a character that nobody sees. Each of these is told as what it is, and a secret is not repeated.
"""

import os
import re
import unicodedata
from typing import Final

from token_tools.quoting import is_secret, is_visible, quote
from token_tools.redaction import MAX_SEARCHED, looks_secret, names_token, repeats_secret

LONGEST_SHOWN: Final = 200
"""Characters of a given text that an error shows."""

_LONGEST_HASH: Final = 64
"""Characters of a folder's name; the part of a bearer token that is its own has more."""

_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_STORE: Final = re.compile(r"bearer_token\\*[\"']|^\s*\{(?!\{|[a-z]+:)")
_UNEXPANDED: Final = re.compile(r"\$[A-Za-z_{(]|%[A-Za-z_][\w()]*%|\{\{|\}\}|\{(?:env|file|input|secret|cmd):")
"""Shells, Windows, editors, templates, and `{env:NAME}` of opencode."""


def clean(text: str) -> str:
    """The text without what nobody sees around it: blanks, line ends, byte order marks, characters without width."""
    inked = [index for index, char in enumerate(text) if not _is_blank(char)]
    return text[inked[0] : inked[-1] + 1] if inked else ""


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf"}


def find_secret(text: str) -> str | None:
    """What secret or content of a file this is instead of an ordinary value, as a sentence; None if it is none."""
    if "-----BEGIN " in text:
        return "this is the content of a PEM file: QUMULO_CA_FILE takes its path"
    if _STORE.search(text):
        return "this is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path"
    if repeats_secret(text) or (looks_secret(text) and not _is_path(text)):
        return "this is a token, or looks like one: it belongs in QUMULO_BEARER_TOKEN"
    return None


def _is_path(text: str) -> bool:
    """Whether this leads into a folder that is there; tools call folders by hashes and random words."""
    first, *others = text.removeprefix("/").split("/")
    if not others or names_token(text) or "+" in text or max(map(len, others)) > _LONGEST_HASH:
        return False
    return first == "~" or (text.startswith(f"/{first}/") and os.path.isdir(f"/{first}"))  # noqa: PTH112


def check_ordinary(text: str) -> None:
    """Refuse what is no ordinary value.

    Raises:
        ValueError: With what it is instead; a secret is not repeated.
    """
    if len(text) > MAX_SEARCHED:
        raise ValueError(f"must not be longer than {MAX_SEARCHED} characters")
    if secret := find_secret(text):
        raise ValueError(f"is wrong: {secret}")
    check_expanded(text)


def check_expanded(text: str) -> None:
    """Refuse text that stands for a value, and a value with the quotes that were meant for a shell.

    Raises:
        ValueError: With the reason.
    """
    if _UNEXPANDED.search(text):
        raise ValueError("is not the value itself but what stands for it: the client did not expand it")
    if text[:1] in _QUOTES and text[-1:] in _QUOTES and text:
        raise ValueError("has its quotes in it: write it without them")


def show(text: str) -> str:
    """A name or a path as it is, or quoted where its end or something in it could not be seen."""
    return text if is_visible(text) and " " not in text and not is_secret(text) else quote(text, longest=LONGEST_SHOWN)


def show_refused(text: str) -> str:
    """What was given, for the end of an error; nothing where it may have a secret in it."""
    # Before an @ stands a user, and with them a password.
    may_be_told = len(text) <= MAX_SEARCHED and "@" not in text and find_secret(text) is None
    # A secret with something between its characters is told apart from a word by the rest of them alone.
    may_be_told = may_be_told and not looks_secret("".join(filter(str.isalnum, text)))
    return f" (given: {quote(text, longest=LONGEST_SHOWN)})" if may_be_told else ""
