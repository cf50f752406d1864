"""What is sealed is opened with a key of the operator, for what it was sealed, and not otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_tools.sealing import Sealer

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
CONTENT = b"access-v1:SECRETSECRET"


@given(content=st.binary(max_size=300), bound_to=st.text(max_size=50))
def test_what_is_sealed_is_opened_for_what_it_was_sealed(content: bytes, bound_to: str) -> None:
    sealer = Sealer([KEY], "tests")

    sealed = sealer.seal(content, bound_to)

    assert sealer.open(sealed, bound_to) == content
    assert sealer.open(sealed, f"{bound_to}.") is None


def test_nothing_of_it_can_be_read_and_no_two_are_alike() -> None:
    sealer = Sealer([KEY], "tests")

    one, other = sealer.seal(CONTENT, "x"), sealer.seal(CONTENT, "x")

    assert one != other
    assert not any(CONTENT[start : start + 4] in one for start in range(len(CONTENT) - 3))


def test_a_former_key_opens_and_the_first_one_seals() -> None:
    former, present = Sealer([KEY], "tests"), Sealer([OTHER_KEY, KEY], "tests")

    assert present.open(former.seal(CONTENT, "x"), "x") == CONTENT
    assert former.open(present.seal(CONTENT, "x"), "x") is None


@pytest.mark.parametrize(
    "other", [pytest.param(Sealer([OTHER_KEY], "tests"), id="key"), pytest.param(Sealer([KEY], "others"), id="purpose")]
)
def test_another_key_or_purpose_opens_nothing(other: Sealer) -> None:
    assert other.open(Sealer([KEY], "tests").seal(CONTENT, "x"), "x") is None


def test_a_change_of_any_byte_is_noticed() -> None:
    sealer = Sealer([KEY], "tests")
    sealed = sealer.seal(CONTENT, "x")

    changed = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]

    assert {sealer.open(each, "x") for each in changed} == {None}


@pytest.mark.parametrize("length", [0, 11, 12, 27])
def test_what_was_cut_off_is_no_content(length: int) -> None:
    sealer = Sealer([KEY], "tests")

    assert sealer.open(sealer.seal(CONTENT, "x")[:length], "x") is None
