"""Test which JWTs let somebody in: each check of a token, and each way around one that is known."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.server.http.conftest import Desk
from tests.support.harness import NOW
from tests.support.issuer import AUDIENCE, ISSUER_URL, KEYS_PATH, SignatureKey, SmallIssuer, join_token, rsa_key
from tests.support.twin_clusters import FakeClock
from token_tools.server.http.sign_in import MAX_BEARER_BYTES
from token_tools.server.http.throttled_log import PAUSE

pytestmark = pytest.mark.anyio

NOW_SECONDS = int(NOW.timestamp())
IN_A_MINUTE = NOW_SECONDS + 60
A_MINUTE_AGO = NOW_SECONDS - 60


async def refuse(desk: Desk, bearer: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Check that a bearer lets nobody in, and that the log says why without any part of it."""
    signed_in = await desk.sees(bearer)

    assert signed_in is None
    assert caplog.messages == [f"A bearer was refused: {reason}."]
    assert all(part not in caplog.text for part in bearer.split(".") if part)
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_token_of_the_issuer_lets_its_holder_in(desk: Desk, issuer: SmallIssuer) -> None:
    signed_in = await desk.admits(issuer.sign(sub="f:1:jane", preferred_username="jane", azp="claude"))

    assert (signed_in.caller.id, signed_in.caller.name) == (f"{ISSUER_URL}#f:1:jane", f"{ISSUER_URL}#f:1:jane (jane)")
    assert (signed_in.subject, signed_in.client_id, signed_in.claims) == ("f:1:jane", "claude", {"iss": ISSUER_URL})
    assert (signed_in.role, signed_in.caller.is_self, signed_in.resource) == ("read", None, AUDIENCE)
    assert signed_in.expires_at == NOW_SECONDS + 660


async def test_the_bearer_is_not_kept(desk: Desk, issuer: SmallIssuer) -> None:
    bearer = issuer.sign()

    signed_in = await desk.admits(bearer)

    assert signed_in.token == ""
    assert all(part not in repr(signed_in) for part in bearer.split("."))


@pytest.mark.parametrize(
    "key",
    [
        *(pytest.param(lambda name=name: SignatureKey(rsa_key(), name), id=name) for name in ("RS256", "PS512")),
        pytest.param(lambda: SignatureKey(rsa_key(), "RS384", members={"alg": None}), id="RS384, where any will do"),
        pytest.param(lambda: SignatureKey(ec.generate_private_key(ec.SECP384R1()), "ES384"), id="ES384"),
        pytest.param(lambda: SignatureKey(ec.generate_private_key(ec.SECP521R1()), "ES512"), id="ES512"),
        pytest.param(lambda: SignatureKey(ed25519.Ed25519PrivateKey.generate(), "EdDSA"), id="Ed25519"),
        pytest.param(lambda: SignatureKey(ed448.Ed448PrivateKey.generate(), "EdDSA"), id="Ed448"),
        pytest.param(lambda: SignatureKey(members={"use": None, "key_ops": None}), id="a key that says no use"),
    ],
)
async def test_each_asymmetric_algorithm_is_accepted(
    desk: Desk, issuer: SmallIssuer, key: Callable[[], SignatureKey]
) -> None:
    issuer.keys = [key()]

    assert await desk.sees(issuer.sign()) is not None


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", None])
async def test_each_type_of_an_access_token_is_accepted(desk: Desk, issuer: SmallIssuer, kind: str | None) -> None:
    assert await desk.sees(issuer.sign(header={"typ": kind})) is not None


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"aud": ["https://other.example.com", AUDIENCE]}, id="one of several audiences"),
        pytest.param({"exp": NOW_SECONDS - 59}, id="expired less than a minute ago"),
        pytest.param({"nbf": IN_A_MINUTE}, id="valid within a minute"),
        pytest.param({"iat": IN_A_MINUTE}, id="issued by a clock that is a minute ahead"),
        pytest.param({"iat": None, "nbf": None}, id="only with an expiry"),
        pytest.param({"exp": NOW_SECONDS + 0.5}, id="an expiry in fractions"),
        pytest.param({"typ": "Bearer", "token_use": "access"}, id="said to be an access token"),
    ],
)
async def test_what_a_token_may_say_is_accepted(desk: Desk, issuer: SmallIssuer, claims: Mapping[str, Any]) -> None:
    assert await desk.sees(issuer.sign(**claims)) is not None


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://idp.example.com/realms/other"}, "it is of another issuer"),
        ({"iss": f"{ISSUER_URL}/"}, "it is of another issuer"),
        ({"iss": None}, "it is of another issuer"),
        ({"iss": [ISSUER_URL]}, "it is of another issuer"),
        ({"aud": "https://other.example.com"}, "it is for another audience"),
        ({"aud": ["https://other.example.com", {"aud": AUDIENCE}]}, "it is for another audience"),
        ({"aud": {AUDIENCE: AUDIENCE}}, "it is for another audience"),
        ({"aud": f"{AUDIENCE}/"}, "it is for another audience"),
        ({"aud": None}, "it is for another audience"),
        ({"exp": A_MINUTE_AGO}, "it has expired, a minute ago"),
        ({"exp": 0}, "it has expired, 20781 days ago"),
        ({"exp": None}, "it never expires"),
        ({"exp": True}, "a time in it cannot be read"),
        ({"exp": str(IN_A_MINUTE)}, "a time in it cannot be read"),
        ({"exp": -1}, "a time in it cannot be read"),
        ({"exp": 1e300}, "a time in it cannot be read"),
        ({"exp": float("nan")}, "a time in it cannot be read"),
        ({"exp": float("inf")}, "a time in it cannot be read"),
        ({"exp": 10**30}, "a time in it cannot be read"),
        ({"nbf": IN_A_MINUTE + 1}, "it is not valid yet, but in a minute"),
        ({"nbf": "soon"}, "a time in it cannot be read"),
        ({"iat": NOW_SECONDS + 120}, "it was issued in the future, by 2 minutes"),
        ({"iat": [NOW_SECONDS]}, "a time in it cannot be read"),
        ({"typ": "ID"}, "its claims say that it is no access token"),
        ({"typ": "Refresh"}, "its claims say that it is no access token"),
        ({"typ": "Offline"}, "its claims say that it is no access token"),
        ({"token_use": "id"}, "its claims say that it is no access token"),
        ({"at_hash": "x"}, "its claims say that it is no access token"),
        ({"events": {}}, "its claims say that it is no access token"),
        ({"cnf": {"jkt": "x"}}, "it is bound to a key of its holder, which cannot be checked here"),
        ({"sub": None, "client_id": None}, "it does not say whose it is"),
        ({"sub": ""}, "it does not say whose it is"),
        ({"sub": 7}, "it does not say whose it is"),
    ],
)
async def test_a_token_that_says_something_else_is_refused(
    desk: Desk,
    issuer: SmallIssuer,
    caplog: pytest.LogCaptureFixture,
    claims: Mapping[str, Any],
    reason: str,
) -> None:
    await refuse(desk, issuer.sign(**claims), reason, caplog)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"kid": "unknown"}, "no key of the issuer is the one that it was signed with"),
        ({"kid": ["key"]}, "its header cannot be read"),
        ({"typ": "dpop+jwt"}, "its header says that it is of another kind"),
        ({"typ": "logout+jwt"}, "its header says that it is of another kind"),
        ({"typ": ["at+jwt"]}, "its header says that it is of another kind"),
        ({"alg": "none"}, "it is signed in a way that is not accepted"),
        ({"alg": "None"}, "it is signed in a way that is not accepted"),
        ({"alg": "HS256"}, "it is signed in a way that is not accepted"),
        ({"alg": "ES256K"}, "it is signed in a way that is not accepted"),
        ({"alg": None}, "it is signed in a way that is not accepted"),
        ({"alg": ["ES256"]}, "it is signed in a way that is not accepted"),
        ({"alg": "ES384"}, "no key of the issuer is the one that it was signed with"),
        ({"crit": ["exp"]}, "its header cannot be read"),
        ({"b64": True, "crit": ["b64"]}, "its header demands what is not known here"),
        ({"b64": False, "crit": ["b64"]}, "its header cannot be read"),
    ],
)
async def test_a_token_whose_header_says_something_else_is_refused(
    desk: Desk,
    issuer: SmallIssuer,
    caplog: pytest.LogCaptureFixture,
    header: Mapping[str, object],
    reason: str,
) -> None:
    await refuse(desk, issuer.sign(header=header), reason, caplog)


async def test_a_public_key_is_no_secret_to_sign_with(
    desk: Desk, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.keys = [SignatureKey(rsa_key(), "RS256")]
    public = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    honest = issuer.sign()
    payload = base64.urlsafe_b64decode(honest.split(".")[1] + "==").decode()
    header = json.dumps({"typ": "at+jwt", "alg": "HS256", "kid": issuer.keys[0].key_id})

    forged = join_token(header, payload, lambda signed: hmac.digest(public, signed, hashlib.sha256))

    await refuse(desk, forged, "it is signed in a way that is not accepted", caplog)


@pytest.mark.parametrize("place", ["jwk", "jku", "x5u"])
async def test_a_key_that_a_token_brings_along_is_not_used(
    desk: Desk, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    own = replace(SignatureKey(), key_id=issuer.keys[0].key_id)
    header = {place: own.jwk if place == "jwk" else "https://attacker.example.com/keys"}

    await refuse(desk, issuer.sign(key=own, header=header), "its signature is wrong", caplog)
    assert issuer.requests == [issuer.metadata_path, KEYS_PATH]


@pytest.mark.parametrize("place", ["jwk", "jku", "x5u", "x5c"])
async def test_what_a_header_says_about_keys_elsewhere_harms_nobody(
    desk: Desk, issuer: SmallIssuer, place: str
) -> None:
    assert await desk.sees(issuer.sign(header={place: "https://attacker.example.com/keys"})) is not None


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_token_in_which_a_part_was_replaced_is_refused(desk: Desk, issuer: SmallIssuer, part: int) -> None:
    parts, others = issuer.sign().split("."), issuer.sign(sub="admin", header={"typ": "JWT"}).split(".")

    assert await desk.sees(".".join([*parts[:part], others[part], *parts[part + 1 :]])) is None


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "eyJhbGciOiJub25lIn0.e30.",
        "{}.{}.{}",
        "e30.e30.e30",
        "W10.W10.W10",
        "bnVsbA.bnVsbA.bnVsbA",
        "a b.c.d",
        " e30.e30.e30",
        "e30.e30.e30\n",
        "e30=.e30.e30",
        "\x00",
        "ein Schlüssel",
        "\u0661.\u0661.\u0661",
        "\ud800",
        f"{'W1tb' * 3000}.e30.e30",
        "x" * (MAX_BEARER_BYTES + 1),
        f"e30.{'A' * MAX_BEARER_BYTES}.e30",
    ],
    ids=ascii,
)
async def test_garbage_lets_nobody_in_and_nobody_is_asked(desk: Desk, issuer: SmallIssuer, bearer: str) -> None:
    assert await desk.sees(bearer) is None
    assert issuer.requests == []


async def test_a_token_of_the_largest_size_is_accepted(desk: Desk, issuer: SmallIssuer) -> None:
    bearer = issuer.sign(groups="g" * 10_000)

    assert len(bearer) < MAX_BEARER_BYTES
    assert await desk.sees(bearer) is not None
    assert await desk.sees(issuer.sign(groups="g" * 13_000)) is None


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        "null",
        '"text"',
        "{",
        "[" * 9_000,
        '{"a":' * 1_800,
        f'{{"exp": {"9" * 5_000}}}',
        '{"sub": "jane", "sub": "admin"}',
        '{"realm": {"roles": 1, "roles": 2}}',
    ],
    ids=lambda payload: payload[:20],
)
async def test_claims_that_mean_nothing_or_two_things_are_refused(
    desk: Desk, issuer: SmallIssuer, caplog: pytest.LogCaptureFixture, payload: str
) -> None:
    bearer = issuer.sign_text(payload or " ")

    assert await desk.sees(bearer) is None
    assert caplog.messages == ["A bearer was refused: its claims cannot be read."]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        pytest.param({"use": "enc"}, "a key for something else", id="for encryption"),
        pytest.param({"key_ops": ["sign"]}, "a key for something else", id="not to verify"),
        pytest.param({"alg": "ES384"}, "another algorithm", id="for another algorithm"),
        pytest.param({"alg": "HS256"}, "another algorithm", id="for a secret"),
        pytest.param({"kty": "RSA"}, "another kind", id="of another kind"),
        pytest.param({"crv": "P-384"}, "another curve", id="of another curve"),
        pytest.param({"crv": "secp256k1"}, "another curve", id="of a curve that is not accepted"),
        pytest.param({"x": None}, "half a key", id="half of it"),
        pytest.param({"x": 5}, "no key", id="a number in it"),
        pytest.param({"kty": None}, "no key", id="no kind"),
        pytest.param({"kid": "another"}, "another key", id="of another name"),
    ],
)
async def test_a_key_that_does_not_fit_is_not_used(
    desk: Desk, issuer: SmallIssuer, key: Mapping[str, object], reason: str
) -> None:
    signing = SignatureKey()
    issuer.keys = [SignatureKey(), replace(signing, members=key)]

    assert await desk.sees(issuer.sign(key=issuer.keys[0])) is not None, "the other key of the issuer is used"
    assert await desk.sees(issuer.sign(key=signing)) is None, reason


async def test_a_short_key_is_not_used(desk: Desk, issuer: SmallIssuer) -> None:
    issuer.keys.append(SignatureKey(rsa_key(1024), "RS256"))

    assert await desk.sees(issuer.sign()) is None
    assert await desk.sees(issuer.sign(key=issuer.keys[0])) is not None


async def test_a_token_without_the_name_of_its_key_is_accepted_if_there_is_one_key_only(
    desk: Desk, issuer: SmallIssuer
) -> None:
    assert await desk.sees(issuer.sign(header={"kid": None})) is not None

    issuer.keys.append(SignatureKey())
    desk.configure()

    assert await desk.sees(issuer.sign(header={"kid": None})) is None


async def test_of_two_keys_with_one_name_the_one_of_the_right_kind_is_used(desk: Desk, issuer: SmallIssuer) -> None:
    issuer.keys.append(SignatureKey(ed25519.Ed25519PrivateKey.generate(), "EdDSA", issuer.keys[0].key_id))

    assert await desk.sees(issuer.sign(key=issuer.keys[0])) is not None
    assert await desk.sees(issuer.sign(key=issuer.keys[1])) is not None

    issuer.keys[1] = SignatureKey(key_id=issuer.keys[0].key_id)
    desk.configure()

    assert await desk.sees(issuer.sign(key=issuer.keys[0])) is None


async def test_a_flood_of_bad_bearers_is_a_line_a_minute(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1_000):
        await desk.sees(f"guess-{number}")
    await desk.sees(issuer.sign(exp=A_MINUTE_AGO))
    clock.now += PAUSE + timedelta(seconds=1)
    await desk.sees("guess")
    await desk.sees("guess")

    guess = "A bearer was refused: it is neither a named key nor a JWT."
    assert caplog.messages == [
        guess,
        "A bearer was refused: it has expired, a minute ago.",
        f"{guess} (999 more of this kind before)",
    ]


async def test_without_an_issuer_no_token_is_accepted(desk: Desk, issuer: SmallIssuer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.nightly]\nsha256 = "{"0" * 64}"\nrole = "read"\n')
    desk.configure(http_issuer=None, http_keys_file=keys)

    assert await desk.sees(issuer.sign()) is None
    assert issuer.requests == []
