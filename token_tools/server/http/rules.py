"""What may the holder of an access token do? What the rules `claim=value` of the operator say."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from token_tools.http_settings import WORD_LISTS, ClaimRule, HttpSettings, parse_rules
from token_tools.server.http.signed_in import Role

Claims = Mapping[str, Any]
"""What an access token says of its holder."""


@dataclass(frozen=True)
class Rules:
    """Who may read, and who may write."""

    readers: Sequence[ClaimRule]
    writers: Sequence[ClaimRule]

    @classmethod
    def from_settings(cls, settings: HttpSettings) -> "Rules":
        """Return the rules that the operator has set."""
        return cls(parse_rules(settings.http_readers), parse_rules(settings.http_writers))

    def find_role(self, claims: Claims) -> Role | None:
        """Return what the holder of these claims may do, None for nothing."""
        if any(_holds(rule, claims) for rule in self.writers):
            return "write"
        return "read" if any(_holds(rule, claims) for rule in self.readers) else None


def find_claims(claims: Claims, path: str) -> Iterator[object]:
    """Yield each value that a path names: a claim of this whole name, or one inside of other claims.

    `realm_access.roles` is `roles` in the object `realm_access`. Names of claims may have dots in them, so every dot is
    tried.
    """
    if path in claims:
        yield claims[path]
    for end, char in enumerate(path):
        inner = claims.get(path[:end]) if char == "." else None
        if isinstance(inner, dict):
            yield from find_claims(cast(Claims, inner), path[end + 1 :])


def _holds(rule: ClaimRule, claims: Claims) -> bool:
    return any(
        _format_value(item) == rule.value
        for value in find_claims(claims, rule.claim)
        for item in _list_items(rule.claim, value)
    )


def _list_items(claim: str, value: object) -> Sequence[object]:
    match value:
        case str() if claim in WORD_LISTS:
            return value.split(" ")
        case list():
            return cast(Sequence[object], value)
        case _:
            return [value]


def _format_value(value: object) -> str | None:
    """Return a value as rules spell it: a text as it is, a number or a boolean in JSON; None for anything else."""
    match value:
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            return None
