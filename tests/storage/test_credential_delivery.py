"""Test the delivery of a server's first own bearer token into the place from which it will be read."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.storage.credential_delivery import CredentialDelivery
from token_tools.storage.credential_place import FilePlace
from token_tools.storage.delivery import FileLocation

pytestmark = pytest.mark.anyio
BEARER = "access-v1:" + "c2VjcmV0IG9mIHRoZSB0ZXN0czogbm9ib2R5J3M5NzQ2NTQ="
NEW = NewAccessToken(bearer_token=SecretStr(BEARER), id="184")
SERVICE = Identity(auth_id="1010")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "credential"


@pytest.fixture
def delivery(path: Path) -> CredentialDelivery:
    return CredentialDelivery(FilePlace("credentials_file", path))


async def test_what_is_delivered_is_found_again_and_can_be_removed(delivery: CredentialDelivery, path: Path) -> None:
    delivered = await (await delivery.reserve()).store(NEW, SERVICE)

    assert json.loads(path.read_text())["bearer_token"] == BEARER
    assert await delivery.locate("184", delivered.location) == FileLocation(path)
    await delivery.remove(delivered)
    assert not path.exists()
    assert await delivery.locate("184", delivered.location) is None


async def test_what_is_only_reserved_leaves_nothing(delivery: CredentialDelivery, path: Path) -> None:
    await (await delivery.reserve()).release()

    assert [*path.parent.iterdir()] == []
    assert await delivery.recover() == ()
    assert await delivery.list_unidentified_files() == ()
    assert await delivery.locate("184", None) is None
    assert delivery.render_possible_location("local:mcp-service") == f"it is in {path}"
