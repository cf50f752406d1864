"""Take an inventory of clusters for people: every token with its findings, and which of them are news.

A finding of a token is news if the last audit of the same series did not tell of it. What an inventory saw and told is
kept only when its reader has it, so that what was not delivered is news once more.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import anyio.to_thread

from token_tools.cluster.models import AccessToken
from token_tools.errors import JournalError
from token_tools.operations.audit import Audit, AuditRequest, AuditResult, examine_tokens, keep_audit
from token_tools.operations.audit_users import user_key_of
from token_tools.operations.caller import Caller
from token_tools.operations.drift import ChangedToken, TokenChange
from token_tools.operations.findings import EXPIRES_SOON, USERS_WITH_TWO_TOKENS
from token_tools.operations.fleet import Fleet, FleetAnswers
from token_tools.operations.services import Services
from token_tools.storage.sightings import decode_told, encode_told

_SECOND: Final = timedelta(seconds=1)
_OF_USERS: Final = frozenset({USERS_WITH_TWO_TOKENS.name})


class InventoryRequest(NamedTuple):
    """Who asks for an inventory, and of which series it is.

    The longest of `thresholds` is how soon is soon to expire. When a token comes within a shorter one, that is news.
    """

    caller: Caller
    series: str
    thresholds: Sequence[timedelta]

    @property
    def expiring_within(self) -> timedelta:
        """How soon is soon to expire."""
        return max(self.thresholds)


class ListedToken(NamedTuple):
    """A token, the names of its findings, those of them that are news, and what happened since the last audit."""

    token: AccessToken
    findings: Sequence[str]
    new_findings: Sequence[str]
    changes: Sequence[TokenChange]


@dataclass(frozen=True)
class Inventory:
    """Every token of a cluster, those that are gone, and the audit of them; `told` is what `keep` keeps."""

    services: Services
    result: AuditResult
    tokens: Sequence[ListedToken]
    gone: Sequence[ChangedToken]
    told: bytes

    @property
    def has_changes(self) -> bool:
        """Whether any token is new, gone or another than at the last audit."""
        return self.result.audit.drift.has_changes

    def count_new(self, finding: str) -> int:
        """Return of how many tokens a finding is news; for `users_with_two_tokens`, of how many users."""
        tokens = [listed.token for listed in self.tokens if finding in listed.new_findings]
        return len({user_key_of(token.user) for token in tokens} if finding in _OF_USERS else tokens)

    async def keep(self) -> Sequence[str]:
        """Keep what was seen and told for the next audit of the series, and return why that was not possible."""
        return await keep_audit(self.services, self.result, told=self.told)


async def take_inventories(fleet: Fleet, request: InventoryRequest) -> FleetAnswers[Inventory]:
    """Take an inventory of all clusters at once. What one cannot answer stops no other."""
    return await fleet.ask_each(lambda services: _take_inventory(services, request))


async def _take_inventory(services: Services, request: InventoryRequest) -> Inventory:
    asking = replace(services, caller=request.caller)
    found: list[tuple[AccessToken, Sequence[str]]] = []

    async def add(_audit: Audit, tokens: Sequence[tuple[AccessToken, Sequence[str]]]) -> None:
        found.extend(tokens)

    audit_request = AuditRequest(request.expiring_within, request.series)
    result = await examine_tokens(asking, audit_request, on_progress=_ignore_progress, on_page=add)
    # A hundred thousand tokens take a second.
    return await anyio.to_thread.run_sync(_conclude, asking, result, found, request.thresholds)


async def _ignore_progress(_seen: int) -> None:
    pass


def _conclude(
    services: Services,
    result: AuditResult,
    found: Sequence[tuple[AccessToken, Sequence[str]]],
    thresholds: Sequence[timedelta],
) -> Inventory:
    audit = result.audit
    last_told, caveats = _read_told(audit)
    told: defaultdict[str, list[str]] = defaultdict(list)
    tokens: list[ListedToken] = []
    for token, found_alone in found:
        findings = audit.complete_findings(user_key_of(token.user), found_alone)
        signs = {name: _find_sign(name, token, audit.scope.now, thresholds) for name in findings}
        for sign in signs.values():
            told[sign].append(token.id)
        news = [name for name, sign in signs.items() if token.id not in last_told.get(sign, ())]
        tokens.append(ListedToken(token, findings, news, audit.drift.list_changes(token)))
    kept = encode_told({sign: sorted(ids) for sign, ids in sorted(told.items())})
    result = replace(result, caveats=[*result.caveats, *caveats])
    return Inventory(services, result, tokens, [*audit.drift.list_gone()], kept)


def _read_told(audit: Audit) -> tuple[Mapping[str, Collection[str]], Sequence[str]]:
    """Return what the last audit told, and why it is not known; without an earlier one it told nothing."""
    last = audit.drift.last
    try:
        return ({} if last is None else decode_told(last.told)), []
    except JournalError as failure:
        return {}, [f"Which findings are new is not known: {failure}"]


def _find_sign(name: str, token: AccessToken, now: datetime, thresholds: Sequence[timedelta]) -> str:
    """Return what is kept of a finding that was told: its name, and the threshold within which a token expires."""
    if name != EXPIRES_SOON.name or token.expires is None:
        return name
    nearest = min(threshold for threshold in thresholds if token.expires - now <= threshold)
    return f"{name} within {nearest // _SECOND} s"
