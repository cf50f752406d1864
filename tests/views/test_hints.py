"""Test mistakes of models: each call works in the way it was meant, or the answer says how to write it."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest

from tests.support.harness import JANE, NOW, TOKENS_PATH, Harness, create_harness

pytestmark = pytest.mark.anyio

Arguments = dict[str, Any]

JANE_TOKEN_ID: Final = "18465190798883823713145"
"""The id of local:jane's token."""
OWN_TOKEN_ID: Final = "9223372036854775808123"
"""The id of the token that the server runs on."""
MAX_ANSWER_CHARACTERS: Final = 700
"""The most characters that an answer to a mistake may have."""

USER_FORMS: Final = ("local:NAME", r"ad:DOMAIN\NAME", "ldap_user:NAME", "uid:N", "auth_id:N", "sid:S-1-…")
"""The forms that the answer to a wrong user names."""

MISSING_USER: Final = ("`user` is missing. Whom the token authenticates: self, local:jane, ", r"ad:CORP\jane", "uid:N")
TIME_FORMS: Final = ("`expiration_time`", "90d", "2027-02-22T09:00:00Z", "never", "It is now 2026-11-24 09:00 UTC")
DURATION_FORMS: Final = ("`expiring_within` must be a duration", "min, h, d or w", "12h or 90d")
TAKES_OF_LIST: Final = "It takes user, after, limit, expiring_within, state."
ID_FORMS: Final = ("`id`", "Digits, from list_access_tokens")
NOT_AN_ID_ANSWER: Final = ("`id` must be the digits of a token", "list_access_tokens(user=…)")
BOOLEAN_ANSWER: Final = ("`enabled` must be true or false",)
NOTHING_TO_DO_ANSWER: Final = ("Nothing to do", "`enabled`", "`expiration_time`")

UNDERSTOOD_CALLS: Final = [
    pytest.param("list_access_tokens", {"limit": "10"}, ["2 access tokens on"], id="number-as-text"),
    pytest.param("list_access_tokens", {"limit": 10.0}, ["2 access tokens on"], id="number-with-a-point"),
    pytest.param(
        "list_access_tokens",
        {"user": None, "after": None, "limit": None},
        ["2 access tokens on"],
        id="nulls-for-absent",
    ),
    pytest.param("list_access_tokens", {"after": ""}, ["2 access tokens on"], id="empty-key"),
    pytest.param("list_access_tokens", {"user": " Self "}, ["of local:admin on"], id="capital-self"),
    pytest.param(
        "list_access_tokens", {"user": "LOCAL:Jane"}, ["1 access token of local:jane on"], id="capital-prefix"
    ),
    pytest.param(
        "list_access_tokens",
        {"user": "ACTIVE_DIRECTORY:jane"},
        [r"of ad:CORP\jane on"],
        id="published-domain-as-prefix",
    ),
    pytest.param("list_access_tokens", {"user": "jane@corp.example.com"}, [r"of ad:CORP\jane on"], id="mail-like-name"),
    pytest.param("list_access_tokens", {"user": "CORP\\jane"}, [r"of ad:CORP\jane on"], id="windows-name"),
    pytest.param("list_access_tokens", {"user": "s-1-5-21-1-2-3-1001"}, ["of local:jane on"], id="bare-sid"),
    pytest.param("list_access_tokens", {"user": '"bob"'}, ["of ldap_user:bob on"], id="user-in-quotes"),
    pytest.param(
        "get_access_token", {"id": f" {JANE_TOKEN_ID}\n"}, [f"{JANE_TOKEN_ID} of local:jane"], id="id-with-spaces"
    ),
    pytest.param(
        "audit_access_tokens", {"expiring_within": "30 Days"}, ["Soon is within 30 days"], id="duration-in-words"
    ),
    pytest.param("audit_access_tokens", {"expiring_within": None}, ["Soon is within 30 days"], id="null-duration"),
    pytest.param("export_access_tokens", {"format": " CSV "}, ["one for each token, in "], id="capital-format"),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "90 days"},
        ["expires 2027-02-22 09:00 UTC"],
        id="expiry-in-words",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "2027-01-31 17:00:00+01:00"},
        ["expires 2027-01-31 16:00 UTC"],
        id="expiry-with-a-space",
    ),
    pytest.param(
        "create_access_token", {"user": "bob", "expiration_time": None}, ["the default lifetime"], id="null-expiry"
    ),
    pytest.param(
        "create_access_token", {"user": "bob", "expiration_time": "Never"}, ["never expires"], id="capital-never"
    ),
    pytest.param(
        "update_access_token", {"id": JANE_TOKEN_ID, "enabled": "yes"}, ["Nothing changed", "enabled"], id="yes"
    ),
    pytest.param("update_access_token", {"id": JANE_TOKEN_ID, "enabled": "false"}, ["is disabled"], id="false-as-text"),
    pytest.param("update_access_token", {"id": JANE_TOKEN_ID, "enabled": 0}, ["is disabled"], id="zero-for-false"),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "enabled": False, "expiration_time": None},
        ["is disabled", "expires 2026-12-04"],
        id="null-beside-what-is-meant",
    ),
    pytest.param(
        "delete_access_token", {"id": f"{JANE_TOKEN_ID}\n"}, ["Deleted access token"], id="id-with-a-line-break"
    ),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "expiration_time": None},
        ["Rotated", "local:jane"],
        id="rotation-without-an-expiry",
    ),
    pytest.param(
        "create_access_token", {"user": "bob", "expiration_time": "+90d"}, ["expires 2027-02-22 09:00 UTC"], id="plus"
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "in 90 days"},
        ["expires 2027-02-22 09:00 UTC"],
        id="in",
    ),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "expiration_time": "90 days from now"},
        ["Rotated"],
        id="expiry-from-now",
    ),
    pytest.param("list_access_tokens", {"user": "CORP\\\\jane"}, [r"of ad:CORP\jane on"], id="two-backslashes"),
    pytest.param(
        "get_access_token", {"id": f'"{JANE_TOKEN_ID}"'}, [f"{JANE_TOKEN_ID} of local:jane"], id="id-in-two-quotes"
    ),
    pytest.param(
        "get_access_token", {"id": f"id:{JANE_TOKEN_ID}"}, [f"{JANE_TOKEN_ID} of local:jane"], id="id-with-a-prefix"
    ),
]
EXPLAINED_CALLS: Final = [
    pytest.param(
        "list_access_tokens", {"username": "jane"}, ['has no argument "username"; nearest is `user`'], id="username"
    ),
    pytest.param("list_access_tokens", {"owner": "jane"}, ['has no argument "owner"; nearest is `user`'], id="owner"),
    pytest.param("list_access_tokens", {"name": "jane"}, ['has no argument "name"; nearest is `user`'], id="name"),
    pytest.param(
        "list_access_tokens",
        {"auth_id": "jane"},
        ['has no argument "auth_id"; nearest is `user`'],
        id="auth-id-as-argument",
    ),
    pytest.param(
        "list_access_tokens",
        {"domain": "local", "user": "jane"},
        ['has no argument "domain"', TAKES_OF_LIST],
        id="domain-apart",
    ),
    pytest.param(
        "list_access_tokens",
        {"user": "jane"},
        ["did not tell which user jane is", r"local:jane, ad:DOMAIN\jane or ldap_user:jane"],
        id="ambiguous-name",
    ),
    pytest.param("list_access_tokens", {"user": "jane@local"}, ["write local:jane or"], id="domain-after-the-name"),
    pytest.param("list_access_tokens", {"user": "local/jane"}, ["write local:jane"], id="slash"),
    pytest.param(
        "list_access_tokens",
        {"user": "local\\jane"},
        [r'write local:jane or ad:"local\\jane"'],
        id="local-like-windows",
    ),
    pytest.param("list_access_tokens", {"user": "ad:bob"}, ["finds no user ad:bob", *USER_FORMS], id="wrong-domain"),
    pytest.param(
        "list_access_tokens",
        {"user": "local:CORP\\jane"},
        [r"finds no user local:CORP\jane", *USER_FORMS],
        id="two-domains",
    ),
    pytest.param(
        "list_access_tokens",
        {"user": "ldap:bob"},
        ["prefix that does not exist", "local:bob, ad:bob or ldap_user:bob"],
        id="invented-prefix",
    ),
    pytest.param(
        "list_access_tokens", {"user": "1001"}, ["bare number", "uid:1001, auth_id:1001 or name:1001"], id="bare-number"
    ),
    pytest.param(
        "list_access_tokens",
        {"user": JANE_TOKEN_ID},
        ["is the id of a token, not a user", "get_access_token"],
        id="id-for-a-user",
    ),
    pytest.param("list_access_tokens", {"user": 1001}, ["`user` must be text"], id="number-for-a-user"),
    pytest.param(
        "list_access_tokens",
        {"user": "all"},
        ["finds no user all", "Without `user`, everybody's"],
        id="word-for-all",
    ),
    pytest.param("list_access_tokens", {"user": "*"}, ["Without `user`, everybody's"], id="star"),
    pytest.param("list_access_tokens", {"user": "me"}, ["write self"], id="word-for-oneself"),
    pytest.param("list_access_tokens", {"user": ["local:jane", "bob"]}, ["`user` must be text"], id="list-of-users"),
    pytest.param(
        "list_access_tokens",
        {"user": {"domain": "LOCAL", "name": "jane"}},
        ["`user` must be text", "local:jane"],
        id="user-as-an-object",
    ),
    pytest.param(
        "list_access_tokens", {"user": {}}, ["`user` must be text", "local:NAME"], id="user-as-an-empty-object"
    ),
    pytest.param(
        "list_access_tokens", {"user": '{"name": "jane"}'}, ["is an object: write jane"], id="user-as-json-text"
    ),
    pytest.param("list_access_tokens", {"user": "uid:bob"}, ["is not a user", *USER_FORMS], id="name-for-a-uid"),
    pytest.param("list_access_tokens", {"user": "sid:jane"}, ["malformed SID", "sid:S-1-…"], id="name-for-a-sid"),
    pytest.param(
        "list_access_tokens",
        {"user": '"jane'},
        ["double quotes do not close", "write it as a JSON string, or without quotes"],
        id="half-a-pair-of-quotes",
    ),
    pytest.param("list_access_tokens", {"user": True}, ["`user` must be text"], id="truth-for-a-user"),
    pytest.param(
        "list_access_tokens", {"limit": "ten"}, ["`limit` must be a whole number from 1 to 200"], id="number-in-words"
    ),
    pytest.param("list_access_tokens", {"limit": 0}, ["`limit` must be a whole number from 1 to 200"], id="zero"),
    pytest.param(
        "list_access_tokens", {"limit": -1}, ["`limit` must be a whole number from 1 to 200"], id="less-than-nothing"
    ),
    pytest.param(
        "list_access_tokens", {"limit": 1000}, ["`limit` must be a whole number from 1 to 200"], id="too-many"
    ),
    pytest.param("list_access_tokens", {"limit": 10.5}, ["`limit` must be a whole number from 1 to 200"], id="half"),
    pytest.param(
        "list_access_tokens", {"limit": [10]}, ["`limit` must be a whole number from 1 to 200"], id="list-for-a-number"
    ),
    pytest.param(
        "list_access_tokens", {"limit": True}, ["`limit` must be a whole number from 1 to 200"], id="truth-for-a-number"
    ),
    pytest.param("list_access_tokens", {"page_size": 10}, ["nearest is `limit`"], id="page-size"),
    pytest.param("list_access_tokens", {"page": 2}, ["nearest is `after`"], id="page-number"),
    pytest.param("list_access_tokens", {"offset": 50}, ["nearest is `after`"], id="offset"),
    pytest.param(
        "list_access_tokens",
        {"after": "2"},
        ["`after` has to be as the answer before gave it", "without it, all begins anew"],
        id="invented-key",
    ),
    pytest.param(
        "list_access_tokens", {"after": 2}, ["`after` of the previous answer", "leave it out"], id="number-for-a-key"
    ),
    pytest.param(
        "list_access_tokens",
        {"enabled": True},
        ['list_access_tokens has no argument "enabled"', "those of a `state`", TAKES_OF_LIST],
        id="filter-by-state",
    ),
    pytest.param(
        "list_access_tokens",
        {"expired": True},
        ['list_access_tokens has no argument "expired"', "those of a `state`", TAKES_OF_LIST],
        id="filter-by-expiry",
    ),
    pytest.param(
        "list_access_tokens",
        {"filter": "expired"},
        ['list_access_tokens has no argument "filter"', "those of a `state`", TAKES_OF_LIST],
        id="filter",
    ),
    pytest.param(
        "list_access_tokens",
        {"since": "30d"},
        ['list_access_tokens has no argument "since"', "those of a `state`", TAKES_OF_LIST],
        id="argument-of-another-tool",
    ),
    pytest.param(
        "list_access_tokens",
        {"id": JANE_TOKEN_ID},
        ['list_access_tokens has no argument "id"', TAKES_OF_LIST],
        id="id-for-a-list",
    ),
    pytest.param("get_access_token", {}, ["`id` is missing", *ID_FORMS], id="nothing"),
    pytest.param(
        "get_access_token",
        {"token_id": JANE_TOKEN_ID},
        ["`id` is missing", 'has no argument "token_id"; nearest is `id`'],
        id="token-id",
    ),
    pytest.param(
        "get_access_token",
        {"token": JANE_TOKEN_ID},
        ["`id` is missing", 'has no argument "token"; nearest is `id`'],
        id="token",
    ),
    pytest.param(
        "get_access_token",
        {"key_id": JANE_TOKEN_ID},
        ["`id` is missing", 'has no argument "key_id"; nearest is `id`'],
        id="key-id",
    ),
    pytest.param(
        "get_access_token",
        {"tokenId": JANE_TOKEN_ID},
        ["`id` is missing", 'has no argument "tokenId"; nearest is `id`'],
        id="camel-case",
    ),
    pytest.param("get_access_token", {"id": int(JANE_TOKEN_ID)}, ["`id` must be text"], id="id-as-a-number"),
    pytest.param("get_access_token", {"id": float(JANE_TOKEN_ID)}, ["`id` must be text"], id="id-as-a-float"),
    pytest.param(
        "get_access_token",
        {"id": "1.8465e22"},
        ["`id` does not have all digits", "list_access_tokens"],
        id="id-as-a-rounded-number",
    ),
    pytest.param("get_access_token", {"id": "jane"}, [*NOT_AN_ID_ANSWER], id="name-for-an-id"),
    pytest.param("get_access_token", {"id": "local:jane"}, [*NOT_AN_ID_ANSWER], id="user-for-an-id"),
    pytest.param(
        "get_access_token",
        {"id": "access-v1:AAAA"},
        ["`id` is a bearer token, or looks like one", "list_access_tokens"],
        id="bearer-for-an-id",
    ),
    pytest.param("get_access_token", {"id": [JANE_TOKEN_ID]}, ["`id` must be text"], id="list-of-one-id"),
    pytest.param(
        "get_access_token", {"ids": [JANE_TOKEN_ID]}, ["`id` is missing", "nearest is `id`"], id="several-ids"
    ),
    pytest.param(
        "get_access_token",
        {"id": JANE_TOKEN_ID[:-1]},
        ["There is no access token", "list_access_tokens tells the ids"],
        id="id-cut-short",
    ),
    pytest.param(
        "get_access_token", {"user": "local:jane"}, ["`id` is missing", *ID_FORMS], id="user-instead-of-an-id"
    ),
    pytest.param("audit_access_tokens", {"expiring_within": 30}, ["`expiring_within` must be"], id="number-of-days"),
    pytest.param(
        "audit_access_tokens",
        {"expiring_within": "30"},
        ["has no unit: write 30d or 30h"],
        id="duration-without-a-unit",
    ),
    pytest.param(
        "audit_access_tokens", {"expiring_within": "one month"}, ["write days, such as 30d"], id="month-in-words"
    ),
    pytest.param("audit_access_tokens", {"expiring_within": "1 month"}, ["write days, such as 30d"], id="month"),
    pytest.param(
        "audit_access_tokens", {"expiring_within": "1m"}, ["minutes or months: write 1min or 30d"], id="doubtful-unit"
    ),
    pytest.param(
        "audit_access_tokens", {"expiring_within": "2027-01-01"}, [*DURATION_FORMS], id="instant-for-a-duration"
    ),
    pytest.param(
        "audit_access_tokens",
        {"expiring_within": "0d"},
        ["`expiring_within` must be longer than zero"],
        id="no-time-at-all",
    ),
    pytest.param(
        "audit_access_tokens", {"expiring_within": "-30d"}, ["is negative: write 30d"], id="past-for-a-duration"
    ),
    pytest.param(
        "audit_access_tokens",
        {"days": 30},
        ['has no argument "days"; nearest is `expiring_within`'],
        id="days-as-argument",
    ),
    pytest.param(
        "audit_access_tokens",
        {"window": "30d"},
        ['has no argument "window"; nearest is `expiring_within`'],
        id="window",
    ),
    pytest.param(
        "audit_access_tokens",
        {"within": "30d"},
        ['has no argument "within"; nearest is `expiring_within`'],
        id="within",
    ),
    pytest.param("list_token_changes", {"start_date": "7d"}, ["nearest is `since`: Such as 7d, or a time"], id="start"),
    pytest.param(
        "export_access_tokens",
        {"output_format": "csv"},
        ['has no argument "output_format"; nearest is `format`: csv for spreadsheets'],
        id="format",
    ),
    pytest.param(
        "audit_access_tokens",
        {"report": "csv"},
        ['has no argument "report": an audit writes no file; export_access_tokens(format=…) writes one of all tokens'],
        id="report-of-an-audit",
    ),
    pytest.param(
        "audit_access_tokens",
        {"output_file": "audit.csv"},
        ['has no argument "output_file": an audit writes no file; export_access_tokens(format=…) writes one'],
        id="output-file",
    ),
    pytest.param(
        "audit_access_tokens",
        {"user": "local:jane"},
        ['has no argument "user"', "It takes expiring_within."],
        id="audit-of-a-user",
    ),
    pytest.param("create_access_token", {}, [*MISSING_USER], id="no-user"),
    pytest.param(
        "create_access_token",
        {"user": "bob", "ttl": "90 days"},
        ['has no argument "ttl"; nearest is `expiration_time`'],
        id="ttl",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expires_in": 90},
        ['has no argument "expires_in"; nearest is `expiration_time`'],
        id="expires-in",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "days": 90},
        ['has no argument "days"; nearest is `expiration_time`'],
        id="days-to-live",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expires_at": "2027-01-31T17:00:00Z"},
        ['has no argument "expires_at"; nearest is `expiration_time`'],
        id="expires-at",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "lifetime": "90d"},
        ['has no argument "lifetime"; nearest is `expiration_time`'],
        id="lifetime",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration": "90d"},
        ['has no argument "expiration"; nearest is `expiration_time`'],
        id="half-a-name",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expirationTime": "90d"},
        ['has no argument "expirationTime"; nearest is `expiration_time`'],
        id="camel-case-expiry",
    ),
    pytest.param(
        "create_access_token",
        {"username": "bob", "expiration_time": "90d"},
        ["`user` is missing", "nearest is `user`"],
        id="username-for-a-new-token",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "2027-01-31"},
        ["has no offset", "write 2027-01-31T23:59:59Z if"],
        id="date-alone",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "2027-01-31T17:00:00"},
        ["has no offset", "write 2027-01-31T17:00:00Z if"],
        id="naive-time",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "2025-01-31T17:00:00Z"},
        ["is in the past", *TIME_FORMS],
        id="last-year",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": 90},
        ["`expiration_time` must be"],
        id="number-for-a-time",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": 1800000000},
        ["`expiration_time` must be"],
        id="seconds-since-1970",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "90"},
        ["has no unit: write 90d or"],
        id="bare-number-of-days",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "3 months"},
        ["write days, such as 90d"],
        id="months",
    ),
    pytest.param(
        "create_access_token", {"user": "bob", "expiration_time": "1y"}, ["write days, such as 365d"], id="years"
    ),
    pytest.param(
        "create_access_token", {"user": "bob", "expiration_time": "P3M"}, ["write days, such as 90d"], id="iso-months"
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "tomorrow"},
        [*TIME_FORMS],
        id="tomorrow",
    ),
    pytest.param("create_access_token", {"user": "bob", "expiration_time": "none"}, [*TIME_FORMS], id="none"),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "01/31/2027"},
        [*TIME_FORMS],
        id="american-date",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": "2027-02-31T00:00:00Z"},
        [*TIME_FORMS],
        id="no-such-day",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "expiration_time": {"days": 90}},
        ["`expiration_time` must be text"],
        id="duration-as-an-object",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "description": "for the backup"},
        ['has no argument "description"', "It takes user, expiration_time"],
        id="description",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "scopes": ["read"]},
        ['has no argument "scopes"', "It takes user, expiration_time"],
        id="scopes",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "enabled": True},
        ['has no argument "enabled"', "It takes user, expiration_time"],
        id="enabled-from-the-start",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "consent": {"agree": True}},
        ['has no argument "consent"', "It takes user, expiration_time"],
        id="consent",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "plan": {}},
        ['has no argument "plan"', "It takes user, expiration_time"],
        id="plan",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "confirm": True},
        ['has no argument "confirm"', "It takes user, expiration_time"],
        id="confirmed",
    ),
    pytest.param(
        "create_access_token",
        {"user": "bob", "user_id": "1001"},
        ['has no argument "user_id"', "It takes user, expiration_time"],
        id="user-twice",
    ),
    pytest.param(
        "create_access_token",
        {"arguments": {"user": "bob"}},
        [*MISSING_USER],
        id="arguments-in-arguments",
    ),
    pytest.param(
        "create_access_token",
        {"user": "local:Users"},
        ["local:Users is a group", "for users", "Nothing was done"],
        id="group",
    ),
    pytest.param("create_access_token", {"user": "gid:1000"}, ["is a group", "Nothing was done"], id="group-by-number"),
    pytest.param("create_access_token", {"user": "nobody"}, ["finds no user nobody", *USER_FORMS], id="unknown-user"),
    pytest.param(
        "create_access_token", {"user": "jane"}, [r"local:jane, ad:DOMAIN\jane or ldap_user:jane"], id="ambiguous-user"
    ),
    pytest.param("update_access_token", {"id": JANE_TOKEN_ID}, [*NOTHING_TO_DO_ANSWER], id="no-change"),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "enabled": None, "expiration_time": None},
        [*NOTHING_TO_DO_ANSWER],
        id="nulls-for-a-change",
    ),
    pytest.param(
        "update_access_token", {"id": JANE_TOKEN_ID, "enabled": "disabled"}, [*BOOLEAN_ANSWER], id="word-for-false"
    ),
    pytest.param("update_access_token", {"id": JANE_TOKEN_ID, "enabled": 2}, [*BOOLEAN_ANSWER], id="two-for-true"),
    pytest.param(
        "update_access_token", {"id": JANE_TOKEN_ID, "enabled": [True]}, [*BOOLEAN_ANSWER], id="list-of-truths"
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "disabled": True},
        ['has no argument "disabled"; nearest is `enabled`'],
        id="disabled-for-enabled",
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "status": "disabled"},
        ['has no argument "status"; nearest is `enabled`'],
        id="status",
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "state": "enabled"},
        ['has no argument "state"; nearest is `enabled`'],
        id="state",
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "active": False},
        ['has no argument "active"; nearest is `enabled`'],
        id="active",
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "disable": True},
        ['has no argument "disable"; nearest is `enabled`'],
        id="disable",
    ),
    pytest.param(
        "update_access_token", {"id": JANE_TOKEN_ID, "expires": "30d"}, ["nearest is `expiration_time`"], id="expires"
    ),
    pytest.param(
        "update_access_token", {"id": JANE_TOKEN_ID, "expiration_time": "null"}, [*TIME_FORMS], id="null-as-text"
    ),
    pytest.param(
        "update_access_token",
        {"id": JANE_TOKEN_ID, "user": "bob"},
        ['has no argument "user"', "It takes id, enabled, expiration_time"],
        id="another-user",
    ),
    pytest.param("update_access_token", {"enabled": False}, ["`id` is missing", *ID_FORMS], id="change-without-an-id"),
    pytest.param(
        "update_access_token",
        {"user": "local:jane", "enabled": False},
        ["`id` is missing", *ID_FORMS],
        id="change-by-user",
    ),
    pytest.param(
        "update_access_token",
        {"id": OWN_TOKEN_ID, "enabled": False},
        ["runs on token", "rotate_access_token"],
        id="own-token-disabled",
    ),
    pytest.param("delete_access_token", {}, ["`id` is missing", *ID_FORMS], id="delete-nothing"),
    pytest.param("delete_access_token", {"user": "local:jane"}, ["`id` is missing", *ID_FORMS], id="delete-by-user"),
    pytest.param("delete_access_token", {"id": "jane"}, [*NOT_AN_ID_ANSWER], id="delete-by-name"),
    pytest.param("delete_access_token", {"id": "all"}, [*NOT_AN_ID_ANSWER], id="delete-all"),
    pytest.param(
        "delete_access_token",
        {"id": f"{JANE_TOKEN_ID}, {OWN_TOKEN_ID}"},
        ["`id` has several numbers", "one call for each"],
        id="two-ids-in-one-text",
    ),
    pytest.param(
        "delete_access_token",
        {"ids": [JANE_TOKEN_ID, OWN_TOKEN_ID]},
        ["`id` is missing", "nearest is `id`"],
        id="delete-several",
    ),
    pytest.param(
        "delete_access_token",
        {"id": JANE_TOKEN_ID, "force": True},
        ['has no argument "force"', "It takes id."],
        id="force",
    ),
    pytest.param(
        "delete_access_token",
        {"id": JANE_TOKEN_ID, "confirm": True},
        ['has no argument "confirm"', "It takes id."],
        id="confirmed-deletion",
    ),
    pytest.param(
        "delete_access_token",
        {"id": "123"},
        ["There is no access token 123", "If the id is mistyped", "list_access_tokens tells the ids"],
        id="deleted-before",
    ),
    pytest.param(
        "delete_access_token", {"id": OWN_TOKEN_ID}, ["runs on token", "rotate_access_token"], id="own-token-deleted"
    ),
    pytest.param("rotate_access_token", {"user": "local:jane"}, ["`id` is missing", *ID_FORMS], id="rotate-by-user"),
    pytest.param("rotate_access_token", {"id": "jane"}, [*NOT_AN_ID_ANSWER], id="rotate-by-name"),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "ttl": "90d"},
        ["nearest is `expiration_time`"],
        id="ttl-of-the-new-one",
    ),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "grace_period": "1d"},
        ['has no argument "grace_period"', "It takes id, expiration_time"],
        id="grace-period",
    ),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "delete_old": True},
        ['has no argument "delete_old"', "It takes id, expiration_time"],
        id="delete-the-old",
    ),
    pytest.param("rotate_access_token", {"old_id": JANE_TOKEN_ID}, ["`id` is missing", "nearest is `id`"], id="old-id"),
    pytest.param(
        "rotate_access_token",
        {"id": JANE_TOKEN_ID, "expiration_time": "2027-01-31 17:00"},
        ["has no offset", "write 2027-01-31T17:00:00Z if"],
        id="naive-expiry-of-the-new-one",
    ),
]

COMPLETE_ARGUMENTS: Final[dict[str, Arguments]] = {
    "list_access_tokens": {
        "user": "local:jane",
        "after": "1",
        "limit": 1,
        "expiring_within": "30d",
        "state": "expiring",
    },
    "get_access_token": {"id": JANE_TOKEN_ID},
    "audit_access_tokens": {"expiring_within": "30d"},
    "list_token_changes": {"since": "7d", "user": "local:jane", "id": JANE_TOKEN_ID},
    "export_access_tokens": {"format": "csv"},
    "create_access_token": {"user": "bob", "expiration_time": "90d"},
    "update_access_token": {"id": JANE_TOKEN_ID, "enabled": False, "expiration_time": "90d"},
    "delete_access_token": {"id": JANE_TOKEN_ID},
    "rotate_access_token": {"id": JANE_TOKEN_ID, "expiration_time": "90d"},
}
"""A call of each tool with all its arguments."""

LIST, GET, AUDIT, CHANGES, EXPORT, CREATE, UPDATE, DELETE, ROTATE = COMPLETE_ARGUMENTS
NO_FILTER_HINT: Final = "tokens cannot be filtered by that. list_access_tokens lists those of a `state`"
NO_SORTING_HINT: Final = "the order cannot be chosen: it is the cluster's own, and with `state` fixed"
NO_NAMES_HINT: Final = "access tokens have no names, descriptions, scopes, roles or addresses here"
CONSENT_HINT: Final = "whether a person has to agree is the operator's to say, and this server asks them itself"
NO_SECRET_HINT: Final = "no argument takes or shows a secret"
ONE_CLUSTER_HINT: Final = "which clusters this server serves, and how, is the operator's to say"
NO_FILE_HINT: Final = "an audit writes no file; export_access_tokens(format=…) writes one of all tokens"
WHOLE_FILE_HINT: Final = "the file has all tokens of the cluster, with every column and finding"
LOCATION_HINT: Final = "where files and new bearer tokens go is the operator's to say; the answer names the place"
OLD_TOKEN_HINT: Final = "the old token stays alive. What follows are calls of their own"
DISABLE_HINT: Final = "update_access_token(id=…, enabled=false) disables one"
GET_HINT: Final = "get_access_token(id=…) tells of one token"
LIST_USER_HINT: Final = "list_access_tokens(user=…) lists a user's tokens with their ids"
WRAPPED_ARGUMENTS_HINT: Final = "write the arguments themselves, not inside another"
EXPIRY_HINT: Final = "how long a token lives is said by `expiration_time`"

NONEXISTENT_ARGUMENTS: Final = [
    *(
        (LIST, name, NO_FILTER_HINT)
        for name in ("expired", "includeExpired", "only_disabled", "filter", "expires_before", "created_by")
    ),
    *((LIST, name, NO_FILTER_HINT) for name in ("created_after", "never_expires", "disabled", "isExpired")),
    *((LIST, name, NO_FILTER_HINT) for name in ("query", "search", "older_than", "enabled", "active", "type")),
    *((AUDIT, name, NO_FILTER_HINT) for name in ("status", "older_than", "include", "only_expired")),
    *((LIST, name, NO_SORTING_HINT) for name in ("sort", "sort_by", "orderBy", "order", "direction", "reverse")),
    *(
        (LIST, name, NO_NAMES_HINT)
        for name in ("name", "scope", "role", "last_used_before", "unused", "group", "label")
    ),
    *(
        (CREATE, name, NO_NAMES_HINT)
        for name in ("name", "description", "scopes", "token_name", "permissions", "ip_range")
    ),
    *((UPDATE, name, NO_NAMES_HINT) for name in ("name", "description", "displayName", "tags", "last_used")),
    *((DELETE, name, CONSENT_HINT) for name in ("confirm", "force", "yes", "approve", "consent", "confirmed")),
    *((tool, "confirm", CONSENT_HINT) for tool in (CREATE, UPDATE, ROTATE)),
    *((tool, "dry_run", "there is no dry run") for tool in (CREATE, UPDATE, DELETE, ROTATE)),
    *((DELETE, name, "there is no dry run") for name in ("dryRun", "preview", "simulate")),
    *(
        (GET, name, NO_SECRET_HINT)
        for name in ("bearer_token", "secret", "show_secret", "token_value", "password", "api_key")
    ),
    *((tool, name, ONE_CLUSTER_HINT) for tool in COMPLETE_ARGUMENTS for name in ("cluster", "host")),
    *((CREATE, name, LOCATION_HINT) for name in ("delivery", "path", "output_file", "return_token", "inline")),
    *((EXPORT, name, LOCATION_HINT) for name in ("path", "output_dir", "filename")),
    *((AUDIT, name, NO_FILE_HINT) for name in ("path", "output_dir", "filename", "report", "format", "csv", "export")),
    *((AUDIT, name, NO_FILE_HINT) for name in ("save_report", "output", "report_format")),
    *((EXPORT, name, WHOLE_FILE_HINT) for name in ("user", "expiring_within", "state", "columns", "limit", "filter")),
    *(
        (ROTATE, name, OLD_TOKEN_HINT)
        for name in ("delete_old", "disable_old", "grace_period", "overlap", "revoke_old")
    ),
    *((tool, name, DISABLE_HINT) for tool in (CREATE, ROTATE) for name in ("enabled", "status")),
    *((tool, name, GET_HINT) for tool in (LIST, AUDIT) for name in ("id", "token_id", "ids")),
    *((tool, name, LIST_USER_HINT) for tool in (GET, UPDATE, DELETE, ROTATE) for name in ("user", "username", "owner")),
    (AUDIT, "user", "list_access_tokens(user=…) lists one user's tokens"),
    (CREATE, "id", "a new token gets its id from the cluster"),
    (CREATE, "count", "one call is about one token"),
    (DELETE, "all", "one call is about one token"),
    (AUDIT, "limit", "an audit reads all tokens in one call"),
    (AUDIT, "after", "an audit reads all tokens in one call"),
    *((DELETE, name, "nothing can be noted") for name in ("reason", "justification", "comment")),
    *((LIST, name, WRAPPED_ARGUMENTS_HINT) for name in ("params", "arguments", "request")),
    *((UPDATE, name, WRAPPED_ARGUMENTS_HINT) for name in ("updates", "update", "change")),
    *((LIST, name, "the answer is always whole") for name in ("fields", "columns", "format", "verbose")),
    (LIST, "timezone", "times are told in UTC"),
    *((CREATE, name, EXPIRY_HINT) for name in ("never_expires", "token_lifetime", "valid_hours", "expire_after_days")),
    (CREATE, "username", "`user` is given already; leave this out"),
    *(
        (tool, name, "`user` is given already; it says domain and number too: local:NAME, ad:DOMAIN")
        for tool in (LIST, CREATE)
        for name in ("domain", "uid", "user_id", "auth_id", "sid", "realm", "user_type", "domain_name", "directory")
    ),
    (CREATE, "on_behalf_of", "`user` is given already; leave this out"),
    *((DELETE, name, "a deletion is for ever, at once") for name in ("soft_delete", "only_if_expired", "delay")),
    *((DELETE, name, "(id=…, enabled=false) stops a token") for name in ("enabled", "status", "expiration_time")),
    (LIST, "用户", "leave this out"),
    (GET, "include_siblings", "the answer is always whole"),
    *((tool, "schedule_at", "nothing can be scheduled") for tool in (CREATE, UPDATE, ROTATE)),
    *(
        (tool, name, "there is no dry run")
        for tool in (CREATE, DELETE)
        for name in ("plan_only", "test", "validate_only")
    ),
    *((CREATE, name, EXPIRY_HINT) for name in ("permanent", "hours", "months")),
    *((LIST, name, "tokens cannot be filtered by that") for name in ("permanent", "revoked", "expires_after")),
    (ROTATE, "auto_delete", OLD_TOKEN_HINT),
    (CREATE, "vault_path", LOCATION_HINT),
    (CREATE, "uuid", "leave this out"),
    *((LIST, name, "leave this out") for name in ("session_id", "requestHeartbeat", "ToolCallId")),
    *((AUDIT, name, "tokens cannot be filtered by that") for name in ("stale_after", "max_age", "created_after")),
    *(
        (CHANGES, name, "`since`, `user` and `id` narrow the list; each line tells what was done")
        for name in ("operation", "actor", "approved_by", "status", "until", "limit", "unfinished_only")
    ),
    (AUDIT, "page_size", "an audit reads all tokens in one call"),
    (LIST, "page_size", "`limit` is given already; leave this out"),
    (DELETE, "token", "`id` is given already; leave this out"),
    (UPDATE, "status", "`enabled` is given already; leave this out"),
    *((tool, "frobnicate", "leave this out") for tool in COMPLETE_ARGUMENTS),
]
"""Arguments that models expect but that do not exist, by tool, and the hint in the answer."""

MISNAMED_ARGUMENTS: Final = [
    *(
        (LIST, name, "user")
        for name in ("username", "userName", "user_id", "owner", "name", "account", "usser", "auth_id")
    ),
    (LIST, "users", "user`, one a call"),
    *((LIST, name, "limit") for name in ("page_size", "pageSize", "per_page", "max_results", "lmit", "top")),
    *((LIST, name, "state") for name in ("status", "tokenStatus", "stat", "filter_by_state", "states")),
    *((LIST, name, "expiring_within") for name in ("days", "expires_within", "expiringWithin", "within")),
    *((LIST, name, "after") for name in ("cursor", "page_token", "pageToken", "offset", "page", "next")),
    *((GET, name, "id") for name in ("token_id", "tokenId", "ID", "token", "key_id", "access_token_id", "identifier")),
    *((tool, "ids", "id`, one a call") for tool in (GET, UPDATE, DELETE, ROTATE)),
    *((AUDIT, name, "expiring_within") for name in ("days", "within", "window", "expiringWithin", "expires_within")),
    *((EXPORT, name, "format") for name in ("file_format", "output", "report", "type")),
    *((CREATE, name, "user") for name in ("username", "name", "for_user", "identity", "uid")),
    *((CREATE, name, "expiration_time") for name in ("ttl", "expirationTime", "expires_in", "expiry", "lifetime")),
    *((CREATE, name, "expiration_time") for name in ("days", "expires", "expiration", "duration", "expiration_tme")),
    *((UPDATE, name, "enabled") for name in ("disabled", "status", "state", "active", "disable", "enable")),
    *((UPDATE, name, "expiration_time") for name in ("expires_at", "extend_by", "new_expiration", "ttl")),
    (ROTATE, "old_id", "id"),
    *((UPDATE, name, "enabled") for name in ("is_disabled", "revoked", "new_status")),
    *((CREATE, name, "expiration_time") for name in ("not_after", "end_time", "max_age")),
    *((LIST, name, "after") for name in ("next_cursor", "continuation_token", "after_id")),
    (AUDIT, "months", "expiring_within"),
    (LIST, "user_email", "user"),
]
"""Wrong names of existing arguments, by tool, and the right name."""


@pytest.fixture
def harness_with_known_ids(tmp_path: Path) -> Harness:
    """Create a harness in which the tables know the ids of local:jane's token and of the server's own."""
    harness = create_harness("auto", tmp_path)
    tokens = harness.cluster.tokens
    harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=10))
    for token in [*tokens.values()]:
        token_id = JANE_TOKEN_ID if token.user == JANE.auth_id else OWN_TOKEN_ID
        del tokens[token.id]
        tokens[token_id] = replace(token, id=token_id)
    return harness


@pytest.mark.parametrize(("tool", "arguments", "facts"), UNDERSTOOD_CALLS)
async def test_a_mistaken_call_with_one_possible_meaning_works(
    harness_with_known_ids: Harness, tool: str, arguments: Arguments, facts: list[str]
) -> None:
    answer = await harness_with_known_ids.call(tool, arguments, confirm="none")

    assert not answer.is_error, answer.text
    assert [fact for fact in facts if fact not in answer.text] == [], answer.text


@pytest.mark.parametrize(("tool", "arguments", "parts"), EXPLAINED_CALLS)
async def test_a_mistake_is_answered_with_what_to_write_and_changes_nothing(
    harness_with_known_ids: Harness, tool: str, arguments: Arguments, parts: list[str]
) -> None:
    before = dict(harness_with_known_ids.cluster.tokens)

    refusal = await harness_with_known_ids.call_refused(tool, arguments, confirm="none")

    assert [part for part in parts if part not in refusal] == [], refusal
    assert len(refusal) <= MAX_ANSWER_CHARACTERS
    assert harness_with_known_ids.cluster.tokens == before


MEANINGLESS_VALUES: Final = [
    *(
        (LIST, "state", value, "`state` must be expiring, expired, never_expires, disabled or any.")
        for value in ("live", "enabled", ["expired"], True, "never expires")
    ),
    (LIST, "expiring_within", "soon", "`expiring_within` must be a duration with its unit"),
    (LIST, "expiring_within", 30, "`expiring_within` must be text with a unit: write 30d or 30h or 30s."),
    *(
        (EXPORT, "format", value, "`format` must be csv or json.")
        for value in ("pdf", True, False, ["csv"], "no", 1, "/reports/audit.csv", {"to": "csv"})
    ),
    *((LIST, "limit", value, "`limit` must be a whole number from 1 to 200.") for value in (0, -1, 201, 1000, 50.5)),
    *(
        (LIST, "limit", value, "`limit` must be a whole number from 1 to 200.")
        for value in ("all", "fifty", [50], True)
    ),
    *(
        (LIST, "limit", value, "`limit` must be a whole number from 1 to 200.")
        for value in ({"max": 5}, "50 tokens", "-1")
    ),
    *(
        (UPDATE, "enabled", value, "`enabled` must be true or false")
        for value in ("disabled", "enabled", 2, [True], "null")
    ),
    *(
        (UPDATE, "enabled", value, "`enabled` must be true or false")
        for value in ({"value": False}, "disable", "toggle")
    ),
    *(
        (GET, "id", value, "`id` must be the digits of a token")
        for value in ("<id>", "string", "<token_id>", "ID", "…", "0x1f")
    ),
    (GET, "id", "18465…", "`id` does not have all digits of an id: list_access_tokens tells them."),
    (GET, "id", f"{JANE_TOKEN_ID},{OWN_TOKEN_ID}", "`id` has several numbers: make one call for each token"),
    *(
        (GET, "id", value, "`id` must be the digits of a token")
        for value in ("last", "1.5", f'{{"id": "{JANE_TOKEN_ID}"}}')
    ),
    *((tool, "id", {"id": JANE_TOKEN_ID}, "`id` must be text") for tool in (GET, UPDATE, DELETE, ROTATE)),
    *((tool, "id", "<id>", "`id` must be the digits of a token") for tool in (UPDATE, DELETE, ROTATE)),
]
"""Values without a meaning, by tool and argument, and the rule in the answer."""


@pytest.mark.parametrize(
    ("tool", "name", "value", "rule"), MEANINGLESS_VALUES, ids=map(str, range(len(MEANINGLESS_VALUES)))
)
async def test_a_value_that_means_nothing_is_answered_with_the_rule(
    harness_with_known_ids: Harness, tool: str, name: str, value: object, rule: str
) -> None:
    refusal = await harness_with_known_ids.call_without_effect(
        tool, COMPLETE_ARGUMENTS[tool] | {name: value}, confirm="none"
    )

    assert rule in refusal
    assert "\n" not in refusal
    assert harness_with_known_ids.recorder.requests == []


@pytest.mark.parametrize("limit", ["50", 50.0, "50.0", " 50 "], ids=repr)
async def test_a_number_that_is_written_otherwise_is_taken(harness_with_known_ids: Harness, limit: object) -> None:
    await harness_with_known_ids.call(LIST, {"limit": limit})

    assert harness_with_known_ids.recorder.request_lines() == ["GET /v1/auth/access-tokens/?limit=50"]


@pytest.mark.parametrize("enabled", [False, "false", "False", "FALSE", "no", "off", "0", 0, 0.0], ids=repr)
async def test_no_is_taken_however_it_is_written(harness_with_known_ids: Harness, enabled: object) -> None:
    answer = await harness_with_known_ids.call(UPDATE, {"id": JANE_TOKEN_ID, "enabled": enabled}, confirm="none")

    assert not answer.is_error, answer.text
    assert not harness_with_known_ids.cluster.tokens[JANE_TOKEN_ID].enabled


@pytest.mark.parametrize(("tool", "name", "sentence"), NONEXISTENT_ARGUMENTS)
async def test_what_does_not_exist_is_told_as_such_and_how_else_it_is_done(
    harness_with_known_ids: Harness, tool: str, name: str, sentence: str
) -> None:
    refusal = await harness_with_known_ids.call_without_effect(
        tool, COMPLETE_ARGUMENTS[tool] | {name: "x"}, confirm="none"
    )

    assert refusal.startswith(f'{tool} has no argument "{name}": ')
    assert sentence in refusal
    assert "nearest" not in refusal
    assert refusal.endswith(f"It takes {', '.join(COMPLETE_ARGUMENTS[tool])}.")
    assert len(refusal) <= MAX_ANSWER_CHARACTERS
    assert harness_with_known_ids.recorder.requests == []


@pytest.mark.parametrize(("tool", "name", "real"), MISNAMED_ARGUMENTS)
async def test_what_is_called_otherwise_is_told_by_its_real_name(
    harness_with_known_ids: Harness, tool: str, name: str, real: str
) -> None:
    refusal = await harness_with_known_ids.call_without_effect(tool, {name: "x"}, confirm="none")

    assert f'{tool} has no argument "{name}"; nearest is `{real.removesuffix("`, one a call")}`' in refusal
    assert real in refusal
    assert len(refusal) <= MAX_ANSWER_CHARACTERS


@pytest.mark.parametrize("name", ["extend_by", "additional_days_valid", "extend_by_days"])
async def test_an_extension_is_not_told_as_a_duration_without_what_that_counts_from(
    harness_with_known_ids: Harness, name: str
) -> None:
    refusal = await harness_with_known_ids.call_without_effect(
        UPDATE, {"id": JANE_TOKEN_ID, name: "30d"}, confirm="none"
    )

    assert "`expiration_time`" in refusal
    assert ("counts from now, not from the present expiry" in refusal) is ("nearest is" in refusal)


@pytest.mark.parametrize("expiration_time", ["now", "2025-01-01T00:00:00Z", "yesterday at noon", "3 days ago"])
async def test_who_wants_a_token_to_have_expired_is_told_how_to_stop_it(
    harness_with_known_ids: Harness, expiration_time: str
) -> None:
    arguments = {"id": JANE_TOKEN_ID, "expiration_time": expiration_time}

    refusal = await harness_with_known_ids.call_without_effect(UPDATE, arguments, confirm="none")

    is_past = expiration_time != "yesterday at noon"
    assert ("To stop a token at once, give enabled=false and no `expiration_time`." in refusal) is is_past
    assert "enabled" not in await harness_with_known_ids.call_without_effect(ROTATE, arguments, confirm="none")


@pytest.mark.parametrize(
    "expiration_time",
    ["3 months", "3m", "1y", "90", "2027-01-31", "end of year", "unlimited", "0", "2025-01-01T00:00Z"],
)
@pytest.mark.parametrize("days", [14, 365])
async def test_what_the_operator_does_not_allow_is_not_proposed_without_the_bound(
    harness_with_known_ids: Harness, expiration_time: str, days: int
) -> None:
    arguments = {"user": "local:jane", "expiration_time": expiration_time}

    refusal = await harness_with_known_ids.call_without_effect(
        CREATE, arguments, confirm="none", max_lifetime=timedelta(days=days)
    )

    assert refusal.startswith("`expiration_time` ")
    assert f"QUMULO_MAX_LIFETIME allows {days} days at most" in refusal
    assert "never" not in refusal
    if "from now such as" in refusal:
        proposed = re.findall(r"such as (\S+)(?: or \S+)?,", refusal)
        assert len(proposed) == 2
        for text in proposed:
            taken = {"user": "self", "expiration_time": text}
            done = await harness_with_known_ids.call(CREATE, taken, confirm="none", max_lifetime=timedelta(days=days))
            assert not done.is_error or "2 access tokens already" in done.text, done.text


@pytest.mark.parametrize(("tool", "name"), [(UPDATE, "enabled"), (LIST, "limit"), (EXPORT, "format")])
async def test_null_as_text_is_told_that_nothing_can_be_written(
    harness_with_known_ids: Harness, tool: str, name: str
) -> None:
    refusal = await harness_with_known_ids.call_without_effect(
        tool, COMPLETE_ARGUMENTS[tool] | {name: "null"}, confirm="none"
    )

    assert refusal.endswith(", or be left out.")


async def test_a_list_of_whom_the_cluster_has_forgotten_does_not_blame_the_spelling(
    harness_with_known_ids: Harness,
) -> None:
    refusal = await harness_with_known_ids.call_refused(LIST, {"user": "auth_id:1099"})

    assert "if they are not deleted, check the number. Without `user`, everybody's tokens are listed." in refusal


def test_there_are_mistakes_with_each_of_the_nine_tools() -> None:
    tools = [case.values[0] for case in [*UNDERSTOOD_CALLS, *EXPLAINED_CALLS]]

    assert len(tools) >= 60
    assert len(set(tools)) == 9


TRY_AGAIN_TEXT = "Try again in a minute; if it is the same then, "
STRANGE_ANSWER_TEXT = f"{TRY_AGAIN_TEXT}the operator has to look what answers there."


async def answer_or_fail(failure: httpx.Response | httpx.TransportError | None) -> httpx.Response:
    """Return the response, raise the error, or never answer if the failure is None."""
    match failure:
        case None:
            await anyio.sleep_forever()
            raise AssertionError
        case httpx.TransportError():
            raise failure
        case _:
            return failure


@pytest.mark.parametrize(
    ("failure", "advice"),
    [
        pytest.param(httpx.Response(500), "Try again in some minutes, once; if it is the same then, ", id="500"),
        pytest.param(httpx.Response(501), "Trying the same again does not help: ", id="501"),
        pytest.param(httpx.Response(502), TRY_AGAIN_TEXT, id="502"),
        pytest.param(httpx.Response(503), TRY_AGAIN_TEXT, id="503"),
        pytest.param(httpx.Response(504), TRY_AGAIN_TEXT, id="504"),
        pytest.param(httpx.Response(429), TRY_AGAIN_TEXT, id="429"),
        pytest.param(
            httpx.Response(503, headers={"Retry-After": "7200"}), "Try again after that, and not before.", id="wait"
        ),
        pytest.param(httpx.ReadError("cut"), f"{TRY_AGAIN_TEXT}the operator has to look at the cluster", id="cut"),
        pytest.param(
            httpx.ConnectError("no"), f"{TRY_AGAIN_TEXT}the operator has to look at that.", id="no-connection"
        ),
        pytest.param(None, f"{TRY_AGAIN_TEXT}the operator has to look why, or to allow more time.", id="timeout"),
        *(
            pytest.param(httpx.Response(status, html="<p>"), STRANGE_ANSWER_TEXT, id=f"page-{status}")
            for status in (200, 302, 403, 404, 407)
        ),
    ],
)
@pytest.mark.parametrize("tool", ["list_access_tokens", "create_access_token"])
async def test_what_may_pass_says_when_to_try_again_and_who_looks_where_it_does_not(
    harness: Harness, tool: str, failure: httpx.Response | httpx.TransportError | None, advice: str
) -> None:
    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.url.path != TOKENS_PATH:
            return response
        return await answer_or_fail(failure)

    harness.recorder.on_served = fail

    arguments = {} if tool.startswith("list") else {"user": "local:jane"}
    refusal = await harness.call_without_effect(
        tool, arguments, timeout=timedelta(seconds=0.5 if failure is None else 10)
    )

    assert f" {advice}" in refusal
    assert refusal.lower().count("try") == 1


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(httpx.Response(503), id="503"),
        pytest.param(httpx.Response(429, headers={"Retry-After": "7200"}), id="429"),
        pytest.param(httpx.ReadError("cut"), id="cut"),
        pytest.param(None, id="timeout"),
    ],
)
@pytest.mark.parametrize("tool", ["create_access_token", "update_access_token", "delete_access_token"])
async def test_what_may_have_been_done_is_never_to_be_tried_again_before_a_look(
    harness: Harness, tool: str, failure: httpx.Response | httpx.TransportError | None
) -> None:
    token = harness.cluster.add_token(JANE.auth_id, creator="500")
    is_lost = False

    async def fail(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal is_lost
        is_lost |= request.method in {"PATCH", "DELETE"} or (
            request.method == "POST" and request.url.path == TOKENS_PATH
        )
        if not is_lost:
            return response
        return await answer_or_fail(failure)

    harness.recorder.on_served = fail
    arguments = {"user": "local:jane"} if tool.startswith("create") else {"id": token.id}
    arguments |= {"expiration_time": "60d"} if tool.startswith("update") else {}

    refusal = await harness.call_refused(
        tool, arguments, confirm="none", timeout=timedelta(seconds=0.5 if failure is None else 10)
    )

    assert not re.search(r"(?<!before you )try(?:ing)? (?:the same )?again", refusal, re.IGNORECASE)
    assert re.search(r"before you try again|before creating again", refusal)
