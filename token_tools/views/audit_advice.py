"""Advise what mends the findings of an audit. Nothing that works is stopped by who follows all of it, and that ends."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from token_tools.cluster.models import AccessToken
from token_tools.operations.audit import AuditResult
from token_tools.operations.audit_users import Tally, user_key_of
from token_tools.operations.calls import format_call
from token_tools.operations.findings import STALE_AFTER, USERS_WITH_TWO_TOKENS, Finding, Remedy
from token_tools.operations.policy import is_built_in, is_internal
from token_tools.times import format_duration_argument, format_relative_time

SUGGESTED_LIFETIME: Final = timedelta(days=90)
"""How long a token that never expires is to live from now on, unless the operator allows less."""

_DECISIONS: Final[Mapping[Remedy, str]] = {
    "move_work": (
        "A person names a service account for its work (create_access_token for that); then this one is disabled"
    ),
    "keep": "The cluster's own, such as its replication's: it stays as it is",
    "ask_user": "Usual for services; else a person asks their user",
}
"""What a person decides, and what speaks for it."""

_CHOOSE_ONE: Final = "A person decides which one stays"


class Advice(NamedTuple):
    """What to do about a token. `token_id` is the token that a call in the text changes, None if there is no call."""

    text: str
    token_id: str | None = None


def choose_remedies(result: AuditResult) -> Mapping[Finding, Advice]:
    """Return what mends each finding; each call is named once, so that all can be made one after the other."""
    remedies: dict[Finding, Advice] = {}
    finding_by_called_id: dict[str, Finding] = {}
    for finding, tally in list_found(result).items():
        advice = _list_advice(finding, tally, result)
        calls = {each.token_id: each for each in advice if each.token_id is not None}
        new_id = next((token_id for token_id in calls if token_id not in finding_by_called_id), None)
        if new_id is not None:
            remedies[finding] = calls[new_id]
            finding_by_called_id[new_id] = finding
        elif calls:
            called_id = next(iter(calls))
            remedies[finding] = Advice(f"{called_id}: see {finding_by_called_id[called_id].name}")
        else:
            remedies[finding] = advice[0]
    return remedies


def list_found(result: AuditResult) -> Mapping[Finding, Tally]:
    """Return the findings of which there is something."""
    return {finding: tally for finding, tally in result.audit.tallies.items() if tally.count}


def _list_advice(finding: Finding, tally: Tally, result: AuditResult) -> Sequence[Advice]:
    """Return what to do about each of the worst tokens; the one that the server runs on comes last."""
    if not tally.worst:
        # Users with two tokens are counted before their tokens are read, and that may fail.
        return [Advice(f"Whose, list_access_tokens tells. {_CHOOSE_ONE}")]
    tokens = sorted((example.token for example in tally.worst), key=lambda token: token.id == result.audit.own_token_id)
    return [_advise(_choose_remedy(finding, token, result), token, result) for token in tokens]


def _choose_remedy(finding: Finding, token: AccessToken, result: AuditResult) -> Remedy:
    """Return what mends a token: who its user is and whether it works count for more than the finding."""
    user = result.audit.census.resolve(token.user)
    if is_internal(user):
        return "keep"
    if token.is_expired(now=result.audit.scope.now):
        return "delete"
    if is_built_in(user):
        return "move_work"
    return "delete_once_unused" if token.is_disabled else finding.remedy


def _advise(remedy: Remedy, token: AccessToken, result: AuditResult) -> Advice:
    match remedy:
        case "move_work" | "keep" | "ask_user":
            return Advice(_DECISIONS[remedy])
        case "delete":
            return _advise_call("delete_access_token", token)
        case "delete_once_unused":
            return _advise_on_disabled(token, result)
        case "choose_one":
            return Advice(_render_two_tokens(token, result))
        case _:
            return _advise_on_live(remedy, token, result)


def _advise_on_live(
    remedy: Literal["find_user", "rotate", "rotate_with_expiry"], token: AccessToken, result: AuditResult
) -> Advice:
    """Return the call that creates a successor, or why there is none; a token that works is left alone."""
    census, user = result.audit.census, user_key_of(token.user)
    if user in census.missing:
        # A token of a user who does not exist authenticates nobody.
        return _advise_call("update_access_token", token, enabled=False)
    if census.is_at_limit(user):
        return Advice(f"{token.id}: no place for a second one; see {USERS_WITH_TWO_TOKENS.name}")
    if remedy == "find_user" or census.resolve(token.user).domain is None:
        return Advice("Whose they are is not known: a person finds out, and decides")
    if not result.may_rotate:
        return Advice("A person decides: this cluster does not tell what would prove that a second one works")
    needs_expiry = remedy == "rotate_with_expiry" or result.policy.default_lifetime is None
    if not needs_expiry:
        return _advise_call("rotate_access_token", token)
    lifetime = min(SUGGESTED_LIFETIME, result.policy.max_lifetime or SUGGESTED_LIFETIME)
    return _advise_call("rotate_access_token", token, expiration_time=format_duration_argument(lifetime))


def _advise_on_disabled(token: AccessToken, result: AuditResult) -> Advice:
    disabling = result.journal_history.disablings.get(token.id)
    if disabling is None:
        return Advice(f"Since when {token.id} is disabled is not known here: a person asks before it is deleted")
    since, now = disabling.last_seen, result.audit.scope.now
    if since > now - STALE_AFTER:
        when = format_relative_time(since, now=now)
        return Advice(f"{token.id} was disabled {when} by {disabling.actor}: watch whether anything breaks")
    return _advise_call("delete_access_token", token)


def _render_two_tokens(token: AccessToken, result: AuditResult) -> str:
    """Return what helps a person to decide which of two tokens that work stays."""
    if token.id in result.lost_ids:
        return f"Maybe nobody has the bearer token of {token.id} (see what is unfinished): a person decides"
    successors = [entry for entry in result.journal_history.rotations.values() if entry.replaces == token.id]
    if successors:
        return f"{successors[-1].token_id} was made to replace {token.id}: once in use, a person retires the old one"
    return _CHOOSE_ONE


def _advise_call(tool: str, token: AccessToken, **arguments: str | bool) -> Advice:
    return Advice(format_call(tool, id=token.id, **arguments), token.id)
