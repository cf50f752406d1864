"""Test the page of an audit as a file: what it lets run, what its data is, and what it says without scripts."""

import base64
import hashlib
import re
from html import unescape

import msgspec
from msgspec.structs import replace

from tests.support.reports import build_cluster, build_document, build_small_document, describe_cluster
from token_tools.views.report.document import AuditDocument, FailedCluster
from token_tools.views.report.page import render_page

HOSTILE = "</script><script>alert(1)</script><!-- <script>\u2028\u2029&amp;\"'"


def read_elements(page: str, name: str) -> list[str]:
    """Return what stands in all elements whose start tag begins so; a page ends them where a browser does."""
    return re.findall(rf"<{name}[^>]*>(.*?)</{name.split(maxsplit=1)[0]}", page, re.DOTALL)


def test_its_policy_lets_its_own_script_and_style_run_and_nothing_else() -> None:
    page = render_page(build_small_document())

    [policy] = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    hashes = {
        kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind in ("script", "style")
        # The last script is the one that runs.
        for text in read_elements(page, kind)
    }

    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{hashes['script']}'",
        f"style-src 'sha256-{hashes['style']}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    markup = page
    for text in [*read_elements(page, "style"), *read_elements(page, "script")]:
        markup = markup.replace(text, "")
    assert re.findall(r"<[^>]* (?:on\w+|style|src|action)=", markup) == []
    assert {*re.findall('href="(.)', markup)} == {"#"}


def test_its_data_is_the_document_and_no_text_gets_out_of_it() -> None:
    cluster = build_cluster("production", 3)
    tokens = [replace(token, user=HOSTILE, creator=HOSTILE) for token in cluster.tokens]
    document = build_document([describe_cluster(HOSTILE, tokens)], [FailedCluster(HOSTILE, HOSTILE)])

    page = render_page(document)

    [data] = read_elements(page, 'script type="application/json"')
    assert msgspec.json.decode(data, type=AuditDocument) == document
    assert not re.search("[<>&\u2028\u2029]", data)
    assert "alert(1)</script>" not in page


def test_without_scripts_it_tells_what_failed_what_was_found_and_what_mends_it() -> None:
    document = build_small_document()

    [summary] = re.findall("<noscript>(.*)</noscript>", render_page(document), re.DOTALL)

    told = unescape(re.sub("<[^>]+>", "", summary))
    for failed in document.failed:
        assert f"{failed.name} could not be read" in told
        assert failed.reason in told
    for cluster in document.clusters:
        for total in cluster.findings:
            assert total.mend in told
        for text in [cluster.changes.summary, *cluster.not_whole, *cluster.unfinished, *cluster.not_known]:
            assert text in told


def test_without_scripts_it_says_that_nothing_was_found() -> None:
    [summary] = re.findall("<noscript>(.*)</noscript>", render_page(build_document([build_cluster("x", 0)])), re.DOTALL)

    assert "Nothing found." in summary
