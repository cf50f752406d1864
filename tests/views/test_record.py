"""Test how an entry of the record is told: in one line, with all that it knows, and nothing of it as our own words."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from token_tools.operations.changes import ChangeList, Resolution
from token_tools.operations.fleet import FleetAnswers, Label
from token_tools.storage.attempts import Attempt, encode_location
from token_tools.storage.delivery import FileLocation
from token_tools.views.record import render_changes_result, render_entry

TOKEN_ID = "184"
BEGUN = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
UPDATE = Attempt(
    id="1",
    begun=BEGUN,
    cluster="c:8000",
    operation="update",
    user="local:jane",
    actor="root via x 1.0",
    token_id=TOKEN_ID,
    before="enabled: true",
    after="enabled: false",
    outcome="done",
)
CREATE = msgspec.structs.replace(UPDATE, operation="create", before=None, after="enabled: true", outcome="created")


def on_one_cluster(changes: ChangeList) -> FleetAnswers[ChangeList]:
    """Build what a server with one cluster found."""
    return FleetAnswers([(Label("c:8000"), changes)])


@dataclass(frozen=True)
class Case:
    """An entry, and the line that tells it."""

    entry: Attempt
    line: str


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            Case(
                UPDATE,
                "2026-11-24 09:00 update 184 of local:jane: done; enabled: true -> enabled: false; "
                'by "root via x 1.0"; consent not needed',
            ),
            id="update",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(UPDATE, operation="delete", after=None, consent="agreed", question="ab12"),
                '2026-11-24 09:00 delete 184 of local:jane: done; was enabled: true; by "root via x 1.0"; '
                "consent agreed (question ab12)",
            ),
            id="delete-agreed",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(
                    CREATE,
                    operation="rotate",
                    replaces="183",
                    stored_location=encode_location(FileLocation(Path("/tokens/184.json"))),
                ),
                "2026-11-24 09:00 rotate 183 -> 184 of local:jane: created; enabled: true; "
                'bearer token in /tokens/184.json; by "root via x 1.0"; consent not needed',
            ),
            id="rotate-delivered",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(CREATE, token_id=None, outcome="asked", consent="asked", question="ab12"),
                '2026-11-24 09:00 create for local:jane: asked; enabled: true; by "root via x 1.0"; question ab12',
            ),
            id="asked",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(
                    UPDATE, outcome="declined", consent="declined", question="ab12", reason="not ticked", before=None,
                    after=None,
                ),
                '2026-11-24 09:00 update 184 of local:jane: declined; why: "not ticked"; by "root via x 1.0"; '
                "question ab12",
            ),
            id="declined",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(
                    UPDATE, outcome="refused", user="", before=None, after=None, reason="It says so.\u202e"
                ),
                '2026-11-24 09:00 update 184 of an unnamed user: refused; why: "It says so.\\u202e"; '
                'by "root via x 1.0"',
            ),
            id="refused",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(CREATE, outcome="refused", user="sid:1 or else", token_id=None, after=None),
                '2026-11-24 09:00 create for "sid:1 or else": refused; by "root via x 1.0"',
            ),
            id="no-user",
        ),
        pytest.param(
            Case(
                msgspec.structs.replace(CREATE, outcome="unknown", settled=BEGUN, settlement="told to a person"),
                "2026-11-24 09:00 create 184 of local:jane: resolved; enabled: true; a person was told of it "
                '(seen 2026-11-24 09:00); by "root via x 1.0"; consent not needed',
            ),
            id="told-to-a-person",
        ),
    ],
)  # fmt: skip
def test_an_entry_is_one_line_with_what_it_knows(case: Case) -> None:
    assert render_entry(case.entry) == case.line


def test_of_many_resolved_attempts_some_are_told_and_the_others_counted() -> None:
    resolved = [Resolution(msgspec.structs.replace(CREATE, token_id=None), "not found", [])] * 1_234

    lines = render_changes_result(on_one_cluster(ChangeList([], BEGUN, resolved=resolved))).text.splitlines()

    assert lines[0] == "0 attempts to change access tokens on c:8000 recorded so far. Nothing is left unfinished."
    assert lines[1] == (
        "Resolved: the create for local:jane begun at 2026-11-24 09:00 UTC had no known end; no token of it is there."
    )
    assert lines[21] == "1,214 more like these."
    assert len(lines) == 23


def test_what_is_at_work_is_not_said_to_leave_nothing_unfinished() -> None:
    entry = msgspec.structs.replace(CREATE, outcome="intended", is_in_flight=True)

    [summary, *_] = render_changes_result(on_one_cluster(ChangeList([entry], BEGUN))).text.splitlines()

    assert summary.endswith(
        ": 1 at work. Nothing else is left unfinished: ask again in a minute whether what is at work has ended."
    )


def test_a_single_entry_that_is_too_long_for_an_answer_is_left_out_and_counted() -> None:
    entry = msgspec.structs.replace(UPDATE, before="x" * 30_000)

    rendered = render_changes_result(on_one_cluster(ChangeList([entry], BEGUN)))

    assert rendered.structured["changes"] == []
    assert rendered.structured["next_step"].startswith("1 earlier left out")
