"""Letting the server go on with the successor of its own token, written where the old bearer token stands.

The place is tried before the cluster is asked for the successor. Afterwards a failure puts everything back: the old
bearer token stands in its place, the server runs on it, and the successor is where new bearer tokens go.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pydantic import SecretStr

from token_tools.cluster.models import NewAccessToken
from token_tools.errors import ClusterError, DeliveryError, SettingsError
from token_tools.operations.services import Services
from token_tools.storage.credential_place import CredentialPlace
from token_tools.storage.delivery import DeliveredToken
from token_tools.storage.delivery.base import DELIVERY_TIMEOUT, WorkResult, run_with_timeout


class HandOver(NamedTuple):
    """Where the bearer token of a new token is, and whether the server goes on with it.

    `failure` says why it does not although it was to; None if it does, or was not to.
    """

    delivered: DeliveredToken
    is_adopted: bool = False
    failure: str | None = None


async def find_own_place(services: Services) -> tuple[CredentialPlace | None, str | None]:
    """Return the place of the server's own credential if its successor can go there; or else None, and why not.

    There is no reason where the settings name no such place.
    """
    place = services.credential_place
    if place is None:
        return None, None
    try:
        await check_place(services, place)
    except DeliveryError as failure:
        return None, f"This server cannot go on with the new one by itself: {failure}"
    return place, None


async def check_place(services: Services, place: CredentialPlace) -> None:
    """Check that a place can be written, and that the credential which the server runs on stands there.

    Raises:
        DeliveryError: If not.
    """
    await _run(services, place.check_writable)
    await _check_holds(services, services.cluster.bearer)


async def hand_over(
    services: Services, place: CredentialPlace | None, new: NewAccessToken, delivered: DeliveredToken
) -> HandOver:
    """Let the server go on with a new token that was delivered and proved to work; without a place, do nothing."""
    if place is None:
        return HandOver(delivered)
    old = services.cluster.bearer
    try:
        await _check_holds(services, old)
    except DeliveryError as failure:
        return HandOver(delivered, failure=f"This server does not go on with the new one: {failure}")
    try:
        await _run(services, lambda: place.write(new.bearer_token))
        services.cluster.adopt_bearer(new.bearer_token)
        await _check_adopted(services, new.id)
    except (ClusterError, DeliveryError) as failure:
        services.cluster.adopt_bearer(old)
        rest = await _put_back(services, place, old, new.bearer_token)
        return HandOver(delivered, failure=f"This server does not go on with the new one: {failure} {rest}")
    return HandOver(replace(delivered, location=place.location, how_to_use="", bearer_token=None), is_adopted=True)


async def remove_copy(services: Services, delivered: DeliveredToken, journal_error: str | None) -> str | None:
    """Remove a bearer token from where new ones go, once the server has it elsewhere; return what is left of it.

    `journal_error` says why the record does not tell where it is: then the copy stays, for whoever looks for it.
    """
    if delivered.bearer_token is not None:
        # The answer would have been the copy, and does not have it.
        return None
    reason = "the record does not tell the other place"
    if journal_error is None:
        try:
            await services.delivery.remove(delivered)
        except DeliveryError as failure:
            reason = str(failure).rstrip(".")
        else:
            return None
    return f"A copy of the bearer token is still in {delivered.location.render()} ({reason})."


async def _check_holds(services: Services, bearer: SecretStr) -> None:
    """Check that a server which reads its credential now gets this one.

    Raises:
        DeliveryError: If not.
    """
    if await _run(services, lambda: _read(services)) != bearer:
        raise DeliveryError(f"{services.credential_location} holds another bearer token by now, and was left alone.")


def _read(services: Services) -> SecretStr:
    try:
        return services.read_bearer()
    except SettingsError as failure:
        raise DeliveryError(str(failure)) from None


async def _check_adopted(services: Services, token_id: str) -> None:
    principal = await services.cluster.who_am_i()
    if principal.access_token_id != token_id:
        raise DeliveryError("Once it was there, the cluster took this server for the holder of another token.")


async def _put_back(services: Services, place: CredentialPlace, old: SecretStr, new: SecretStr) -> str:
    """Put the old bearer token back if the new one is in its place; return what came of that, as text."""
    try:
        if await _run(services, lambda: _read(services)) == new:
            await _run(services, lambda: place.write(old))
        await _check_holds(services, old)
    except DeliveryError as failure:
        return f"The old one could not be put back: {failure}"
    return f"{services.credential_location} has the old one."


async def _run(services: Services, work: Callable[[], WorkResult]) -> WorkResult:
    return await run_with_timeout(
        work,
        DELIVERY_TIMEOUT,
        timeout_context=services.timeout_context,
        place=services.credential_location,
    )
