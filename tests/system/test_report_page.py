"""Test the page of an audit in a real browser: what people see, find, print and sign, by mouse and by keyboard."""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest
from msgspec.structs import replace
from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect

from tests.support.browser import requires_chromium, running_browser
from tests.support.reports import build_cluster, build_document, build_small_document, describe_cluster
from token_tools.views.report.document import AuditDocument, FailedCluster
from token_tools.views.report.page import render_page

pytestmark = [pytest.mark.slow, requires_chromium]

AXE: Final = Path(os.environ.get("AXE_CORE", "")) / "axe.min.js"
requires_axe: Final = pytest.mark.skipif(
    not AXE.is_file(), reason="AXE_CORE names no folder of axe-core from npm; the gate installs it"
)
DESK: Final[ViewportSize] = {"width": 1280, "height": 900}
PHONE: Final[ViewportSize] = {"width": 320, "height": 640}
WATCH = """
    globalThis.violations = [];
    addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));
"""
SCROLL_DOWN: Final = """async box => {
    box.scrollIntoView();
    // Rows can be higher than they were held to be, so that the end moves on when they are drawn.
    for (let frame = 0; frame < 30; frame++) {
        box.scrollTop = box.scrollHeight;
        await new Promise(requestAnimationFrame);
    }
}"""
HOSTILE: Final = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    'a" onmouseover="alert(1)',
    "admin\u202enimda",
    "two\u2028lines\u00a0and\ufeffblanks",
    "\u0301mark",
    "\u05d0\u05d1\u05d2, never expires",
    "x" * 400,
]

Opening = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Generator[Opening]:
    """Open audits as files; afterwards, hold that nothing was loaded, refused or said by the browser."""
    pages = list[Page]()
    told = list[str]()
    file = tmp_path / "audit.html"

    def open_document(
        document: AuditDocument,
        scheme: Literal["light", "dark"] = "light",
        viewport: ViewportSize = DESK,
        *,
        scripts: bool = True,
    ) -> Page:
        file.write_text(render_page(document), encoding="utf-8")
        context = browser.new_context(viewport=viewport, color_scheme=scheme, java_script_enabled=scripts)
        page = context.new_page()
        pages.append(page)
        page.add_init_script(WATCH)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: told.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        if scripts:
            expect(page.locator("main:not([aria-busy])")).to_be_visible()
        return page

    yield open_document
    for page in pages:
        assert page.evaluate("globalThis.violations ?? []") == []
        page.context.close()
    assert told == []


def find_rows(page: Page) -> Locator:
    """Return the rows of tokens that are drawn."""
    return page.locator(".tokens tbody tr:not([aria-hidden])")


def list_column(page: Page, name: str) -> list[str]:
    """Return the text of a column, of the rows that are drawn."""
    return page.locator(f".tokens tbody .{name}").all_inner_texts()


@pytest.mark.parametrize("tokens", [0, 1, 500, 10_000])
def test_it_begins_with_the_summary_and_draws_no_more_than_can_be_seen(open_page: Opening, tokens: int) -> None:
    document = build_document([build_cluster("production", tokens)])
    page = open_page(document)

    expect(page.get_by_role("heading", level=1)).to_have_text(document.summary)
    expect(page.locator(".tokens")).to_have_attribute("aria-rowcount", f"{tokens + 1}")
    assert min(tokens, 50) <= find_rows(page).count() <= 150
    assert page.locator(".lanes").count() <= 200


def test_every_row_of_a_long_list_is_reached_by_scrolling(open_page: Opening) -> None:
    page = open_page(build_document([build_cluster("production", 10_000)]))

    last_rows = [page.locator('.tokens tr[aria-rowindex="10001"]'), page.locator(".plot > div:last-child .lanes").last]

    for box, last in zip(["#table", ".scroll.timeline"], last_rows, strict=True):
        page.locator(box).evaluate(SCROLL_DOWN)
        expect(last).to_be_in_viewport()
    assert find_rows(page).count() <= 300


def test_every_row_can_be_drawn_for_the_search_of_the_browser(open_page: Opening) -> None:
    page = open_page(build_document([build_cluster("production", 500)]))

    page.get_by_label("Draw every row").check()

    expect(find_rows(page)).to_have_count(500)
    page.get_by_label("Draw every row").uncheck()
    expect(find_rows(page)).not_to_have_count(500)


def test_it_tells_what_failed_first_and_the_findings_with_what_mends_them(open_page: Opening) -> None:
    document = build_small_document()
    page = open_page(document)

    expect(page.locator("main > section:visible").first).to_contain_text(document.failed[0].reason)
    for finding in document.findings:
        totals = [total for cluster in document.clusters for total in cluster.findings if total.name == finding.name]
        article = page.locator("#findings article", has_text=finding.words)
        expect(article).to_have_count(1 if totals else 0)
        for text in [finding.severity, finding.meaning, finding.mend, *(total.mend for total in totals)][
            : 9 * len(totals)
        ]:
            expect(article).to_contain_text(text)
    for text in ["A page of the list came twice.", "A rotate of local:ci has no end."]:
        expect(page.locator("#unknown")).to_contain_text(text)
    expect(page.locator("#changes")).to_contain_text("77, local:left, deleted by this server")
    expect(page.locator("#changes")).to_contain_text("78, user not known")


def test_the_timeline_shows_each_token_of_a_user_in_a_lane_of_its_own(open_page: Opening) -> None:
    production = build_cluster("production", 2)
    ends, never = production.tokens
    ends = replace(ends, expires="2026-12-07T09:00:00Z", state="live", is_enabled=True, findings=["expires_soon"])
    never = replace(never, expires=None, state="disabled", is_enabled=False, findings=["never_expires"])
    page = open_page(build_document([describe_cluster("production", [ends, never])]))

    assert ends.user == never.user
    expect(page.locator(".lanes")).to_have_count(1)
    ending = page.locator(".bar.urgent[title]")
    expect(page.locator(".lanes")).to_contain_text("expires soon")
    open_ended = page.locator(".bar.risk.hatched.goes-on[title]")
    expect(open_ended).to_contain_text("disabled · never expires")
    boxes = [each.bounding_box() for each in (ending, open_ended, page.locator(".lines .now"))]
    ending_box, open_box, now = (box for box in boxes if box is not None)
    assert ending_box["x"] + ending_box["width"] > now["x"]
    assert open_box["x"] + open_box["width"] > ending_box["x"] + ending_box["width"]
    assert ending_box["y"] != open_box["y"]


def test_it_filters_by_text_user_finding_state_and_news(open_page: Opening) -> None:
    document = build_document([build_cluster("production", 500)])
    tokens = document.clusters[0].tokens
    page = open_page(document)
    count = page.get_by_role("status")

    for field_id, value, expected in [
        ("text", tokens[7].id, [tokens[7]]),
        ("user", "GRAFANA", [each for each in tokens if "grafana" in each.user]),
        ("finding", "never expires", [each for each in tokens if "never_expires" in each.findings]),
        ("finding", "No finding", [each for each in tokens if not each.findings]),
        ("state", "Disabled", [each for each in tokens if each.state == "disabled"]),
        ("change", "Anything new", [each for each in tokens if each.changes or each.new_findings]),
        ("change", "expires later", [each for each in tokens if "expires later" in each.changes]),
    ]:
        field = page.locator(f"#{field_id}")
        if field_id in {"text", "user"}:
            field.fill(value)
        else:
            field.select_option(label=value)

        expect(count).to_have_text(f"{len(expected)} of 500 tokens shown.")
        assert {*list_column(page, "id")} <= {each.id for each in expected}
        page.get_by_role("button", name="Show all").click()
        expect(count).to_have_text("All 500 tokens shown.")


def test_it_leads_from_a_finding_to_its_tokens(open_page: Opening) -> None:
    document = build_document([build_cluster("production", 500)])
    page = open_page(document)

    page.get_by_role("button", name="show them: never expires").click()

    expect(page.locator("#tokens")).to_be_focused()
    found = sum("never_expires" in token.findings for token in document.clusters[0].tokens)
    expect(page.get_by_role("status")).to_have_text(f"{found} of 500 tokens shown.")
    expect(page.locator("#finding")).to_have_value("never_expires")


def test_it_sorts_by_each_column_both_ways(open_page: Opening) -> None:
    page = open_page(build_small_document())

    heads = page.get_by_role("columnheader").filter(has=page.get_by_role("button"))
    for name in heads.evaluate_all("heads => heads.map(head => head.dataset.column)"):
        head = page.locator(f'th[data-column="{name}"]')
        if head.get_attribute("aria-sort") != "ascending":
            head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", "ascending")
        first = list_column(page, name)
        head.get_by_role("button").click()
        expect(head).to_have_attribute("aria-sort", "descending")
        second = list_column(page, name)
        assert first[0] != second[0] or len({*first}) == 1
        assert first[0] == second[-1]
    assert page.locator('th[aria-sort]:not([aria-sort="none"])').count() == 1


def test_hostile_names_are_text_and_what_cannot_be_seen_in_them_is_seen(open_page: Opening) -> None:
    cluster = build_cluster("production", len(HOSTILE))
    tokens = [
        replace(token, user=name, creator=name[::-1], id=name)
        for token, name in zip(cluster.tokens, HOSTILE, strict=True)
    ]
    hostile = describe_cluster(HOSTILE[0], tokens)
    page = open_page(build_document([hostile], [FailedCluster(HOSTILE[1], HOSTILE[4])]))

    shown = page.locator(".tokens tbody .user > bdi").all_inner_texts()
    escaped = [
        name.replace("\u202e", r"\u202e")
        .replace("\u2028", r"\u2028")
        .replace("\u00a0", r"\u00a0")
        .replace("\ufeff", r"\ufeff")
        .replace("\u0301", r"\u0301")
        for name in HOSTILE
    ]
    assert sorted(shown) == sorted(escaped)
    assert page.locator("img, main script, [onmouseover]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == DESK["width"]


def test_it_works_by_keyboard_alone(open_page: Opening) -> None:
    page = open_page(build_small_document())

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the table")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#table")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.locator('th[data-column="user"]')).to_have_attribute("aria-sort", "ascending")
    expect(page.locator('th[data-column="user"] button')).to_be_focused()
    users = [text.partition("\n")[0] for text in list_column(page, "user")]
    assert users == sorted(users)
    page.locator("#text").focus()
    page.keyboard.type("grafana")
    expect(page.get_by_role("status")).to_contain_text("of 20 tokens shown")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@requires_axe
def test_axe_finds_nothing_that_keeps_people_out(
    open_page: Opening, scheme: Literal["light", "dark"], viewport: ViewportSize
) -> None:
    page = open_page(build_small_document(), scheme, viewport)

    page.evaluate(AXE.read_text())
    result: dict[str, Any] = page.evaluate("axe.run()")

    assert [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary']}"
        for each in result["violations"]
        for node in each["nodes"]
    ] == []
    assert len(result["passes"]) > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colour_schemes(open_page: Opening, scheme: Literal["light", "dark"]) -> None:
    page = open_page(build_small_document(), scheme, PHONE)

    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red > 127) == (scheme == "light")
    expect(find_rows(page).first).to_be_visible()


def test_on_paper_are_the_first_thousand_rows_and_what_was_signed(open_page: Opening) -> None:
    page = open_page(build_document([build_cluster("production", 1_100)]))
    page.get_by_label("Name", exact=True).fill("Ann Example")
    page.get_by_label("Remark on: never expires").fill("Accepted until March.\nThen rotated.")
    page.emulate_media(media="print")

    page.evaluate("dispatchEvent(new Event('beforeprint'))")

    assert page.locator(".tokens tbody:not([hidden]) tr").count() == 1_000
    assert page.locator(".plot > div:not([hidden]) .lanes").count() == 100
    expect(page.locator("#printed")).to_contain_text("The first 1,000 of them are printed")
    expect(page.locator("#timeline")).to_contain_text("The first 100 rows are printed")
    expect(page.get_by_label("Name", exact=True)).to_be_visible()
    remark = page.get_by_label("Remark on: never expires")
    assert remark.evaluate("field => field.scrollHeight <= field.offsetHeight")
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert find_rows(page).count() < 1_000
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_it_is_printed_and_stays_as_it_was(open_page: Opening) -> None:
    page = open_page(build_small_document())
    page.get_by_label("Name", exact=True).first.fill("Ann Example")

    printed = page.pdf(prefer_css_page_size=True)

    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/MediaBox") >= 3
    expect(find_rows(page)).to_have_count(20)
    expect(page.get_by_label("Name", exact=True).first).to_have_value("Ann Example")


def test_it_shows_only_what_is_new_and_says_so(open_page: Opening) -> None:
    whole = build_cluster("production", 500)
    news = [token for token in whole.tokens if token.changes or token.new_findings]
    page = open_page(replace(build_document([replace(whole, tokens=news)]), only_new=True))

    expect(page.get_by_role("status")).to_have_text(f"All {len(news)} tokens shown.")
    expect(page.locator("#facts")).to_contain_text("Only what is new")
    expect(page.locator("#clusters tbody td").first).to_have_text("500")


def test_it_shows_an_audit_of_which_every_cluster_failed(open_page: Opening) -> None:
    page = open_page(build_document([], [FailedCluster("lab", "No answer.")]))

    expect(page.locator("#clusters")).to_contain_text("No cluster was read.")
    expect(page.locator("#failed")).to_contain_text("No answer.")


def test_it_can_be_fed_from_elsewhere(open_page: Opening) -> None:
    page = open_page(build_small_document())
    other = build_document([build_cluster("other", 3)])

    page.evaluate("data => auditPage.render(data)", msgspec.to_builtins(other))

    expect(page.get_by_role("heading", level=1)).to_have_text(other.summary)
    expect(find_rows(page)).to_have_count(3)
    expect(page.locator(".scroll.timeline")).to_have_count(1)
    expect(page.locator("main")).not_to_contain_text("production")


def test_without_scripts_it_shows_a_summary(open_page: Opening) -> None:
    page = open_page(build_small_document(), scripts=False)

    expect(page.get_by_role("heading", name="Scripts are switched off")).to_be_visible()
    expect(page.get_by_role("heading", name="archive could not be read")).to_be_visible()
    expect(page.locator("section.failed bdi", has_text="archive.example.com:8000")).to_be_visible()
    expect(page.locator("main")).to_be_hidden()
