"""Test what all destinations of a new bearer token have in common, and how the operator chooses one."""

import errno
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.support.new_token import JANE, NEW_TOKEN, SECRET
from token_tools.cluster.qq import Qq
from token_tools.errors import DeliveryError
from token_tools.settings import Settings
from token_tools.storage.delivery import (
    Delivery,
    FileDelivery,
    FileLocation,
    InlineDelivery,
    InlineLocation,
    KeyringDelivery,
    KeyringLocation,
    Location,
    choose_delivery,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tokens"


@pytest.fixture
def delivery(folder: Path) -> Delivery:
    return FileDelivery(folder, Qq("2001:db8::1", 8000))


async def test_a_file_that_cannot_be_looked_for_is_not_taken_for_gone(folder: Path, tmp_path: Path) -> None:
    unreadable = tmp_path / ("x" * 300)
    location = FileLocation(unreadable / "token.json")

    for delivery in (FileDelivery(folder, Qq("c", 8000)), KeyringDelivery("c:8000"), InlineDelivery()):
        with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
            await delivery.locate(NEW_TOKEN.id, location)
    with pytest.raises(DeliveryError, match=f" in {unreadable}: {os.strerror(errno.ENAMETOOLONG)}"):
        await FileDelivery(unreadable, Qq("c", 8000)).locate(NEW_TOKEN.id, None)


async def test_a_location_at_another_destination_is_found_whatever_the_operator_chooses_now(tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    file.touch()
    found: list[Location] = [FileLocation(file), KeyringLocation("other", "jane 1")]

    for delivery in (FileDelivery(tmp_path / "tokens", Qq("c", 8000)), KeyringDelivery("c:8000"), InlineDelivery()):
        assert [await delivery.locate("1", location) for location in found] == found
        answer = await delivery.locate("1", InlineLocation())
        assert answer is not None
        assert answer.render() == "the answer to that call, and with it the conversation and its logs"
        assert await delivery.locate("1", FileLocation(tmp_path / "gone.json")) is None
        assert await delivery.locate("1", None) is None


async def test_there_is_nothing_to_recover_where_there_is_no_folder_or_no_file(delivery: Delivery) -> None:
    for way in (delivery, KeyringDelivery("c:8000"), InlineDelivery()):
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


def test_the_operator_chooses_the_way() -> None:
    settings = Settings(host="c", bearer_token=SecretStr("own"))

    qq = Qq("c", 8000)
    ways = {
        way: choose_delivery(settings.model_copy(update={"delivery": way}), qq) for way in ("file", "keyring", "inline")
    }

    assert ways == {
        "file": FileDelivery(settings.delivery_dir, qq),
        "keyring": KeyringDelivery("c:8000"),
        "inline": InlineDelivery(),
    }
