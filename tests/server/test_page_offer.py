"""Test the offer of a page to a person whose client can open an address: it never stands in the way of the answer."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
)

from tests.support.example_tokens import add_token
from tests.support.harness import AGREES, JANE, Harness, Mode, ToolAnswer, create_harness
from tests.support.pickups import ANN, SAM, URL, offer_pickup
from tests.support.replicas import KEYS, calling
from token_tools.settings import StateSettings

pytestmark = pytest.mark.anyio

CREATE, ROTATE = "create_access_token", "rotate_access_token"
FOR_JANE: dict[str, Any] = {"user": "local:jane", "expiration_time": "90d"}
OPENS = ElicitResult(action="accept")


@dataclass
class Browsing:
    """A person whose client opens pages, and who agrees to every question; this is what they do about a page."""

    reply: ElicitResult | ErrorData = field(default_factory=lambda: OPENS)
    offers: list[ElicitRequestURLParams] = field(default_factory=list[ElicitRequestURLParams])

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        """Return the reply to an offer, and a yes to a question."""
        if not isinstance(params, ElicitRequestURLParams):
            return AGREES
        self.offers.append(params)
        return self.reply


class Absent(Browsing):
    """A person who is offered a page and does nothing about it."""

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult | ErrorData:
        """Wait for ever."""
        await super().__call__(context, params)
        await anyio.sleep_forever()
        raise AssertionError


@pytest.fixture(params=["auto", "legacy"], ids=["2026-07-28", "2025-11-25"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """Create a harness whose servers let bearer tokens wait, for clients of each era in its turn."""
    mode: Mode = request.param
    return offer_pickup(create_harness(mode, tmp_path))


@pytest.fixture
def replicas(tmp_path: Path, state: StateSettings) -> Harness:
    """Create such a harness for the newer era, whose servers share keys, and a database of each kind in its turn."""
    harness = offer_pickup(create_harness("auto", tmp_path).with_state(state))
    harness.state_keys = KEYS[:1]
    return harness


async def call_as_ann(harness: Harness, tool: str, person: Browsing | None, **arguments: object) -> ToolAnswer:
    with calling(ANN):
        return await harness.call(tool, arguments, person=person)


def read_url(answer: ToolAnswer) -> str:
    url = str(answer.fields["bearer_token_in"])
    assert url.startswith(f"{URL}/")
    return url


async def test_a_client_that_can_open_addresses_is_offered_the_page_of_a_new_token(harness: Harness) -> None:
    person = Browsing()
    answer = await call_as_ann(harness, CREATE, person, **FOR_JANE)

    [offer] = person.offers
    [token] = harness.tokens_of(JANE)
    assert offer.url == read_url(answer)
    assert offer.message == (
        f"Access token {token.id} is made. Open the page at which its bearer token waits? You sign in there, and see "
        "the bearer token once."
    )
    assert answer.text.startswith(f"Created access token {token.id} for local:jane")
    # The older protocol numbers offers; the newer one does not.
    assert (offer.elicitation_id is None) is (harness.mode == "auto")


async def test_the_successor_of_a_token_is_offered_after_a_yes(harness: Harness) -> None:
    person, old = Browsing(), add_token(harness)
    harness.settings = harness.settings.model_copy(update={"confirm": "all"})
    answer = await call_as_ann(harness, ROTATE, person, id=old.id)

    [offer] = person.offers
    assert offer.url == read_url(answer)
    assert answer.text.startswith("Rotated: new access token")
    assert len(harness.tokens_of(JANE)) == 2


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_whoever_does_not_want_the_page_gets_the_answer(
    harness: Harness, action: Literal["decline", "cancel"]
) -> None:
    person = Browsing(ElicitResult(action=action))
    answer = await call_as_ann(harness, CREATE, person, **FOR_JANE)

    assert [offer.url for offer in person.offers] == [read_url(answer)]
    assert len(harness.tokens_of(JANE)) == 1


async def test_a_client_that_opens_nothing_is_offered_nothing(harness: Harness) -> None:
    answer = await call_as_ann(harness, CREATE, None, **FOR_JANE)

    assert not answer.is_error
    assert len(harness.tokens_of(JANE)) == 1
    assert read_url(answer) in answer.text


async def test_what_waits_at_no_page_is_not_offered(harness: Harness) -> None:
    person = Browsing()
    harness.settings = harness.settings.model_copy(update={"delivery": "file"})
    answer = await call_as_ann(harness, CREATE, person, **FOR_JANE)

    assert not answer.is_error
    assert person.offers == []


@pytest.mark.parametrize("person", [Browsing(ErrorData(code=-32000, message="no browser")), Absent()])
async def test_an_older_client_that_fails_or_waits_too_long_gets_the_answer(tmp_path: Path, person: Browsing) -> None:
    harness = offer_pickup(create_harness("legacy", tmp_path))
    if isinstance(person, Absent):
        harness.consent_timeout = timedelta(milliseconds=50)
    answer = await call_as_ann(harness, CREATE, person, **FOR_JANE)

    assert [offer.url for offer in person.offers] == [read_url(answer)]
    assert len(harness.tokens_of(JANE)) == 1


@dataclass(frozen=True)
class Offered:
    """What a client of the newer era got in place of an answer."""

    url: str
    state: str

    @classmethod
    async def get(cls, client: Client) -> "Offered":
        """Create a token, and take the offer that comes of it."""
        result = await client.session.call_tool(CREATE, FOR_JANE, allow_input_required=True)
        assert isinstance(result, InputRequiredResult)
        [request] = (result.input_requests or {}).values()
        assert isinstance(request, ElicitRequest)
        assert isinstance(request.params, ElicitRequestURLParams)
        return cls(request.params.url, str(result.request_state))

    async def come_back(self, client: Client, **arguments: object) -> ToolAnswer:
        """Call again, as if the page had been opened; with other arguments, if some are given."""
        result = await client.session.call_tool(
            CREATE,
            FOR_JANE | arguments,
            input_responses={"page": OPENS},
            request_state=self.state,
            allow_input_required=True,
        )
        assert isinstance(result, CallToolResult)
        return ToolAnswer.from_result(result)


@asynccontextmanager
async def two_servers(harness: Harness) -> AsyncGenerator[tuple[Client, Client]]:
    """Connect clients that open pages to two servers."""
    async with harness.connected(person=Browsing()) as one, harness.connected(person=Browsing()) as other:
        yield one, other


async def test_the_answer_that_was_put_off_is_given_by_any_server_however_often(replicas: Harness) -> None:
    async with two_servers(replicas) as (one, other):
        with calling(ANN):
            offered = await Offered.get(one)
            answers = [await offered.come_back(server) for server in (other, one, other)]

    assert {read_url(answer) for answer in answers} == {offered.url}
    assert answers[0] == answers[1] == answers[2]
    assert len(replicas.tokens_of(JANE)) == 1


async def test_the_answer_that_was_put_off_is_nobody_else_s(replicas: Harness) -> None:
    async with two_servers(replicas) as (one, other):
        with calling(ANN):
            offered = await Offered.get(one)
        with calling(SAM):
            refused = await offered.come_back(other)
        with calling(SAM, subject="sam"), pytest.raises(MCPError, match=r"^Invalid or expired requestState$"):
            await offered.come_back(other)

    assert refused.text == "Nothing was done. This call came back for the answer to somebody else's call."
    assert len(replicas.tokens_of(JANE)) == 1


async def test_a_changed_state_or_other_arguments_get_no_answer_and_no_token(replicas: Harness) -> None:
    async with two_servers(replicas) as (one, other):
        with calling(ANN):
            offered = await Offered.get(one)
            middle = len(offered.state) // 2
            letter = "A" if offered.state[middle] != "A" else "B"
            changed = Offered(offered.url, offered.state[:middle] + letter + offered.state[middle + 1 :])
            for server in (one, other):
                with pytest.raises(MCPError, match=r"^Invalid or expired requestState$"):
                    await changed.come_back(server)
                with pytest.raises(MCPError, match=r"^Invalid or expired requestState$"):
                    await offered.come_back(server, expiration_time="30d")

    assert len(replicas.tokens_of(JANE)) == 1
