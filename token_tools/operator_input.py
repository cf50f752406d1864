"""Text that an operator gave, in a setting, an argument or a file, before it is known to be what it should be.

A secret sits in the wrong place one day, a client hands on `${NAME}` instead of what that stands for, and an editor
leaves a character that nobody sees. Each of these is told as what it is, and a secret is not repeated.
"""

import os
import re
import unicodedata
from typing import Final

from token_tools.quoting import has_secret, is_visible, quote_untrusted
from token_tools.redaction import MAX_SEARCHED_CHARS, has_known_secret, has_labelled_token, has_likely_secret

MAX_SHOWN_CHARS: Final = 200
"""Characters of a given text that an error shows."""

_MAX_FOLDER_NAME_CHARS: Final = 64
"""Characters of a folder's name; the part of a bearer token that is its own has more."""

_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_STORE_CONTENT: Final = re.compile(r"bearer_token\\*[\"']|^\s*\{(?!\{|[a-z]+:)")
_UNEXPANDED: Final = re.compile(r"\$[A-Za-z_{(]|%[A-Za-z_][\w()]*%|\{\{|\}\}|\{(?:env|file|input|secret|cmd):")
"""Shells, Windows, editors, templates, and `{env:NAME}` of opencode."""


def strip_invisible(text: str) -> str:
    """The text without what nobody sees around it: blanks, line ends, byte order marks, characters without width."""
    inked = [index for index, char in enumerate(text) if not _is_blank(char)]
    return text[inked[0] : inked[-1] + 1] if inked else ""


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf"}


def find_secret_reason(text: str) -> str | None:
    """What secret or content of a file this is instead of an ordinary value, as a sentence; None if it is none."""
    if "-----BEGIN " in text:
        return "this is the content of a PEM file: QUMULO_CA_FILE takes its path"
    if _STORE_CONTENT.search(text):
        return "this is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path"
    if has_known_secret(text) or (has_likely_secret(text) and not _is_path(text)):
        return "this is a token, or looks like one: it belongs in QUMULO_BEARER_TOKEN"
    return None


def _is_path(text: str) -> bool:
    """Whether this leads into a folder that is there; tools call folders by hashes and random words."""
    first, *others = text.removeprefix("/").split("/")
    if not others or has_labelled_token(text) or "+" in text or max(map(len, others)) > _MAX_FOLDER_NAME_CHARS:
        return False
    return first == "~" or (text.startswith(f"/{first}/") and os.path.isdir(f"/{first}"))  # noqa: PTH112


def check_ordinary(text: str) -> None:
    """Refuse what is no ordinary value.

    Raises:
        ValueError: With what it is instead; a secret is not repeated.
    """
    if len(text) > MAX_SEARCHED_CHARS:
        raise ValueError(f"must not be longer than {MAX_SEARCHED_CHARS} characters")
    if secret := find_secret_reason(text):
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


def format_given(text: str) -> str:
    """A name or a path as it is, or quoted where its end or something in it could not be seen."""
    return (
        text
        if is_visible(text) and " " not in text and not has_secret(text)
        else quote_untrusted(text, max_chars=MAX_SHOWN_CHARS)
    )


def render_refused(text: str) -> str:
    """What was given, for the end of an error; nothing where it may have a secret in it."""
    # Before an @ stands a user, and with them a password.
    may_be_told = len(text) <= MAX_SEARCHED_CHARS and "@" not in text and find_secret_reason(text) is None
    # A secret with something between its characters is told apart from a word by the rest of them alone.
    may_be_told = may_be_told and not has_likely_secret("".join(filter(str.isalnum, text)))
    return f" (given: {quote_untrusted(text, max_chars=MAX_SHOWN_CHARS)})" if may_be_told else ""
