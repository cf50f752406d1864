"""Whether the token that a create ended with is the one that was asked for, lives as long as it may, and works."""

from datetime import timedelta
from typing import Final

from token_tools.cluster.clock import render_clock_difference
from token_tools.cluster.models import AccessToken, NewAccessToken
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import BadAnswer, ClusterError, NotFound, Unauthenticated, Unproved
from token_tools.operations.create_request import CreateRequest
from token_tools.operations.journal_history import CLOCK_TOLERANCE
from token_tools.operations.services import Services
from token_tools.times import format_duration, format_time

MAX_LIFETIME_TOLERANCE: Final = timedelta(minutes=5)
"""By how much a token may live longer than is allowed: a cluster rounds, and its clock may be behind ours."""

REQUESTED_LIFETIME_TOLERANCE: Final = timedelta(days=1)
"""By how much a token may live longer than asked where no maximum is set. Answers tell how the clocks differ."""


class StrayAnswer(BadAnswer):
    """The answer to a create is not about the token that was created."""


async def read_back(services: Services, request: CreateRequest, token_id: str) -> AccessToken | None:
    """Return the new token as the cluster tells it now; None if it cannot be read.

    Raises:
        StrayAnswer: If the cluster does not know it, or knows it as an older token of somebody else.
    """
    try:
        return await _read_created(services, request, token_id)
    except StrayAnswer:
        raise
    except ClusterError:
        return None


async def read_certainly_new(services: Services, request: CreateRequest, token_id: str) -> AccessToken:
    """Return the new token, once it is certain that it is new and belongs to the user: it is about to be deleted.

    Raises:
        StrayAnswer: If it is not the token that was created.
        ClusterError: If that is not certain, or if it cannot be read.
    """
    found = await _read_created_or_listed(services, request, token_id)
    if not request.may_be_for(found):
        raise Unproved(f"the cluster says that it is of {found.user}, so it was not touched.")
    if request.current_tokens is None and not _is_recent(services, found):
        raise Unproved(
            f"which tokens {request.user} had before is not known, so it could be one of those, and was not touched."
        )
    return found


async def _read_created_or_listed(services: Services, request: CreateRequest, token_id: str) -> AccessToken:
    try:
        return await _read_created(services, request, token_id)
    except StrayAnswer:
        raise
    except ClusterError as failure:
        listed = await _read_listed(services, request, token_id)
        if listed is None:
            raise Unproved(f"{failure} It is not known to be new, and was not touched.") from failure
        return listed


async def _read_created(services: Services, request: CreateRequest, token_id: str) -> AccessToken:
    try:
        found = await services.cluster.get_token(token_id)
    except NotFound as failure:
        listed = await _read_listed(services, request, token_id)
        if listed is None:
            raise StrayAnswer(
                f"The answer was about token {token_id}, which the cluster does not know. {failure}"
            ) from None
        found = listed
    if not request.may_be_for(found) and not _is_recent(services, found):
        raise StrayAnswer(
            f"The answer was about token {token_id} of {found.user}, made {format_time(found.created)}, which was "
            "not asked for and was not touched: something in front of the cluster mixes up answers."
        )
    return found


async def _read_listed(services: Services, request: CreateRequest, token_id: str) -> AccessToken | None:
    """Return a token from the list of the user's tokens; None if it is not there, or if there is no list."""
    try:
        tokens = await fetch_user_tokens(services.cluster, request.user)
    except ClusterError:
        return None
    return next((token for token in tokens if token.id == token_id), None)


def _is_recent(services: Services, token: AccessToken) -> bool:
    return abs(token.created - services.clock()) < CLOCK_TOLERANCE


async def find_flaw(
    services: Services, request: CreateRequest, new: NewAccessToken, found: AccessToken | None
) -> str | None:
    """Return why a new token must not stay, None if it may; `found` is the token as it was read back."""
    return _find_lifetime_flaw(services, request, found) or await _find_proof_failure(services, request, new)


def _find_lifetime_flaw(services: Services, request: CreateRequest, found: AccessToken | None) -> str | None:
    """Return why a token lives too long or not at all, by the cluster's own clock; None if no such flaw is known."""
    if found is None:
        return None
    difference = render_clock_difference(services.clock.ahead)
    by_whose_clock = f" by {difference}" if difference else ""
    if found.expires is not None and found.expires <= found.created:
        expired = format_time(found.expires)
        return f"it had expired at {expired}, before it was made at {format_time(found.created)}{by_whose_clock}."
    if request.max_lifetime is not None and not _is_within_lifetime(found, request.max_lifetime):
        expires = "never expires" if found.expires is None else f"expires only {format_time(found.expires)}"
        created = f", made at {format_time(found.created)}{by_whose_clock}" if difference else ""
        return f"it {expires}{created}, whatever it was asked for, and QUMULO_MAX_LIFETIME does not allow that."
    if request.lifetime is not None and found.expires == request.expires:
        return _find_surplus_lifetime(found, request.lifetime, by_whose_clock)
    return None


def _find_surplus_lifetime(found: AccessToken, lifetime: timedelta, by_whose_clock: str) -> str | None:
    """Return why a token with the requested expiry still lives much longer than was meant; None if it does not."""
    if found.expires is None or _is_within_lifetime(found, lifetime + REQUESTED_LIFETIME_TOLERANCE):
        return None
    created = f"made at {format_time(found.created)}{by_whose_clock}"
    life = format_duration(found.expires - found.created)
    return f"{created}, it would live {life} instead of {format_duration(lifetime)}."


def _is_within_lifetime(found: AccessToken, max_lifetime: timedelta) -> bool:
    return found.expires is not None and found.expires - found.created <= max_lifetime + MAX_LIFETIME_TOLERANCE


async def _find_proof_failure(services: Services, request: CreateRequest, new: NewAccessToken) -> str | None:
    """Return why a token that is to replace another does not work as itself and for its user; None if it does."""
    if request.replaces is None:
        return None
    try:
        caller = await services.cluster.verify_bearer(new.bearer_token)
    except Unauthenticated:
        reason = "The cluster does not accept it."
    except ClusterError as failure:
        reason = str(failure)
    else:
        if caller.access_token_id == new.id and caller.is_user(request.user):
            return None
        reason = (
            "The cluster does not tell the id of the token that a caller came with, so it could not be proved."
            if caller.is_unidentified_token and caller.is_user(request.user)
            else "With it, the cluster takes the caller for another user or another token."
        )
    return f"did not prove to work. {reason}"
