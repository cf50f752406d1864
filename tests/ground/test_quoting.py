"""Test that untrusted text is quoted as one bounded line of visible characters, without secrets."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_tools.quoting import quote_untrusted
from token_tools.redaction import redact_bearers


@given(st.text(max_size=50).filter(lambda text: redact_bearers(text) == text))
def test_a_short_text_is_on_one_printable_line_and_can_be_read_back(text: str) -> None:
    quoted = quote_untrusted(text, max_chars=50)

    assert quoted.isprintable()
    assert json.loads(quoted) == text


def test_a_long_text_is_cut() -> None:
    assert quote_untrusted("abcdef", max_chars=4) == '"abc…"'


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("sent access-v1:QUJD+/=_-x back", '"sent access-v1 [redacted] back"'),
        ("session-v1:QUJD.", '"session-v1 [redacted]."'),
        ("Authorization: bearer 1:abc/+= rejected", '"Authorization: bearer [redacted] rejected"'),
        ("Bearer\n1:abc", '"Bearer [redacted]"'),
    ],
)
def test_what_looks_like_a_bearer_token_is_taken_out(text: str, quoted: str) -> None:
    assert quote_untrusted(text, max_chars=100) == quoted
