"""Lines on stdin that are no message: each is answered or passed over, and the next is served."""

import json
import os
import subprocess
from typing import Any

import anyio
import pytest

from tests.support.json_rpc import COMMAND, INITIALIZE, INITIALIZED, REQUEST_META, Message, create_call
from tests.support.stdio_client import TIMEOUT_SECONDS, receive, running_server, send

pytestmark = pytest.mark.anyio
LIST_CALL_TEMPLATE = b'"method":"tools/call","params":{"name":"list_access_tokens","arguments":{%b}}'


def encode_list_call(arguments: bytes, number: bytes = b"7") -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,%b}' % (number, LIST_CALL_TEMPLATE % arguments)


INVALID_LINES: dict[str, tuple[bytes, list[int | str | None], int]] = {
    "half-a-character": (encode_list_call(rb'"user":"\ud83d"'), [7], -32700),
    "half-a-character-and-more": (encode_list_call(rb'"user":"\ud83dx"'), [7], -32700),
    "half-a-character-as-a-name": (encode_list_call(rb'"\ude00":"jane"'), [7], -32700),
    "half-a-character-deep-inside": (encode_list_call(rb'"user":[{"a":[{"\ud83d":1}]}]'), [7], -32700),
    "half-a-character-as-the-id": (encode_list_call(b"", rb'"\ud83d"'), ["\ud83d"], -32700),
    "no-utf-8": (encode_list_call(b'"user":"\xff"'), [7], -32700),
    "control-character": (encode_list_call(b'"user":"a\x00"'), [7], -32700),
    "too-deep": (encode_list_call(b'"user":' + b"[" * 3000 + b"]" * 3000), [7], -32700),
    "too-many-digits": (encode_list_call(b'"limit":' + b"9" * 5000), [7], -32700),
    "too-many-digits-as-the-id": (encode_list_call(b"", b"9" * 5000), [None], -32700),
    "control-character-in-the-id": (encode_list_call(b"", b'"a\x00"'), [None], -32700),
    "cut-off": (encode_list_call(b"", b'"a\\"b"')[:-1], ['a"b'], -32700),
    "cut-id": (b'{%b,"jsonrpc":"2.0","id":-7' % (LIST_CALL_TEMPLATE % rb'"id":"\ud83d","x":{"id":3}'), [None], -32700),
    "id-at-the-end": (b'{%b,"jsonrpc":"2.0","id":-7}' % (LIST_CALL_TEMPLATE % rb'"id":"\ud83d"'), [-7], -32700),
    "byte-order-mark": (b"\xef\xbb\xbf" + encode_list_call(b""), [7], -32700),
    "other-protocol": (b"GET / HTTP/1.1", [None], -32700),
    "id-is-a-fraction": (encode_list_call(b"", b"7.5"), [None], -32600),
    "id-is-a-truth": (encode_list_call(b"", b"true"), [None], -32600),
    "id-is-null": (encode_list_call(b"", b"null"), [None], -32600),
    "no-version": (b'{"id":7,%b}' % (LIST_CALL_TEMPLATE % b""), [7], -32600),
    "parameters-are-a-list": (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}', [7], -32600),
    "nothing-asked": (b'{"jsonrpc":"2.0","id":7}', [7], -32600),
    "batch": (b"[%b,%b]" % (encode_list_call(b""), encode_list_call(b"", b"8")), [7, 8], -32600),
    "batch-of-many": (b"[%b]" % b",".join([b'{"id":7}'] * 100), [7] * 100, -32600),
    "batch-of-too-many": (b"[%b]" % b",".join([b'{"id":7}'] * 101), [None], -32600),
    "batch-of-very-many": (b"[%b]" % b",".join([b"{}"] * 1_000_000), [None], -32600),
    "empty-batch": (b"[]", [None], -32600),
    "number": (b"7", [None], -32600),
    "too-long": (encode_list_call(b'"user":"%b"' % (b"a" * 5_000_000)), [7], -32600),
    "too-long-id-last": (
        b'{%b,"jsonrpc":"2.0","id":7}' % (LIST_CALL_TEMPLATE % (b'"user":"%b"' % (b"a" * 9_000_000))),
        [7],
        -32600,
    ),
    "too-long-and-never-ending": (encode_list_call(b'"user":"' + rb"\"" * 3_000_000), [7], -32600),
}
"""Each row is a line, the ids of the errors that answer it, and their code."""


@pytest.mark.parametrize("meta", [{}, {"_meta": REQUEST_META}], ids=["2025-11-25", "2026-07-28"])
def test_a_line_that_is_no_message_is_answered_and_the_next_is_served(meta: dict[str, object]) -> None:
    """The line is answered even if it comes first, although it does not show the era of the client."""
    pipe = subprocess.PIPE
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": meta} if meta else INITIALIZE
    answers: dict[str, list[dict[str, Any]]] = {}
    with subprocess.Popen([COMMAND, "--demo"], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for name, (line, numbers, _) in INVALID_LINES.items():
            # A line without anything is no message either, but nobody can wait for its answer.
            process.stdin.write(b"\n \r\n" + line + b"\n")
            process.stdin.flush()
            answers[name] = [json.loads(process.stdout.readline()) for _ in numbers]
        # To JSON, a carriage return is a blank.
        process.stdin.write(json.dumps(asked).encode().replace(b", ", b",\r") + b"\n")
        process.stdin.flush()
        served = json.loads(process.stdout.readline())
        assert (served["id"], "result" in served) == (1, True)
        process.stdin.close()

        assert (process.wait(TIMEOUT_SECONDS), process.stderr.read()) == (0, b"")
    reply = {
        name: ([answer["id"] for answer in those], {answer["error"]["code"] for answer in those})
        for name, those in answers.items()
    }
    assert reply == {name: (numbers, {code}) for name, (_, numbers, code) in INVALID_LINES.items()}
    messages = [answer["error"]["message"] for those in answers.values() for answer in those]
    assert all(message.endswith("Nothing was done.") and "ud83d" not in message for message in messages)


async def test_an_answer_of_the_client_that_is_no_message_is_no_answer() -> None:
    """The call is answered at once, and not after the timeout of the question."""
    initialize = json.loads(json.dumps(INITIALIZE))
    initialize["params"]["capabilities"] = {"elicitation": {"form": {}}}
    async with await anyio.open_process([COMMAND, "--demo"], env=os.environ | {"QUMULO_CONFIRM": "all"}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with anyio.fail_after(TIMEOUT_SECONDS):
            await send(process, initialize, INITIALIZED)
            await receive(process.stdout, 1)
            await send(process, create_call(2, "create_access_token", user="local:metrics"))
            [question] = await receive(process.stdout, 1)
            assert question["method"] == "elicitation/create"
            answer = (
                b'{"jsonrpc":"2.0","id":%d,"result":{"action":"accept","content":{"agree":true,"why":"\\ud83d"}}}\n'
            )
            await process.stdin.send(answer % question["id"])
            [reply] = await receive(process.stdout, 1)

            assert (reply["id"], reply["result"]["isError"]) == (2, True)
            assert "with an error or with what cannot be read" in reply["result"]["content"][0]["text"]
            await process.stdin.aclose()
            assert await process.wait() == 0


async def test_what_is_refused_never_stands_within_another_answer() -> None:
    """Each line of stdout is a message, even if both streams write at the same time."""
    count, received, refused = 40, b"", 0
    async with running_server("--demo") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked: list[Message] = [
            {"jsonrpc": "2.0", "method": "tools/list", "id": number} for number in range(2, 2 + count)
        ]
        await send(process, *asked)
        with anyio.fail_after(TIMEOUT_SECONDS):
            while received.count(b"\n") < count + refused:
                if received.count(b"\n") < count:
                    refused += 1
                    await process.stdin.send(b"no message\n")
                received += await process.stdout.receive(4096)

    numbers = [json.loads(line)["id"] for line in received.splitlines()]
    assert numbers.count(None) == refused
    assert {*numbers} == {None, *range(2, 2 + count)}
