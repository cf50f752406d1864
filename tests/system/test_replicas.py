"""Test two replicas behind nginx, which gives each request to the other one than before, and what breaks them."""

import base64
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, InputRequiredResult

from tests.support.harness import ADMIN, AGREES, ScriptedPerson, ToolAnswer
from tests.support.http_replicas import NAMES, STATE_KEY, Replicas, running_replicas, turn_to
from tests.support.http_server import OTHER_WRITER, WRITER, HttpClient, Place, connect
from tests.support.nginx import needs_nginx
from tests.support.record import end_leases, read_record
from tests.support.replica_process import Kill
from token_tools.sandbox.cluster import Account, Token

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_nginx]

USED_UP = "its answer is used up"
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Choose the event loop for what lives as long as the module."""
    return "asyncio"


@pytest.fixture(scope="module")
async def replicas(postgres_server: str) -> AsyncGenerator[Replicas]:
    """Start the replicas once: each test has a user of its own, and leaves both running."""
    async with running_replicas(postgres_server) as replicas:
        yield replicas


class User:
    """A user of the cluster whom no other test knows."""

    def __init__(self, replicas: Replicas) -> None:
        number = next(_NUMBERS)
        self.account = Account(str(5000 + number), "LOCAL", f"user-{number}", sid=f"S-1-5-21-1-2-3-{5000 + number}")
        self.name = f"local:{self.account.name}"
        self._cluster = replicas.cluster.cluster
        self._cluster.add_account(self.account)

    def add_token(self) -> Token:
        """Let them have a token."""
        return self._cluster.add_token(self.account.auth_id, creator=ADMIN.auth_id)

    @property
    def tokens(self) -> dict[str, Token]:
        """Their tokens, by id."""
        return {token.id: token for token in self._cluster.tokens.of_user(self.account.auth_id)}


class Question:
    """The question that a client got as the answer to a call, with a yes to it."""

    def __init__(self, tool: str, arguments: Mapping[str, Any], asked: InputRequiredResult) -> None:
        self.tool, self.arguments = tool, dict(arguments)
        self.state = asked.request_state
        self.answers = dict.fromkeys(asked.input_requests or {}, AGREES)

    @classmethod
    async def ask(cls, client: HttpClient, tool: str, **arguments: object) -> "Question":
        """Make the first round of a call."""
        asked = await client.client.session.call_tool(tool, arguments, allow_input_required=True)
        assert isinstance(asked, InputRequiredResult), asked
        return cls(tool, arguments, asked)

    async def send(self, client: HttpClient) -> CallToolResult | InputRequiredResult:
        """Make the second round, with the answer yes."""
        return await client.client.session.call_tool(
            self.tool,
            self.arguments,
            input_responses={**self.answers},
            request_state=self.state,
            allow_input_required=True,
        )

    async def answer(self, client: HttpClient) -> ToolAnswer:
        """Make the second round, and expect that nobody is asked again."""
        result = await self.send(client)
        assert isinstance(result, CallToolResult), result
        return ToolAnswer.from_result(result)


@asynccontextmanager
async def asking(place: Place, key: str = WRITER) -> AsyncGenerator[HttpClient]:
    """Connect a client that declares to show forms; the tests make the rounds themselves."""
    async with connect(place, "auto", key=key, person=ScriptedPerson([])) as client:
        # Otherwise the SDK would ask for the tools in between, once a call has a result.
        await client.client.session.list_tools()
        yield client


def outcomes_for(replicas: Replicas, user: User) -> list[str]:
    """Return what the record tells of a user, in order."""
    return [entry["outcome"] for entry in read_record(replicas.cluster.state) if entry["user_name"] == user.name]


@pytest.mark.parametrize("tool", ["create", "update", "delete", "rotate"])
async def test_the_rounds_of_a_change_may_be_served_by_different_replicas(replicas: Replicas, tool: str) -> None:
    user = User(replicas)
    token = None if tool == "create" else user.add_token()
    arguments: dict[str, object] = {"user": user.name} if token is None else {"id": token.id}
    arguments |= {"enabled": False} if tool == "update" else {}

    async with asking(replicas.front) as client:
        question = await Question.ask(client, f"{tool}_access_token", **arguments)
        answer = await question.answer(client)

    assert not answer.is_error, answer.text
    assert sorted(client.served_by[-2:]) == ["a", "b"]
    [outcome] = outcomes_for(replicas, user)
    match tool:
        case "create":
            [made] = user.tokens
            assert replicas.cluster.read_delivered()[made] == user.tokens[made].bearer_token
        case "rotate":
            assert len(user.tokens) == 2
        case "update":
            [changed] = user.tokens.values()
            assert not changed.enabled
        case _:
            assert user.tokens == {}
    assert outcome == {"create": "created", "rotate": "created"}.get(tool, "done")


async def test_an_answer_is_used_up_at_every_replica(replicas: Replicas) -> None:
    user = User(replicas)
    async with asking(replicas.front) as client:
        question = await Question.ask(client, "create_access_token", user=user.name)
        assert not (await question.answer(client)).is_error

        again = [await question.send(client) for _ in range(2)]

    assert sorted(client.served_by[-2:]) == ["a", "b"]
    assert len(user.tokens) == 1
    assert not any(isinstance(one, CallToolResult) and not one.is_error for one in again)


async def test_the_answer_of_another_caller_counts_nowhere(replicas: Replicas) -> None:
    user = User(replicas)
    async with (
        asking(replicas.front) as client,
        asking(replicas.front, OTHER_WRITER) as other,
    ):
        question = await Question.ask(client, "create_access_token", user=user.name)
        for name in ("a", "b"):
            await turn_to(other, name)
            with pytest.raises(Exception, match=r"(?i)state"):
                await question.send(other)
            assert other.served_last_by == name
        assert user.tokens == {}

        assert not (await question.answer(client)).is_error

    assert len(user.tokens) == 1


async def test_one_answer_at_both_replicas_at_once_does_one_thing(replicas: Replicas) -> None:
    user = User(replicas)
    results = list[CallToolResult | InputRequiredResult]()

    async def send(client: HttpClient) -> None:
        results.append(await question.send(client))

    async with asking(replicas.place("a")) as at_a, asking(replicas.place("b")) as at_b:
        question = await Question.ask(at_a, "create_access_token", user=user.name)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, at_a)
            tasks.start_soon(send, at_b)

    done = [one for one in results if isinstance(one, CallToolResult) and not one.is_error]
    assert (len(done), len(user.tokens)) == (1, 1)
    assert outcomes_for(replicas, user).count("created") == 1


async def restart(replicas: Replicas, name: str, **settings: str) -> None:
    """Start a replica again, with these settings changed."""
    replicas.stop(name)
    await replicas.start(name, settings)


@pytest.mark.parametrize("end", [Replicas.stop, Replicas.kill], ids=["SIGTERM", "SIGKILL"])
async def test_a_question_of_a_replica_that_ends_is_answered_at_the_other(
    replicas: Replicas, end: Callable[[Replicas, str], None]
) -> None:
    user = User(replicas)
    async with asking(replicas.front) as client:
        question = await Question.ask(client, "create_access_token", user=user.name)
        gone = client.served_last_by
        end(replicas, gone)

        answer = await question.answer(client)

        assert client.served_last_by != gone
        await replicas.start(gone)
        await turn_to(client, gone)
        again = await question.send(client)

    assert client.served_last_by == gone
    assert not answer.is_error
    assert not (isinstance(again, CallToolResult) and not again.is_error)
    assert len(user.tokens) == 1


async def test_no_question_is_lost_while_the_keys_of_the_state_are_replaced(replicas: Replicas) -> None:
    old, new = STATE_KEY, base64.b64encode(secrets.token_bytes(32)).decode()
    users = list[User]()
    async with asking(replicas.front) as client:
        for keys in (f"{old} {new}", f"{new} {old}", new):
            for name in NAMES:
                questions = list[Question]()
                for _ in NAMES:
                    users.append(user := User(replicas))
                    questions.append(await Question.ask(client, "create_access_token", user=user.name))

                await restart(replicas, name, QUMULO_HTTP_STATE_KEYS=keys)

                for question in questions:
                    assert not (await question.answer(client)).is_error
                assert sorted(client.served_by[-2:]) == ["a", "b"]
    for name in NAMES:
        await restart(replicas, name)
    assert [len(user.tokens) for user in users] == [1] * len(users)


async def test_a_question_outlives_a_database_that_is_away_meanwhile(replicas: Replicas) -> None:
    user = User(replicas)
    token = user.add_token()
    async with asking(replicas.front) as client:
        question = await Question.ask(client, "update_access_token", id=token.id, enabled=False)
        replicas.database.close()
        refused = [await question.answer(client) for _ in NAMES]
        listed = [await client.client.session.call_tool("list_access_tokens", {"user": user.name}) for _ in NAMES]
        replicas.database.open()
        assert user.tokens[token.id].enabled

        answer = await question.answer(client)

    assert all(one.is_error and one.text.startswith("Nothing was done. The journal") for one in refused), refused
    assert not any(one.is_error for one in listed)
    assert not answer.is_error, answer.text
    assert not user.tokens[token.id].enabled


async def test_a_client_of_the_older_era_reads_and_is_refused_what_needs_consent(replicas: Replicas) -> None:
    user = User(replicas)
    user.add_token()
    async with connect(replicas.front, "legacy", person=ScriptedPerson([AGREES])) as client:
        listed = [await client.client.call_tool("list_access_tokens", {"user": user.name}) for _ in NAMES]
        audited = [await client.client.call_tool("audit_access_tokens", {}) for _ in NAMES]
        refused = [await client.client.call_tool("create_access_token", {"user": user.name}) for _ in NAMES]

    assert {*client.served_by} == {"a", "b"}
    assert not any(one.is_error for one in (*listed, *audited))
    assert all(
        "this client cannot ask them here: this server has replicas" in ToolAnswer.from_result(one).text
        for one in refused
    )
    assert len(user.tokens) == 1
    assert outcomes_for(replicas, user) == ["could not ask"] * 2


async def test_a_replica_killed_at_any_step_loses_nothing_unsaid_and_does_nothing_twice(replicas: Replicas) -> None:
    replicas.stop("a")
    ends = list[str]()
    while not ends or ends[-1] != "survived":
        ends.append(await kill_at_step(replicas, len(ends) + 1))

    assert len(ends) > 15
    assert {*ends} == {"carried out by the other", "asked again", "lost and told", "survived"}


async def kill_at_step(replicas: Replicas, number: int) -> str:
    """Let a replica die at this step of a create that was agreed to, send the answer again, and return the end.

    Clients whose call got no answer send it again, and it is the other replica that gets it then.
    """
    user, armed = User(replicas), replicas.folder / "armed"
    await replicas.start("a", kill=Kill(number, armed))
    async with asking(replicas.front) as client:
        question = await Question.ask(client, "create_access_token", user=user.name)
        await turn_to(client, "a")
        armed.touch()
        answer = await send_to_dying(client, question)
        armed.unlink()
        assert replicas.has_ended("a") is (answer is None)
        if answer is not None:
            assert not answer.is_error
            assert outcomes_for(replicas, user) == ["created"]
            assert user.tokens.keys() <= replicas.cluster.read_delivered().keys()
            return "survived"

        made, outcomes = user.tokens, outcomes_for(replicas, user)
        again = await question.send(client)

        assert client.served_last_by == "b"
        if isinstance(again, CallToolResult):
            assert (made, outcomes, again.is_error) == ({}, ["asked"], False)
            assert user.tokens.keys() <= replicas.cluster.read_delivered().keys()
            return "carried out by the other"
        assert user.tokens == made
        return "lost and told" if await check_told_and_settled(replicas, client, user) else "asked again"


async def send_to_dying(client: HttpClient, question: Question) -> ToolAnswer | None:
    """Answer a question; return None if the replica dies meanwhile."""
    try:
        return await question.answer(client)
    except MCPError:
        return None


async def check_told_and_settled(replicas: Replicas, client: HttpClient, user: User) -> bool:
    """Check that each token whose secret is lost is told once its lease is over, and no more once it is deleted.

    Return whether there is one.
    """
    end_leases(replicas.cluster.state)
    lost = user.tokens.keys() - replicas.cluster.read_delivered().keys()
    told = ToolAnswer.from_result(await client.client.session.call_tool("list_access_tokens", {"user": user.name}))
    for token_id in lost:
        assert f"Unfinished: the create for {user.name}" in told.text, told.text
        assert token_id in told.text
        deleting = await Question.ask(client, "delete_access_token", id=token_id)
        assert not (await deleting.answer(client)).is_error
    after = ToolAnswer.from_result(await client.client.session.call_tool("list_access_tokens", {"user": user.name}))
    assert "Unfinished" not in after.text
    return bool(lost)
