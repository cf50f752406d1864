"""Test how the keys of the issuer are found, kept and replaced, and what holds while it is away."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.server.http.conftest import Desk, create_sign_in
from tests.support.issuer import ISSUER_URL, KEYS_PATH, SmallIssuer
from tests.support.twin_clusters import FakeClock
from tests.support.waiting import wait_until
from token_tools.errors import SettingsError
from token_tools.http_settings import HttpSettings
from token_tools.server.http.issuer import COOL_DOWN, KEYS_LIFETIME, MAX_DOCUMENT_BYTES, Issuer
from token_tools.server.http.issuer_metadata import list_metadata_urls
from token_tools.server.http.recent_sign_ins import LIFETIME

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
OAUTH_PATH = "/.well-known/oauth-authorization-server/realms/storage"
METADATA = {"issuer": ISSUER_URL, "jwks_uri": f"https://idp.example.com{KEYS_PATH}"}
GARBAGE = {
    "an error": JSONResponse(METADATA, status_code=503),
    "nothing": Response(b""),
    "no content": Response(status_code=204),
    "no JSON": Response("<html>"),
    "no text": Response(b"\xff\xfe\x00"),
    "no object": JSONResponse([]),
    "an empty object": JSONResponse({}),
    "an endless object": Response('{"a":' * 50_000),
    "too much": JSONResponse({**METADATA, "padding": " " * MAX_DOCUMENT_BYTES}),
    "something compressed": JSONResponse(METADATA, headers={"Content-Encoding": "gzip"}),
    "a redirect": RedirectResponse("https://attacker.example.com/"),
}
garbage = pytest.mark.parametrize("garbage", [pytest.param(answer, id=name) for name, answer in GARBAGE.items()])


async def test_an_issuer_is_asked_once_for_its_metadata_and_its_keys(desk: Desk, issuer: SmallIssuer) -> None:
    assert issuer.requests == [], "the server starts whether the issuer is there or not"

    for subject in ("jane", "bob", "jane"):
        assert await desk.sees(issuer.sign(sub=subject)) is not None

    assert issuer.requests == [issuer.metadata_path, KEYS_PATH]


async def test_callers_who_come_at_once_share_one_reading(desk: Desk, issuer: SmallIssuer) -> None:
    seen = list[object]()

    async def come(bearer: str) -> None:
        seen.append(await desk.sees(bearer))

    async with anyio.create_task_group() as tasks:
        for number in range(64):
            tasks.start_soon(come, issuer.sign(sub=f"user-{number}"))

    assert len(seen) == 64
    assert None not in seen
    assert issuer.requests == [issuer.metadata_path, KEYS_PATH]


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        (
            "https://idp.example.com",
            [
                "https://idp.example.com/.well-known/openid-configuration",
                "https://idp.example.com/.well-known/oauth-authorization-server",
            ],
        ),
        (
            "https://tenant.example.com/",
            [
                "https://tenant.example.com/.well-known/openid-configuration",
                "https://tenant.example.com/.well-known/oauth-authorization-server",
            ],
        ),
        (
            "https://idp.example.com:8443/a/b",
            [
                "https://idp.example.com:8443/a/b/.well-known/openid-configuration",
                "https://idp.example.com:8443/.well-known/oauth-authorization-server/a/b",
            ],
        ),
    ],
)
def test_metadata_is_where_openid_and_oauth_put_it(issuer: str, expected: list[str]) -> None:
    assert list_metadata_urls(issuer) == expected


async def test_the_metadata_of_oauth_is_enough(desk: Desk, issuer: SmallIssuer) -> None:
    issuer.answers = {issuer.metadata_path: Response(status_code=404), OAUTH_PATH: JSONResponse(METADATA)}

    assert await desk.sees(issuer.sign()) is not None
    assert issuer.requests == [issuer.metadata_path, OAUTH_PATH, KEYS_PATH]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"issuer": "https://idp.example.com/realms/other"}, "is of another issuer"),
        ({"issuer": "https://idp.example.com/realms/storage/"}, "is of another issuer"),
        ({"issuer": None}, "is of another issuer"),
        ({"jwks_uri": "http://idp.example.com/keys"}, "has no jwks_uri that begins with https://"),
        ({"jwks_uri": None}, "has no jwks_uri that begins with https://"),
        ({"jwks_uri": ["https://idp.example.com/keys"]}, "has no jwks_uri that begins with https://"),
        ({"jwks_uri": "https://[::1/keys"}, "cannot be reached"),
        ({"jwks_uri": "https://a\nb/"}, "cannot be reached"),
    ],
)
async def test_metadata_that_is_wrong_is_not_used(
    desk: Desk,
    issuer: SmallIssuer,
    caplog: pytest.LogCaptureFixture,
    change: Mapping[str, object],
    expected: str,
) -> None:
    issuer.answers = {issuer.metadata_path: JSONResponse({**METADATA, **change})}

    assert await desk.sees(issuer.sign()) is None
    assert expected in caplog.messages[0]
    assert KEYS_PATH not in issuer.requests


@garbage
async def test_garbage_instead_of_metadata_lets_nobody_in(desk: Desk, issuer: SmallIssuer, garbage: Response) -> None:
    issuer.answers = {issuer.metadata_path: garbage}

    assert await desk.sees(issuer.sign()) is None
    assert issuer.requests == [issuer.metadata_path, OAUTH_PATH]


@garbage
async def test_garbage_instead_of_keys_replaces_nothing(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock, caplog: pytest.LogCaptureFixture, garbage: Response
) -> None:
    assert await desk.sees(issuer.sign()) is not None
    issuer.answers = {KEYS_PATH: garbage}

    for _ in range(3):
        clock.now += KEYS_LIFETIME
        assert await desk.sees(issuer.sign()) is not None

    assert len(issuer.requests) == 8
    [told] = caplog.messages
    assert "cannot be read, and are tried again; what was read before holds: the document at its jwks_uri" in told


async def test_an_issuer_without_any_key_replaces_nothing(desk: Desk, issuer: SmallIssuer, clock: FakeClock) -> None:
    assert await desk.sees(issuer.sign()) is not None
    issuer.answers = {KEYS_PATH: JSONResponse({"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, 7, None]})}
    clock.now += KEYS_LIFETIME

    assert await desk.sees(issuer.sign()) is not None


async def test_an_issuer_that_never_answers_is_not_waited_for(issuer: SmallIssuer, clock: FakeClock) -> None:
    issuer.before_answer = anyio.sleep_forever
    asked = Issuer(issuer.url, ca_file=None, transport=issuer.transport, clock=clock)

    with pytest.raises(ValueError, match=r"^takes longer than 0\.1 seconds$"):
        await asked.read(timeout_seconds=0.1)
    with pytest.raises(ValueError, match=r"^takes longer than 0\.1 seconds$"):
        await asked.post("https://idp.example.com/token", headers={}, body="", timeout_seconds=0.1)


async def test_an_issuer_that_is_away_locks_nobody_out_while_its_keys_are_known(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert await desk.sees(issuer.sign()) is not None
    issuer.is_away = True

    for _ in range(100):
        clock.now += KEYS_LIFETIME
        assert await desk.sees(issuer.sign()) is not None
    issuer.is_away = False
    clock.now += COOL_DOWN
    assert await desk.sees(issuer.sign()) is not None

    lost, found = caplog.messages
    assert lost.startswith(f"The keys of the issuer {issuer.url} cannot be read, and are tried again; what was read")
    assert 'cannot be reached: "nobody is there"' in lost
    assert found == f"The keys of the issuer {issuer.url} can be read again."


async def test_an_issuer_that_is_away_at_first_is_asked_again(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.is_away = True
    assert await desk.sees(issuer.sign()) is None
    issuer.is_away = False
    assert await desk.sees(issuer.sign()) is None, "it is not asked at each call"

    clock.now += COOL_DOWN

    assert await desk.sees(issuer.sign()) is not None
    assert "until then no access token is accepted" in caplog.messages[0]


async def test_a_new_key_is_found_when_a_token_names_it(desk: Desk, issuer: SmallIssuer, clock: FakeClock) -> None:
    before = issuer.sign()
    assert await desk.sees(before) is not None
    issuer.rotate()
    clock.now += COOL_DOWN

    assert await desk.sees(issuer.sign()) is not None
    clock.now += LIFETIME
    assert await desk.sees(before) is None, "a token of the key that was withdrawn"


async def test_a_key_that_was_withdrawn_is_not_accepted_after_an_hour(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    stolen, expires = issuer.keys[0], int((clock.now + 2 * KEYS_LIFETIME).timestamp())
    bearer = issuer.sign(exp=expires)
    await desk.sees(issuer.sign())
    issuer.rotate()

    clock.now += KEYS_LIFETIME - SECOND
    assert await desk.sees(bearer) is not None
    clock.now += LIFETIME - SECOND
    assert await desk.sees(bearer) is not None
    clock.now += 2 * SECOND

    assert await desk.sees(bearer) is None
    assert await desk.sees(issuer.sign(key=stolen)) is None
    assert timedelta(hours=1) == KEYS_LIFETIME + LIFETIME


async def test_tokens_with_invented_keys_ask_the_issuer_twice_a_minute_at_most(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    for number in range(120):
        await desk.sees(issuer.sign(header={"kid": f"invented-{number}"}))
        clock.now += SECOND

    assert issuer.requests.count(KEYS_PATH) == 4
    assert await desk.sees(issuer.sign()) is not None


async def test_a_clock_that_was_put_back_does_not_keep_old_keys(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock
) -> None:
    assert await desk.sees(issuer.sign()) is not None
    issuer.rotate()
    clock.now -= timedelta(days=1)

    assert await desk.sees(issuer.sign()) is not None


async def test_nobody_waits_while_old_keys_are_read_again(desk: Desk, issuer: SmallIssuer, clock: FakeClock) -> None:
    assert await desk.sees(issuer.sign()) is not None
    clock.now += KEYS_LIFETIME
    answering, asked = anyio.Event(), len(issuer.requests)
    issuer.before_answer = answering.wait

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(desk.sees, issuer.sign())
            await wait_until(lambda: len(issuer.requests) > asked)
            assert await desk.sees(issuer.sign(sub="bob")) is not None
            answering.set()


async def test_a_caller_who_goes_away_does_not_end_what_others_wait_for(desk: Desk, issuer: SmallIssuer) -> None:
    answering, seen = anyio.Event(), list[object]()
    issuer.before_answer = answering.wait

    async def come() -> None:
        seen.append(await desk.sees(issuer.sign()))

    async def come_and_go(scope: anyio.CancelScope) -> None:
        with scope:
            await desk.sees(issuer.sign())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(come_and_go, scope)
            await wait_until(lambda: issuer.requests != [])
            tasks.start_soon(come)
            scope.cancel()
            answering.set()

    assert None not in seen
    assert issuer.requests == [issuer.metadata_path, KEYS_PATH]


async def test_an_issuer_is_trusted_by_the_file_of_its_authority_alone(
    issuer: SmallIssuer, clock: FakeClock, tmp_path: Path
) -> None:
    with issuer.served(tmp_path) as ca_file:
        known = HttpSettings(http_issuer=issuer.url, http_issuer_ca_file=ca_file, http_audience=issuer.audience)
        unknown = known.model_copy(update={"http_issuer_ca_file": None})
        bearer = issuer.sign()

        assert await create_sign_in(known, clock).verify_token(bearer) is not None
        assert await create_sign_in(unknown, clock).verify_token(bearer) is None


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_broken_file_of_certificates_is_named_at_the_start(desk: Desk, tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)

    with pytest.raises(SettingsError, match=f"QUMULO_HTTP_ISSUER_CA_FILE names {ca_file}, which "):
        desk.configure(http_issuer_ca_file=ca_file)


async def test_a_file_of_certificates_that_breaks_later_keeps_the_keys(
    desk: Desk, issuer: SmallIssuer, clock: FakeClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with issuer.served(tmp_path) as ca_file:
        desk.settings = HttpSettings(http_issuer=issuer.url, http_issuer_ca_file=ca_file, http_audience=issuer.audience)
        sign_in = create_sign_in(desk.settings, clock)
        assert await sign_in.verify_token(issuer.sign()) is not None
        ca_file.unlink()
        clock.now += KEYS_LIFETIME

        assert await sign_in.verify_token(issuer.sign()) is not None
    assert "does not exist" in caplog.text
