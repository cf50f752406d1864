"""Test the embedded cluster's logins, users and roles over HTTP, in the requests that the vendor's `qq` sends."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import LOOKUP_PRIVILEGE, READ_PRIVILEGE
from token_tools.sandbox.demo import DemoCluster, create_demo_cluster

pytestmark = pytest.mark.anyio

ROLE = {"name": "readers", "description": "Read tokens", "privileges": [READ_PRIVILEGE]}
JANE_ID = "1001"


@dataclass
class Hands:
    """The time, which a test moves on."""

    now: datetime = field(default=datetime(2026, 11, 24, 9, 0, tzinfo=UTC))


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def demo(hands: Hands) -> DemoCluster:
    return create_demo_cluster(lambda: hands.now)


@pytest.fixture
async def anybody(demo: DemoCluster) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(demo.cluster))
    async with httpx.AsyncClient(transport=transport, base_url="https://cluster:8000") as client:
        yield client


@pytest.fixture
async def admin(demo: DemoCluster, anybody: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client that has logged in as the administrator."""
    return await log_in(anybody, "admin", demo.admin_password)


async def log_in(client: httpx.AsyncClient, username: str, password: str) -> httpx.AsyncClient:
    answer = await client.post("/v1/session/login", json={"username": username, "password": password})
    client.headers["Authorization"] = f"Bearer {answer.json()['bearer_token']}"
    return client


async def add_user(admin: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await admin.post(
        "/v1/users/",
        json={"name": name, "primary_group": "0", "uid": "", "password": "rightly", "home_directory": None},
    )
    assert answer.status_code == 200
    user: dict[str, Any] = answer.json()
    return user


async def test_a_login_is_a_session_and_no_token(admin: httpx.AsyncClient) -> None:
    me = (await admin.get("/v1/session/who-am-i")).json()

    assert (me["name"], me.get("access_token_id")) == ("admin", None)
    assert admin.headers["Authorization"].startswith("Bearer session-v1:")


async def test_a_session_ends_after_ten_hours(hands: Hands, admin: httpx.AsyncClient) -> None:
    hands.now += timedelta(hours=9, minutes=59)
    assert (await admin.get("/v1/session/who-am-i")).status_code == 200

    hands.now += timedelta(minutes=1)
    assert (await admin.get("/v1/session/who-am-i")).status_code == 401


@pytest.mark.parametrize("username", ["admin", "nobody", "CORP\\jane", "jane"])
async def test_a_login_without_the_right_password_is_refused(anybody: httpx.AsyncClient, username: str) -> None:
    answer = await anybody.post("/v1/session/login", json={"username": username, "password": "wrong"})

    assert answer.status_code == 401


async def test_the_session_of_a_deleted_user_does_not_work(demo: DemoCluster, admin: httpx.AsyncClient) -> None:
    user = await add_user(admin, "mcp-reader")
    await log_in(admin, "mcp-reader", "rightly")
    demo.cluster.remove_account(user["id"])

    assert (await admin.get("/v1/session/who-am-i")).status_code == 401


async def test_a_new_user_is_found_and_has_no_privileges(admin: httpx.AsyncClient) -> None:
    user = await add_user(admin, "mcp-reader")
    found = (await admin.post("/v1/identity/find", json={"domain": "LOCAL", "name": "mcp-reader"})).json()
    await log_in(admin, "mcp-reader", "rightly")

    assert (user["id"], user["sid"]) == (found["auth_id"], found["sid"])
    assert (await admin.get("/v1/session/who-am-i")).json()["privileges"] == []
    assert (await admin.get("/v1/session/roles")).json() == []


async def test_what_a_role_grants_holds_for_its_members_until_it_is_changed(
    demo: DemoCluster, admin: httpx.AsyncClient, anybody: httpx.AsyncClient
) -> None:
    jane = demo.cluster.add_token(JANE_ID, creator="500")
    headers = {"Authorization": f"Bearer {jane.bearer_token}"}
    assert (await anybody.get("/v1/auth/access-tokens/", headers=headers)).status_code == 403

    assert (await admin.post("/v1/auth/roles/", json=ROLE)).status_code == 200
    member = (await admin.post("/v1/auth/roles/readers/members", json={"domain": "LOCAL", "name": "jane"})).json()
    assert member["auth_id"] == JANE_ID
    assert (await anybody.get("/v1/auth/access-tokens/", headers=headers)).status_code == 200
    me = (await anybody.get("/v1/session/who-am-i", headers=headers)).json()
    assert (me["privileges"], me["access_token_id"]) == ([READ_PRIVILEGE], jane.id)

    change = {"privileges": [LOOKUP_PRIVILEGE]}
    assert (await admin.patch("/v1/auth/roles/readers", json=change)).json() == {
        "description": "Read tokens",
        "privileges": [LOOKUP_PRIVILEGE],
    }
    assert (await anybody.get("/v1/auth/access-tokens/", headers=headers)).status_code == 403


async def test_a_role_is_shown_with_its_members_who_exist(demo: DemoCluster, admin: httpx.AsyncClient) -> None:
    await admin.post("/v1/auth/roles/", json=ROLE)
    for auth_id in (JANE_ID, "1002"):
        await admin.post("/v1/auth/roles/readers/members", json={"auth_id": auth_id})
    demo.cluster.remove_account("1002")

    role = (await admin.get("/v1/auth/roles/readers")).json()

    assert role == {"description": "Read tokens", "privileges": [READ_PRIVILEGE]}
    assert (await admin.get("/v1/auth/roles/")).json()["readers"] == role
    assert (await admin.get("/v1/auth/roles/readers/members")).json()["members"].keys() == {JANE_ID}
    assert role["privileges"][0] in (await admin.get("/v1/auth/privileges/")).json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/v1/users/", {"name": "JANE", "primary_group": "0", "password": "p"}, 409, id="user-twice"),
        pytest.param("/v1/auth/roles/", ROLE | {"name": "Administrators"}, 409, id="role-twice"),
        pytest.param("/v1/auth/roles/", ROLE | {"privileges": ["PRIVILEGE_NONE"]}, 400, id="unknown-privilege"),
        pytest.param("/v1/auth/roles/nothing/members", {"auth_id": JANE_ID}, 404, id="unknown-role"),
        pytest.param("/v1/auth/roles/Administrators/members", {"name": "nobody"}, 404, id="unknown-member"),
    ],
)
async def test_what_cannot_be_added_is_refused(
    admin: httpx.AsyncClient, path: str, body: Mapping[str, object], status: int
) -> None:
    answer = await admin.post(path, json=body)

    assert (answer.status_code, answer.json()["error_class"][-6:]) == (status, "_error")


async def test_users_and_roles_are_for_those_with_the_privilege(demo: DemoCluster, anybody: httpx.AsyncClient) -> None:
    anybody.headers["Authorization"] = f"Bearer {demo.bearer_token}"

    assert (await anybody.get("/v1/auth/roles/")).status_code == 403
    assert (await anybody.post("/v1/auth/roles/", json=ROLE)).status_code == 403
    assert (await anybody.post("/v1/users/", json={})).status_code == 403
