"""What a call would do: what its caller is asked about already, or a new plan.

A client of the newer era answers a question by calling again, and that call may reach another server. The database
tells every server which question is open about which request of which caller. A server that does not have the plan
plans at the time of the question, and the answer counts if that leads to the same text. If it does not, things have
changed, and another question takes the place of the first.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Concatenate, Generic, ParamSpec, TypeVar, cast

import msgspec
from mcp.server.mcpserver import Context
from mcp.types import ClientCapabilities

from token_tools.cluster.clock import ClusterClock
from token_tools.errors import Refusal
from token_tools.operations.consent import NotAgreed
from token_tools.operations.create import CreatePlan
from token_tools.operations.delete import DeletePlan
from token_tools.operations.fleet import Fleet
from token_tools.operations.services import Services
from token_tools.operations.update import UpdatePlan
from token_tools.quoting import truncate
from token_tools.redaction import redact
from token_tools.server.callers import get_services
from token_tools.server.elicitation.questions import AnyPlan, render_cannot_ask, render_question
from token_tools.storage.attempts import Mandate
from token_tools.storage.questions import OpenQuestion

SomePlan = TypeVar("SomePlan", bound=CreatePlan | UpdatePlan | DeletePlan)
_Arguments = ParamSpec("_Arguments")


async def find_plan(
    ctx: Context[Fleet],
    make: Callable[Concatenate[Services, _Arguments], Awaitable[SomePlan]],
    *args: _Arguments.args,
    **kwargs: _Arguments.kwargs,
) -> SomePlan:
    """Return what a call would do. If a person has to agree, their question is open when this returns.

    While they are asked, an equal request gets the same question.

    Raises:
        NotAgreed: If a person has to agree, and the client cannot ask them.
        Refusal: If a rule forbids it.
        ClusterError: If the cluster cannot be asked.
        JournalError: If the journal cannot be written.
    """
    services = get_services(ctx)
    digest = _digest(json.dumps([make.__name__, args, kwargs], default=msgspec.to_builtins))
    request = _Request(services, digest, lambda services: make(services, *args, **kwargs))
    question = await services.journal.find_question(services.caller.id, digest)
    asked = None if question is None else await request.resume(question)
    plan = asked or await make(services, *args, **kwargs)
    if not plan.needs_consent:
        return plan
    if not _can_show_forms(ctx.client_capabilities):
        raise _explain_cannot_ask(services, plan, is_known=ctx.client_capabilities is not None)
    return asked or await request.ask(plan, replaces=question)


@dataclass(frozen=True)
class _Request(Generic[SomePlan]):
    """What a caller asks for; `digest` is equal for equal requests, and `make` plans it."""

    services: Services
    digest: str
    make: Callable[[Services], Awaitable[SomePlan]]

    async def resume(self, question: OpenQuestion) -> SomePlan | None:
        """Return the plan that an open question is about, None if things have changed since it was asked."""
        services = self.services
        if (known := services.pending_plans.find(question.id)) is not None:
            # A plan with this question is one for this request.
            return cast(SomePlan, known)
        clock = ClusterClock.stopped(question.planned, question.clock_ahead)
        plan = self._prepare(replace(await self.make(replace(services, clock=clock)), question_id=question.id))
        if _digest(str(plan.question)) != question.digest:
            return None
        services.pending_plans.add(plan)
        return plan

    async def ask(self, plan: SomePlan, *, replaces: OpenQuestion | None) -> SomePlan:
        """Open the question about a new plan, and return it; if an equal call was faster, return that one's plan.

        Raises:
            Refusal: If an equal call was faster and found things otherwise.
        """
        services = self.services
        plan = self._prepare(plan)
        mandate = Mandate(services.actor, "asked", plan.question_id)
        question = await services.journal.open_question(
            OpenQuestion(
                id=plan.question_id,
                caller=services.caller.id,
                request=self.digest,
                planned=plan.time,
                asked=plan.time - plan.clock_ahead,
                digest=_digest(str(plan.question)),
            ),
            plan.draft_entry(services.journal, mandate, "asked"),
            replaces=replaces,
        )
        if question.id == plan.question_id:
            services.pending_plans.add(plan)
            return plan
        asked = await self.resume(question)
        if asked is None:
            raise Refusal(
                "An equal call is being asked about, and things have changed since. Call again to see how they are now."
            )
        return asked

    def _prepare(self, plan: SomePlan) -> SomePlan:
        """Return a plan with the text of the question about it."""
        text = redact(truncate(render_question(plan, self.services.address)))
        return replace(plan, question=text, request=self.digest)


def _can_show_forms(capabilities: ClientCapabilities | None) -> bool:
    """Whether the client shows forms. An empty declaration means them: once there was nothing else to declare."""
    elicitation = None if capabilities is None else capabilities.elicitation
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _explain_cannot_ask(services: Services, plan: AnyPlan, *, is_known: bool) -> Refusal:
    mandate = Mandate(services.actor, "could not ask")
    text = render_cannot_ask(plan, services.qq, is_known=is_known)
    return NotAgreed(text, plan.draft_entry(services.journal, mandate, "could not ask"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
