"""Audits of clusters that do not exist, with any number of tokens, as documents for people."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from msgspec.structs import replace

from token_tools.operations.drift import TokenChange
from token_tools.operations.findings import Severity, TokenStatus
from token_tools.views.report.document import (
    AuditDocument,
    Changes,
    ClusterEntry,
    FailedCluster,
    FindingTotal,
    FindingWords,
    GoneToken,
    Thresholds,
    TokenEntry,
)

NOW: Final = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
_WORDS: Final[Sequence[tuple[str, Severity, str, str, str]]] = (
    ("expires_soon", "urgent", "expires soon", "What uses it stops then, without a warning.", "Rotate it."),
    ("never_expires", "risk", "never expires", "Whoever has a copy can use it for ever.", "Rotate it with an expiry."),
    (
        "built_in_user",
        "risk",
        "belongs to the administrator or guest that every cluster has",
        "It may do everything, and nobody can tell who used it.",
        "Give its work to a service account.",
    ),
    (
        "made_by_another",
        "notice",
        "made by somebody other than its user",
        "Whoever made it may have kept the bearer token.",
        "Ask its user.",
    ),
    (
        "user_has_no_name",
        "risk",
        "its user has no name and may be deleted",
        "Nobody answers for it.",
        "Find out whose it is.",
    ),
    ("expired", "notice", "has expired", "It takes one of the two places of its user.", "Delete it."),
    (
        "users_with_two_tokens",
        "notice",
        "user has two tokens",
        "No place is left for a rotation.",
        "Choose the one that stays.",
    ),
    ("older_than_a_year", "notice", "older than a year", "The longer it is in use, the more copies.", "Rotate it."),
)
FINDING_WORDS: Final = [FindingWords(*each) for each in _WORDS]
_SERVICES: Final = ("backup", "grafana", "veeam", "ci", "media-ingest", "snapshots", "quota-report", "archive")


def _format(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%S}.123456789Z"


def build_token(number: int, user: str, chance: Random) -> TokenEntry:
    """Return a token, with the findings that its times and its user give it."""
    created = NOW - timedelta(days=chance.randint(1, 700), minutes=chance.randint(0, 1439))
    lifetime = timedelta(days=chance.choice((30, 90, 90, 180, 365, 365, 730)))
    expires = None if chance.random() < 0.12 else created + lifetime
    is_enabled = chance.random() > 0.08
    is_expired = expires is not None and expires <= NOW
    state: TokenStatus = "expired" if is_expired else "live" if is_enabled else "disabled"
    creator = user if chance.random() < 0.85 else "local:admin"
    findings = [*_list_findings(created, expires, state), *(["made_by_another"] if creator != user else [])]
    is_new = chance.random() < 0.03
    changes: list[TokenChange] = ["new"] if is_new else ["expires later"] if chance.random() < 0.02 else []
    return TokenEntry(
        id=f"{18_446_744_073_709_000_000 + number}" if number % 2 else f"{number + 1}",
        user=user,
        creator=creator,
        created=_format(created),
        expires=None if expires is None else _format(expires),
        state=state,
        is_enabled=is_enabled,
        is_own=number == 1,
        findings=findings,
        new_findings=findings[:1] if chance.random() < 0.1 else [],
        changes=changes,
    )


def _list_findings(created: datetime, expires: datetime | None, state: TokenStatus) -> Iterator[str]:
    if state == "expired":
        yield "expired"
    if state == "live":
        if expires is None:
            yield "never_expires"
        elif expires - NOW <= timedelta(days=30):
            yield "expires_soon"
        if created <= NOW - timedelta(days=365):
            yield "older_than_a_year"


def build_cluster(name: str, tokens: int, *, first: int = 0) -> ClusterEntry:
    """Return a cluster with so many tokens, of which every third user has two; ids begin from `first`."""
    chance = Random(first + tokens)
    users = [
        f"local:{_SERVICES[number % len(_SERVICES)]}-{number}"
        for number in range(tokens)
        for _ in range(2 if number % 3 == 0 else 1)
    ]
    entries = [build_token(first + number, user, chance) for number, user in enumerate(users[:tokens])]
    return describe_cluster(name, entries)


def describe_cluster(name: str, tokens: Sequence[TokenEntry]) -> ClusterEntry:
    """Return a cluster with these tokens, with its counts."""
    found = Counter(finding for token in tokens for finding in token.findings)
    new = Counter(finding for token in tokens for finding in token.new_findings)
    states = Counter(token.state for token in tokens)
    return ClusterEntry(
        name=name,
        time=_format(NOW),
        users=len({token.user for token in tokens}),
        live=states["live"],
        disabled=states["disabled"],
        expired=states["expired"],
        findings=[
            FindingTotal(each.name, found[each.name], new[each.name], f'rotate_access_token(id="{name}")')
            for each in FINDING_WORDS
            if found[each.name]
        ],
        changes=Changes(
            since=_format(NOW - timedelta(days=1)),
            audited_by="cron",
            summary='Since 2026-11-26 09:00 UTC (a day ago, audited by "cron"): 3 new, 1 gone.',
            gone=[GoneToken("77", "local:left", by_this_server=True), GoneToken("78", None, by_this_server=False)],
        ),
        unfinished=[],
        not_whole=[],
        not_known=["The cluster tells neither when a token was last used nor since when one is disabled."],
        tokens=tokens,
    )


def build_document(clusters: Sequence[ClusterEntry], failed: Sequence[FailedCluster] = ()) -> AuditDocument:
    """Return the document of an audit that read these clusters, and failed to read others."""
    return AuditDocument(
        version=1,
        time=_format(NOW),
        program="qumulo-token-tools 0.1.0",
        summary=f"Some of {sum(len(each.tokens) for each in clusters):,} access tokens need attention.",
        only_new=False,
        thresholds=Thresholds(["30d", "14d", "1d"], "365d", "30d"),
        findings=FINDING_WORDS,
        clusters=clusters,
        failed=failed,
    )


def build_small_document() -> AuditDocument:
    """Return an audit of twenty tokens on two clusters, while a third could not be read."""
    lab = build_cluster("lab", 6, first=100)
    lab = replace(lab, not_whole=["A page of the list came twice."], unfinished=["A rotate of local:ci has no end."])
    failed = FailedCluster("archive", "No answer from archive.example.com:8000 within 30 s. Ask who runs it.")
    return build_document([build_cluster("production", 14), lab], [failed])
