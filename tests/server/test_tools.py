r"""Ways in which models write a time, a user, an id or a key: taken as what they mean, or mended by one answer.

A row has what was written, and what it means. Where that is not taken, the row has also what the error has to propose;
that is then written instead, and has to work.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from tests.support.harness import JANE, NOW, Bench
from token_tools.times import format_instant

pytestmark = pytest.mark.anyio

TOKEN: Final = "18465190798883823713145"
"""The id of local:jane's token."""
BEARER: Final = "access-v1:q2Jx8Zr0vT5mKc7uWn4yLh1sPd9eXg6b"
TAKEN: Final = ""

IN_90_DAYS: Final = "2027-02-22T09:00:00Z"
JANUARY: Final = "2027-01-31T17:00:00Z"
TIMES: Final = [
    ("2027-02-22 09:00 UTC", TAKEN, IN_90_DAYS),
    ("2027-02-22 09:00 UTC (in 90 days)", TAKEN, IN_90_DAYS),
    ("expires 2027-02-22 09:00 UTC (in 90 days)", TAKEN, IN_90_DAYS),
    ("2027-02-22 09:00 (in 90 days)", IN_90_DAYS, IN_90_DAYS),
    ("2027-02-22 09:00", IN_90_DAYS, IN_90_DAYS),
    ("in 90 days", TAKEN, IN_90_DAYS),
    ("90 days from now", TAKEN, IN_90_DAYS),
    ("+90d", TAKEN, IN_90_DAYS),
    ("90 D", TAKEN, IN_90_DAYS),
    ("P90DT0S", TAKEN, IN_90_DAYS),
    ("2160h0m0s", TAKEN, IN_90_DAYS),
    ("12 weeks 6 days", TAKEN, IN_90_DAYS),
    ("12w6d", TAKEN, IN_90_DAYS),
    ('"90d"', TAKEN, IN_90_DAYS),
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
    ("1.5d", TAKEN, "2026-11-25T21:00:00Z"),
    ("tomorrow", "1d", "2026-11-25T09:00:00Z"),
    ("20270131T170000Z", TAKEN, JANUARY),
    ("2027-01-31T17:00Z", TAKEN, JANUARY),
    ("2027-01-31T17:00:00 GMT", TAKEN, JANUARY),
    ("2027-01-31T19:00:00+02", TAKEN, JANUARY),
    ("2027-01-31 19:00:00 +02:00", TAKEN, JANUARY),
    ("2027-01-31T17:00:00", JANUARY, JANUARY),
    ("2027-01-31 17:00 CET", JANUARY, JANUARY),
    ("2027-01-31T17:00:00 Europe/Berlin", JANUARY, JANUARY),
    ("2027-01-31", "2027-01-31T23:59:59Z", "2027-01-31T23:59:59Z"),
    ("01/31/2027", IN_90_DAYS, IN_90_DAYS),
    ("2025-01-31T17:00:00Z", IN_90_DAYS, IN_90_DAYS),
    ("never expires", TAKEN, None),
    ("no expiry", "never", None),
    ("unlimited", "never", None),
    ("forever", "never", None),
    ("none", "never", None),
]
LOCAL_JANE: Final = "local:jane"
AD_JANE: Final = r"ad:CORP\jane"
USERS: Final = [
    ("LOCAL:jane", TAKEN, LOCAL_JANE),
    ("local: jane ", TAKEN, LOCAL_JANE),
    ('"local:jane"', TAKEN, LOCAL_JANE),
    ("'local:jane'", TAKEN, LOCAL_JANE),
    ("local:jane (auth_id 1001)", TAKEN, LOCAL_JANE),
    (r"local\jane", LOCAL_JANE, LOCAL_JANE),
    ("local/jane", LOCAL_JANE, LOCAL_JANE),
    ("jane@local", LOCAL_JANE, LOCAL_JANE),
    ("jane (LOCAL)", LOCAL_JANE, LOCAL_JANE),
    ('{"domain": "LOCAL", "name": "jane"}', LOCAL_JANE, LOCAL_JANE),
    ("jane", LOCAL_JANE, LOCAL_JANE),
    ("user:jane", LOCAL_JANE, LOCAL_JANE),
    ("name:jane", LOCAL_JANE, LOCAL_JANE),
    ("@jane", LOCAL_JANE, LOCAL_JANE),
    ("auth_id=1001", TAKEN, LOCAL_JANE),
    ("1001", "auth_id:1001", LOCAL_JANE),
    ("sid: S-1-5-21-1-2-3-1001", TAKEN, LOCAL_JANE),
    ("S-1-5-21-1-2-3-1001", TAKEN, LOCAL_JANE),
    (r"CORP\jane", TAKEN, AD_JANE),
    (r"ad:CORP\\jane", TAKEN, AD_JANE),
    (r'ad:"CORP\jane"', TAKEN, AD_JANE),
    ("jane@corp.example.com", TAKEN, AD_JANE),
    (r"active_directory:CORP\jane", TAKEN, AD_JANE),
    (r"nt:CORP\jane", r"ad:CORP\jane", AD_JANE),
    ("uid=1000", TAKEN, "ldap_user:bob"),
    ("UID 1000", TAKEN, "ldap_user:bob"),
    ("ldap:bob", "ldap_user:bob", "ldap_user:bob"),
    ("posix:bob", "ldap_user:bob", "ldap_user:bob"),
    ("me", "self", "local:admin"),
    ("myself", "self", "local:admin"),
    ("admin", TAKEN, "local:admin"),
]
IDS: Final = [
    (f" {TOKEN}\n", TAKEN),
    (f"#{TOKEN}", TAKEN),
    (f"id:{TOKEN}", TAKEN),
    (f"id={TOKEN}", TAKEN),
    (f'id="{TOKEN}"', TAKEN),
    (f'"{TOKEN}"', TAKEN),
    (f'="{TOKEN}"', TAKEN),
    (f"[{TOKEN}]", TAKEN),
    (f"token {TOKEN}", TAKEN),
    (f"Token ID: {TOKEN}", TAKEN),
    (f"access token {TOKEN}", TAKEN),
    (f"{TOKEN}.", TAKEN),
    (f"{int(TOKEN):,}", TOKEN),
    (f"{int(TOKEN):_}", TOKEN),
    (int(TOKEN), "list_access_tokens"),
    (float(TOKEN), "list_access_tokens"),
    ([TOKEN], "one call for each"),
    (f"{TOKEN}, 18465190798883823713146", "one call for each"),
    (f"{TOKEN} and 18465190798883823713146", "one call for each"),
    ("1.848E+22", "does not have all digits of an id: list_access_tokens"),
    (f"{TOKEN[:8]}…", "does not have all digits of an id: list_access_tokens"),
    (f"{TOKEN[:4]}...{TOKEN[-4:]}", "does not have all digits of an id: list_access_tokens"),
    ("local:jane", "list_access_tokens(user=…)"),
    ("0x3e8f", "the digits of a token"),
    ("-5", "the digits of a token"),
    (BEARER, "is a bearer token, or looks like one: list_access_tokens"),
]


@pytest.fixture
def cluster(bench: Bench) -> Bench:
    """A token of local:jane with an id that the tables can name."""
    token = bench.cluster.create_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=10))
    del bench.cluster.tokens[token.id]
    bench.cluster.tokens[TOKEN] = replace(token, id=TOKEN)
    return bench


@pytest.mark.parametrize(("written", "proposed", "meant"), TIMES, ids=[written for written, *_ in TIMES])
async def test_a_time_is_taken_as_what_it_means_or_mended_by_one_answer(
    cluster: Bench, written: str, proposed: str, meant: str | None
) -> None:
    if proposed:
        assert proposed in await cluster.refused("create_access_token", {"user": "bob", "expiration_time": written})
        written = proposed

    told = await cluster.call("create_access_token", {"user": "bob", "expiration_time": written}, confirm="none")

    assert not told.is_error, told.text
    assert told.fields.get("expiration_time") == meant


@pytest.mark.parametrize(("written", "proposed", "meant"), USERS, ids=[written for written, *_ in USERS])
async def test_a_user_is_taken_as_whom_it_means_or_mended_by_one_answer(
    cluster: Bench, written: str, proposed: str, meant: str
) -> None:
    if proposed:
        assert proposed in await cluster.refused("list_access_tokens", {"user": written})
        written = proposed

    told = await cluster.call("list_access_tokens", {"user": written})

    assert not told.is_error, told.text
    assert f" of {meant} on " in told.text


@pytest.mark.parametrize(("written", "proposed"), IDS, ids=[str(written) for written, _ in IDS])
async def test_an_id_is_taken_or_what_is_wrong_with_it_is_told(cluster: Bench, written: object, proposed: str) -> None:
    told = await cluster.call("get_access_token", {"id": written})

    assert told.is_error == bool(proposed), told.text
    assert (proposed or f"{TOKEN} of local:jane") in told.text
    assert "lost" not in told.text
    assert BEARER[:16] not in told.text


@pytest.mark.parametrize("key", [2, 2.0, True, ["2"], {"after": "2"}])
async def test_a_key_that_was_not_given_is_told_where_it_comes_from(bench: Bench, key: object) -> None:
    told = await bench.refused("list_access_tokens", {"after": key})

    assert (
        told
        == "`after` must be the `after` of the previous answer, as it stands there; leave it out for the first page."
    )


async def test_all_that_a_list_prints_is_taken(cluster: Bench) -> None:
    listing = await cluster.call("list_access_tokens", {"user": "local:jane", "limit": 1})
    [entry] = listing.fields["tokens"]
    [row] = [row for row in listing.text.splitlines() if row.startswith(TOKEN)]
    token_id, user, *_ = row.split(" | ")

    assert {token_id, entry["id"]} == {TOKEN}
    for spelling in (user, entry["user"]):
        assert " of local:jane on " in (await cluster.call("list_access_tokens", {"user": spelling})).text
    told = await cluster.call("create_access_token", {"user": user, "expiration_time": entry["expiration_time"]})
    assert told.fields["expiration_time"] == entry["expiration_time"] == format_instant(NOW + timedelta(days=10))
