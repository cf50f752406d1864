"""Is a text of the operator what it should be? And may an error repeat it?

The texts come from settings, command-line arguments and files. Each may be a secret in the wrong place, a `${NAME}`
that the client did not expand, or a value with an invisible character. An error names the mistake, and it repeats no
text that may be a secret.
"""

import os
import re
import unicodedata
from typing import Final

from token_tools.quoting import has_secret, is_visible, quote_untrusted
from token_tools.redaction import has_known_secret, has_labelled_token, has_likely_secret

MAX_INPUT_CHARS: Final = 4096
"""A longer text is refused; paths and tokens are shorter."""

MAX_SHOWN_CHARS: Final = 200
"""Errors show at most this many characters of a text."""

_MAX_FOLDER_NAME_CHARS: Final = 64
"""A longer part of a path is no folder's name but may be a bearer token, which is longer."""

_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
_STORE_CONTENT: Final = re.compile(r"bearer_token\\*[\"']|^\s*\{(?!\{|[a-z]+:)")
_UNEXPANDED: Final = re.compile(r"\$[A-Za-z_{(]|%[A-Za-z_][\w()]*%|\{\{|\}\}|\{(?:env|file|input|secret|cmd):")
"""Variables of shells, Windows, editors and templates, and `{env:NAME}` of opencode."""


def strip_invisible(text: str) -> str:
    """Strip invisible characters around a text: blanks, line ends, byte order marks, characters without width."""
    visible = [index for index, char in enumerate(text) if not _is_blank(char)]
    return text[visible[0] : visible[-1] + 1] if visible else ""


def _is_blank(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in {"Cc", "Cf"}


def find_secret_reason(text: str) -> str | None:
    """Return a sentence that says which secret, or which file's content, a text is; None for an ordinary text."""
    if "-----BEGIN " in text:
        return "this is the content of a PEM file: QUMULO_CA_FILE takes its path"
    if _STORE_CONTENT.search(text):
        return "this is the content of a credentials file: QUMULO_CREDENTIALS_FILE takes its path"
    if has_known_secret(text) or (has_likely_secret(text) and not _is_path(text)):
        return "this is a token, or looks like one: it belongs in QUMULO_BEARER_TOKEN"
    return None


def _is_path(text: str) -> bool:
    """Tell whether a text is a path below an existing folder. Tools name folders by hashes, which look like secrets."""
    first, *others = text.removeprefix("/").split("/")
    if not others or has_labelled_token(text) or "+" in text or max(map(len, others)) > _MAX_FOLDER_NAME_CHARS:
        return False
    # Unlike `Path.is_dir`, `os.path.isdir` returns False for any text that is no path.
    is_absolute = text.startswith(f"/{first}/") and os.path.isdir(f"/{first}")  # noqa: PTH112 - as just said
    return first == "~" or is_absolute


def check_ordinary(text: str) -> None:
    """Refuse a text that is too long, a secret, the content of a file, or a variable that was not expanded.

    Raises:
        ValueError: If it is one of these; the text says which, and repeats no secret.
    """
    if len(text) > MAX_INPUT_CHARS:
        raise ValueError(f"must not be longer than {MAX_INPUT_CHARS} characters")
    if secret := find_secret_reason(text):
        raise ValueError(f"is wrong: {secret}")
    check_expanded(text)


def check_expanded(text: str) -> None:
    """Refuse a variable that was not expanded, and a value with quotes that were meant for a shell.

    Raises:
        ValueError: If it is one of these; the text says which.
    """
    if _UNEXPANDED.search(text):
        raise ValueError("is not the value itself but what stands for it: the client did not expand it")
    if text[:1] in _QUOTES and text[-1:] in _QUOTES and text:
        raise ValueError("has its quotes in it: write it without them")


def format_input(text: str) -> str:
    """Return a name or a path as it is, or quoted if it has blanks, invisible characters or a secret in it."""
    return (
        text
        if is_visible(text) and " " not in text and not has_secret(text)
        else quote_untrusted(text, max_chars=MAX_SHOWN_CHARS)
    )


def render_refused_input(text: str) -> str:
    """Return the quoted text for the end of an error, or nothing if it may have a secret in it."""
    # In a URL, a user and perhaps a password precede the @.
    is_harmless = len(text) <= MAX_INPUT_CHARS and "@" not in text and find_secret_reason(text) is None
    # Punctuation could hide that the letters are a secret, so look at the letters and digits alone too.
    is_harmless = is_harmless and not has_likely_secret("".join(filter(str.isalnum, text)))
    return f" (given: {quote_untrusted(text, max_chars=MAX_SHOWN_CHARS)})" if is_harmless else ""
