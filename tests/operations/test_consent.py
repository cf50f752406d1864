"""What a human is asked before a token is made, and what each kind of answer leads to: the same in both eras."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from mcp.client import Client, ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, ErrorData, InputRequiredResult

from tests.support.harness import ADMIN, AGREES, JANE, NOW, PATH, Bench, Human, Told, make_bench, refusal
from token_tools.errors import Refusal
from token_tools.operations.consent import MOST_COUNTED, OPEN_FOR, OpenQuestions, Plan
from token_tools.operations.rotate import A_PERSON

pytestmark = pytest.mark.anyio

FOR_EVER = {"user": "local:jane", "expiration_time": "never"}
DECLINED = "was answered with no, by a person or by the client itself."
DISMISSED = "was not answered (dismissed by a person or by the client)."
UNTICKED = "The form was sent without its tick"
BLANK = "The client sent no answer to `agree` that is true or false."
HELPS_NOT = "ask again only if a person wants to be."
BY_HAND = "It is not for you to run, but a person can do it by hand: "


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
        pytest.param(ElicitResult(action="decline"), DECLINED, id="declined"),
        pytest.param(ElicitResult(action="cancel"), DISMISSED, id="cancelled"),
        pytest.param(ElicitResult(action="accept", content={"agree": False}), UNTICKED, id="not-ticked"),
        pytest.param(ElicitResult(action="accept", content={}), BLANK, id="no-fields"),
        pytest.param(ElicitResult(action="accept"), BLANK, id="no-content"),
        pytest.param(ElicitResult(action="accept", content={"sure": True}), BLANK, id="other-field"),
        pytest.param(ElicitResult(action="accept", content={"agree": None}), BLANK, id="null"),
        pytest.param(ElicitResult(action="accept", content={"agree": "x"}), BLANK, id="text"),
        pytest.param(ElicitResult(action="accept", content={"agree": "true"}), BLANK, id="yes-as-text"),
        pytest.param(ElicitResult(action="accept", content={"agree": 1}), BLANK, id="number"),
        pytest.param(ElicitResult(action="accept", content={"agree": ["true"]}), BLANK, id="list"),
    ],
)
async def test_each_answer_but_a_clear_yes_does_nothing_and_is_told_as_what_it_is(
    bench: Bench, answer: ElicitResult, said: str
) -> None:
    told = await bench.undone("create_access_token", FOR_EVER, human=Human([answer]))

    assert [words for words in (DECLINED, DISMISSED, UNTICKED, BLANK) if words in told] == [said]
    assert "It is asked because it would never expire." in told
    assert BY_HAND in told
    assert bench.tokens_of(JANE) == []
    assert not bench.settings.delivery_dir.exists()


@pytest.mark.parametrize(
    "answer",
    [
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
        ElicitResult(action="accept", content={"agree": False}),
        ElicitResult(action="accept"),
    ],
    ids=["declined", "cancelled", "not-ticked", "no-content"],
)
async def test_a_question_that_brings_no_yes_is_not_advised_for_ever(bench: Bench, answer: ElicitResult) -> None:
    async with bench.connected(human=Human([answer, answer, answer, AGREES, answer])) as client:
        told = [Told.of(await client.call_tool("create_access_token", FOR_EVER)) for _ in range(5)]

    assert [HELPS_NOT in one.text for one in told] == [False, True, True, False, False]
    assert "call again" in told[0].text.lower()
    assert not any("call again" in one.text.lower() for one in told[1:3])
    assert "asked 3 times now" in told[2].text
    assert len(bench.tokens_of(JANE)) == 1


async def test_what_was_asked_in_vain_does_not_count_for_another_call(bench: Bench) -> None:
    async with bench.connected(human=Human([ElicitResult(action="cancel")])) as client:
        for user in ("local:jane", "auth_id:1001"):
            told = Told.of(await client.call_tool("create_access_token", FOR_EVER | {"user": user}))

            assert HELPS_NOT not in told.text


def test_only_the_latest_requests_that_were_asked_in_vain_are_counted() -> None:
    questions = OpenQuestions()
    plans = [Plan(request=number, time=NOW, reasons=["it is a risk"]) for number in range(MOST_COUNTED + 1)]

    assert {questions.count_no_yes(plan) for plan in plans} == {1}
    assert [questions.count_no_yes(plan) for plan in (plans[-1], plans[0])] == [2, 1]


async def test_a_client_that_cannot_ask_is_told_how_a_person_does_it_and_not_what_relaxes_the_rule(
    bench: Bench,
) -> None:
    told = await bench.undone("create_access_token", {"user": "local:admin", "expiration_time": "30d"})

    assert re.search(
        r"a person can do it by hand: \(umask 077; set -C; : > (~/access-token-\w{8}) && \{ "
        r"qq --host c\.example\.com --port 8000 auth_create_access_token auth_id:500 "
        r"--expiration-time 2026-12-24T09:00:00Z --file \1 > /dev/null \|\| \{ rm \1; exit 1; \}; \}\)$",
        told,
    )
    assert "QUMULO_" not in told
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

    assert "Nobody answered the question in time. It is asked because it would never expire. Call again when " in told
    assert BY_HAND in told
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

    assert "The question came back with an error or with what cannot be read" in told
    assert BY_HAND in told
    assert bench.tokens_of(JANE) == []


async def test_what_changed_while_the_human_thought_is_seen(bench: Bench) -> None:
    async def think(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        for _ in range(2):
            bench.cluster.create_token(JANE.auth_id, creator="500", expiration_time=NOW + timedelta(days=9))
        return AGREES

    told = await bench.undone("create_access_token", FOR_EVER, human=think)

    first, second = bench.tokens_of(JANE)
    for token in (first, second):
        assert f"{token.id} (enabled, expires 2026-12-03 09:00 UTC (in 9 days); made" in told
    assert told.startswith("local:jane has 2 access tokens already, as many as a user can have: ")
    assert told.endswith(A_PERSON)
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
