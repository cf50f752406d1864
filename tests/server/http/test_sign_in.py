"""Test who a caller is, and what they may do: rules, names, `self`."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from mcp.server.auth.provider import principal_components
from pydantic import SecretStr

from tests.server.http.conftest import Desk
from tests.support.issuer import ISSUER_URL, SmallIssuer
from tests.support.twin_clusters import FakeClock
from token_tools.cluster.identity import Identity
from token_tools.redaction import remember_secret
from token_tools.server.http.recent_sign_ins import LIFETIME, MAX_SIGN_INS
from token_tools.server.http.signed_in import Role

pytestmark = pytest.mark.anyio

DIGEST = r"\[sha256:[0-9a-f]{32}\]"


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"scope": "tokens:read"}, "read"),
        ({"scope": "openid tokens:write"}, "write"),
        ({"scope": "tokens:read tokens:write"}, "write"),
        ({"scope": ["tokens:read"]}, "read"),
        ({"scope": "tokens:reader"}, None),
        ({"scope": "Tokens:Read"}, None),
        ({"scope": "tokens:read\ttokens:write"}, None),
        ({"scope": ""}, None),
        ({"scope": None}, None),
        ({"scope": {"tokens:read": True}}, None),
        ({"scope": [["tokens:read"], None]}, None),
        ({"scp": "tokens:read", "scope": None}, None),
    ],
)
async def test_scopes_say_who_may_do_what(
    desk: Desk, issuer: SmallIssuer, claims: Mapping[str, Any], role: Role | None
) -> None:
    signed_in = await desk.admits(issuer.sign(**claims))

    assert signed_in.role == role


@pytest.mark.parametrize(
    ("rule", "claims", "holds"),
    [
        ("groups=storage", {"groups": ["users", "storage"]}, True),
        ("groups=storage", {"groups": "storage"}, True),
        ("groups=storage", {"groups": "users storage"}, False),
        ("groups=storage", {"groups": ["users storage"]}, False),
        ("groups=storage", {"groups": [{"name": "storage"}]}, False),
        ("scp=Tokens.Read", {"scp": "User.Read Tokens.Read"}, True),
        ("realm_access.roles=admin", {"realm_access": {"roles": ["admin"]}}, True),
        ("realm_access.roles=admin", {"realm_access": ["roles"]}, False),
        ("realm_access.roles=admin", {"realm_access": {"roles": {"admin": 1}}}, False),
        ("realm_access.roles=admin", {"realm_access.roles": "admin"}, True),
        ("resource_access.my-client.roles=admin", {"resource_access": {"my-client": {"roles": ["admin"]}}}, True),
        ("resource_access.my.client.roles=admin", {"resource_access": {"my.client": {"roles": ["admin"]}}}, True),
        ("https://example.com/roles=admin", {"https://example.com/roles": ["admin"]}, True),
        ("https://example.com/a.b=1", {"https://example": {"com/a": {"b": 1}}}, True),
        ("email_verified=true", {"email_verified": True}, True),
        ("email_verified=true", {"email_verified": "true"}, True),
        ("email_verified=True", {"email_verified": True}, False),
        ("level=3", {"level": 3}, True),
        ("level=3", {"level": 3.5}, False),
        ("level=1", {"level": True}, False),
        ("level=null", {"level": None}, False),
        ("a=b=c", {"a": "b=c"}, True),
    ],
)
async def test_a_rule_names_a_claim_and_its_value(
    desk: Desk, issuer: SmallIssuer, rule: str, claims: Mapping[str, Any], holds: bool
) -> None:
    desk.configure(http_readers="role=nobody", http_writers=f"role=nobody '{rule}'")

    signed_in = await desk.admits(issuer.sign(**claims))

    assert signed_in.role == ("write" if holds else None)


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"sub": "42", "preferred_username": "jane", "email": "j@example.com", "name": "Jane"}, "#42 (jane)"),
        ({"sub": "42", "preferred_username": "", "email": "j@example.com", "name": "Jane"}, "#42 (j@example.com)"),
        ({"sub": "42", "preferred_username": ["jane"], "name": "Jane Doe"}, "#42 (Jane Doe)"),
        ({"sub": "42", "client_id": "nightly"}, "#42 (nightly)"),
        ({"sub": "42", "client_id": None, "azp": "nightly"}, "#42 (nightly)"),
        ({"sub": "42", "client_id": None}, "#42"),
        ({"sub": "nightly", "client_id": "nightly"}, "#nightly"),
        ({"sub": None, "client_id": "nightly"}, " client nightly"),
        ({"sub": "42", "name": "Jane\n\u202eDoe"}, "#42 (Jane  Doe)"),
        ({"sub": "42", "name": "\u200b\u200b", "client_id": "chat"}, "#42 (chat)"),
        ({"sub": "42", "name": "J" * 99}, f"#42 ({'J' * 59}…)"),
        ({"sub": "42", "name": "access-v1:" + "aB3dE5gH7jK9mN1pQ2sT4" * 4}, "#42 ([withheld])"),
    ],
)
async def test_the_record_tells_issuer_subject_and_a_readable_name(
    desk: Desk, issuer: SmallIssuer, claims: Mapping[str, Any], name: str
) -> None:
    signed_in = await desk.admits(issuer.sign(**claims))

    assert signed_in.caller.name == f"{ISSUER_URL}{name}"


HOSTILE_SUBJECTS = [
    "jane (admin)",
    "jane [admin]",
    "jane doe",
    "jane\u200b",
    "jane\x00",
    "j\u0430ne",
    "\ud800",
    "j" * 256,
    "[sha256:00000000000000000000000000000000]",
]


@pytest.mark.parametrize("subject", HOSTILE_SUBJECTS, ids=ascii)
async def test_a_subject_that_is_no_plain_word_is_told_by_its_digest(
    desk: Desk, issuer: SmallIssuer, subject: str
) -> None:
    signed_in = await desk.admits(issuer.sign(sub=subject, client_id=None))

    assert re.fullmatch(f"{re.escape(ISSUER_URL)}#{DIGEST}", signed_in.caller.id)
    assert signed_in.caller.name == signed_in.caller.id


async def test_no_two_subjects_are_one_caller(desk: Desk, issuer: SmallIssuer) -> None:
    subjects = [*HOSTILE_SUBJECTS, "jane", "Jane", "jane#1", "client jane", "j" * 255, "jane\u200c"]

    callers = [(await desk.admits(issuer.sign(sub=subject))).caller for subject in subjects]
    shown = (await desk.admits(issuer.sign(sub=callers[0].id.partition("#")[2]))).caller
    client = (await desk.admits(issuer.sign(sub=None, client_id="jane"))).caller

    assert len({caller.id for caller in [*callers, shown, client]}) == len(subjects) + 2
    assert len({caller.name for caller in [*callers, shown, client]}) == len(subjects) + 2


async def test_a_random_subject_is_told_by_its_digest_and_stays_the_same_caller(
    desk: Desk, issuer: SmallIssuer
) -> None:
    subject = "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ"

    signed_in = await desk.admits(issuer.sign(sub=subject, preferred_username="jane@example.com"))

    assert signed_in.caller.id == f"{ISSUER_URL}#{subject}"
    assert re.fullmatch(f"{re.escape(ISSUER_URL)}#{DIGEST} \\(jane@example\\.com\\)", signed_in.caller.name)


async def test_who_somebody_is_does_not_depend_on_the_secrets_that_were_held(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    bearer = issuer.sign(sub="not-a-password-7319")
    before = await desk.admits(bearer)
    remember_secret(SecretStr("not-a-password-7319"))
    clock.now += LIFETIME

    after = await desk.admits(bearer)

    assert after.caller.id == before.caller.id
    assert "password" in before.caller.name
    assert "password" not in after.caller.name


@pytest.mark.parametrize(
    ("claims", "is_person"),
    [
        ({"sub": "jane"}, True),
        ({"sub": "jane@example.com", "cid": "chat", "client_id": None}, True),
        ({"sub": "pairwise", "oid": "42", "cid": ["pairwise"]}, True),
        # People of Azure AD B2C.
        ({"sub": "42", "oid": "42", "azp": "chat", "client_id": None}, True),
        ({"sub": None, "client_id": "nightly"}, False),
        ({"sub": "nightly", "client_id": "nightly"}, False),
        ({"sub": "nightly", "azp": "nightly"}, False),
        ({"sub": "42", "client_id": "nightly", "preferred_username": "service-account-nightly"}, False),
        ({"sub": "nightly", "cid": "nightly", "client_id": None}, False),
        ({"sub": "nightly@clients", "azp": "nightly", "client_id": None, "gty": "client-credentials"}, False),
        ({"sub": "42", "idtyp": "app"}, False),
    ],
    ids=str,
)
async def test_an_access_token_of_a_client_itself_is_of_no_person(
    desk: Desk, issuer: SmallIssuer, claims: Mapping[str, Any], is_person: bool
) -> None:
    signed_in = await desk.admits(issuer.sign(**claims))

    assert signed_in.caller.is_person is is_person


async def test_questions_and_sessions_are_bound_to_client_issuer_and_subject(desk: Desk, issuer: SmallIssuer) -> None:
    signed_in = await desk.admits(issuer.sign(sub="jane", azp="chat"))
    unnamed = await desk.admits(issuer.sign(sub="jane", client_id=None))

    assert principal_components(signed_in) == ("chat", ISSUER_URL, "jane")
    assert principal_components(unnamed) == ("jane", ISSUER_URL, "jane")


@pytest.mark.parametrize(
    ("claim", "claims", "expected"),
    [
        ("qumulo", {"qumulo": r"ad:CORP\jane"}, Identity(domain="ACTIVE_DIRECTORY", name=r"CORP\jane")),
        ("qumulo", {"qumulo": "uid:1001"}, Identity(uid=1001)),
        ("storage.user", {"storage": {"user": "local:jane"}}, Identity(domain="LOCAL", name="jane")),
        ("https://example.com/user", {"https://example.com/user": "jane"}, Identity(name="jane")),
        ("qumulo", {}, None),
        ("qumulo", {"qumulo": None}, None),
        (None, {"qumulo": "jane"}, None),
    ],
)
async def test_self_is_the_user_whom_the_named_claim_spells(
    desk: Desk, issuer: SmallIssuer, claim: str | None, claims: Mapping[str, Any], expected: Identity | None
) -> None:
    desk.configure(http_self=claim)

    assert (await desk.admits(issuer.sign(**claims))).caller.is_self == expected


@pytest.mark.parametrize(
    "spelling", ["self", " SELF ", '"self"', "", "no:such:user", "j" * 2000, ["jane"], {"name": "jane"}, 5, True]
)
async def test_nonsense_in_that_claim_is_nobody_and_is_told_once(
    desk: Desk, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, spelling: object
) -> None:
    desk.configure(http_self="qumulo")

    for _ in range(3):
        assert (await desk.admits(issuer.sign(qumulo=spelling))).caller.is_self is None

    assert caplog.messages == ["QUMULO_HTTP_SELF names a claim that spells no user: for its holder there is no `self`."]


async def test_a_token_that_was_just_checked_is_not_checked_again(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    bearer = issuer.sign()
    first = await desk.admits(bearer)

    assert await desk.admits(bearer) is first
    clock.now += LIFETIME
    assert await desk.admits(bearer) is not first


async def test_a_token_that_was_just_checked_expires(desk: Desk, issuer: SmallIssuer, clock: FakeClock) -> None:
    bearer = issuer.sign(exp=int(clock.now.timestamp()) + 60)
    assert await desk.sees(bearer) is not None

    clock.now += timedelta(seconds=119)
    assert await desk.sees(bearer) is not None
    clock.now += timedelta(seconds=1)

    assert await desk.sees(bearer) is None


async def test_a_clock_that_was_put_back_has_a_token_checked_again(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    bearer = issuer.sign(iat=None)
    first = await desk.admits(bearer)

    clock.now -= timedelta(days=1)

    assert await desk.admits(bearer) is not first


async def test_of_many_tokens_the_one_that_was_not_used_is_checked_again(desk: Desk, issuer: SmallIssuer) -> None:
    used, unused = issuer.sign(sub="used"), issuer.sign(sub="unused")
    seen = [await desk.admits(bearer) for bearer in (unused, used)]
    for number in range(MAX_SIGN_INS - 1):
        await desk.admits(issuer.sign(jti=number))
        assert await desk.admits(used) is seen[1]

    assert await desk.admits(unused) is not seen[0]
