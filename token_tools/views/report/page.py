"""Render an audit as a page for people: one file that needs nothing else, and that nothing can be loaded into.

The page gets its data from one element in JSON, and shows it by one script, `page.js`. Without scripts it shows a
summary.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from token_tools.views.report.document import AuditDocument, FindingWords

_FOLDER: Final = Path(__file__).parent
_LINE_SEPARATORS: Final = str.maketrans({"\u2028": r"\u2028", "\u2029": r"\u2029"})
"""Scripts took these for the end of a line once. No text of JSON needs them as they are."""


def render_page(document: AuditDocument) -> str:
    """Return a page in HTML that shows an audit, whole, with its policy, its style, its script and its data."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_read_part(name) for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        document=document,
        finding_words=_index_words(document),
        data=htmlsafe_json_dumps(document, dumps=_encode_data),
        # What our own files hold is the only text that is not escaped.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_hash_source(style),
        script_hash=_hash_source(script),
    )


def _read_part(name: str) -> str:
    """Return a part of the page, with the line ends that a browser takes the hash of."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _index_words(document: AuditDocument) -> dict[str, FindingWords]:
    return {finding.name: finding for finding in document.findings}


def _encode_data(document: AuditDocument) -> str:
    return msgspec.json.encode(document).decode().translate(_LINE_SEPARATORS)


def _hash_source(source: str) -> str:
    """Return what a policy calls the text of an element by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"
