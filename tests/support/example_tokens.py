"""Tokens that tests add to the embedded cluster, and tokens that they look for there."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.harness import ADMIN, JANE, NOW, Harness
from token_tools.sandbox.cluster import Account, Token


def add_token_without_findings(harness: Harness, account: Account = JANE, **special: object) -> Token:
    """Add a token without findings, unless a field in `special` is a finding."""
    return add_token(harness, account, **{"creator": account.auth_id, **special})


def remove_findings_of_own_token(harness: Harness) -> None:
    """Replace the server's own token by one without findings."""
    [own] = harness.tokens_of(ADMIN)
    del harness.cluster.tokens[own.id]
    harness.cluster.add_account(replace(JANE, auth_id="1500", name="server", privileges=ADMIN.privileges))
    kept = replace(own, id=str((1500 << 64) + 1), user="1500", creator="1500", expiration_time=NOW + timedelta(days=99))
    harness.cluster.tokens[kept.id] = kept


def add_token(harness: Harness, account: Account = JANE, **special: object) -> Token:
    """Add a token that was created 40 days ago and expires in 50, unless `special` has other fields."""
    usual: dict[str, Any] = {
        "creator": ADMIN.auth_id,
        "creation_time": NOW - timedelta(days=40),
        "expiration_time": NOW + timedelta(days=50),
    }
    fields: dict[str, Any] = {**usual, **special}
    return harness.cluster.add_token(account.auth_id, **fields)


def lockout_refusal(own: Token, action: str) -> str:
    """Return the refusal of an action on the token that the server runs on."""
    return (
        f"This server itself runs on token {own.id}, so it will not {action}: it would lock itself out. "
        "To replace it, call rotate_access_token and let the server run on the new one."
    )


def own_token(harness: Harness) -> Token:
    """Return the token that the server runs on."""
    assert harness.settings.bearer_token is not None
    bearer_token = harness.settings.bearer_token.get_secret_value()
    return next(token for token in harness.cluster.tokens.values() if token.bearer_token == bearer_token)


def find_new_token(harness: Harness, old: Token) -> Token:
    """Return the one token of jane besides `old`."""
    [new] = [token for token in harness.tokens_of(JANE) if token.id != old.id]
    return new
