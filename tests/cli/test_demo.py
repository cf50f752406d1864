"""Test that the demo's result says whether each step succeeded."""

import pytest

from tests.support.stdio_client import run_to_end
from token_tools.cli.demo import Step, play_conversation

pytestmark = pytest.mark.anyio


async def test_a_step_that_fails_and_should_not_ends_the_demo_as_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    steps = (Step("Whose?", "list_access_tokens", {"user": "nobody:at:all"}), Step("More?", "list_access_tokens", {}))

    assert not await play_conversation(steps)

    said = capsys.readouterr().out
    assert "This step did not go as it should." in said
    assert "More?" not in said


def test_the_demo_plays_its_conversation_and_succeeds() -> None:
    played = run_to_end("demo")

    assert (played.returncode, played.stderr) == (0, "")
    for said in ("list_access_tokens()", "create_access_token(", "nearest is `user`"):
        assert said in played.stdout
    assert "access-v1:" not in played.stdout
