"""Render what is known of files with bearer tokens: a line for each, which says why it is kept, or can be removed."""

from collections.abc import Callable, Mapping
from typing import Final

from token_tools.operations.prune import ExaminedFile, State
from token_tools.quoting import is_visible, quote_untrusted

MAX_NAME_CHARS: Final = 255
"""Characters of the name of a file that is not ours; no file system has longer ones."""


def render_examined(examined: ExaminedFile) -> str:
    """Return the path of a file, and what is known of its token."""
    return f"{_render_path(examined)}: {_TEXTS[examined.state](examined)}"


def _render_path(examined: ExaminedFile) -> str:
    name = examined.path.name
    quoted = quote_untrusted(name, max_chars=MAX_NAME_CHARS)
    # A name that says nothing but itself is shown as a shell takes it.
    return str(examined.path) if is_visible(name) and quoted == f'"{name}"' else f"{examined.path.parent}/{quoted}"


def _render_other_cluster(examined: ExaminedFile) -> str:
    if not examined.cluster:
        return "kept, since its name is that of none of the clusters that were asked"
    return f"kept, since by the journal its token is one of {examined.cluster}, which was not asked"


_TEXTS: Final[Mapping[State, Callable[[ExaminedFile], str]]] = {
    "gone": lambda each: f"gone, {each.cluster} has no token {each.token_id} and does not take the bearer token in it",
    "expired": lambda each: f"expired, but {each.cluster} still has token {each.token_id}, which can get a new expiry",
    "disabled": lambda each: f"kept, since its token is disabled at {each.cluster} and can be enabled again",
    "working": lambda each: f"kept, since its token works at {each.cluster}",
    "other token": lambda each: (
        f"kept, since {each.cluster} takes the bearer token in it, though it has no token of the id in its name"
    ),
    "at work": lambda _: "kept, since a server is working on a change that may be about it: run this again after that",
    "other cluster": _render_other_cluster,
    "unidentified": lambda _: (
        "kept, since neither its name nor the journal tells which token of which cluster it is: a server was killed "
        "while it delivered it"
    ),
    "unclear": lambda each: f"kept, since {each.cluster} does not say clearly that its token is gone: {each.detail}",
    "pending": lambda _: (
        "kept, since it belongs to a change that is under way, or to a server that was killed: the next server that "
        "starts looks after it"
    ),
    "foreign": lambda each: f"kept, since it is not known to be a server's: {each.detail}",
}
