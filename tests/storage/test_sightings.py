"""Test how what an audit saw is kept: how small it is, and which of two audits at once is last."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from tests.support.harness import NOW
from tests.support.record import downgrade, execute, state_file
from tests.support.services import open_journal
from token_tools.cluster.identity import Identity
from token_tools.cluster.models import AccessToken
from token_tools.errors import JournalError
from token_tools.settings import StateSettings
from token_tools.storage.sightings import ASSISTANT, Sighting, decode_tokens, encode_tokens, pack_token
from token_tools.times import format_rfc3339

pytestmark = pytest.mark.anyio
TOKEN_COUNT = 100_000
MAX_BYTES_PER_TOKEN = 40


def create_tokens(count: int, draw_id: Callable[[random.Random, int], str]) -> list[int]:
    """Return packed tokens, in order, whose users, keys and expiries are as little alike as those of a cluster."""
    chance = random.Random(count)
    tokens: set[int] = set()
    while len(tokens) < count:
        auth_id = chance.randrange(1_000, 2**33)
        expires = NOW + timedelta(seconds=chance.randrange(31_536_000), microseconds=chance.randrange(1_000_000))
        token = AccessToken(
            draw_id(chance, auth_id),
            Identity(auth_id=str(auth_id)),
            "2026-10-01T10:00:00Z",
            expiration_time=format_rfc3339(expires) if chance.randrange(10) else None,
            enabled=chance.randrange(10) > 0,
        )
        tokens.add(pack_token(token))
    return sorted(tokens)


def draw_usual_id(chance: random.Random, auth_id: int) -> str:
    """Return an id as clusters give it: the auth_id, and 64 bits."""
    return str(auth_id << 64 | chance.getrandbits(64))


def draw_long_id(chance: random.Random, _auth_id: int) -> str:
    """Return an id of 30 digits."""
    return str(chance.randrange(10**29, 10**30))


def measure_bytes(state: StateSettings) -> int:
    """Return how many bytes the sightings, or the whole database, take on the disk."""
    if state.state_url is None:
        return sum(path.stat().st_size for path in state_file(state.state_dir).parent.iterdir())
    [row] = execute(state, "SELECT pg_total_relation_size('audits') AS size")
    return int(row["size"])


@pytest.mark.parametrize("draw_id", [draw_usual_id, draw_long_id])
async def test_a_token_takes_few_bytes_on_the_disk(
    state: StateSettings, draw_id: Callable[[random.Random, int], str]
) -> None:
    tokens = create_tokens(TOKEN_COUNT, draw_id)
    async with open_journal(state) as journal:
        await journal.record_sighting(ASSISTANT, Sighting(NOW, "somebody", encode_tokens(tokens)))
        last = await journal.read_sighting(ASSISTANT)

    assert last is not None
    assert decode_tokens(last.tokens) == tokens
    assert measure_bytes(state) / TOKEN_COUNT <= MAX_BYTES_PER_TOKEN


@pytest.mark.parametrize("count", [0, 1, 4_096, 4_097])
def test_what_is_decoded_is_what_was_encoded(count: int) -> None:
    tokens = create_tokens(count, draw_usual_id)
    data = encode_tokens(tokens)

    assert decode_tokens(data) == tokens
    if count:
        for damaged in (data[:-1], data[:-40], data + b"\x00", data[: len(data) // 2]):
            with pytest.raises(JournalError, match="another version of this program wrote what the last audit saw"):
                decode_tokens(damaged)


def test_tokens_that_are_not_in_order_are_not_believed() -> None:
    tokens = create_tokens(3, draw_usual_id)

    with pytest.raises(JournalError, match="or it is damaged"):
        decode_tokens(encode_tokens([tokens[1], tokens[0], tokens[2]]))


async def test_of_audits_at_once_one_is_last_and_whole(state: StateSettings) -> None:
    sightings = [
        Sighting(NOW + timedelta(seconds=number), f"auditor {number}", encode_tokens([number])) for number in range(6)
    ]
    async with open_journal(state) as journal, open_journal(state) as other, anyio.create_task_group() as tasks:
        for number, sighting in enumerate(sightings):
            tasks.start_soon((journal if number % 2 else other).record_sighting, ASSISTANT, sighting)

    async with open_journal(state) as journal:
        assert await journal.read_sighting(ASSISTANT) in sightings


async def test_a_sighting_is_renewed_unless_another_audit_saw_something_since(state: StateSettings) -> None:
    first = Sighting(datetime(2026, 11, 1, tzinfo=UTC), "ann", encode_tokens([1]))
    second = first._replace(time=NOW, actor="bob")
    third = Sighting(NOW + timedelta(days=1), "cy", encode_tokens([2]))
    async with open_journal(state) as journal:
        await journal.record_sighting(ASSISTANT, first)
        await journal.renew_sighting(ASSISTANT, first, second)
        assert await journal.read_sighting(ASSISTANT) == second

        await journal.record_sighting(ASSISTANT, third)
        await journal.renew_sighting(ASSISTANT, second, second._replace(time=NOW + timedelta(days=2), actor="dan"))
        assert await journal.read_sighting(ASSISTANT) == third


async def test_there_is_none_where_nobody_audited_and_none_of_another_cluster(state: StateSettings) -> None:
    async with open_journal(state) as journal, open_journal(state, cluster="d:8000") as other:
        assert await journal.read_sighting(ASSISTANT) is None
        await journal.record_sighting(ASSISTANT, Sighting(NOW, "somebody", b""))
        assert await other.read_sighting(ASSISTANT) is None


async def test_what_an_earlier_version_saw_is_compared_with_before_and_after_its_tables_are_up_to_date(
    state: StateSettings,
) -> None:
    sighting = Sighting(NOW, "ann", encode_tokens([1]))
    async with open_journal(state) as journal:
        assert await journal.read_latest_sighting() is None
        await journal.record_sighting(ASSISTANT, sighting)
        downgrade(state, 4)

        assert await journal.read_sighting(ASSISTANT) == await journal.read_latest_sighting() == sighting
        assert await journal.read_sighting("people") is None
        await journal.check_ready()
        assert await journal.read_sighting(ASSISTANT) == await journal.read_latest_sighting() == sighting


async def test_the_latest_of_all_series_is_found(state: StateSettings) -> None:
    first, second = Sighting(NOW, "ann", b"", b"told"), Sighting(NOW + timedelta(days=1), "bob", b"")
    async with open_journal(state) as journal:
        await journal.record_sighting(ASSISTANT, second)
        await journal.record_sighting("people", first)

        assert await journal.read_latest_sighting() == second
        assert await journal.read_sighting("people") == first
