"""Test that answers and questions do not repeat a secret that the cluster or a caller put into them."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr

from tests.support.harness import AGREES, JANE, NOW, TOKENS_PATH, Harness, ScriptedPerson, refusal_response
from tests.support.record import read_record
from tests.support.secret_spellings import SPELLINGS, secret_body
from token_tools import redaction

pytestmark = pytest.mark.anyio
each_spelling = pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())


def own_bearer_token(harness: Harness) -> str:
    assert harness.settings.bearer_token is not None
    return harness.settings.bearer_token.get_secret_value()


def is_leaked(expected: str, secret: str) -> bool:
    """Tell whether a text has eight consecutive letters or digits of a secret, in any case, with any separators."""
    plain = "".join(filter(str.isalnum, expected.casefold()))
    letters = "".join(filter(str.isalnum, secret_body(secret).casefold()))
    return any(letters[start : start + 8] in plain for start in range(len(letters) - 7))


@each_spelling
async def test_a_key_of_a_page_that_repeats_the_credential_is_no_answer(
    harness: Harness, spell: Callable[[str], str]
) -> None:
    link = f"{TOKENS_PATH}?after={quote(spell(own_bearer_token(harness)), safe='')}"

    async def link_on(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return httpx.Response(200, json=response.json() | {"paging": {"next": link}})

    harness.recorder.on_served = link_on

    refusal = await harness.call_refused("list_access_tokens")

    assert "no usable `after` key" in refusal
    assert not is_leaked(refusal, own_bearer_token(harness))


@each_spelling
@pytest.mark.parametrize(
    "tool", ["list_access_tokens", "get_access_token", "audit_access_tokens", "export_access_tokens"]
)
async def test_a_name_that_repeats_the_credential_is_withheld(
    harness: Harness, tool: str, spell: Callable[[str], str]
) -> None:
    name = spell(own_bearer_token(harness))
    identity = JANE.identity() | {"name": name, "sid": name, "domain": name}
    token = harness.cluster.add_token(JANE.auth_id, creator=JANE.auth_id)

    async def rename(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        text = response.text.replace(json.dumps(JANE.identity(), separators=(",", ":")), json.dumps(identity))
        return httpx.Response(response.status_code, text=text, headers={"Content-Type": "application/json"})

    harness.recorder.on_served = rename

    arguments: dict[str, Any] = {"id": token.id} if tool == "get_access_token" else {}
    answer = await harness.call(tool, arguments)

    assert not answer.is_error
    files = [file.read_text() for file in harness.settings.report_dir.glob("*.csv")]
    for text in [answer.text, json.dumps(answer.fields), *files]:
        assert json.dumps(name)[1:-1] not in text
        assert name not in text
        assert not is_leaked(text, own_bearer_token(harness))


@each_spelling
async def test_a_sentence_of_an_error_that_repeats_the_credential_is_withheld(
    harness: Harness, spell: Callable[[str], str]
) -> None:
    said = spell(own_bearer_token(harness))

    async def decline(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        return refusal_response(400, description=f"you sent {said} to us")

    harness.recorder.on_served = decline

    refusal = await harness.call_refused("list_access_tokens")

    assert said not in refusal
    assert not is_leaked(refusal, own_bearer_token(harness))


@each_spelling
@pytest.mark.parametrize("status", [400, 403, 500])
async def test_no_answer_to_a_create_tells_the_new_bearer_token(
    harness: Harness, status: int, spell: Callable[[str], str]
) -> None:
    said = ""

    async def betray(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal said
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            said = spell(response.json()["bearer_token"])
            return refusal_response(status, error_class=said.lower(), description=said)
        return response

    harness.recorder.on_served = betray

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert said not in refusal
    assert said.lower() not in refusal
    [token] = harness.tokens_of(JANE)
    assert not is_leaked(refusal, token.bearer_token)


@each_spelling
async def test_no_answer_to_a_proof_tells_the_new_bearer_token(harness: Harness, spell: Callable[[str], str]) -> None:
    old = harness.cluster.add_token(JANE.auth_id, creator="500", expiration_time=NOW)
    said = secret = ""

    async def betray(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal said, secret
        sent = request.headers["Authorization"].removeprefix("Bearer ")
        if request.url.path == "/v1/session/who-am-i" and sent != own_bearer_token(harness):
            said, secret = spell(sent), sent
            return refusal_response(400, error_class=said.lower(), description=said)
        return response

    harness.recorder.on_served = betray

    refusal = await harness.call_refused("rotate_access_token", {"id": old.id})

    assert said
    assert said not in refusal
    assert not is_leaked(refusal, secret)


@pytest.mark.parametrize("part", [slice(10, 40), slice(10, 20)], ids=["much", "little"])
async def test_a_new_token_whose_id_is_of_its_bearer_token_is_no_answer(harness: Harness, part: slice) -> None:
    async def betray(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            new = response.json()
            return httpx.Response(200, json=new | {"id": new["bearer_token"][part].replace("/", "_").replace("+", "-")})
        return response

    harness.recorder.on_served = betray

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    [token] = harness.tokens_of(JANE)
    assert f'delete_access_token(id="{token.id}")' in refusal
    assert not is_leaked(refusal, token.bearer_token)
    assert not is_leaked(json.dumps(read_record(harness.settings.state_dir)), token.bearer_token)
    assert [*harness.settings.delivery_dir.iterdir()] == []


async def test_a_question_tells_nothing_of_a_secret(harness: Harness) -> None:
    name = secret_body(own_bearer_token(harness))[:30]
    token = harness.cluster.add_token(JANE.auth_id, creator="500")

    async def rename(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if request.method != "GET" or not request.url.path.startswith(TOKENS_PATH):
            return response
        user = JANE.identity() | {"name": name, "domain": name}
        return httpx.Response(200, json=response.json() | {"user": user, "creator": user})

    harness.recorder.on_served = rename
    person = ScriptedPerson([AGREES])

    await harness.call("delete_access_token", {"id": token.id}, person=person)

    assert len(person.questions) == 1
    assert not is_leaked(person.questions[0], own_bearer_token(harness))


async def test_an_argument_that_looks_like_a_secret_is_not_repeated(harness: Harness) -> None:
    harness.settings = harness.settings.model_copy(update={"confirm": "none"})
    for user in ("AbCdEfGh12IjKlMnOpQr34StUvWxYz", "local:access-v1:QUJDREVGR0hJSktM", "name:Bearer QUJDREVGR0hJ"):
        refusal = await harness.call_refused("create_access_token", {"user": user})
        assert "AbCdEfGh" not in refusal
        assert "QUJDREVG" not in refusal


async def test_a_name_that_only_looks_like_a_secret_is_not_said_to_repeat_one(harness: Harness) -> None:
    refusal = await harness.call_refused("list_access_tokens", {"Zq4Tn8Lw2XcR7vBk5MdJ9sHy": "x"})

    assert 'no argument "[withheld: it looks like a secret]"' in refusal


async def test_nothing_that_does_not_exist_is_named_by_a_secret(harness: Harness) -> None:
    async with harness.connected() as client:
        for name in (
            own_bearer_token(harness),
            secret_body(own_bearer_token(harness))[10:40],
            "Zq4Tn8Lw2XcR7vBk5MdJ9sHy",
        ):
            for ask in (
                client.call_tool(name, {}),
                client.get_prompt(name, {}),
                client.read_resource(f"file:///{name}"),
            ):
                with pytest.raises(MCPError) as failure:
                    await ask
                assert name not in f"{failure.value} {failure.value.data}"
                assert not is_leaked(str(failure.value), own_bearer_token(harness))


async def test_a_name_that_is_too_long_is_not_repeated(harness: Harness) -> None:
    async with harness.connected() as client:
        with pytest.raises(MCPError, match="too long, or looks like a secret"):
            await client.call_tool("x" * 30_000, {})


async def test_the_server_s_own_credential_is_never_forgotten(harness: Harness) -> None:
    async with harness.connected() as client:
        for number in range(redaction.MAX_REMEMBERED_SECRETS + 1):
            redaction.remember_secret(
                SecretStr(base64.b64encode(f"some secret with the number {number}".encode()).decode())
            )
        with pytest.raises(MCPError, match="or looks like a secret"):
            await client.call_tool(secret_body(own_bearer_token(harness)), {})


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("admin\u3164", r'local:"admin\u3164"'),
        ("\u0430dmin", 'local:"\u0430dmin"'),
        ("\u03bfperator", 'local:"\u03bfperator"'),
        ("\uff41dmin", 'local:"\uff41dmin"'),
        ("J\u00fcrgen", "local:J\u00fcrgen"),
        ("\u043c\u0430\u0440\u0438\u044f", "local:\u043c\u0430\u0440\u0438\u044f"),
    ],
)
async def test_a_name_that_could_be_mistaken_is_quoted_in_answers_and_questions(
    harness: Harness, name: str, spelled: str
) -> None:
    user = JANE.identity() | {"name": name}
    token = harness.cluster.add_token(JANE.auth_id, creator="500")

    async def rename(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        is_token = request.url.path == TOKENS_PATH + token.id and response.content
        return httpx.Response(200, json=response.json() | {"user": user}) if is_token else response

    harness.recorder.on_served = rename
    person = ScriptedPerson([AGREES])

    answer = await harness.call("get_access_token", {"id": token.id})
    await harness.call("delete_access_token", {"id": token.id}, person=person)

    assert f" of {spelled} on" in answer.fields["summary"]
    assert f" of the user {spelled} (" in person.questions[0]


@pytest.mark.parametrize("status", [400, 403, 409, 500, 503])
async def test_no_class_of_an_error_spells_the_new_bearer_token(harness: Harness, status: int) -> None:
    said = ""

    async def betray(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        nonlocal said
        if request.method == "POST" and request.url.path == TOKENS_PATH:
            letters = re.sub(r"[^a-z0-9]", "", secret_body(response.json()["bearer_token"]).lower())
            said = "_".join(re.findall(r"[a-z]{6,24}[0-9]{0,2}", letters)[:8]) + "_error"
            return refusal_response(status, error_class=said)
        return response

    harness.recorder.on_served = betray

    refusal = await harness.call_refused("create_access_token", {"user": "local:jane"})

    assert said
    assert said not in refusal
    assert f"({status})" in refusal
