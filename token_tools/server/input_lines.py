"""Lines of input, and what is wrong with those that are no message.

The SDK drops what it cannot parse without a word, and whoever asked waits for ever. So each line is looked at here
first, and what would be dropped is answered: a request with an error, under its id where that can be read.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

MAX_LINE_BYTES: Final = 4 << 20
"""Bytes of a line; the SDK takes as many over HTTP."""

_KEPT_END_BYTES: Final = 1 << 10
"""Bytes that are kept of the end of a longer line: some clients write the id last."""

MAX_BATCH_MESSAGES: Final = 100
"""Messages of a batch that are answered each; with more, one answer is for all."""

_JSON_TOKEN: Final = re.compile(
    rb"""
    (?P<name>"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))           # unterminated, it takes the rest
    (?:\s*:\s*(?P<value>"(?:[^"\\]++|\\.)*+"|-?\d++(?=[\s,}])|))?
    |(?P<opening>[\[{])
    |(?P<closing>[\]}])
    """,
    re.VERBOSE | re.DOTALL,
)
_NOT_JSON: Final = "This line cannot be read as JSON, in UTF-8 and with whole characters only"
_NOT_JSONRPC: Final = (
    'This line is no JSON-RPC message as MCP has it: one object, with "jsonrpc": "2.0", in a request an "id" that is '
    'text or a whole number, a "method", and "params" that are an object or absent. Nothing was done.'
)

Members = dict[bytes, bytes | None]
"""The names in an object, quoted as they stand there, with their values; None if that is neither text nor a number."""


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without their ends.

    Of one that is longer than `MAX_LINE_BYTES` its beginning and its end, still longer.
    """
    line = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        line += first
        for other in others:
            yield bytes(line)
            line[:] = other
        del line[MAX_LINE_BYTES + 1 : -_KEPT_END_BYTES]
    yield bytes(line)


def sort_line(line: bytes) -> tuple[bytes, bytes]:
    """What the SDK is to be given for a line, and what the client is to be told at once."""
    if not line.strip():
        return b"", b""
    flaw = _find_flaw(line)
    if flaw is None:
        # In JSON it is a blank, for the SDK it would end the line.
        return line.replace(b"\r", b" ") + b"\n", b""
    messages = _scan_members(line) or [{}]
    # To an answer of the client an error is no answer: whoever waits for it is told.
    answers = [_format_refusal(message, *flaw) for message in messages if _is_response(message)]
    requests = [_format_refusal(message, *flaw) for message in messages if not _is_response(message)]
    return b"".join(answers), b"".join(requests)


def find_request_ids(line: bytes) -> list[int | str | None]:
    """The ids of the requests in a line, also where it is no message; None is one that no request can have."""
    if _find_flaw(line) is None:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        return [message.id] if isinstance(message, JSONRPCRequest) else []
    return [_parse_id(message) for message in _scan_members(line) if b'"id"' in message and not _is_response(message)]


def _find_flaw(line: bytes) -> tuple[int, str] | None:
    """Why a line would never be answered, as a code and a text; None if it is a message."""
    if len(line) > MAX_LINE_BYTES:
        return INVALID_REQUEST, f"This line is longer than {MAX_LINE_BYTES >> 20} MiB. Nothing was done."
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as invalid:
        match invalid.errors(include_url=False, include_input=False):
            case [{"type": "json_invalid", "ctx": {"error": reason}}]:
                return PARSE_ERROR, f"{_NOT_JSON}: {reason}. Nothing was done."
            case _:
                return INVALID_REQUEST, _NOT_JSONRPC
    # With an id of the wrong kind it passes for a notification.
    is_request = isinstance(message, JSONRPCNotification) and not message.method.startswith("notifications/")
    return (INVALID_REQUEST, _NOT_JSONRPC) if is_request and b'"id"' in _scan_members(line)[0] else None


def _scan_members(line: bytes) -> list[Members]:
    """The members of the message, or of each in a batch, as far as they can be told in what may be no JSON.

    Of a batch of very many there are none.
    """
    level = 2 if line.lstrip().startswith(b"[") else 1
    depth, messages = 0, list[Members]()
    for token in _JSON_TOKEN.finditer(line):
        if token["opening"]:
            depth += 1
            if depth == level:
                messages.append({})
            if len(messages) > MAX_BATCH_MESSAGES:
                return []
        elif token["closing"]:
            depth -= 1
        elif depth == level and messages and token["value"] is not None:
            messages[-1].setdefault(token["name"], token["value"] or None)
    return messages


def _is_response(message: Members) -> bool:
    return b'"method"' not in message and (b'"result"' in message or b'"error"' in message)


def _format_refusal(message: Members, code: int, told: str) -> bytes:
    return format_error(_parse_id(message), code, told)


def _parse_id(message: Members) -> int | str | None:
    try:
        number: int | str | None = json.loads(message.get(b'"id"') or b"null")
    except ValueError:
        return None
    return number


def format_error(request_id: int | str | None, code: int, told: str) -> bytes:
    """The line that answers the request of that id with an error."""
    error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": told}}
    return json.dumps(error).encode() + b"\n"
