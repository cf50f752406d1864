"""Test what all destinations of a new bearer token have in common, and how the operator chooses one."""

import errno
import os
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from token_tools.cluster.qq import Qq
from token_tools.errors import DeliveryError
from token_tools.settings import Settings
from token_tools.storage.delivery import (
    CommandDelivery,
    CommandLocation,
    Delivery,
    FileDelivery,
    FileLocation,
    InlineDelivery,
    InlineLocation,
    KeyringDelivery,
    KeyringLocation,
    Location,
    NoDelivery,
    choose_delivery,
)

pytestmark = pytest.mark.anyio


COMMAND = CommandDelivery(("vault",), None, "c:8000")
OTHERS = (KeyringDelivery("c:8000"), COMMAND, InlineDelivery(), NoDelivery())
"""The destinations without a folder."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def delivery(folder: Path) -> Delivery:
    return FileDelivery(folder, Qq("2001:db8::1", 8000))


async def test_a_file_that_cannot_be_looked_for_is_not_taken_for_gone(folder: Path, tmp_path: Path) -> None:
    unreadable = tmp_path / ("x" * 300)
    location = FileLocation(unreadable / "token.json")

    for delivery in (*OTHERS, FileDelivery(folder, Qq("c", 8000))):
        with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
            await delivery.locate(NEW_TOKEN.id, location)
    with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
        await FileDelivery(unreadable, Qq("c", 8000)).locate(NEW_TOKEN.id, None)


async def test_a_location_at_another_destination_is_found_whatever_the_operator_chooses_now(tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.touch()
    found: list[Location] = [FileLocation(file), KeyringLocation("other", "jane 1")]

    for delivery in (*OTHERS, FileDelivery(tmp_path / "tokens", Qq("c", 8000))):
        assert [await delivery.locate("1", location) for location in found] == found
        answer = await delivery.locate("1", InlineLocation())
        assert answer is not None
        assert answer.render() == "the answer to that call, and with it the conversation and its logs"
        handed = await delivery.locate("1", CommandLocation("vault"))
        assert handed is not None
        assert handed.render() == "the hands of QUMULO_DELIVERY_COMMAND (vault), as far as is known"
        assert await delivery.locate("1", FileLocation(tmp_path / "gone.json")) is None
        if delivery != COMMAND:
            assert await delivery.locate("1", None) is None


async def test_there_is_nothing_to_recover_where_there_is_no_folder_or_no_file(delivery: Delivery) -> None:
    for way in (delivery, *OTHERS):
        assert list(await way.recover()) == []
        assert list(await way.list_unidentified_files()) == []


async def test_inline_hands_the_token_over_with_a_word_about_where_it_is_now() -> None:
    reservation = await InlineDelivery().reserve()
    await reservation.release()
    delivered = await reservation.store(NEW_TOKEN, JANE)

    assert delivered.bearer_token == SecretStr(SECRET)
    assert delivered.location == InlineLocation()
    assert delivered.location.render() == "this answer, and with it the conversation and its logs"
    assert delivered.how_to_use == "Store it now: the cluster does not show it again."
    assert SECRET not in repr(delivered)


async def test_nothing_is_delivered_nowhere() -> None:
    with pytest.raises(DeliveryError, match=r"^A new bearer token has no place to go: QUMULO_DELIVERY names none\.$"):
        await NoDelivery().reserve()


def test_the_operator_chooses_the_way() -> None:
    settings = Settings(host="c", bearer_token=SecretStr("own"))

    qq = Qq("c", 8000)
    ways: dict[str, Delivery] = {
        way: choose_delivery(
            settings.model_copy(
                update={"delivery": way, "delivery_command": ("vault", "kv"), "delivery_check": ("ok",)}
            ),
            qq,
        )
        for way in get_args(Settings.model_fields["delivery"].annotation)
    }

    expected: dict[str, Delivery] = {
        "file": FileDelivery(settings.delivery_dir, qq),
        "keyring": KeyringDelivery("c:8000"),
        "command": CommandDelivery(("vault", "kv"), ("ok",), "c:8000"),
        "inline": InlineDelivery(),
        "none": NoDelivery(),
        # Only a service over HTTP has pages.
        "pickup": NoDelivery(),
    }
    assert ways == expected
