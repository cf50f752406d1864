"""Test the embedded cluster over HTTP: the documented rules, and a switch for each undocumented behaviour."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from token_tools.sandbox.app import create_app
from token_tools.sandbox.cluster import READ_PRIVILEGE, WRITE_PRIVILEGE, Behaviour, Cluster, RefusalReason
from token_tools.sandbox.demo import DELETED_USER_ID, create_demo_cluster

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
TOKENS_PATH = "/v1/auth/access-tokens/"
JANE_ID, BACKUP_ID, METRICS_ID, RENDER_ID = "1001", "1002", "1003", str((3 << 32) + 2001)


@pytest.fixture
def cluster() -> Cluster:
    return create_demo_cluster(lambda: NOW).cluster


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncGenerator[httpx.AsyncClient]:
    async with create_client(cluster, "1010") as client:
        yield client


@pytest.fixture
async def jane(cluster: Cluster) -> AsyncGenerator[httpx.AsyncClient]:
    """Yield a client of a user without privileges."""
    async with create_client(cluster, JANE_ID) as client:
        yield client


def create_client(cluster: Cluster, auth_id: str) -> httpx.AsyncClient:
    """Create a client that works with a token of this user."""
    [token, *_] = [token for token in cluster.tokens.values() if token.user == auth_id]
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(cluster)),
        base_url="https://cluster:8000",
        headers={"Authorization": f"Bearer {token.bearer_token}"},
    )


def token_ids_of(cluster: Cluster, auth_id: str) -> list[str]:
    return [token.id for token in cluster.tokens.values() if token.user == auth_id]


def set_behaviour(cluster: Cluster, **changes: object) -> None:
    switches: dict[str, Any] = changes
    cluster.behaviour = replace(cluster.behaviour, **switches)


def test_the_demo_has_users_of_each_kind_and_tokens_of_each_state(cluster: Cluster) -> None:
    tokens = cluster.tokens.values()
    domains = {cluster.accounts[token.user].domain for token in tokens if token.user in cluster.accounts}

    assert len(tokens) == 20
    assert domains == {"LOCAL", "ACTIVE_DIRECTORY", "POSIX_USER", "API_INTERNAL_DOMAIN"}
    assert [token.user for token in tokens if token.user not in cluster.accounts] == [DELETED_USER_ID]
    assert any(token.expiration_time is None for token in tokens)
    assert any(token.expiration_time and token.expiration_time < NOW for token in tokens)
    assert any(token.expiration_time and NOW < token.expiration_time < NOW + timedelta(days=7) for token in tokens)
    assert any(not token.enabled for token in tokens)
    assert any(token.creator != token.user for token in tokens)
    assert len(token_ids_of(cluster, BACKUP_ID)) == 2


def test_the_demo_s_first_tokens_have_the_same_ids_each_time_and_other_secrets() -> None:
    later = NOW + timedelta(days=3)
    first, second = (create_demo_cluster(clock).cluster.tokens for clock in (lambda: NOW, lambda: later))

    assert {token.id: token.user for token in first.values()} == {token.id: token.user for token in second.values()}
    assert {t.bearer_token for t in first.values()}.isdisjoint(t.bearer_token for t in second.values())
    assert {second[t.id].creation_time - t.creation_time for t in first.values()} == {timedelta(days=3)}


def test_a_new_token_of_the_demo_has_an_id_that_nobody_can_tell_before() -> None:
    ids = {create_demo_cluster(lambda: NOW).cluster.add_token("1001", creator="500").id for _ in range(2)}

    assert len(ids) == 2


def test_a_token_s_secret_is_not_in_its_repr(cluster: Cluster) -> None:
    assert all(token.bearer_token not in repr(token) for token in cluster.tokens.values())


async def test_a_seeded_cluster_is_the_same_each_time() -> None:
    ids = [Cluster(clock=lambda: NOW, seed=7).add_token("500", creator="500").id for _ in range(2)]

    assert ids[0] == ids[1]


async def test_a_page_leads_to_the_next_even_when_tokens_come_and_go(
    cluster: Cluster, admin: httpx.AsyncClient
) -> None:
    before = sorted(cluster.tokens)
    first = (await admin.get(TOKENS_PATH, params={"limit": 5})).json()
    del cluster.tokens[before[4]]

    second = (await admin.get(first["paging"]["next"])).json()

    assert [entry["id"] for entry in first["entries"]] == before[:5]
    assert [entry["id"] for entry in second["entries"]] == before[5:10]


@pytest.mark.parametrize(
    ("end", "paging"),
    [
        pytest.param("null", {"paging": {"next": None}}, id="null"),
        pytest.param("empty", {"paging": {"next": ""}}, id="empty"),
        pytest.param("no-next", {"paging": {}}, id="no-next"),
        pytest.param("null-paging", {"paging": None}, id="null-paging"),
        pytest.param("no-paging", {}, id="no-paging"),
    ],
)
async def test_the_end_of_the_pages_has_the_form_that_was_chosen(
    cluster: Cluster, admin: httpx.AsyncClient, end: str, paging: dict[str, Any]
) -> None:
    set_behaviour(cluster, end_of_paging=end)

    page = (await admin.get(TOKENS_PATH)).json()

    assert {key: page[key] for key in page if key != "entries"} == paging


async def test_a_cluster_without_an_end_can_lead_to_empty_pages(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, end_of_paging="empty-pages")

    page = (await admin.get(TOKENS_PATH)).json()
    beyond = (await admin.get(page["paging"]["next"])).json()

    assert len(page["entries"]) == len(cluster.tokens)
    assert beyond == {"entries": [], "paging": page["paging"]}


async def test_a_cluster_without_an_end_can_repeat_its_last_page(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, end_of_paging="repeated")

    page = (await admin.get(TOKENS_PATH, params={"limit": 15})).json()
    last = (await admin.get(page["paging"]["next"])).json()
    again = (await admin.get(last["paging"]["next"])).json()
    whole = (await admin.get(TOKENS_PATH)).json()

    assert len(last["entries"]) == len(cluster.tokens) - 15
    assert last["paging"] == page["paging"]
    assert again == last
    assert (await admin.get(whole["paging"]["next"])).json() == whole


async def test_links_can_be_absolute_and_keep_the_filter(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, has_absolute_links=True)

    page = (await admin.get(TOKENS_PATH, params={"user": "backup", "limit": 1})).json()
    rest = (await admin.get(page["paging"]["next"])).json()

    assert page["paging"]["next"].startswith(f"https://cluster:8000{TOKENS_PATH}?user=backup&after=")
    assert [page["entries"][0]["id"], rest["entries"][0]["id"]] == sorted(token_ids_of(cluster, BACKUP_ID))


async def test_a_page_is_never_larger_than_the_cluster_wants(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, max_page_size=4)

    assert len((await admin.get(TOKENS_PATH, params={"limit": 100})).json()["entries"]) == 4
    assert len((await admin.get(TOKENS_PATH)).json()["entries"]) == 4


async def test_a_page_has_its_usual_size_when_none_is_asked_for(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, default_page_size=3)

    assert len((await admin.get(TOKENS_PATH)).json()["entries"]) == 3
    assert len((await admin.get(TOKENS_PATH, params={"limit": 6})).json()["entries"]) == 6


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        pytest.param("backup", BACKUP_ID, id="name"),
        pytest.param("BACKUP", BACKUP_ID, id="name-in-capitals"),
        pytest.param("CORP\\jane", str((5 << 32) + 1), id="domain-and-name"),
        pytest.param("tom.meyer", str((5 << 32) + 4), id="active-directory-without-domain"),
        pytest.param("jane@corp.example.com", str((5 << 32) + 1), id="user-principal-name"),
        pytest.param("uid:2001", RENDER_ID, id="uid"),
        pytest.param("auth_id:1002", BACKUP_ID, id="auth-id"),
        pytest.param("sid:S-1-5-88-1-2001", RENDER_ID, id="sid"),
        pytest.param("S-1-5-88-1-2001", RENDER_ID, id="bare-sid"),
    ],
)
async def test_the_filter_takes_each_documented_form_of_a_user(
    cluster: Cluster, admin: httpx.AsyncClient, user: str, owner: str
) -> None:
    page = (await admin.get(TOKENS_PATH, params={"user": user})).json()

    assert [entry["id"] for entry in page["entries"]] == sorted(token_ids_of(cluster, owner))


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        pytest.param("local:jane", JANE_ID, id="local"),
        pytest.param("ad:CORP\\jane", str((5 << 32) + 1), id="active-directory"),
        pytest.param("LDAP_USER:render", RENDER_ID, id="ldap"),
    ],
)
async def test_the_filter_can_read_the_prefix_of_a_domain(
    cluster: Cluster, admin: httpx.AsyncClient, user: str, owner: str
) -> None:
    assert (await admin.get(TOKENS_PATH, params={"user": user})).status_code == 404

    set_behaviour(cluster, allows_domain_prefixes=True)
    page = (await admin.get(TOKENS_PATH, params={"user": user})).json()

    assert [entry["id"] for entry in page["entries"]] == sorted(token_ids_of(cluster, owner))


async def test_lists_can_tell_no_more_of_an_identity_than_its_key(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, sparse_identities=True)

    [listed, _] = (await admin.get(TOKENS_PATH, params={"user": "backup"})).json()["entries"]
    single = (await admin.get(TOKENS_PATH + listed["id"])).json()

    assert listed["user"] == {
        "domain": None,
        "auth_id": BACKUP_ID,
        "uid": None,
        "gid": None,
        "sid": None,
        "name": None,
    }
    assert single["user"]["name"] == "backup"


async def test_an_old_core_knows_neither_expiry_nor_disabling(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, has_expiry=False, has_enabled=False)
    [token_id, _] = token_ids_of(cluster, BACKUP_ID)

    answer = (await admin.get(TOKENS_PATH + token_id)).json()
    expiry = "2027-01-01T00:00:00Z"

    assert answer.keys() == {"id", "user", "creator", "creation_time"}
    for refused in (
        await admin.patch(TOKENS_PATH + token_id, json={"enabled": False}),
        await admin.patch(TOKENS_PATH + token_id, json={"expiration_time": expiry}),
        await admin.post(TOKENS_PATH, json={"user": {"auth_id": METRICS_ID}, "expiration_time": expiry}),
    ):
        assert (refused.status_code, refused.json()["error_class"]) == (400, "decode_error")
    assert (await admin.post(TOKENS_PATH, json={"user": {"auth_id": METRICS_ID}})).status_code == 200


@pytest.mark.parametrize(
    ("microseconds", "nanoseconds", "expected"),
    [
        pytest.param(0, 0, "2026-11-24T09:00:00Z", id="whole-second"),
        pytest.param(120_000, 0, "2026-11-24T09:00:00.12Z", id="zeros-trimmed"),
        pytest.param(123_456, 780, "2026-11-24T09:00:00.12345678Z", id="eight-digits"),
        pytest.param(0, 7, "2026-11-24T09:00:00.000000007Z", id="nine-digits"),
    ],
)
async def test_a_creation_time_has_up_to_nine_digits(
    cluster: Cluster, admin: httpx.AsyncClient, microseconds: int, nanoseconds: int, expected: str
) -> None:
    created = NOW + timedelta(microseconds=microseconds)
    token = cluster.add_token(METRICS_ID, creator="500", creation_time=created)
    cluster.tokens[token.id] = replace(token, creation_nanoseconds=nanoseconds)

    assert (await admin.get(TOKENS_PATH + token.id)).json()["creation_time"] == expected


async def test_a_token_is_made_used_changed_and_deleted(admin: httpx.AsyncClient) -> None:
    body = {"user": {"domain": "LOCAL", "name": "metrics"}, "expiration_time": "2027-01-01T00:00:00+01:00"}
    made = (await admin.post(TOKENS_PATH, json=body)).json()
    mine = {"Authorization": f"Bearer {made['bearer_token']}"}

    me = (await admin.get("/v1/session/who-am-i", headers=mine)).json()
    assert (me["id"], me["access_token_id"]) == (METRICS_ID, made["id"])

    changed = (await admin.patch(TOKENS_PATH + made["id"], json={"enabled": False})).json()
    assert (changed["enabled"], changed["expiration_time"]) == (False, "2026-12-31T23:00:00Z")
    assert (await admin.get("/v1/session/who-am-i", headers=mine)).status_code == 401

    deleted = await admin.delete(TOKENS_PATH + made["id"])
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert (await admin.get(TOKENS_PATH + made["id"])).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'\xef\xbb\xbf{"user": {"auth_id": "1003"}}', id="byte-order-mark"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "ttl": 5}', id="unknown-field"),
        pytest.param(b'{"user": {"auth_id": 1003}}', id="key-as-number"),
        pytest.param(b'{"user": {"uid": "2001"}}', id="uid-as-text"),
        pytest.param(b'{"user": {"domain": "NT", "name": "x"}}', id="unknown-domain"),
        pytest.param(b'{"user": {"domain": "LOCAL"}}', id="only-a-domain"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "expiration_time": "2027-01-01T00:00:00"}', id="no-offset"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "expiration_time": "soon"}', id="no-time"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "expiration_time": 1893456000}', id="time-as-number"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "expiration_time": "1893456000"}', id="time-as-digits"),
        pytest.param(b'{"user": {"auth_id": "1003"}, "expiration_time": "2027-01-01T00:00Z"}', id="no-seconds"),
        pytest.param(b"[" * 200_000, id="bottomless"),
    ],
)
async def test_a_body_that_is_not_as_published_is_a_decode_error(
    cluster: Cluster, admin: httpx.AsyncClient, body: bytes
) -> None:
    before = dict(cluster.tokens)

    answer = await admin.post(TOKENS_PATH, content=body)

    assert (answer.status_code, answer.json()["error_class"]) == (400, "decode_error")
    assert answer.json().keys() == {"module", "error_class", "description", "stack", "user_visible"}
    assert cluster.tokens == before


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        pytest.param({"auth_id": BACKUP_ID}, "limit", id="third-token"),
        pytest.param({"name": "Users"}, "group", id="group"),
        pytest.param({"name": "nobody"}, "no-user", id="nobody"),
        pytest.param({"name": "jane"}, "ambiguous", id="two-of-that-name"),
        pytest.param({"auth_id": METRICS_ID, "name": "jane"}, "no-user", id="contradiction"),
    ],
)
async def test_a_create_against_the_rules_is_refused(
    admin: httpx.AsyncClient, user: dict[str, str], reason: RefusalReason
) -> None:
    answer = await admin.post(TOKENS_PATH, json={"user": user})

    status, error_class = Behaviour().refusals[reason]
    assert (answer.status_code, answer.json()["error_class"]) == (status, error_class)


@pytest.mark.parametrize(
    ("expiry", "reason"),
    [
        pytest.param("soon", "bad-time", id="malformed"),
        pytest.param("2020-01-01T00:00:00Z", "past-time", id="past"),
    ],
)
async def test_a_time_that_is_refused_has_a_reason_of_its_own(
    cluster: Cluster, admin: httpx.AsyncClient, expiry: str, reason: RefusalReason
) -> None:
    refusals = {**cluster.behaviour.refusals, reason: (422, "some_time_error")}
    set_behaviour(cluster, allows_past_expiry=False, refusals=refusals)

    answer = await admin.post(TOKENS_PATH, json={"user": {"auth_id": METRICS_ID}, "expiration_time": expiry})

    assert (answer.status_code, answer.json()["error_class"]) == (422, "some_time_error")


async def test_dead_tokens_can_leave_their_place_to_others(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, counts_dead_tokens=False)

    assert (await admin.post(TOKENS_PATH, json={"user": {"auth_id": RENDER_ID}})).status_code == 200
    assert (await admin.post(TOKENS_PATH, json={"user": {"auth_id": RENDER_ID}})).status_code == 400


async def test_a_past_expiry_can_be_refused(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    body = {"user": {"auth_id": METRICS_ID}, "expiration_time": "2020-01-01T00:00:00Z"}
    set_behaviour(cluster, allows_past_expiry=False)
    assert (await admin.post(TOKENS_PATH, json=body)).status_code == 400

    set_behaviour(cluster, allows_past_expiry=True)
    assert (await admin.post(TOKENS_PATH, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("change", "switch"),
    [
        pytest.param({"expiration_time": None}, "allows_clearing_expiry", id="clearing-the-expiry"),
        pytest.param({}, "allows_empty_update", id="changing-nothing"),
    ],
)
async def test_an_undocumented_change_is_taken_or_refused_by_its_switch(
    cluster: Cluster, admin: httpx.AsyncClient, change: dict[str, Any], switch: str
) -> None:
    [token_id] = token_ids_of(cluster, JANE_ID)

    set_behaviour(cluster, **{switch: False})
    assert (await admin.patch(TOKENS_PATH + token_id, json=change)).status_code == 400

    set_behaviour(cluster, **{switch: True})
    assert (await admin.patch(TOKENS_PATH + token_id, json=change)).status_code == 200
    assert (cluster.tokens[token_id].expiration_time is None) == ("expiration_time" in change)


async def test_a_user_with_a_limit_can_be_refused(cluster: Cluster, admin: httpx.AsyncClient) -> None:
    set_behaviour(cluster, allows_user_with_limit=False)

    assert (await admin.get(TOKENS_PATH, params={"user": "backup", "limit": 1})).status_code == 400
    assert (await admin.get(TOKENS_PATH, params={"user": "backup"})).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "x"},
        {"after": "%%%"},
        {"after": "abc"},
        {"after": "YWJj"},
        {"user": "auth_id:x"},
        {"page": "2"},
    ],
    ids=str,
)
async def test_a_nonsensical_query_is_refused(admin: httpx.AsyncClient, query: dict[str, str]) -> None:
    assert (await admin.get(TOKENS_PATH, params=query)).status_code == 400


async def test_one_s_own_tokens_need_no_privilege_and_all_others_do(cluster: Cluster, jane: httpx.AsyncClient) -> None:
    [own], [other, _] = token_ids_of(cluster, JANE_ID), token_ids_of(cluster, BACKUP_ID)

    assert (await jane.get(TOKENS_PATH, params={"user": "auth_id:1001"})).status_code == 200
    assert (await jane.get(TOKENS_PATH + own)).status_code == 200
    assert (await jane.post(TOKENS_PATH, json={"user": {"auth_id": JANE_ID}})).status_code == 200
    for refused in (
        await jane.get(TOKENS_PATH),
        await jane.get(TOKENS_PATH, params={"user": "backup"}),
        await jane.get(TOKENS_PATH + other),
        await jane.get(TOKENS_PATH + "123"),
        await jane.post(TOKENS_PATH, json={"user": {"auth_id": METRICS_ID}}),
        await jane.patch(TOKENS_PATH + other, json={"enabled": False}),
        await jane.delete(TOKENS_PATH + other),
        await jane.post("/v1/identity/find", json={"auth_id": JANE_ID}),
    ):
        assert refused.status_code == 403


async def test_before_self_service_one_s_own_tokens_need_the_privilege_too(
    cluster: Cluster, jane: httpx.AsyncClient
) -> None:
    set_behaviour(cluster, has_self_service=False)

    assert (await jane.get(TOKENS_PATH, params={"user": "auth_id:1001"})).status_code == 403

    cluster.add_account(replace(cluster.accounts[JANE_ID], privileges=frozenset({READ_PRIVILEGE, WRITE_PRIVILEGE})))
    assert (await jane.get(TOKENS_PATH, params={"user": "auth_id:1001"})).status_code == 200


async def test_an_unprivileged_list_of_all_can_be_one_s_own(cluster: Cluster, jane: httpx.AsyncClient) -> None:
    set_behaviour(cluster, unprivileged_list_is_own=True)

    assert [entry["id"] for entry in (await jane.get(TOKENS_PATH)).json()["entries"]] == token_ids_of(cluster, JANE_ID)


async def test_lookups_can_be_open_to_everyone(cluster: Cluster, jane: httpx.AsyncClient) -> None:
    set_behaviour(cluster, lookup_needs_privilege=False)

    for path in ("/v1/identity/find", "/v1/auth/identity/find"):
        found = (await jane.post(path, json={"domain": "ACTIVE_DIRECTORY", "name": "jane"})).json()
        assert found == {
            "auth_id": str((5 << 32) + 1),
            "domain": "ACTIVE_DIRECTORY",
            "name": "CORP\\jane",
            "uid": None,
            "gid": None,
            "sid": "S-1-5-21-1004336348-1177238915-682003330-1101",
        }


@pytest.mark.parametrize(("auth_id", "kind"), [(JANE_ID, "USER"), ("513", "GROUP")], ids=["user", "group"])
async def test_an_identity_is_expanded_to_its_kind(admin: httpx.AsyncClient, auth_id: str, kind: str) -> None:
    assert (await admin.post("/v1/identity/expand", json={"id": {"auth_id": auth_id}})).json()["type"] == kind


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer access-v1:unknown", "Basic YTpi"],
    ids=["none", "empty", "no-token", "unknown", "other-scheme"],
)
async def test_without_a_live_token_there_is_a_401_without_a_body(cluster: Cluster, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(cluster)), base_url="https://c", headers=headers
    ) as stranger:
        answer = await stranger.get(TOKENS_PATH)
        assert (answer.status_code, answer.content) == (401, b"")

        set_behaviour(cluster, has_body_of_401=True)
        assert (await stranger.get(TOKENS_PATH)).json()["error_class"] == "http_unauthorized_error"
        assert (await stranger.get("/v1/version")).status_code == 200


async def test_an_expired_token_no_longer_authenticates(cluster: Cluster, jane: httpx.AsyncClient) -> None:
    [token_id] = token_ids_of(cluster, JANE_ID)
    cluster.tokens[token_id] = replace(cluster.tokens[token_id], expiration_time=NOW)

    assert (await jane.get("/v1/session/who-am-i")).status_code == 401


async def test_the_tokens_of_a_deleted_user_stay_or_go_by_a_switch(cluster: Cluster) -> None:
    cluster.remove_account(JANE_ID)
    assert len(token_ids_of(cluster, JANE_ID)) == 1

    set_behaviour(cluster, tokens_outlive_users=False)
    cluster.remove_account(BACKUP_ID)
    assert token_ids_of(cluster, BACKUP_ID) == []


async def test_paths_and_verbs_are_as_strict_as_the_real_ones(admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/v1/auth/access-tokens")).status_code == 404
    assert (await admin.get("/v1/auth/access-tokens/123/")).status_code == 404
    assert (await admin.put(TOKENS_PATH)).json()["error_class"] == "http_method_not_allowed_error"


async def test_a_caller_with_a_uid_is_told_it_as_text(cluster: Cluster) -> None:
    bob = str((3 << 32) + 1000)
    async with create_client(cluster, bob) as client:
        me = (await client.get("/v1/session/who-am-i")).json()
        roles = (await client.get("/v1/session/roles")).json()

    assert (me["uid"], me["privileges"], roles) == ("1000", [], [])
