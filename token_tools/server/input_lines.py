"""Lines of input: which of them are messages, and the answer to those that are not.

The SDK silently drops what it cannot parse, and the client that sent it waits for ever. So each line is checked here
first. A request that would be dropped is answered with an error, under its id if that can be read.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from mcp.types import INVALID_REQUEST, PARSE_ERROR, JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

MAX_LINE_BYTES: Final = 4 << 20
"""Bytes of a line; the SDK has the same limit over HTTP."""

_KEPT_END_BYTES: Final = 1 << 10
"""Bytes that are kept of the end of a longer line, since some clients write the id last."""

MAX_BATCH_MESSAGES: Final = 100
"""Messages of a batch that are answered one by one; a larger batch gets one answer for all."""

_JSON_TOKEN: Final = re.compile(
    rb"""
    (?P<name>"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))           # an unterminated one takes the rest
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
"""The names in an object, with their quotes, and the JSON of their values; None if it is neither text nor a number."""


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines without their line ends.

    A line that is longer than `MAX_LINE_BYTES` loses its middle; what is left is still longer than that.
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
    """Return what the SDK gets for a line, and what the client gets at once; each may be empty."""
    if not line.strip():
        return b"", b""
    flaw = _find_flaw(line)
    if flaw is None:
        # A carriage return is white space in JSON, but for the SDK it would end the line.
        return line.replace(b"\r", b" ") + b"\n", b""
    code, reason = flaw
    messages = _scan_members(line) or [{}]
    refusals = [(_is_response(message), format_error(_parse_id(message), code, reason)) for message in messages]
    # A response answers a request of the SDK's, so the SDK has to learn that it failed, and not the client.
    for_sdk = b"".join(refusal for is_response, refusal in refusals if is_response)
    for_client = b"".join(refusal for is_response, refusal in refusals if not is_response)
    return for_sdk, for_client


def find_request_ids(line: bytes) -> list[int | str | None]:
    """Return the ids of the requests in a line, even if it is no message; None stands for an id that is not valid."""
    if _find_flaw(line) is None:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
        return [message.id] if isinstance(message, JSONRPCRequest) else []
    return [_parse_id(message) for message in _scan_members(line) if b'"id"' in message and not _is_response(message)]


def _find_flaw(line: bytes) -> tuple[int, str] | None:
    """Return why a line would never be answered, as an error's code and text; None if it is a message."""
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
    # The SDK takes a request whose id is of the wrong type for a notification, and does not answer it.
    is_request = isinstance(message, JSONRPCNotification) and not message.method.startswith("notifications/")
    return (INVALID_REQUEST, _NOT_JSONRPC) if is_request and b'"id"' in _scan_members(line)[0] else None


def _scan_members(line: bytes) -> list[Members]:
    """Return the members of the message, or of each message in a batch; the line need not be JSON.

    A batch of more than `MAX_BATCH_MESSAGES` has none.
    """
    # A parser would give up at the first mistake, and the id may come after it. So this only counts brackets.
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


def _parse_id(message: Members) -> int | str | None:
    try:
        number: int | str | None = json.loads(message.get(b'"id"') or b"null")
    except ValueError:
        return None
    return number


def format_error(request_id: int | str | None, code: int, text: str) -> bytes:
    """Return the line that answers the request of this id with an error."""
    error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}
    return json.dumps(error).encode() + b"\n"
