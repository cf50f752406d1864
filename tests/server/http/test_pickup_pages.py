"""Test the pages at which bearer tokens wait: what the recipient gets, and that nobody and nothing else gets it."""

import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.support.harness import Harness, create_harness
from tests.support.issuer import SmallIssuer
from tests.support.page_visitor import ISSUER, ORIGIN, Site, Visitor, find_id
from tests.support.pickups import ANN, call_as, make_overdue, offer_pickup, read_pickups
from tests.support.record import LONG_AGO, execute, read_record, state_file
from token_tools.credentials import decode_bearer
from token_tools.operations.caller import Caller
from token_tools.sandbox.cluster import Account, Token
from token_tools.server.http.pickup.page_guard import HEADERS
from token_tools.server.http.pickup.person_sign_in import MAX_BEGUN
from token_tools.server.http.pickup.sealed_cookies import LIFETIME

pytestmark = pytest.mark.anyio

CREATE = "create_access_token"
EVIL = "https://evil.example.net"
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return offer_pickup(create_harness("auto", tmp_path))


@pytest.fixture
async def site(harness: Harness) -> AsyncGenerator[Site]:
    site = Site(harness, SmallIssuer(lambda: harness.now, url=ISSUER))
    async with site.open():
        yield site


@pytest.fixture
async def url(harness: Harness) -> str:
    """Return the address of a page at which a bearer token waits for Ann."""
    return await create(harness)


@pytest.fixture
async def ann(site: Site, url: str) -> Visitor:
    """Return Ann, who has signed in."""
    visitor = site.visit()
    await visitor.sign_in(url, "ann")
    return visitor


async def create(harness: Harness, user: str = "local:jane", caller: Caller = ANN) -> str:
    """Create a token as somebody, and return the address of its page."""
    created = await call_as(harness, CREATE, caller, {"user": user, "expiration_time": "90d"})
    assert not created.is_error, created.text
    address: str = created.fields["bearer_token_in"]
    return address


def find_token(harness: Harness, url: str) -> Token:
    """Return the token whose bearer token waits at a page."""
    [token_id] = [row["token_id"] for row in read_pickups(harness) if row["id"] == find_id(url)]
    return harness.cluster.tokens[token_id]


def check_unspent(harness: Harness) -> None:
    """Check that the bearer token waits as before."""
    [row] = read_pickups(harness)
    assert (row["state"], row["sealed"] is not None) == ("waiting", True)


def read_outcomes(harness: Harness) -> list[tuple[str, str]]:
    """Return what the record tells of picking up: by whom, and what came of it."""
    entries = read_record(harness.settings)
    return [(entry["actor"], entry["outcome"]) for entry in entries if entry["operation"] == "pickup"]


async def test_who_has_not_signed_in_is_told_nothing_and_no_database_is_asked(
    harness: Harness, site: Site, url: str
) -> None:
    state_file(harness.settings.state_dir).write_bytes(b"no database")
    harness.recorder.requests.clear()

    known = await site.visit().get(url)
    unknown = await site.visit().get(f"{ORIGIN}/pickup/{'f' * 32}")

    assert known.status_code == 200
    assert known.text == unknown.text.replace("f" * 32, find_id(url))
    assert "Set-Cookie" not in known.headers
    assert "jane" not in known.text
    assert harness.recorder.requests == []


async def test_the_recipient_sees_what_it_is_and_gets_it_once(harness: Harness, site: Site, url: str) -> None:
    token, visitor = find_token(harness, url), site.visit()

    page = await visitor.sign_in(url, "ann", preferred_username="Ann")

    facts = {"c.example.com:8000", "local:jane", token.id, "2027-02-22 09:00 UTC (in 90 days)", ANN.name}
    assert facts <= {*page.texts}
    assert "2026-11-24 09:15 UTC (in 15 minutes)" in page.text
    assert token.bearer_token not in page.text
    check_unspent(harness)
    proof = page.proof
    answer = await visitor.post(f"{url}/hand-out", proof)
    assert answer.headers["Content-Type"] == "application/json"
    content = answer.json()
    assert (content["bearer_token"], content["warning"]) == (token.bearer_token, None)
    assert decode_bearer(content["credentials_file"]).get_secret_value() == token.bearer_token
    assert content["file_name"] == f"c.example.com_local_jane_{token.id}.json"
    assert [(row["state"], row["sealed"]) for row in read_pickups(harness)] == [("handed out", None)]
    assert "It was handed out, and not confirmed" in (await visitor.read(url)).texts
    assert (await visitor.post(f"{url}/receipt", proof)).status_code == 200
    assert (await visitor.post(f"{url}/receipt", proof)).status_code == 409
    assert read_outcomes(harness) == [(ANN.name, "picked up")]


async def test_a_second_look_shows_what_became_of_it(harness: Harness, url: str, ann: Visitor) -> None:
    proof = (await ann.read(url)).proof
    bearer_token = (await ann.take(url))["bearer_token"]

    page = await ann.read(url)

    assert "It was picked up" in page.texts
    assert "2026-11-24 09:00 UTC (a moment ago)" in page.texts
    assert bearer_token not in page.text
    assert page.proof == ""
    again = await ann.post(f"{url}/hand-out", proof)
    assert (again.status_code, again.json()) == (409, {"message": "It was handed out before, or its time is over."})


async def test_of_two_at_once_exactly_one_gets_it(harness: Harness, url: str, ann: Visitor) -> None:
    proof = (await ann.read(url)).proof
    answers: list[httpx.Response] = []

    async def press() -> None:
        answers.append(await ann.post(f"{url}/hand-out", proof))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(press)

    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
    assert [find_token(harness, url).bearer_token in answer.text for answer in answers].count(True) == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("step", ["", "/sign-in", "/hand-out", "/receipt"])
async def test_a_look_spends_nothing(harness: Harness, url: str, ann: Visitor, method: str, step: str) -> None:
    for headers in ({}, {"Sec-Purpose": "prefetch;prerender"}):
        answer = await ann.browser.request(method, f"{url}{step}", headers=headers)
        assert find_token(harness, url).bearer_token not in answer.text
        assert headers == {} or answer.status_code == 503

    check_unspent(harness)
    assert read_outcomes(harness) == []


async def test_somebody_else_learns_nothing_gets_nothing_and_is_recorded(
    harness: Harness, site: Site, url: str
) -> None:
    sam = site.visit()

    page = await sam.sign_in(url, "sam", preferred_username="Sam")
    refused = await sam.post(f"{url}/hand-out", page.proof)

    assert (await sam.get(url)).status_code == 403
    assert "This is for somebody else" in page.texts
    assert f"{ISSUER}#sam (Sam)" in page.texts
    assert not any(told in page.text for told in ("jane", "ann", "c.example.com", find_token(harness, url).id))
    assert f"/pickup/{find_id(url)}/sign-in?again=1" in page.links
    assert refused.status_code == 403
    check_unspent(harness)
    assert read_outcomes(harness) == [(f"{ISSUER}#sam (Sam)", "refused")]


async def test_somebody_else_who_forges_a_proof_gets_nothing(harness: Harness, site: Site, url: str) -> None:
    sam, other = site.visit(), await create(harness, "ldap_user:bob", Caller(f"{ISSUER}#sam", "Sam", is_person=True))
    proof = (await sam.sign_in(other, "sam")).proof
    # Sam has a session, and a proof of a page of his own.
    for step in ("hand-out", "receipt"):
        assert (await sam.post(f"{url}/{step}", proof)).status_code == 403

    assert {row["state"] for row in read_pickups(harness)} == {"waiting"}
    assert (await sam.take(other))["bearer_token"] == find_token(harness, other).bearer_token


async def test_a_proof_is_worth_nothing_to_who_is_not_the_recipient(harness: Harness, url: str, ann: Visitor) -> None:
    proof = (await ann.read(url)).proof
    execute(harness.settings, "UPDATE pickups SET recipient = 'sam'")

    refused = await ann.post(f"{url}/hand-out", proof)

    assert (refused.status_code, refused.json()) == (403, {"message": "This is for somebody else."})
    check_unspent(harness)


async def test_the_proof_of_one_page_is_good_for_no_other_page_or_session(
    harness: Harness, site: Site, url: str, ann: Visitor
) -> None:
    other = await create(harness, "ldap_user:bob")
    there = site.visit()
    for proof in ((await ann.read(other)).proof, (await there.sign_in(url, "ann")).proof):
        assert (await ann.post(f"{url}/hand-out", proof)).status_code == 403

    assert {row["state"] for row in read_pickups(harness)} == {"waiting"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": None}, id="no origin"),
        pytest.param({"Origin": EVIL}, id="another origin"),
        pytest.param({"Origin": "null"}, id="a sandboxed frame"),
        pytest.param({"Origin": f"{ORIGIN}.evil.example.net"}, id="an origin that begins like ours"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another site"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, id="a neighbour"),
        pytest.param({"X-Pickup-Proof": None}, id="no proof"),
        pytest.param({"X-Pickup-Proof": "no hex"}, id="a proof that is none"),
        pytest.param({"X-Pickup-Proof": "00" * 28}, id="a made-up proof"),
    ],
)
@pytest.mark.parametrize("step", ["hand-out", "receipt"])
async def test_a_forged_request_gets_nothing(
    harness: Harness, url: str, ann: Visitor, headers: dict[str, str | None], step: str
) -> None:
    proof = (await ann.read(url)).proof

    refused = await ann.post(f"{url}/{step}", proof, **headers)

    assert refused.status_code == 403
    assert refused.json()["message"].startswith("This request did not come from this page")
    check_unspent(harness)


async def test_a_browser_that_does_not_tell_where_a_request_is_from_is_served(url: str, ann: Visitor) -> None:
    proof = (await ann.read(url)).proof

    assert (await ann.post(f"{url}/hand-out", proof, **{"Sec-Fetch-Site": None})).status_code == 200


@pytest.mark.parametrize(
    "configured", ["https://tokens.example.com:443", "https://Tokens.Example.COM", "https://tokens.example.com/tools"]
)
async def test_however_the_url_is_written_a_browser_tells_the_same_origin(
    harness: Harness, url: str, configured: str
) -> None:
    site = Site(harness, SmallIssuer(lambda: harness.now, url=ISSUER), configured)
    site.issuer.web_client.redirect_uri = f"{configured}/pickup/callback"
    async with site.open():
        ann = site.visit()
        # A proxy in front takes the path away that it serves.
        finished = await ann.get((await ann.begin_sign_in(url, sub="ann")).replace("/tools/", "/"))

        assert finished.headers["Location"] == f"{configured}/pickup/{find_id(url)}"
        assert (await ann.take(url))["bearer_token"] == find_token(harness, url).bearer_token


async def test_a_stolen_address_and_proof_are_worth_nothing_without_the_session(
    harness: Harness, site: Site, url: str, ann: Visitor
) -> None:
    proof = (await ann.read(url)).proof

    refused = await site.visit().post(f"{url}/hand-out", proof)

    assert (refused.status_code, "Sign in again" in refused.text) == (401, True)
    check_unspent(harness)


async def test_a_session_that_ran_out_gets_nothing_and_can_begin_again(
    harness: Harness, url: str, ann: Visitor
) -> None:
    proof = (await ann.read(url)).proof
    harness.now += LIFETIME

    refused = await ann.post(f"{url}/hand-out", proof)

    assert refused.status_code == 401
    assert "Pick up a bearer token" in (await ann.read(url)).texts
    check_unspent(harness)
    await ann.sign_in(url, "ann")
    assert (await ann.take(url))["bearer_token"] == find_token(harness, url).bearer_token


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/pickup", 404),
        ("GET", "/pickup/", 404),
        ("GET", "/pickup/short", 404),
        ("GET", f"/pickup/{'f' * 32}", 200),
        ("GET", f"/pickup/{'f' * 32}/", 404),
        ("GET", f"/pickup/{'f' * 32}/sign-in", 303),
        ("GET", f"/pickup/{'f' * 32}/hand-out", 405),
        ("POST", f"/pickup/{'f' * 32}", 405),
        ("POST", f"/pickup/{'f' * 32}/hand-out", 401),
        ("PUT", f"/pickup/{'f' * 32}/receipt", 405),
        ("OPTIONS", f"/pickup/{'f' * 32}/hand-out", 405),
        ("GET", "/pickup/callback", 403),
        ("GET", "/pickup/page.css", 200),
        ("GET", "/pickup/page.js", 200),
        ("GET", "/pickup/icon.svg", 200),
        ("GET", "/pickup/page.html", 404),
    ],
)
async def test_every_answer_has_the_headers_that_protect_it(site: Site, method: str, path: str, status: int) -> None:
    answer = await site.visit().browser.request(method, httpx.URL(ORIGIN).copy_with(raw_path=path.encode()))

    assert answer.status_code == status
    assert ("allow" in answer.headers) == (status == 405)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_headers_let_nobody_frame_a_page_keep_it_or_load_into_it_from_elsewhere() -> None:
    policy = HEADERS["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} <= {*policy}
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["X-Frame-Options"] == "DENY"
    assert HEADERS["Cache-Control"] == "no-store"
    assert HEADERS["Referrer-Policy"] == "no-referrer"


async def test_a_page_loads_nothing_from_elsewhere_and_has_no_script_in_itself(url: str, ann: Visitor) -> None:
    page = await ann.read(url)

    loaded = [attributes.get("src") or attributes.get("href") or "" for _, attributes in page.elements]
    assert all(address.startswith("/pickup/") for address in loaded if address)
    assert [attributes["src"] for tag, attributes in page.elements if tag == "script"] == ["/pickup/page.js"]
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.elements for name in attributes)
    assert {"style", "form", "input"}.isdisjoint(tag for tag, _ in page.elements)


async def test_another_name_of_the_server_shows_no_page(site: Site, url: str) -> None:
    answer = await site.visit().get(url, Host="evil.example.net")

    assert answer.status_code == 421
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


async def test_where_people_come_from_does_not_matter(site: Site, url: str) -> None:
    assert (await site.visit().get(url, Origin=EVIL, **{"Sec-Fetch-Site": "cross-site"})).status_code == 200


@pytest.mark.parametrize("name", ["next", "return_to", "redirect_uri", "pickup_id"])
async def test_no_query_leads_anywhere_else(site: Site, url: str, name: str) -> None:
    visitor = site.visit()
    begun = await visitor.get(f"{url}/sign-in?{name}={EVIL}")
    site.issuer.web_client.person = {"sub": "ann"}

    back = await site.issuer.sign_in(begun.headers["Location"])
    finished = await visitor.get(f"{back}&{name}={EVIL}")

    assert begun.headers["Location"].startswith(f"{ISSUER}/")
    assert "evil" not in begun.headers["Location"]
    assert finished.headers["Location"] == url


@pytest.mark.parametrize(
    "path", ["//evil.example.net", "%2F%2Fevil.example.net", "%5Cevil.example.net/sign-in", "..", "x%0d%0aX-Evil:1"]
)
async def test_no_address_leads_anywhere_else(site: Site, path: str) -> None:
    answer = await site.visit().browser.get(httpx.URL(ORIGIN).copy_with(raw_path=f"/pickup/{path}".encode()))

    assert answer.status_code == 404
    assert not {"Location", "X-Evil"} & {*answer.headers}
    assert "evil" not in answer.text


async def test_sign_ins_that_are_begun_and_never_finished_do_not_crowd_a_browser(site: Site, url: str) -> None:
    ann = site.visit()
    ann.browser.cookies.set("pickup-theme", "dark")

    for _ in range(3 * MAX_BEGUN):
        await ann.get(f"{url}/sign-in")
        assert len(ann.browser.cookies) <= MAX_BEGUN + 1

    assert "Your bearer token is ready" in (await ann.sign_in(url, "ann")).texts
    assert ann.browser.cookies["pickup-theme"] == "dark"


async def test_whoever_wants_to_be_somebody_else_is_asked_anew_who_they_are(site: Site, url: str) -> None:
    for path in ("sign-in", "sign-in?again=1"):
        begun = await site.visit().get(f"{url}/{path}")
        await site.issuer.sign_in(begun.headers["Location"])

    assert [asked.get("prompt") for asked in site.issuer.web_client.sign_ins] == [None, "login"]


async def test_who_does_not_sign_in_is_told_so_and_can_try_again(harness: Harness, site: Site, url: str) -> None:
    visitor = site.visit()

    declined = await visitor.read(await visitor.begin_sign_in(url), 403)

    assert "You are not signed in" in declined.texts
    assert declined.links == [f"/pickup/{find_id(url)}/sign-in"]
    assert not [*visitor.browser.cookies.jar]
    assert "Your bearer token is ready" in (await visitor.sign_in(url, "ann")).texts


async def test_a_sign_in_that_was_begun_elsewhere_is_not_finished(harness: Harness, site: Site, url: str) -> None:
    back = await site.visit().begin_sign_in(url, sub="ann")

    refused = await site.visit().get(back)

    assert (refused.status_code, "Set-Cookie" in refused.headers) == (403, True)
    assert "pickup-session" not in refused.headers["Set-Cookie"]
    assert "You are not signed in" in refused.text


async def test_an_issuer_that_is_away_is_told_and_nothing_is_lost(harness: Harness, site: Site, url: str) -> None:
    site.issuer.is_away = True

    page = await site.visit().read(f"{url}/sign-in", 503)

    assert "the identity provider gave no answer that can be used" in page.text
    assert page.links == [f"/pickup/{find_id(url)}/sign-in"]
    check_unspent(harness)


@pytest.mark.parametrize(
    ("state", "heading"),
    [
        ("waiting", "Its time is over"),
        ("handed out", "Its time is over"),
        ("deleted", "It was deleted again"),
        ("gone", "Its token does not exist any more"),
        ("left", "It was not picked up"),
    ],
)
async def test_the_recipient_is_told_what_became_of_it(
    harness: Harness, url: str, ann: Visitor, state: str, heading: str
) -> None:
    proof = (await ann.read(url)).proof
    make_overdue(harness)
    execute(harness.settings, "UPDATE pickups SET state = ?", state)
    if heading != "Its time is over":
        execute(harness.settings, "UPDATE pickups SET ended = open_until")

    page = await ann.read(url)

    assert heading in page.texts
    assert {"local:jane", find_token(harness, url).id} <= {*page.texts}
    assert "reveal" not in [attributes.get("id") for _, attributes in page.elements]
    assert (await ann.post(f"{url}/hand-out", proof)).status_code == 409
    assert (await ann.post(f"{url}/receipt", proof)).status_code == 409


async def test_a_clock_that_was_put_back_brings_back_nothing_that_a_server_has_begun_to_delete(
    harness: Harness, url: str, ann: Visitor
) -> None:
    proof = (await ann.read(url)).proof
    execute(harness.settings, "UPDATE pickups SET sealed = NULL, leased_until = ?", LONG_AGO)

    handed_out = await ann.post(f"{url}/hand-out", proof)
    execute(harness.settings, "UPDATE pickups SET state = 'handed out'")
    receipt = await ann.post(f"{url}/receipt", proof)

    assert (handed_out.status_code, receipt.status_code) == (409, 409)
    assert read_outcomes(harness) == []


async def test_there_is_nothing_at_a_page_that_never_was(ann: Visitor) -> None:
    page = await ann.read(f"{ORIGIN}/pickup/{'f' * 32}", 404)

    assert "There is nothing here" in page.texts


async def test_a_token_that_somebody_deleted_on_the_cluster_is_not_handed_out(
    harness: Harness, url: str, ann: Visitor
) -> None:
    proof = (await ann.read(url)).proof
    del harness.cluster.tokens[find_token(harness, url).id]

    refused = await ann.post(f"{url}/hand-out", proof)

    assert (refused.status_code, refused.json()["message"].split(",")[0]) == (
        409,
        "Its token was deleted on the cluster",
    )
    assert "Its token does not exist any more" in (await ann.read(url)).texts


async def test_what_is_handed_out_although_it_does_not_work_says_so(harness: Harness, url: str, ann: Visitor) -> None:
    token = find_token(harness, url)
    harness.cluster.tokens[token.id] = replace(token, enabled=False)

    assert (await ann.take(url))["warning"].startswith("Its token is disabled")


async def test_what_other_keys_sealed_is_told_and_not_spent(harness: Harness, site: Site, url: str) -> None:
    offer_pickup(harness, b"other key" * 4)
    async with site.open():
        ann = site.visit()
        proof = (await ann.sign_in(url, "ann")).proof
        refused = await ann.post(f"{url}/hand-out", proof)

    assert (refused.status_code, "QUMULO_HTTP_STATE_KEYS" in refused.text) == (409, True)
    check_unspent(harness)


async def test_a_database_that_is_away_is_told_and_nothing_is_lost(
    harness: Harness, url: str, ann: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    proof = (await ann.read(url)).proof
    execute(harness.settings, "ALTER TABLE pickups RENAME TO hidden")
    execute(harness.settings, "CREATE TABLE pickups (id TEXT)")
    caplog.set_level(logging.WARNING)

    page = await ann.read(url, 503)
    refused = await ann.post(f"{url}/hand-out", proof)

    assert "This does not work just now" in page.texts
    assert (refused.status_code, "Nothing is lost" in refused.json()["message"]) == (503, True)
    assert "A page cannot be shown: The journal" in caplog.text
    execute(harness.settings, "DROP TABLE pickups")
    execute(harness.settings, "ALTER TABLE hidden RENAME TO pickups")
    assert (await ann.take(url))["bearer_token"] == find_token(harness, url).bearer_token


async def test_texts_of_others_are_shown_as_texts(harness: Harness, site: Site) -> None:
    harness.cluster.add_account(Account(auth_id="1007", domain="LOCAL", name=SCRIPT))
    name = f'{ISSUER}#ann (" onfocus=alert(1) autofocus x="{SCRIPT})'
    url = await create(harness, f"local:{SCRIPT}", replace(ANN, name=name))

    seen = [await site.visit().sign_in(url, "ann", name=SCRIPT), await site.visit().sign_in(url, "sam", name=SCRIPT)]

    assert name in seen[0].texts
    assert f'local:"{SCRIPT}"' in seen[0].texts
    for page in seen:
        assert SCRIPT in page.text
        assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == ["module"][
            : bool(page.proof)
        ]
        assert not any("onfocus" in attributes for _, attributes in page.elements)


async def test_the_body_of_a_request_is_not_read(site: Site, url: str, ann: Visitor) -> None:
    proof = (await ann.read(url)).proof
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    request = ann.browser.build_request(
        "POST", f"{url}/hand-out", headers={"Origin": ORIGIN, "X-Pickup-Proof": proof, "Content-Length": "1000000"}
    )
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": request.url.path,
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    await pass_on(site, scope, receive, send)

    assert sent[0]["status"] == 200


async def pass_on(site: Site, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application serve a request."""
    await site.app(scope, receive, send)


async def test_the_log_of_requests_names_no_page(capsys: pytest.CaptureFixture[str], url: str, ann: Visitor) -> None:
    await ann.take(url)
    await ann.get(f"{ORIGIN}/pickup/callback?code=abc&state=def")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith('{"time"')]
    assert {line["route"] for line in lines} == {"/pickup"}
    assert find_id(url) not in f"{lines}"
