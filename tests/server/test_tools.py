"""Test how models write a time, a user, an id or a key: it is understood, or one answer says what to write.

A row has a spelling and its meaning. If the spelling is refused, the row also has the text that the error has to
propose; the test then writes that text, which has to work.
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest

from tests.support.example_tokens import add_token
from tests.support.harness import JANE, NOW, TOKENS_PATH, Harness
from token_tools.times import format_rfc3339

pytestmark = pytest.mark.anyio

TOKEN_ID: Final = "18465190798883823713145"
"""The id of local:jane's token."""
BEARER_TOKEN: Final = "access-v1:q2Jx8Zr0vT5mKc7uWn4yLh1sPd9eXg6b"
ACCEPTED: Final = ""

IN_90_DAYS: Final = "2027-02-22T09:00:00Z"
END_OF_JANUARY: Final = "2027-01-31T17:00:00Z"
TIME_SPELLINGS: Final = [
    ("2027-02-22 09:00 UTC", ACCEPTED, IN_90_DAYS),
    ("2027-02-22 09:00 UTC (in 90 days)", ACCEPTED, IN_90_DAYS),
    ("expires 2027-02-22 09:00 UTC (in 90 days)", ACCEPTED, IN_90_DAYS),
    ("2027-02-22 09:00 (in 90 days)", IN_90_DAYS, IN_90_DAYS),
    ("2027-02-22 09:00", IN_90_DAYS, IN_90_DAYS),
    ("in 90 days", ACCEPTED, IN_90_DAYS),
    ("90 days from now", ACCEPTED, IN_90_DAYS),
    ("+90d", ACCEPTED, IN_90_DAYS),
    ("90 D", ACCEPTED, IN_90_DAYS),
    ("P90DT0S", ACCEPTED, IN_90_DAYS),
    ("2160h0m0s", ACCEPTED, IN_90_DAYS),
    ("12 weeks 6 days", ACCEPTED, IN_90_DAYS),
    ("12w6d", ACCEPTED, IN_90_DAYS),
    ('"90d"', ACCEPTED, IN_90_DAYS),
    ("90", "90d", IN_90_DAYS),
    ("7776000", "7776000s", IN_90_DAYS),
    ("1803286800", IN_90_DAYS, IN_90_DAYS),
    ("-90d", "90d", IN_90_DAYS),
    ("3 months", "90d", IN_90_DAYS),
    ("3m", "90d", IN_90_DAYS),
    ("P3M", "90d", IN_90_DAYS),
    ("three months", "90d", IN_90_DAYS),
    ("ninety days", "90d", IN_90_DAYS),
    ("0d", "12h", "2026-11-24T21:00:00Z"),
    ("1y", "365d", "2027-11-24T09:00:00Z"),
    ("99999999999d", "365d", "2027-11-24T09:00:00Z"),
    ("1.5d", ACCEPTED, "2026-11-25T21:00:00Z"),
    ("tomorrow", "1d", "2026-11-25T09:00:00Z"),
    ("20270131T170000Z", ACCEPTED, END_OF_JANUARY),
    ("2027-01-31T17:00Z", ACCEPTED, END_OF_JANUARY),
    ("2027-01-31T17:00:00 GMT", ACCEPTED, END_OF_JANUARY),
    ("2027-01-31T19:00:00+02", ACCEPTED, END_OF_JANUARY),
    ("2027-01-31 19:00:00 +02:00", ACCEPTED, END_OF_JANUARY),
    ("2027-01-31T17:00:00", END_OF_JANUARY, END_OF_JANUARY),
    ("2027-01-31 17:00 CET", END_OF_JANUARY, END_OF_JANUARY),
    ("2027-01-31T17:00:00 Europe/Berlin", END_OF_JANUARY, END_OF_JANUARY),
    ("2027-01-31", "2027-01-31T23:59:59Z", "2027-01-31T23:59:59Z"),
    ("01/31/2027", IN_90_DAYS, IN_90_DAYS),
    ("2025-01-31T17:00:00Z", IN_90_DAYS, IN_90_DAYS),
    ("never expires", ACCEPTED, None),
    ("no expiry", "never", None),
    ("unlimited", "never", None),
    ("forever", "never", None),
    ("none", "never", None),
]
LOCAL_JANE: Final = "local:jane"
CORP_JANE: Final = r"ad:CORP\jane"
USER_SPELLINGS: Final = [
    ("LOCAL:jane", ACCEPTED, LOCAL_JANE),
    ("local: jane ", ACCEPTED, LOCAL_JANE),
    ('"local:jane"', ACCEPTED, LOCAL_JANE),
    ("'local:jane'", ACCEPTED, LOCAL_JANE),
    ("local:jane (auth_id 1001)", ACCEPTED, LOCAL_JANE),
    (r"local\jane", LOCAL_JANE, LOCAL_JANE),
    ("local/jane", LOCAL_JANE, LOCAL_JANE),
    ("jane@local", LOCAL_JANE, LOCAL_JANE),
    ("jane (LOCAL)", LOCAL_JANE, LOCAL_JANE),
    ('{"domain": "LOCAL", "name": "jane"}', LOCAL_JANE, LOCAL_JANE),
    ("jane", LOCAL_JANE, LOCAL_JANE),
    ("user:jane", LOCAL_JANE, LOCAL_JANE),
    ("name:jane", LOCAL_JANE, LOCAL_JANE),
    ("@jane", LOCAL_JANE, LOCAL_JANE),
    ("auth_id=1001", ACCEPTED, LOCAL_JANE),
    ("1001", "auth_id:1001", LOCAL_JANE),
    ("sid: S-1-5-21-1-2-3-1001", ACCEPTED, LOCAL_JANE),
    ("S-1-5-21-1-2-3-1001", ACCEPTED, LOCAL_JANE),
    (r"CORP\jane", ACCEPTED, CORP_JANE),
    (r"ad:CORP\\jane", ACCEPTED, CORP_JANE),
    (r'ad:"CORP\jane"', ACCEPTED, CORP_JANE),
    ("jane@corp.example.com", ACCEPTED, CORP_JANE),
    (r"active_directory:CORP\jane", ACCEPTED, CORP_JANE),
    (r"nt:CORP\jane", r"ad:CORP\jane", CORP_JANE),
    ("uid=1000", ACCEPTED, "ldap_user:bob"),
    ("UID 1000", ACCEPTED, "ldap_user:bob"),
    ("ldap:bob", "ldap_user:bob", "ldap_user:bob"),
    ("posix:bob", "ldap_user:bob", "ldap_user:bob"),
    ("me", "self", "local:admin"),
    ("myself", "self", "local:admin"),
    ("admin", ACCEPTED, "local:admin"),
]
ID_SPELLINGS: Final = [
    (f" {TOKEN_ID}\n", ACCEPTED),
    (f"#{TOKEN_ID}", ACCEPTED),
    (f"id:{TOKEN_ID}", ACCEPTED),
    (f"id={TOKEN_ID}", ACCEPTED),
    (f'id="{TOKEN_ID}"', ACCEPTED),
    (f'"{TOKEN_ID}"', ACCEPTED),
    (f'="{TOKEN_ID}"', ACCEPTED),
    (f"[{TOKEN_ID}]", ACCEPTED),
    (f"token {TOKEN_ID}", ACCEPTED),
    (f"Token ID: {TOKEN_ID}", ACCEPTED),
    (f"access token {TOKEN_ID}", ACCEPTED),
    (f"{TOKEN_ID}.", ACCEPTED),
    (f"{int(TOKEN_ID):,}", TOKEN_ID),
    (f"{int(TOKEN_ID):_}", TOKEN_ID),
    (int(TOKEN_ID), "list_access_tokens"),
    (float(TOKEN_ID), "list_access_tokens"),
    ([TOKEN_ID], "one call for each"),
    (f"{TOKEN_ID}, 18465190798883823713146", "one call for each"),
    (f"{TOKEN_ID} and 18465190798883823713146", "one call for each"),
    ("1.848E+22", "does not have all digits of an id: list_access_tokens"),
    (f"{TOKEN_ID[:8]}…", "does not have all digits of an id: list_access_tokens"),
    (f"{TOKEN_ID[:4]}...{TOKEN_ID[-4:]}", "does not have all digits of an id: list_access_tokens"),
    ("local:jane", "list_access_tokens(user=…)"),
    ("0x3e8f", "the digits of a token"),
    ("-5", "the digits of a token"),
    (BEARER_TOKEN, "is a bearer token, or looks like one: list_access_tokens"),
]


@pytest.fixture
def harness_with_known_id(harness: Harness) -> Harness:
    """Create a harness with a token of local:jane whose id the tables can name."""
    token = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=10))
    del harness.cluster.tokens[token.id]
    harness.cluster.tokens[TOKEN_ID] = replace(token, id=TOKEN_ID)
    return harness


@pytest.mark.parametrize(
    ("written", "proposed", "meant"), TIME_SPELLINGS, ids=[written for written, *_ in TIME_SPELLINGS]
)
async def test_a_time_is_taken_as_what_it_means_or_mended_by_one_answer(
    harness_with_known_id: Harness, written: str, proposed: str, meant: str | None
) -> None:
    if proposed:
        assert proposed in await harness_with_known_id.call_refused(
            "create_access_token", {"user": "bob", "expiration_time": written}
        )
        written = proposed

    answer = await harness_with_known_id.call(
        "create_access_token", {"user": "bob", "expiration_time": written}, confirm="none"
    )

    assert not answer.is_error, answer.text
    assert answer.fields.get("expiration_time") == meant


@pytest.mark.parametrize(
    ("written", "proposed", "meant"), USER_SPELLINGS, ids=[written for written, *_ in USER_SPELLINGS]
)
async def test_a_user_is_taken_as_whom_it_means_or_mended_by_one_answer(
    harness_with_known_id: Harness, written: str, proposed: str, meant: str
) -> None:
    if proposed:
        assert proposed in await harness_with_known_id.call_refused("list_access_tokens", {"user": written})
        written = proposed

    answer = await harness_with_known_id.call("list_access_tokens", {"user": written})

    assert not answer.is_error, answer.text
    assert f" of {meant} on " in answer.text


@pytest.mark.parametrize(("written", "proposed"), ID_SPELLINGS, ids=[str(written) for written, _ in ID_SPELLINGS])
async def test_an_id_is_taken_or_what_is_wrong_with_it_is_told(
    harness_with_known_id: Harness, written: object, proposed: str
) -> None:
    answer = await harness_with_known_id.call("get_access_token", {"id": written})

    assert answer.is_error == bool(proposed), answer.text
    assert (proposed or f"{TOKEN_ID} of local:jane") in answer.text
    assert "lost" not in answer.text
    assert BEARER_TOKEN[:16] not in answer.text


@pytest.mark.parametrize("key", [2, 2.0, True, ["2"], {"after": "2"}])
async def test_a_key_that_was_not_given_is_told_where_it_comes_from(harness: Harness, key: object) -> None:
    refusal = await harness.call_refused("list_access_tokens", {"after": key})

    assert (
        refusal
        == "`after` must be the `after` of the previous answer, as it stands there; leave it out for the first page."
    )


async def test_all_that_a_list_prints_is_taken(harness_with_known_id: Harness) -> None:
    listing = await harness_with_known_id.call("list_access_tokens", {"user": "local:jane", "limit": 1})
    [entry] = listing.fields["tokens"]
    [row] = [row for row in listing.text.splitlines() if row.startswith(TOKEN_ID)]
    token_id, user, *_ = row.split(" | ")

    assert {token_id, entry["id"]} == {TOKEN_ID}
    for spelling in (user, entry["user"]):
        assert " of local:jane on " in (await harness_with_known_id.call("list_access_tokens", {"user": spelling})).text
    answer = await harness_with_known_id.call(
        "create_access_token", {"user": user, "expiration_time": entry["expiration_time"]}
    )
    assert answer.fields["expiration_time"] == entry["expiration_time"] == format_rfc3339(NOW + timedelta(days=10))


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        pytest.param(
            "list_access_tokens",
            {"username": "jane"},
            'list_access_tokens has no argument "username"; nearest is `user`: '
            "Only this user's: self, local:jane, ad:CORP\\jane, ldap_user:jane, uid:N or jane; all if absent. "
            "It takes user, after, limit, expiring_within, state.",
            id="synonym",
        ),
        pytest.param(
            "create_access_token",
            {"user": "jane", "expiration": "90d"},
            'create_access_token has no argument "expiration"; nearest is `expiration_time`: '
            "90d from now, 2027-01-31T17:00:00Z, or never; the operator's default if absent. "
            "It takes user, expiration_time.",
            id="half-a-name",
        ),
        pytest.param(
            "list_access_tokens",
            {"x\n" * 100: 1},
            'list_access_tokens has no argument "' + "x\\n" * 19 + 'x…": leave this out. It takes user, after, limit, '
            "expiring_within, state.",
            id="hostile-name",
        ),
        pytest.param(
            "list_access_tokens",
            {"user": 1001},
            "`user` must be text. Write uid:1001, auth_id:1001 or name:1001.",
            id="number-for-text",
        ),
        pytest.param(
            "list_access_tokens",
            {"after": 12345678901234567890123},
            "`after` must be the `after` of the previous answer, as it stands there; leave it out for the first page.",
            id="long-number-for-text",
        ),
        pytest.param(
            "list_access_tokens",
            {"user": ["jane"]},
            "`user` must be text. Write self, local:NAME, ad:DOMAIN\\NAME, ldap_user:NAME, uid:N, auth_id:N, sid:S-1-… "
            "or a bare NAME.",
            id="list-for-text",
        ),
        pytest.param("list_access_tokens", {"limit": 201}, "`limit` must be a whole number from 1 to 200.", id="range"),
        pytest.param(
            "list_access_tokens", {"limit": "ten"}, "`limit` must be a whole number from 1 to 200.", id="word"
        ),
        pytest.param(
            "create_access_token",
            {"user": "nt:jane"},
            "`user` has a prefix that does not exist: write local:jane, ad:jane or ldap_user:jane.",
            id="prefix",
        ),
        pytest.param(
            "create_access_token",
            {"user": "1001"},
            "`user` is a bare number, which could be several users: write uid:1001, auth_id:1001 or name:1001.",
            id="bare-number",
        ),
        pytest.param(
            "create_access_token",
            {"user": None, "ttl": 5},
            "`user` is missing. Whom the token authenticates: self, local:jane, ad:CORP\\jane, ldap_user:jane, "
            "uid:N or jane.\n"
            'create_access_token has no argument "ttl"; nearest is `expiration_time`: '
            "90d from now, 2027-01-31T17:00:00Z, or never; the operator's default if absent. "
            "It takes user, expiration_time.",
            id="two-mistakes",
        ),
        pytest.param(
            "create_access_token",
            {},
            "`user` is missing. Whom the token authenticates: self, local:jane, ad:CORP\\jane, ldap_user:jane, "
            "uid:N or jane.",
            id="missing",
        ),
    ],
)
async def test_a_mistaken_argument_is_answered_in_a_line_that_mends_it(
    harness: Harness, tool: str, arguments: dict[str, Any], expected: str
) -> None:
    assert await harness.call_without_effect(tool, arguments) == expected
    assert harness.recorder.request_lines() == []


@pytest.mark.parametrize(
    "arguments",
    [{"limit": "10"}, {"limit": 10.0, "user": None, "after": None}, {"after": "", "limit": 10}],
    ids=["number-as-text", "nulls", "empty-key"],
)
async def test_an_argument_with_one_possible_meaning_is_accepted(harness: Harness, arguments: dict[str, Any]) -> None:
    answer = await harness.call("list_access_tokens", arguments)

    assert not answer.is_error
    assert harness.recorder.request_lines() == [f"GET {TOKENS_PATH}?limit=10"]


async def test_a_user_named_like_json_stays_the_text_that_it_is(harness: Harness) -> None:
    await harness.call("list_access_tokens", {"user": "null"})

    assert json.loads(harness.recorder.bodies("POST", "/v1/identity/find")[0]) == {"name": "null"}


async def test_a_refusal_that_cannot_be_recorded_is_a_refusal_all_the_same(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.settings.state_dir.mkdir(mode=0o700)
    (harness.settings.state_dir / "state.db").mkdir()

    refusal = await harness.call_without_effect("update_access_token", {"id": add_token(harness).id})

    assert refusal.startswith("Nothing to do: give `enabled`")
    assert "state.db is no ordinary file" in caplog.text
    assert "cannot be read" in await harness.read_start_report(caplog, until="state.db is no ordinary file")
