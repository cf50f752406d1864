"""What can this server do on the cluster? Its version, its clock, and what the credential may do there."""

from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

from token_tools.cli.checks.check import Check, render_command, report_failure
from token_tools.cluster.client import ClusterClient, connect
from token_tools.cluster.clock import ClusterClock, render_clock_difference
from token_tools.cluster.models import CoreVersion, Principal
from token_tools.cluster.qq import Qq
from token_tools.cluster.responses import LOOKUP_PRIVILEGE, READ_PRIVILEGE, WRITE_PRIVILEGE
from token_tools.configuration import Profile
from token_tools.errors import ClusterError
from token_tools.operations.own_credential import OwnCredential, read_own_credential
from token_tools.quoting import quote_untrusted
from token_tools.server.tools import TOOLS, WRITE_TOOLS
from token_tools.times import Clock
from token_tools.views.own_expiry import WARNED_WITHIN, render_own_expiry

_ADDRESS_MEND: Final = "QUMULO_HOST and QUMULO_PORT have to be those of the cluster's REST API"
_MAX_VERSION_CHARS: Final = 60


class _Feature(NamedTuple):
    """What a version of Core brought. Source: the vendor's feature log."""

    name: str
    since: tuple[int, ...]


_FEATURES: Final = (
    _Feature("access tokens", (5, 3, 0)),
    _Feature("their expiry", (5, 3, 2)),
    _Feature("disabling them", (5, 3, 3)),
    _Feature("self-service: one's own tokens without a privilege", (7, 3, 0)),
)


async def check_cluster(profile: Profile, clock: Clock) -> AsyncIterator[Check]:
    """Yield what the cluster says; the first failure is the last check."""
    cluster_clock = ClusterClock(clock)
    async with connect(profile.settings, on_date=cluster_clock.observe_date) as cluster:
        try:
            yield _check_version(await cluster.fetch_version())
            yield _check_clock(cluster_clock)
            own = await read_own_credential(cluster)
            yield _check_principal(own, cluster_clock, profile)
            yield await _check_tools(cluster, own.principal, profile)
        except ClusterError as failure:
            yield report_failure("cluster", failure)


def _check_version(version: CoreVersion) -> Check:
    text = quote_untrusted(version.revision_id, max_chars=_MAX_VERSION_CHARS).strip('"')
    missing = [feature.name for feature in _FEATURES if version.lacks(feature.since)]
    if version.number is None:
        mend = f"{_ADDRESS_MEND}; or the cluster is newer than this server, which has to be upgraded then"
        return Check("version", "warning", f"{text} is no version that this server knows", mend)
    if _FEATURES[0].name in missing:
        mend = "access tokens need Qumulo Core 5.3.0 or newer: the cluster has to be upgraded"
        return Check("version", "failed", f"{text} has no access tokens", mend)
    if missing:
        return Check("version", "ok", f"{text}; it lacks {', '.join(missing)}")
    return Check("version", "ok", f"{text}; it has {', '.join(feature.name for feature in _FEATURES)}")


def _check_clock(clock: ClusterClock) -> Check:
    difference = render_clock_difference(clock.ahead)
    if not clock.is_compared:
        return Check("clocks", "skipped", "the cluster's answer does not tell its time")
    if difference is None:
        return Check("clocks", "ok", "this machine's and the cluster's agree")
    return Check("clocks", "warning", f"they differ: times are told by {difference}", "let both be set by NTP")


def _check_principal(own: OwnCredential, clock: Clock, profile: Profile) -> Check:
    me = own.principal
    name = quote_untrusted(me.name, max_chars=_MAX_VERSION_CHARS).strip('"') if me.name else f"auth_id:{me.id}"
    if own.failure is not None:
        return Check("who am I", "warning", f"{name}, by a token whose expiry is not known: {own.failure}")
    if own.token is None:
        what = "an access token whose id the cluster does not tell" if me.is_unidentified_token else "a login"
        return Check("who am I", "ok", f"{name}, by {what}")
    now = clock()
    text, left = f"{name}; {render_own_expiry(own.token, now=now)}", own.find_time_left(now=now)
    if left is None or left > WARNED_WITHIN:
        return Check("who am I", "ok", text)
    mend = f"ask your assistant to rotate it, or run `{render_command('setup', profile)}` again"
    return Check("who am I", "warning", text, mend)


async def _check_tools(cluster: ClusterClient, me: Principal, profile: Profile) -> Check:
    allowed = [rule.tool.name for rule in TOOLS if rule.is_allowed(profile.settings)]
    held, needed = me.privileges, _list_needed(profile)
    missing = [] if held is None else [privilege for privilege in needed if privilege not in held]
    if READ_PRIVILEGE not in missing:
        await cluster.fetch_page(limit=1)
    if held is None:
        return Check("privileges", "warning", "the cluster does not tell them", details=_list_tools(allowed))
    if not missing:
        return Check("privileges", "ok", ", ".join(needed), details=_list_tools(allowed))
    grant = Qq(profile.settings.host, profile.settings.port).grant("ROLE", missing)
    return Check(
        "privileges",
        "failed" if READ_PRIVILEGE in missing else "warning",
        f"{', '.join(missing)} missing",
        f"an administrator grants what is missing to a role of this user, such as `{grant}`",
        [*_list_tools(_find_working(allowed, missing)), *_render_rest(missing)],
    )


def _list_needed(profile: Profile) -> Sequence[str]:
    return [READ_PRIVILEGE, LOOKUP_PRIVILEGE, *([] if profile.settings.read_only else [WRITE_PRIVILEGE])]


def _find_working(allowed: Sequence[str], missing: Sequence[str]) -> Sequence[str]:
    """Return the tools that work for all users' tokens."""
    writing = {tool.name for tool in WRITE_TOOLS}
    without_write = [name for name in allowed if name not in writing or WRITE_PRIVILEGE not in missing]
    return [] if READ_PRIVILEGE in missing else without_write


def _render_rest(missing: Sequence[str]) -> Sequence[str]:
    own = "with Qumulo Core 7.3.0 or newer, every tool works for this user's own tokens"
    lookup = ["users have to be written by number, such as auth_id:500"] if LOOKUP_PRIVILEGE in missing else []
    return [*([own] if {READ_PRIVILEGE, WRITE_PRIVILEGE} & {*missing} else []), *lookup]


def _list_tools(names: Sequence[str]) -> Sequence[str]:
    return [f"works: {', '.join(names)}"] if names else ["no tool works for the tokens of all users"]
