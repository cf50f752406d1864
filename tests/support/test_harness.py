"""Test the helpers of the tests of tools."""

from tests.support.harness import ToolAnswer


def test_a_told_result_is_comparable() -> None:
    assert ToolAnswer("a", None, is_error=False) == ToolAnswer("a", None, is_error=False)
