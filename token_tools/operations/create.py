"""Creating a token for a user: what a create would do, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from token_tools.cluster.identity import SELF, Identity
from token_tools.cluster.models import AccessToken, TokenState
from token_tools.cluster.pagination import fetch_user_tokens
from token_tools.errors import BadAnswer, Forbidden, NotFound, Refusal, Rejected, TokenToolsError
from token_tools.operations.consent import Plan, find_create_risks
from token_tools.operations.create_request import CreateRequest, find_lifetime
from token_tools.operations.journal_history import format_change
from token_tools.operations.new_token import CreatedToken, create_new_token
from token_tools.operations.services import Services
from token_tools.operations.token_limit import MAX_TOKENS_PER_USER, check_token_limit, render_lifetimes, render_way_out
from token_tools.operations.unfinished import read_user_history
from token_tools.operations.user_lookup import MeantUser, User, explain_missing_user, identify, render_identity_caveat
from token_tools.storage.attempts import Attempt, Mandate, Outcome
from token_tools.storage.journal import Journal


@dataclass(frozen=True, kw_only=True)
class CreatePlan(Plan):
    """What a create would do. `has_default_expiry` says that the caller named no expiry.

    `announcement` says where the new bearer token will wait and for whom, None if it waits nowhere.
    """

    create_request: CreateRequest
    has_default_expiry: bool
    announcement: str | None = None

    def draft_entry(self, journal: Journal, mandate: Mandate, outcome: Outcome, reason: str | None = None) -> Attempt:
        """Return the entry of the record about this creation."""
        request = self.create_request
        return journal.draft(
            "create" if request.replaces is None else "rotate",
            str(request.user),
            mandate,
            outcome=outcome,
            replaces=None if request.replaces is None else request.replaces.id,
            tokens_before=" ".join(token.id for token in request.current_tokens or ()) or None,
            after=format_change(TokenState(enabled=True, expires=request.expires)),
            reason=reason,
        )


@dataclass(frozen=True)
class CreateResult:
    """A create, carried out."""

    plan: CreatePlan
    created: CreatedToken


async def plan_create(services: Services, user: User, expiration_time: str | None) -> CreatePlan:
    """Return what a create would do. Planning changes nothing.

    Raises:
        Refusal: If a rule forbids it.
        ClusterError: If the cluster cannot be asked.
        JournalError: If the record cannot be read.
    """
    # What the rules forbid is refused before the cluster is asked.
    announcement = services.delivery.announce(services.caller.recipient)
    services.policy.choose_expiry(expiration_time, now=services.clock())
    if isinstance(user, Identity):
        services.policy.check_user(user)
    meant = await identify(services, user)
    services.policy.check_user(meant.identity)
    current_tokens = await _read_current_tokens(services, user, meant)
    # The answers so far may have told the cluster's time.
    now = services.clock()
    history = await read_user_history(services, meant.identity, current_tokens)
    check_token_limit(meant.identity, history, services.clock)
    expires = services.policy.choose_expiry(expiration_time, now=now)
    return CreatePlan(
        time=now,
        clock_ahead=services.clock.ahead,
        confirm=services.confirm,
        risks=find_create_risks(meant.identity, expires, caveat=render_identity_caveat(user, meant)),
        create_request=CreateRequest(
            meant.identity,
            expires,
            current_tokens,
            history.unfinished,
            history.untraced,
            lifetime=find_lifetime(expiration_time, expires, now),
            max_lifetime=services.policy.max_lifetime,
        ),
        has_default_expiry=expiration_time is None,
        announcement=announcement,
    )


async def _read_current_tokens(services: Services, asked: User, meant: MeantUser) -> Sequence[AccessToken] | None:
    """Return the user's tokens; None if they cannot be listed.

    Raises:
        NotFound: If neither the look-up nor the list finds the user.
        BadAnswer: If the server's own token is missing in the list of its own user.
    """
    try:
        tokens = await fetch_user_tokens(services.cluster, meant.identity)
    except Forbidden:
        return None
    except (NotFound, Rejected) as failure:
        # The list takes fewer spellings than a create does, no names without a domain for example. So the user is
        # missing only if the look-up said so, too.
        if meant.is_not_found:
            raise explain_missing_user(asked, meant) from failure
        return None
    if asked == services.caller.is_self == SELF:
        await _check_own_token_listed(services, meant.identity, tokens)
    return tokens


async def _check_own_token_listed(services: Services, user: Identity, tokens: Sequence[AccessToken]) -> None:
    own_id = (await services.cluster.who_am_i()).access_token_id
    if own_id is not None and own_id not in {token.id for token in tokens}:
        raise BadAnswer(
            f"Who-am-i tells that this server is {user}, and among their tokens is not the one that it runs on. "
            "One of the two answers is about somebody else."
        )


async def create_token(services: Services, plan: CreatePlan) -> CreateResult:
    """Create a token as planned and deliver it. A plan that a person agreed to is carried out once.

    Raises:
        Refusal: If the person's answer was used before, or if the plan cannot be carried out any more.
        TokenToolsError: If the token could not be created and delivered; see `create_new_token`.
    """
    request = await _renew_request(services, plan)
    try:
        return CreateResult(plan, await create_new_token(services, request, draft_intent(services, plan, request)))
    except Rejected as failure:
        raise await _explain_rejected(services, request.user, failure) from failure


def draft_intent(services: Services, plan: CreatePlan, request: CreateRequest) -> Attempt:
    """Return the intent to carry out a plan as it was renewed."""
    return replace(plan, create_request=request).draft_intent(services.journal, services.actor)


async def _renew_request(services: Services, plan: CreatePlan) -> CreateRequest:
    """Return the request as things are now; a person may have taken minutes to agree.

    Raises:
        Refusal: If it can no longer be carried out.
    """
    request = plan.create_request
    if plan.needs_consent and request.current_tokens is not None:
        request = replace(request, current_tokens=await fetch_user_tokens(services.cluster, request.user))
        history = await read_user_history(services, request.user, request.current_tokens)
        check_token_limit(request.user, history, services.clock)
    request.check_expiry(now=services.clock())
    return request


async def _explain_rejected(services: Services, user: Identity, failure: Rejected) -> Exception:
    """Explain why the cluster most likely declined to create a token for a user."""
    try:
        history = await read_user_history(services, user, await fetch_user_tokens(services.cluster, user))
        check_token_limit(user, history, services.clock)
    except Refusal as refusal:
        return refusal
    except TokenToolsError:
        return failure
    if len(history.tokens) < MAX_TOKENS_PER_USER:
        return failure
    return Rejected(
        f"{failure} {user} has {render_lifetimes(history.tokens, services.clock)} already, and a user can have "
        f"{MAX_TOKENS_PER_USER} tokens, disabled and expired ones included. "
        f"{render_way_out(history.tokens, history, services.clock)}"
    )
