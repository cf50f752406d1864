"""Test over HTTP the failures of the cluster that decide: those with a change that may have happened or not."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.operations.test_cluster_faults import (
    CREATE_TABLE,
    OUTCOMES_BY_TOOL,
)
from tests.operations.test_cluster_faults import (
    test_a_create_ends_in_a_token_delivered_or_in_a_clear_error as check_create,
)
from tests.operations.test_cluster_faults import (
    test_every_other_tool_does_it_or_says_what_is_the_case as check_tool,
)
from tests.support.harness import Harness, Mode, create_harness
from tests.support.http_app import over_http
from token_tools.sandbox.faults import Endpoint, Fault

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("no_retry_backoff")]

FAULTS: list[Fault] = ["cut-before", "cut-after", "hang-after", "error-500", "half", "page-502-after", "page-401"]
CHANGES: dict[str, Endpoint] = {
    "update_access_token": "modify",
    "delete_access_token": "delete",
    "rotate_access_token": "create",
}


@pytest.fixture
def harness(mode: Mode, tmp_path: Path) -> Harness:
    """Create a harness of either era whose calls go over HTTP."""
    harness = create_harness(mode, tmp_path)
    harness.settings = harness.settings.model_copy(update={"timeout": timedelta(seconds=0.5), "confirm": "none"})
    harness.way = over_http
    return harness


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_create_ends_in_a_token_delivered_or_in_a_clear_error_over_http(
    harness: Harness, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    await check_create(harness, "create", fault, CREATE_TABLE["create"][fault], caplog)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tool", CHANGES)
async def test_every_other_tool_does_it_or_says_what_is_the_case_over_http(
    harness: Harness, tool: str, fault: Fault
) -> None:
    endpoint = CHANGES[tool]
    await check_tool(harness, tool, endpoint, fault, OUTCOMES_BY_TOOL[tool][endpoint][fault])
