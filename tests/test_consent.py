"""What a human is asked before a token is made, and what each kind of answer leads to: the same in both eras."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, ErrorData, InputRequiredResult

from tests.bench import ADMIN, AGREES, JANE, NOW, PATH, Bench, Human, Told, make_bench, refusal
from token_tools.consent import OPEN_FOR, OpenQuestions, Plan
from token_tools.errors import Refusal

pytestmark = pytest.mark.anyio

FOR_EVER = {"user": "local:jane", "expiration_time": "never"}


async def test_a_risky_token_is_made_once_a_human_agrees(bench: Bench) -> None:
    bench.cluster.create_token(JANE.auth_id, creator="500")
    human = Human([AGREES])

    told = await bench.call("create_access_token", FOR_EVER, human=human)

    assert not told.is_error
    assert len(bench.tokens_of(JANE)) == 2
    [question] = human.asked
    assert question.startswith(
        "Make an access token for the user local:jane (auth_id 1001) on the cluster c.example.com:8000? "
        "Whoever has it can act as that user. It never expires. The user has 1 of 2 possible tokens now. "
        "Asked because it would never expire. [question "
    )


async def test_the_question_tells_the_expiry_in_both_ways(bench: Bench) -> None:
    human = Human([AGREES])

    await bench.call(
        "create_access_token", {"user": "local:jane", "expiration_time": "12h"}, human=human, confirm="all"
    )

    [question] = human.asked
    assert "It expires 2026-11-24 21:00 UTC (in 12 hours)." in question
    assert "Asked because QUMULO_CONFIRM=all." in question


async def test_the_question_says_what_could_not_be_found_out(bench: Bench) -> None:
    async def refuse_lists(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal(403) if request.method == "GET" else response

    bench.recorder.on_served = refuse_lists
    human = Human([AGREES])

    told = await bench.call("create_access_token", FOR_EVER, human=human)

    assert not told.is_error
    assert "How many of the 2 possible tokens the user has now is not known." in human.asked[0]


@pytest.mark.parametrize("user", ["local:admin", "admin", "auth_id:500", "self", "sid:S-1-5-21-1-2-3-500"])
async def test_a_token_of_the_built_in_administrator_is_asked_about(bench: Bench, user: str) -> None:
    human = Human([AGREES])

    told = await bench.call("create_access_token", {"user": user}, human=human)

    assert not told.is_error
    assert "Asked because it is for the built-in administrator." in human.asked[0]
    assert len(bench.tokens_of(ADMIN)) == 2


async def refuse_lookups(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    return refusal(403) if request.url.path.endswith("/identity/find") else response


@pytest.mark.parametrize("user", ["local:admin", "Admin", "auth_id:500", "sid:S-1-5-21-1-2-3-500"])
async def test_the_built_in_administrator_is_known_without_the_cluster_s_help(bench: Bench, user: str) -> None:
    bench.recorder.on_served = refuse_lookups
    human = Human([ElicitResult(action="decline")])

    await bench.refused("create_access_token", {"user": user}, human=human)

    assert "Asked because it is for the built-in administrator." in human.asked[0]


async def test_whoever_else_is_named_like_the_administrator_is_nobody_to_ask_about(bench: Bench) -> None:
    namesake = replace(JANE, auth_id="1500", name="admin")
    bench.cluster.add_account(namesake)
    human = Human([AGREES])

    await bench.call("create_access_token", {"user": "auth_id:1500"}, human=human)

    assert human.asked == []
    assert len(bench.tokens_of(namesake)) == 1


@pytest.mark.parametrize("user", [r"CL\admin", r"local:CL\admin", "ad:admin", "admin@cl", "local:jane"])
async def test_a_name_that_the_cluster_may_not_look_up_for_us_is_asked_about(bench: Bench, user: str) -> None:
    bench.recorder.on_served = refuse_lookups
    human = Human([ElicitResult(action="decline")])

    await bench.refused("create_access_token", {"user": user}, human=human)

    [question] = human.asked
    assert "Asked because the cluster did not tell who that is." in question
    assert bench.recorder.bodies("POST", PATH) == []


@pytest.mark.parametrize(
    ("arguments", "confirm"),
    [({"user": "local:jane"}, "risky"), (FOR_EVER, "none"), ({"user": "local:admin"}, "none")],
    ids=["ordinary", "for-ever", "administrator"],
)
async def test_nobody_is_asked_where_the_operator_wants_it_so(
    bench: Bench, arguments: dict[str, str], confirm: str
) -> None:
    human = Human([AGREES])

    told = await bench.call("create_access_token", arguments, human=human, confirm=confirm)

    assert not told.is_error
    assert human.asked == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(ElicitResult(action="decline"), "The human did not agree", id="declined"),
        pytest.param(ElicitResult(action="cancel"), "The human did not agree", id="cancelled"),
        pytest.param(ElicitResult(action="accept", content={"agree": False}), "The human did not agree", id="no"),
        pytest.param(ElicitResult(action="accept", content={}), "The human did not agree", id="not-ticked"),
        pytest.param(ElicitResult(action="accept", content={"agree": "x"}), "made no sense", id="malformed"),
        pytest.param(ElicitResult(action="accept"), "made no sense", id="empty"),
    ],
)
async def test_without_a_clear_yes_nothing_is_done(bench: Bench, answer: ElicitResult, said: str) -> None:
    told = await bench.undone("create_access_token", FOR_EVER, human=Human([answer]))

    assert said in told
    assert bench.tokens_of(JANE) == []
    assert not bench.settings.delivery_dir.exists()


async def test_a_client_that_cannot_ask_is_told_how_to_do_it_by_hand_and_what_relaxes_it(bench: Bench) -> None:
    told = await bench.refused("create_access_token", {"user": "local:admin", "expiration_time": "30d"})

    assert (
        "qq --host c.example.com --port 8000 auth_create_access_token auth_id:500 "
        "--expiration-time 2026-12-24T09:00:00Z" in told
    )
    assert "Nothing was done" in told
    assert "QUMULO_CONFIRM=none" in told
    assert len(bench.tokens_of(ADMIN)) == 1


async def test_the_text_of_the_question_is_the_server_s_own(bench: Bench) -> None:
    """A name that somebody chose cannot put words into the question."""
    hostile = replace(JANE, name="jane? It expires soon.\n\nJust agree")
    bench.cluster.add_account(hostile)
    human = Human([AGREES])

    await bench.call("create_access_token", FOR_EVER | {"user": "auth_id:1001"}, human=human)

    assert r'for the user local:"jane? It expires soon.\n\nJust agree" (auth_id 1001)' in human.asked[0]
    assert human.asked[0].isprintable()


async def test_a_question_that_nobody_answers_ends_in_time_with_nothing_done(tmp_path: Path) -> None:
    """Only in the older era does the server wait; in the newer a client calls again once there is an answer."""

    async def never_answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        await anyio.sleep_forever()
        raise AssertionError

    bench = make_bench("legacy", tmp_path)
    bench.patience = timedelta(milliseconds=50)

    told = await bench.undone("create_access_token", FOR_EVER, human=never_answer)

    assert told == "Nobody answered the question in time. Call again to ask again."
    assert bench.tokens_of(JANE) == []


async def test_a_slow_cluster_after_a_quick_answer_is_not_taken_for_no_answer(bench: Bench) -> None:
    bench.patience = timedelta(milliseconds=200)

    async def take_longer(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == PATH:
            with anyio.move_on_after(0.4):
                await anyio.sleep_forever()
        return response

    bench.recorder.on_served = take_longer

    told = await bench.call("create_access_token", FOR_EVER, human=Human([AGREES]))

    assert not told.is_error


async def test_each_call_asks_anew(bench: Bench) -> None:
    human = Human([AGREES])
    async with bench.connected(human=human) as client:
        for _ in range(2):
            await client.call_tool("create_access_token", FOR_EVER)

    assert len(bench.tokens_of(JANE)) == 2
    assert len(set(human.asked)) == 2


async def ask(client: Client) -> tuple[Mapping[str, ElicitResult], str | None]:
    """The answers to the questions of a first call, and the state that goes with them; only in the newer era."""
    asked = await client.session.call_tool("create_access_token", FOR_EVER, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult)
    assert asked.input_requests is not None
    return dict.fromkeys(asked.input_requests, AGREES), asked.request_state


async def answer(
    client: Client, answers: Mapping[str, ElicitResult], state: str | None
) -> CallToolResult | InputRequiredResult:
    """The same call again, with the answers."""
    return await client.session.call_tool(
        "create_access_token",
        FOR_EVER,
        input_responses={**answers},
        request_state=state,
        allow_input_required=True,
    )


async def test_a_replayed_answer_does_not_make_a_second_token(tmp_path: Path) -> None:
    bench = make_bench("auto", tmp_path)
    async with bench.connected(human=Human([AGREES])) as client:
        answers, state = await ask(client)
        first = await answer(client, answers, state)
        replayed = await answer(client, answers, state)

    assert isinstance(first, CallToolResult)
    assert not first.is_error
    assert isinstance(replayed, InputRequiredResult)
    assert len(bench.tokens_of(JANE)) == 1


async def test_one_answer_to_two_calls_at_once_makes_one_token(tmp_path: Path) -> None:
    bench = make_bench("auto", tmp_path)
    results: list[CallToolResult | InputRequiredResult] = []
    async with bench.connected(human=Human([AGREES])) as client:
        answers, state = await ask(client)

        async def answer_and_note() -> None:
            results.append(await answer(client, answers, state))

        async with anyio.create_task_group() as calls:
            calls.start_soon(answer_and_note)
            calls.start_soon(answer_and_note)

    assert len(bench.tokens_of(JANE)) == 1
    assert len([result for result in results if isinstance(result, CallToolResult) and not result.is_error]) == 1


async def test_of_two_equal_calls_at_once_each_consent_makes_one_token(bench: Bench) -> None:
    """In the older era both ask at once, in the newer the one that comes second asks anew."""
    human = Human([AGREES])
    told: list[Told] = []
    async with bench.connected(human=human) as client:

        async def create() -> None:
            told.append(Told.of(await client.call_tool("create_access_token", FOR_EVER)))

        async with anyio.create_task_group() as calls:
            calls.start_soon(create)
            calls.start_soon(create)

    made = [one for one in told if not one.is_error]
    assert len(bench.tokens_of(JANE)) == len(made)
    assert len(made) == len(set(human.asked))
    assert all("its answer is used up." in one.text for one in told if one.is_error)


async def test_a_client_that_fails_to_ask_is_told_that_nothing_was_done(tmp_path: Path) -> None:
    """Only in the older era is the client asked for an answer; in the newer it has to bring one."""

    async def fail(context: ClientRequestContext, params: ElicitRequestParams) -> ErrorData:
        return ErrorData(code=-32603, message="the dialogue crashed")

    bench = make_bench("legacy", tmp_path)

    told = await bench.undone("create_access_token", FOR_EVER, human=fail)

    assert told == "The client could not put the question to a human. Call again to ask again."
    assert bench.tokens_of(JANE) == []


async def test_what_changed_while_the_human_thought_is_seen(bench: Bench) -> None:
    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        for _ in range(2):
            bench.cluster.create_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
        return AGREES

    told = await bench.undone("create_access_token", FOR_EVER, human=think)

    first, second = bench.tokens_of(JANE)
    assert told == (
        f"local:jane has 2 access tokens already, as many as a user can have: {first.id} and {second.id}. One of "
        "them has to be deleted first."
    )
    assert bench.recorder.bodies("POST", PATH) == []


async def test_an_expiry_that_passes_while_the_human_thinks_is_no_expiry(bench: Bench) -> None:
    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        bench.now += timedelta(minutes=6)
        return AGREES

    arguments = {"user": "local:jane", "expiration_time": "5min"}
    told = await bench.undone("create_access_token", arguments, human=think, confirm="all")

    assert told == "The expiry has passed meanwhile."
    assert bench.recorder.bodies("POST", PATH) == []


def test_a_question_stays_open_for_a_while_and_is_closed_once() -> None:
    questions = OpenQuestions()
    plan = Plan(request="request", time=NOW, reasons=["it is a risk"])
    questions.keep(plan)

    assert questions.recall(Plan, "other request", now=NOW) is None
    assert questions.recall(Plan, "request", now=NOW + OPEN_FOR - timedelta(seconds=1)) is plan
    questions.close(plan)
    with pytest.raises(Refusal, match="its answer is used up"):
        questions.close(plan)

    questions.keep(plan)
    assert questions.recall(Plan, "request", now=NOW + OPEN_FOR) is None


def test_a_question_that_was_asked_anew_is_not_closed_by_the_old_one() -> None:
    questions = OpenQuestions()
    old = Plan(request="request", time=NOW, reasons=["it is a risk"])
    new = Plan(request="request", time=NOW + OPEN_FOR, reasons=["it is a risk"])
    assert questions.keep(old) is old
    assert questions.keep(new) is new

    with pytest.raises(Refusal):
        questions.close(old)
    questions.close(new)


def test_what_nobody_has_to_be_asked_about_is_not_kept() -> None:
    questions = OpenQuestions()
    plan = Plan(request="request", time=NOW, reasons=[])

    questions.keep(plan)
    questions.close(plan)

    assert questions.recall(Plan, "request", now=NOW) is None
