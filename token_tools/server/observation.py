"""What may be told of a message to those who watch this server from outside: never who sent it, or what it says.

Methods, tools and versions of the protocol are told by their names if they are known ones. A name that is not is a text
of a client or of a model, and may be a secret.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from typing import Any, Final, Literal

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult
from mcp.types.version import KNOWN_PROTOCOL_VERSIONS

from token_tools.errors import Refusal, TokenToolsError

OTHER: Final = "other"
"""Stands for a name that is not known."""

CALL: Final = "tools/call"
METHODS: Final = frozenset({
    *("initialize", "ping", "server/discover", "subscriptions/listen", "completion/complete", "logging/setLevel"),
    *("tools/list", CALL, "prompts/list", "prompts/get"),
    *("resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe"),
    *("notifications/cancelled", "notifications/initialized", "notifications/progress"),
    "notifications/roots/list_changed",
})  # fmt: skip
"""The methods of the protocol, of both eras."""

Outcome = Literal["ok", "error", "refused", "asked", "cancelled"]
"""What came of a message.

It was `refused` if a rule forbids what was asked for, or if a person did not agree; `asked` if the answer is a question
to a person; `cancelled` if nobody waited for the answer any more.
"""


class Message:
    """What may be told of a message: its method, the tool that it calls, the protocol's version, and what came of it.

    `tool` is None if it calls none, and `outcome` until the end. `code` is that of the error in the protocol, None if
    the answer is a result.
    """

    def __init__(self, ctx: ServerRequestContext[Any, Any], tools: Collection[str]) -> None:
        self.method = _find_known(ctx.method, METHODS)
        self.tool = _find_known((ctx.params or {}).get("name"), tools) if ctx.method == CALL else None
        self.protocol = _find_known(ctx.protocol_version, KNOWN_PROTOCOL_VERSIONS)
        self.outcome: Outcome | None = None
        self.code: int | None = None
        self.is_refused = False

    async def follow(self, answering: Awaitable[HandlerResult]) -> HandlerResult:
        """Return the answer, and note what came of the message.

        Raises:
            MCPError: If the answer is one.
        """
        self.outcome = "cancelled"
        try:
            result = await answering
        except Exception as failure:
            self.outcome = "error"
            self.code = failure.error.code if isinstance(failure, MCPError) else None
            raise
        self.outcome = self._judge(result)
        return result

    def _judge(self, result: HandlerResult) -> Outcome:
        match result:
            case CallToolResult(is_error=True) | {"isError": True}:
                return "refused" if self.is_refused else "error"
            case {"resultType": "input_required"}:
                return "asked"
            case _:
                return "ok"


Observer = Callable[[Message, ServerRequestContext[Any, Any]], AbstractContextManager[object]]
"""Gives the context in which a message is answered; it may look at the message when that ends."""

_CURRENT: Final[ContextVar[Message]] = ContextVar("current_message")
"""The message that is being answered, where somebody watches."""


class Observation:
    """The middleware that lets observers watch how messages are answered; the others stand inside it.

    `tools` are the names of the tools of this server.
    """

    def __init__(self, tools: Collection[str], observers: Sequence[Observer]) -> None:
        self._tools = tools
        self._observers = observers

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Return the answer of the server."""
        message = Message(ctx, self._tools)
        token = _CURRENT.set(message)
        try:
            with ExitStack() as contexts:
                for observe in self._observers:
                    contexts.enter_context(observe(message, ctx))
                return await message.follow(call_next(ctx))
        finally:
            _CURRENT.reset(token)


def note_failure(failure: TokenToolsError) -> None:
    """Note why the call that is being answered fails, since its answer does not say whether a rule forbids it."""
    if isinstance(failure, Refusal) and (message := _CURRENT.get(None)) is not None:
        message.is_refused = True


def _find_known(name: object, known: Collection[str]) -> str:
    return name if isinstance(name, str) and name in known else OTHER
