"""Test the pages in a real browser, with a real identity provider: what people see, and what nobody else gets."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.support.browser import requires_chromium, running_browser
from tests.support.oidc_provider import requires_oidc_provider
from tests.support.pickup_site import PickupSite, Visitor, running_pickup_site
from tests.support.record import LONG_AGO, execute

pytestmark = [pytest.mark.slow, requires_chromium, requires_oidc_provider]

ANN, EVE = "ann", "eve"
PHONE: Final[ViewportSize] = {"width": 320, "height": 640}
TELL_STORED = """() => JSON.stringify([
    {...localStorage}, {...sessionStorage}, history.state, document.cookie, document.title, location.href,
    document.documentElement.outerHTML,
])"""
"""What the scripts of a page can find in it, and in what the browser keeps for it."""


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Generator[PickupSite]:
    with running_pickup_site(tmp_path_factory.mktemp("site"), browser) as site:
        yield site


@pytest.fixture
def ann(site: PickupSite) -> Generator[Visitor]:
    """Open the browser of Ann, who asks for tokens."""
    with site.visiting() as visitor:
        yield visitor


@pytest.fixture(autouse=True)
def _leave_no_token(site: PickupSite) -> Generator[None]:
    """Delete the user's tokens after each test: they can have two."""
    yield
    site.cluster.delete_created()


@pytest.fixture
def created(site: PickupSite) -> dict[str, str]:
    """Create a token for Ann, and return what her assistant is told."""
    return site.create(ANN)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def find_outcome(site: PickupSite, created: dict[str, str]) -> str | None:
    """Return what the record tells of who asked and what they have, None for nothing."""
    entries = [entry for entry in site.cluster.read_record() if entry["token_id"] == created["id"]]
    return next(
        (entry["outcome"] for entry in entries if f"#{ANN}" in entry["actor"] and entry["operation"] == "pickup"), None
    )


def reveal(page: Page) -> str:
    """Reveal the bearer token, and return it."""
    press(page, "Reveal")
    expect(page.get_by_role("status")).to_contain_text("is shown")
    return page.locator("#secret").inner_text()


def test_who_asked_signs_in_and_reveals_it(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    expect(page.get_by_role("heading", level=1)).to_have_text("Your bearer token is ready")
    for fact in (created["id"], "local:jane", ANN, f"127.0.0.1:{site.cluster.port}"):
        expect(page.locator("dl").first).to_contain_text(fact)

    with page.expect_response("**/receipt"):
        shown = reveal(page)

    assert shown == site.cluster.find_bearer_token(created["id"])
    expect(page.locator("#usage")).to_contain_text(created["fingerprint"])
    expect(page.get_by_text("Waits until")).to_be_hidden()
    assert find_outcome(site, created) == "picked up"
    press(page, "Hide")
    assert shown not in page.evaluate(TELL_STORED)


def test_nothing_of_it_is_anywhere_but_on_the_page(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    with page.expect_response("**/receipt"):
        secret = reveal(page)
    kept = json.dumps(ann.context.storage_state(indexed_db=True))

    press(page, "Hide")

    assert secret not in page.evaluate(TELL_STORED)
    assert secret not in kept
    sent = [f"{each.url} {each.headers} {each.post_data}" for each in ann.requests]
    assert not any(secret in each for each in sent)
    assert not any(site.url in each.headers.get("referer", "") for each in ann.requests)


def test_it_is_copied_and_can_still_be_revealed(site: PickupSite, created: dict[str, str]) -> None:
    with site.visiting(permissions=["clipboard-read", "clipboard-write"]) as visitor:
        page = visitor.sign_in(created["bearer_token_in"], ANN)
        with page.expect_response("**/receipt"):
            press(page, "Copy")
        expect(page.get_by_role("status")).to_contain_text("Copied")

        copied = page.evaluate("() => navigator.clipboard.readText()")

        assert copied == reveal(page) == site.cluster.find_bearer_token(created["id"])


def test_where_nothing_may_be_copied_the_page_says_how_to_go_on(
    site: PickupSite, ann: Visitor, created: dict[str, str]
) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('no')); }")

    press(page, "Copy")

    expect(page.get_by_role("status")).to_contain_text("copy it by hand")
    assert reveal(page) == site.cluster.find_bearer_token(created["id"])


def test_it_is_downloaded_as_a_store_of_qq(
    site: PickupSite, ann: Visitor, created: dict[str, str], tmp_path: Path
) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)

    with page.expect_response("**/receipt"), page.expect_download() as download:
        press(page, "Download")
    download.value.save_as(tmp_path / "store.json")

    assert created["id"] in download.value.suggested_filename
    expect(page.locator("#usage")).to_contain_text(download.value.suggested_filename)
    stored = json.loads((tmp_path / "store.json").read_text())
    assert stored == {"bearer_token": site.cluster.find_bearer_token(created["id"]), "version": 1}


def test_a_second_look_shows_that_it_was_picked_up(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    with page.expect_response("**/receipt"):
        secret = reveal(page)

    page.reload()

    expect(page.get_by_role("heading", level=1)).to_have_text("It was picked up")
    expect(page.get_by_role("button")).to_have_count(0)
    assert secret not in page.evaluate(TELL_STORED)


def test_the_back_button_does_not_bring_it_back(ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    with page.expect_response("**/receipt"):
        secret = reveal(page)

    page.goto("about:blank")
    page.go_back()

    expect(page.get_by_role("heading", level=1)).to_have_text("It was picked up")
    assert secret not in page.evaluate(TELL_STORED)


def test_somebody_else_learns_nothing_and_can_sign_in_as_who_asked(site: PickupSite, created: dict[str, str]) -> None:
    with site.visiting() as visitor:
        page = visitor.sign_in(created["bearer_token_in"], EVE)
        expect(page.get_by_role("heading", level=1)).to_have_text("This is for somebody else")
        assert not any(fact in page.content() for fact in (created["id"], "local:jane", f"{ANN} "))

        page.get_by_role("link", name="Sign in as somebody else").click()
        visitor.log_in(page, ANN)
        page.wait_for_url(created["bearer_token_in"])

        with page.expect_response("**/receipt"):
            assert reveal(page) == site.cluster.find_bearer_token(created["id"])
    assert [entry["actor"].partition("#")[2].partition(" ")[0] for entry in site.cluster.read_record()[-2:]] == [
        EVE,
        ANN,
    ]


def test_of_two_tabs_one_gets_it(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    tabs = [ann.sign_in(created["bearer_token_in"], ANN), ann.open(created["bearer_token_in"])]
    secret = site.cluster.find_bearer_token(created["id"])

    for tab in tabs:
        tab.evaluate("() => { setTimeout(() => document.querySelector('#reveal').click(), 50); }")
    for tab in tabs:
        expect(tab.locator("#secret:visible, #problem:not(:empty)")).to_have_count(1)

    assert sorted(tab.locator("#secret").text_content() == secret for tab in tabs) == [False, True]
    assert sorted("handed out before" in f"{tab.locator('#problem').text_content()}" for tab in tabs) == [False, True]


def test_two_tabs_can_sign_in_at_once(ann: Visitor, created: dict[str, str]) -> None:
    tabs = [ann.open(created["bearer_token_in"]) for _ in range(2)]
    for tab in tabs:
        tab.get_by_role("link", name="Sign in").click()

    for tab in tabs:
        ann.log_in(tab, ANN)
        tab.wait_for_url(created["bearer_token_in"])

    for tab in tabs:
        expect(tab.get_by_role("heading", level=1)).to_have_text("Your bearer token is ready")


def test_what_was_not_picked_up_is_told_to_be_deleted(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    execute(site.cluster.state, "UPDATE pickups SET open_until = ? WHERE ended IS NULL", LONG_AGO)

    press(page, "Reveal")
    expect(page.locator("#problem")).to_contain_text("its time is over")
    page.get_by_role("link", name="Reload this page").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Its time is over")
    expect(page.get_by_role("button")).to_have_count(0)


def test_a_sign_in_that_ran_out_spends_nothing(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    ann.context.clear_cookies(name="__Host-pickup-session")

    press(page, "Reveal")
    expect(page.locator("#problem")).to_contain_text("nothing was handed out")
    page.get_by_role("link", name="Sign in again").click()
    page.wait_for_url(created["bearer_token_in"])

    assert reveal(page) == site.cluster.find_bearer_token(created["id"])


def test_a_receipt_that_fails_can_be_given_by_hand(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    page.clock.install()
    page.reload()
    page.route("**/receipt", lambda route: route.fulfill(status=502, body="no"))
    secret = reveal(page)
    # The pauses between the tries follow each other.
    for _ in range(3):
        page.clock.run_for(4_000)
    expect(page.locator("#problem")).to_contain_text("does not know yet that you have the bearer token")
    assert find_outcome(site, created) == "handed out"

    page.unroute("**/receipt")
    with page.expect_response("**/receipt"):
        press(page, "I have it")
        page.clock.run_for(1)

    expect(page.get_by_role("status")).to_contain_text("picked up")
    assert find_outcome(site, created) == "picked up"
    assert page.locator("#secret").text_content() == secret


def test_after_five_idle_minutes_it_is_off_the_page(ann: Visitor, created: dict[str, str]) -> None:
    page = ann.sign_in(created["bearer_token_in"], ANN)
    page.clock.install()
    page.reload()
    with page.expect_response("**/receipt"):
        secret = reveal(page)

    page.clock.run_for("05:01")

    expect(page.get_by_role("status")).to_contain_text("removed from this page")
    expect(page.get_by_role("button", name="Reveal")).to_be_disabled()
    assert secret not in page.evaluate(TELL_STORED)


def test_it_works_by_keyboard_alone(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    page = ann.open(created["bearer_token_in"])
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Sign in")).to_be_focused()
    page.keyboard.press("Enter")
    ann.log_in(page, ANN)
    page.wait_for_url(created["bearer_token_in"])
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Reveal")).to_be_focused()

    with page.expect_response("**/receipt"):
        page.keyboard.press("Enter")

    expect(page.locator("#secret")).to_be_focused()
    assert page.locator("#secret").text_content() == site.cluster.find_bearer_token(created["id"])
    order = ["Copy", "Download"]
    page.get_by_role("button", name="Hide").focus()
    for name in order:
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=name)).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(
    site: PickupSite, created: dict[str, str], scheme: Literal["light", "dark"]
) -> None:
    with site.visiting(viewport=PHONE, color_scheme=scheme, has_touch=True) as visitor:
        page = visitor.sign_in(created["bearer_token_in"], ANN)
        with page.expect_response("**/receipt"):
            reveal(page)

        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 44
        red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (red > 127) == (scheme == "light")


def test_no_page_can_frame_it(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    ann.sign_in(created["bearer_token_in"], ANN)
    framing = ann.context.new_page()
    framing.route("**/evil.html", lambda route: route.fulfill(content_type="text/html", body="<iframe></iframe>"))
    framing.goto(f"{site.provider.url}/evil.html")

    with framing.expect_event("requestfailed", lambda request: request.url == created["bearer_token_in"]):
        framing.evaluate("url => { document.querySelector('iframe').src = url; }", created["bearer_token_in"])

    assert "Reveal" not in "".join(frame.content() for frame in framing.frames)


def test_a_page_of_another_origin_can_take_nothing(site: PickupSite, ann: Visitor, created: dict[str, str]) -> None:
    ann.sign_in(created["bearer_token_in"], ANN)
    evil = ann.context.new_page()
    evil.route("**/evil.html", lambda route: route.fulfill(content_type="text/html", body="<form method=post></form>"))
    evil.goto(f"{site.provider.url}/evil.html")

    refused = evil.evaluate(
        """async url => {
            const tries = [{}, {mode: "no-cors"}, {headers: {"X-Pickup-Proof": "x"}}];
            const told = [];
            for (const each of tries) {
                try {
                    const answer = await fetch(url, {method: "POST", credentials: "include", ...each});
                    told.push(await answer.text());
                } catch (failure) {
                    told.push("");
                }
            }
            return told;
        }""",
        f"{created['bearer_token_in']}/hand-out",
    )
    with evil.expect_navigation():
        evil.evaluate(
            "url => { const form = document.forms[0]; form.action = url; form.submit(); }",
            f"{created['bearer_token_in']}/hand-out",
        )

    assert refused == ["", "", ""]
    assert site.cluster.find_bearer_token(created["id"]) not in evil.content()
    assert find_outcome(site, created) is None


def test_without_scripts_the_page_says_that_it_needs_its_own(site: PickupSite, created: dict[str, str]) -> None:
    with site.visiting() as visitor:
        signed_in = visitor.sign_in(created["bearer_token_in"], ANN).context.storage_state()
    with site.visiting(java_script_enabled=False, storage_state=signed_in) as visitor:
        page = visitor.open(created["bearer_token_in"])

        expect(page.locator("noscript")).to_be_visible()
        assert "needs JavaScript" in f"{page.locator('noscript').text_content()}"
        expect(page.get_by_role("button")).to_have_count(0)
    assert find_outcome(site, created) is None
