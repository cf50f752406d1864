"""What an audit saw of every token, in the few bytes from which the next one can tell what changed.

Each token is a number: its id, its state and the auth_id of its user, one beside the other. Ids are kept exactly, since
a hash of two ids could hide a token. Times are kept as instants, so that another way to write one is no change.
"""

import struct
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import lt
from typing import Annotated, Final, NamedTuple

import msgspec

from token_tools.cluster.models import AccessToken
from token_tools.errors import RETRY_ONCE_FIXED, JournalError

NEVER_EXPIRES: Final = 2**62
"""Stands for an expiry that is later than all others."""

_WORD_BITS: Final = 64
"""Bits of a state, and of an auth_id."""

_WORD_MASK: Final = 2**_WORD_BITS - 1
_FIRST_OTHER_ID: Final = 10**64
"""From here on, numbers stand for ids that are no plain numbers themselves."""

_FIRST_INSTANT: Final = datetime.min.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

ASSISTANT: Final = "assistant"
"""The series of the audits that an assistant asks for. Audits are compared with the last one of their series."""

_VERSION: Final = 1
_HEADER: Final = struct.Struct("<BQ")
"""The version of this notation, and how many tokens there are."""

_FRAME: Final = struct.Struct("<BI")
"""How many bytes each token of a frame has once it is unpacked, and how many bytes follow."""

_TOKENS_PER_FRAME: Final = 4096
"""Tokens that are packed or unpacked at once; all at once would take several times the memory of the result."""


class Sighting(NamedTuple):
    """When an audit began by the cluster's clock, who asked for it, what it saw, and which findings it told of.

    See `encode_tokens` and `encode_told`; nothing is kept of what the assistant is told.
    """

    time: Annotated[datetime, msgspec.Meta(tz=True)]
    actor: str
    tokens: bytes
    told: bytes = b""


def pack_token(token: AccessToken) -> int:
    """Return a token as a number. If something about two tokens differs that is kept, their numbers do."""
    expires = token.expires
    expiry = NEVER_EXPIRES if expires is None else (expires - _FIRST_INSTANT) // _MICROSECOND
    state = 2 * expiry + (token.enabled is False)
    return (_pack_id(token.id) << _WORD_BITS | state) << _WORD_BITS | int(token.user.auth_id or 0)


def _pack_id(token_id: str) -> int:
    if token_id.isdecimal() and token_id[0] != "0":
        return int(token_id)
    return _FIRST_OTHER_ID + int.from_bytes(token_id.encode())


def unpack_id(packed: int) -> str:
    """Return the id of a token."""
    number = packed >> 2 * _WORD_BITS
    if number < _FIRST_OTHER_ID:
        return str(number)
    number -= _FIRST_OTHER_ID
    return number.to_bytes((number.bit_length() + 7) // 8).decode()


def unpack_state(packed: int) -> tuple[int, bool]:
    """Return the expiry of a token, as a number that is the greater the later it is, and whether it is disabled."""
    expiry, is_disabled = divmod(packed >> _WORD_BITS & _WORD_MASK, 2)
    return expiry, bool(is_disabled)


def find_expiries(tokens: Iterable[int], *, excluding: Collection[str]) -> Iterator[datetime]:
    """Yield when tokens expire: those that are enabled, do expire, and are not among the ids to be excluded."""
    for packed in tokens:
        expiry, is_disabled = unpack_state(packed)
        if expiry < NEVER_EXPIRES and not is_disabled and unpack_id(packed) not in excluding:
            yield _FIRST_INSTANT + expiry * _MICROSECOND


def unpack_user(packed: int) -> str | None:
    """Return the auth_id of a token's user, None if it is not known."""
    return str(packed & _WORD_MASK) if packed & _WORD_MASK else None


def find_token(tokens: Sequence[int], packed: int) -> int | None:
    """Return where among tokens in ascending order the one with the id of this one is, None if it is not there."""
    first = packed >> 2 * _WORD_BITS << 2 * _WORD_BITS
    position = bisect_left(tokens, first)
    return position if position < len(tokens) and tokens[position] - first < 1 << 2 * _WORD_BITS else None


def encode_tokens(tokens: Sequence[int]) -> bytes:
    """Return tokens in ascending order as the database has them: a header, and frames of so many tokens each."""
    firsts = range(0, len(tokens), _TOKENS_PER_FRAME)
    frames = [_encode_frame(tokens[first : first + _TOKENS_PER_FRAME]) for first in firsts]
    return b"".join([_HEADER.pack(_VERSION, len(tokens)), *frames])


def _encode_frame(tokens: Sequence[int]) -> bytes:
    width = (tokens[-1].bit_length() + 7) // 8
    # A higher level takes several times as long, and saves a twentieth.
    packed = zlib.compress(b"".join([token.to_bytes(width) for token in tokens]), level=1)
    return _FRAME.pack(width, len(packed)) + packed


def decode_tokens(data: bytes) -> list[int]:
    """Return the tokens that `encode_tokens` was given.

    Raises:
        JournalError: If this version of the program wrote no such data.
    """
    try:
        version, count = _HEADER.unpack_from(data)
        tokens = [*_decode_frames(data)] if version == _VERSION else []
    except (zlib.error, struct.error, ValueError):
        raise explain_unreadable() from None
    if version != _VERSION or len(tokens) != count or not all(map(lt, tokens, islice(tokens, 1, None))):
        raise explain_unreadable()
    return tokens


def _decode_frames(data: bytes) -> Iterator[int]:
    start = _HEADER.size
    while start < len(data):
        width, size = _FRAME.unpack_from(data, start)
        start, frame = start + _FRAME.size + size, data[start + _FRAME.size : start + _FRAME.size + size]
        unpacker = zlib.decompressobj()
        tokens = unpacker.decompress(frame, _TOKENS_PER_FRAME * width + 1)
        if not unpacker.eof:
            raise ValueError("is not whole")
        for first in range(0, len(tokens), width):
            yield int.from_bytes(tokens[first : first + width])


def encode_told(told: Mapping[str, Sequence[str]]) -> bytes:
    """Return the findings that were told of, each with the ids of its tokens, as the database has them."""
    return zlib.compress(msgspec.json.encode(told), level=1)


def decode_told(data: bytes) -> Mapping[str, Collection[str]]:
    """Return what `encode_told` was given; nothing if nothing was kept.

    Raises:
        JournalError: If this version of the program wrote no such data.
    """
    try:
        return msgspec.json.decode(zlib.decompress(data), type=dict[str, frozenset[str]]) if data else {}
    except (zlib.error, msgspec.MsgspecError, ValueError):
        raise explain_unreadable() from None


def explain_unreadable() -> JournalError:
    """Explain why what an audit saw is of no use."""
    return JournalError(
        "another version of this program wrote what the last audit saw, or it is damaged. The next audit of the whole "
        "list replaces it.",
        advice=RETRY_ONCE_FIXED,
    )
