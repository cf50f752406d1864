"""Bearer tokens that wait in the database: sealed, for one person, once, and for a while."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from tests.support.record import downgrade, execute, read_record
from token_tools.errors import DeliveryError, JournalError, Refusal
from token_tools.sealing import Sealer
from token_tools.settings import StateSettings
from token_tools.storage.attempts import Attempt, Mandate
from token_tools.storage.delivery import (
    AskedToken,
    DeliveredToken,
    PickupDelivery,
    PickupLocation,
    Recipient,
    TakenPage,
    WaitingPage,
)
from token_tools.storage.journal import Journal, Limits
from token_tools.storage.pickup_states import Pickup
from token_tools.storage.pickups import SEALING_PURPOSE, PickupOffer, Pickups
from token_tools.storage.state import open_state
from token_tools.times import format_time

pytestmark = pytest.mark.anyio

CLUSTER = "c.example.com:8000"
NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
ANN = Recipient("https://idp.example.com#ann", "https://idp.example.com#ann (Ann)")
QUOTED = f'"{ANN.name}"'
PATIENCE = timedelta(minutes=15)
LONG_AGO = "2000-01-01T00:00:00.000000Z"
URL = "https://tokens.example.com/pickup"


class Desk:
    """One server on a database, with what waits there."""

    def __init__(self, state: StateSettings, keys: list[bytes], cluster: str, closing: ExitStack) -> None:
        connections = open_state(state, lambda: NOW)
        closing.callback(connections.close)
        self.journal = Journal(connections, cluster=cluster, clock=lambda: NOW, limits=Limits())
        offer = PickupOffer(URL, Sealer(keys, SEALING_PURPOSE))
        self.pickups = Pickups(self.journal.transactions, offer, cluster=cluster, patience=PATIENCE, clock=lambda: NOW)
        self.delivery = PickupDelivery(self.pickups)

    async def deliver(self) -> DeliveredToken:
        """Let the new token wait for Ann."""
        reservation = await self.delivery.reserve(AskedToken(JANE, None, ANN))
        return await reservation.store(NEW_TOKEN, JANE)

    async def find(self, delivered: DeliveredToken) -> Pickup:
        """Return what waits, or what became of it."""
        found = await self.pickups.find(delivered.location.render().rpartition("/")[2])
        assert found is not None
        return found

    async def hand_out(self, delivered: DeliveredToken) -> SecretStr | None:
        """Hand it out."""
        return await self.pickups.hand_out(await self.find(delivered), self.draft())

    async def claim_overdue(self) -> Sequence[Pickup]:
        """Take what is overdue, to delete its token."""
        return await self.pickups.claim_overdue(lambda _: self.draft())

    def draft(self) -> Attempt:
        """Return an entry about that."""
        return self.journal.draft("pickup", "local:jane", Mandate(ANN.name), outcome="handed out")


@pytest.fixture
def closing() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def keys() -> list[bytes]:
    return [b"k" * 32]


@pytest.fixture
def desk(state: StateSettings, keys: list[bytes], closing: ExitStack) -> Desk:
    return Desk(state, keys, CLUSTER, closing)


def read_rows(state: StateSettings) -> list[dict[str, Any]]:
    """Return the rows as they are in the database."""
    return execute(state, "SELECT * FROM pickups ORDER BY asked")


def make_overdue(state: StateSettings) -> None:
    """Let the time of everything that waits be over."""
    execute(state, "UPDATE pickups SET open_until = ?", LONG_AGO)


def read_files(folder: Path) -> bytes:
    """Return what is in the files of a database of SQLite."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


async def test_a_bearer_token_waits_sealed_at_an_address_that_tells_nothing(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()

    assert isinstance(delivered.location, PickupLocation)
    assert delivered.location.url.startswith(f"{URL}/")
    waiting = await desk.find(delivered)
    assert (waiting.state, waiting.token_id, waiting.user_name) == ("waiting", NEW_TOKEN.id, "local:jane")
    assert (waiting.recipient, waiting.recipient_name, waiting.fingerprint) == (*ANN, delivered.fingerprint)
    [row] = read_rows(state)
    assert SECRET not in str(row)
    assert SECRET.encode() not in bytes(row["sealed"])


async def test_it_is_handed_out_once_and_is_gone_from_the_database_with_that(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()

    first, second = await desk.hand_out(delivered), await desk.hand_out(delivered)

    assert first is not None
    assert (first.get_secret_value(), second) == (SECRET, None)
    [row] = read_rows(state)
    assert (row["state"], row["sealed"]) == ("handed out", None)
    assert [entry["outcome"] for entry in read_record(state)] == ["handed out"]


async def test_of_two_servers_that_hand_it_out_at_once_one_does(
    state: StateSettings, keys: list[bytes], closing: ExitStack, desk: Desk
) -> None:
    other = Desk(state, keys, CLUSTER, closing)
    delivered = await desk.deliver()
    waiting = await desk.find(delivered)
    handed: list[SecretStr | None] = []

    async def hand_out(server: Desk) -> None:
        handed.append(await server.pickups.hand_out(waiting, server.draft()))

    async with anyio.create_task_group() as tasks:
        for server in (desk, other) * 4:
            tasks.start_soon(hand_out, server)

    assert [each.get_secret_value() for each in handed if each is not None] == [SECRET]


async def test_what_was_sealed_is_overwritten_in_the_files(
    tmp_path: Path, keys: list[bytes], closing: ExitStack
) -> None:
    state = StateSettings(state_dir=tmp_path / "state")
    desk = Desk(state, keys, CLUSTER, closing)
    delivered = await desk.deliver()
    sealed = bytes(read_rows(state)[0]["sealed"])
    assert sealed in read_files(state.state_dir)

    await desk.hand_out(delivered)

    assert sealed not in read_files(state.state_dir)


async def test_a_key_that_is_gone_spends_nothing(
    state: StateSettings, keys: list[bytes], closing: ExitStack, desk: Desk
) -> None:
    delivered = await desk.deliver()
    without = Desk(state, [b"o" * 32], CLUSTER, closing)

    with pytest.raises(DeliveryError, match=r"QUMULO_HTTP_STATE_KEYS.*puts the former key back"):
        await without.hand_out(delivered)

    assert read_record(state) == []
    assert await Desk(state, [b"o" * 32, *keys], CLUSTER, closing).hand_out(delivered) == SecretStr(SECRET)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("UPDATE pickups SET recipient = ?", "https://idp.example.com#eve"),
        ("UPDATE pickups SET token_id = ?", "7"),
        ("UPDATE pickups SET id = ?", "another"),
    ],
)
async def test_a_row_that_somebody_changed_opens_nothing(
    desk: Desk, state: StateSettings, change: str, value: str
) -> None:
    delivered = await desk.deliver()
    waiting = await desk.find(delivered)
    execute(state, change, value)
    changed = await desk.pickups.find(waiting.id) or await desk.pickups.find("another")
    assert changed is not None

    with pytest.raises(DeliveryError, match=r"^It cannot be opened"):
        await desk.pickups.hand_out(changed, desk.draft())


async def test_of_another_cluster_nothing_is_found(
    state: StateSettings, keys: list[bytes], closing: ExitStack, desk: Desk
) -> None:
    other = Desk(state, keys, "other.example.com:8000", closing)
    delivered = await desk.deliver()
    waiting = await desk.find(delivered)
    make_overdue(state)

    assert await other.pickups.find(waiting.id) is None
    assert await other.pickups.find_by_token(NEW_TOKEN.id) is None
    assert [*await other.claim_overdue()] == []


async def test_where_nothing_ever_waited_nothing_is_found(desk: Desk, state: StateSettings) -> None:
    async def look() -> list[object]:
        told = await desk.pickups.tell_ended(bool)
        return [await desk.pickups.find("x"), [*await desk.claim_overdue()], [*told]]

    assert await look() == [None, [], []]
    await desk.journal.check_ready()
    downgrade(state, 3)
    assert await look() == [None, [], []]

    await desk.deliver()

    assert [row["state"] for row in read_rows(state)] == ["waiting"]


async def test_what_is_overdue_is_claimed_by_one_server_and_again_once_that_is_gone(
    state: StateSettings, keys: list[bytes], closing: ExitStack, desk: Desk
) -> None:
    other = Desk(state, keys, CLUSTER, closing)
    delivered = await desk.deliver()
    assert [*await desk.claim_overdue()] == []
    make_overdue(state)

    assert [each.token_id for each in await desk.claim_overdue()] == [NEW_TOKEN.id]
    assert [*await other.claim_overdue()] == []
    assert read_rows(state)[0]["sealed"] is None
    assert await other.hand_out(delivered) is None

    execute(state, "UPDATE pickups SET leased_until = ?", LONG_AGO)
    assert [each.token_id for each in await other.claim_overdue()] == [NEW_TOKEN.id]


async def test_an_end_is_written_once_and_told_once(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()
    pickup = await desk.find(delivered)
    entry = desk.journal.draft("delete", "local:jane", Mandate("this server"), outcome="done")

    assert await desk.pickups.end(pickup, "deleted", entry)
    assert not await desk.pickups.end(pickup, "picked up", desk.draft())

    assert [entry["operation"] for entry in read_record(state)] == ["delete"]
    assert (read_rows(state)[0]["state"], read_rows(state)[0]["sealed"]) == ("deleted", None)
    assert [*await desk.pickups.tell_ended(lambda each: each.user_name == "local:bob")] == []
    assert [each.token_id for each in await desk.pickups.tell_ended(lambda each: each.user_name == "local:jane")] == [
        NEW_TOKEN.id
    ]
    assert [*await desk.pickups.tell_ended(bool)] == []


async def test_the_bearer_token_of_a_token_is_found_where_it_waits(desk: Desk) -> None:
    delivered = await desk.deliver()

    waiting = await desk.delivery.locate(NEW_TOKEN.id, None)
    assert isinstance(waiting, WaitingPage)
    assert delivered.location.render() in waiting.render()
    until = format_time((await desk.find(delivered)).open_until)
    assert f"waits for {QUOTED} until {until}: they open it" in waiting.render()
    assert delivered.location.find_current() == delivered.location

    await desk.hand_out(delivered)
    taken = await desk.delivery.locate(NEW_TOKEN.id, delivered.location)
    assert isinstance(taken, TakenPage)
    assert taken.render().startswith(f"the hands of {QUOTED}")
    assert [*await desk.delivery.recover(), *await desk.delivery.list_unidentified_files()] == []


async def test_an_overdue_bearer_token_is_found_nowhere(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()
    make_overdue(state)

    assert desk.pickups.is_overdue(await desk.find(delivered))
    assert await desk.delivery.locate(NEW_TOKEN.id, delivered.location) is None
    assert await desk.delivery.locate("12345", None) is None


async def test_a_receipt_that_comes_too_late_or_again_counts_for_nothing(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()
    await desk.hand_out(delivered)
    handed_out = await desk.find(delivered)
    [row] = read_rows(state)
    make_overdue(state)
    assert not await desk.pickups.end_by_receipt(handed_out, desk.draft())
    execute(state, "UPDATE pickups SET open_until = ?", row["open_until"])

    assert await desk.pickups.end_by_receipt(handed_out, desk.draft())
    assert not await desk.pickups.end_by_receipt(handed_out, desk.draft())

    assert [row["state"] for row in read_rows(state)] == ["picked up"]


async def test_the_page_of_a_token_that_is_deleted_tells_so(desk: Desk, state: StateSettings) -> None:
    await desk.deliver()

    await desk.pickups.end_by_deletion("12345")
    assert [row["state"] for row in read_rows(state)] == ["waiting"]
    await desk.pickups.end_by_deletion(NEW_TOKEN.id)

    assert [(row["state"], row["sealed"]) for row in read_rows(state)] == [("gone", None)]


async def test_what_is_of_no_use_is_removed_as_if_it_had_never_waited(desk: Desk, state: StateSettings) -> None:
    await desk.delivery.remove(await desk.deliver())

    assert read_rows(state) == []


async def test_a_reservation_leaves_nothing_once_it_is_released(desk: Desk, state: StateSettings) -> None:
    reservation = await desk.delivery.reserve(AskedToken(JANE, NOW, ANN))
    assert [(row["state"], row["token_id"]) for row in read_rows(state)] == [("reserved", None)]

    await reservation.release()

    assert read_rows(state) == []


async def test_what_killed_servers_reserved_is_dropped_by_a_later_create(desk: Desk, state: StateSettings) -> None:
    reservation = await desk.delivery.reserve(AskedToken(JANE, NOW, ANN))
    make_overdue(state)
    assert [*await desk.claim_overdue()] == []

    await desk.deliver()

    assert [row["state"] for row in read_rows(state)] == ["waiting"]
    with pytest.raises(DeliveryError, match=r"reserved for it in the database is gone"):
        await reservation.store(NEW_TOKEN, JANE)


async def test_what_ended_long_ago_is_dropped(desk: Desk, state: StateSettings) -> None:
    await desk.pickups.end(await desk.find(await desk.deliver()), "deleted")
    execute(state, "UPDATE pickups SET ended = ?", LONG_AGO)

    await desk.deliver()

    assert [row["state"] for row in read_rows(state)] == ["waiting"]


async def test_nothing_waits_for_who_cannot_sign_in(desk: Desk, state: StateSettings) -> None:
    with pytest.raises(Refusal, match=r"QUMULO_DELIVERY=command"):
        desk.delivery.announce(None)
    for asked in (None, AskedToken(JANE, None)):
        with pytest.raises(DeliveryError, match="for a person who can sign in"):
            await desk.delivery.reserve(asked)

    assert read_rows(state) == []


async def test_a_page_of_another_server_cannot_be_emptied_from_here() -> None:
    with pytest.raises(
        DeliveryError, match=r"^Only the server with the page https://a\.example/pickup/x can remove it"
    ):
        PickupLocation("https://a.example/pickup/x").remove()


async def test_a_row_of_a_newer_program_is_said_to_be_unreadable(desk: Desk, state: StateSettings) -> None:
    delivered = await desk.deliver()
    execute(state, "UPDATE pickups SET state = 'teleported'")

    with pytest.raises(JournalError, match=r"^Another version of this program wrote of a bearer token"):
        await desk.find(delivered)


async def test_without_its_database_each_step_says_so_and_loses_nothing(
    desk: Desk, state: StateSettings, caplog: pytest.LogCaptureFixture
) -> None:
    delivered = await desk.deliver()
    reservation = await desk.delivery.reserve(AskedToken(JANE, None, ANN))
    pickup = await desk.find(delivered)
    execute(state, "ALTER TABLE pickups RENAME TO elsewhere")

    steps = (
        lambda: desk.delivery.reserve(AskedToken(JANE, None, ANN)),
        lambda: reservation.store(NEW_TOKEN, JANE),
        lambda: desk.delivery.remove(delivered),
    )
    for step in steps:
        with pytest.raises(DeliveryError, match=r"journal .* cannot be written"):
            await step()
    await reservation.release()
    with pytest.raises(JournalError, match=r"journal .* cannot be written"):
        await desk.pickups.hand_out(pickup, desk.draft())

    assert "cannot be written" in caplog.text
    execute(state, "ALTER TABLE elsewhere RENAME TO pickups")
    assert await desk.hand_out(delivered) == SecretStr(SECRET)
    assert not any(secret in caplog.text for secret in chain([SECRET], [pickup.id]))


async def test_that_a_database_fails_is_told_where_it_waits(desk: Desk, state: StateSettings) -> None:
    await desk.deliver()
    execute(state, "UPDATE pickups SET state = 'lost'")

    with pytest.raises(DeliveryError, match="wrote of a bearer token that waits"):
        await desk.delivery.locate(NEW_TOKEN.id, None)
