"""How a tool is published and called: its schema as clients can read it, its arguments checked, its failures told.

The SDK drops unknown arguments in silence, quotes what was given in its errors, parses strings that look like JSON, and
publishes schemas with `$ref` and `anyOf`, on which several hosts fail. A `StrictTool` does none of that.
"""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import Any, Final, Self, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, ToolAnnotations
from pydantic import ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from token_tools.cluster.identity import propose_user
from token_tools.errors import TokenToolsError
from token_tools.operations.consent import NoConsent
from token_tools.quoting import has_secret, truncate
from token_tools.redaction import redact
from token_tools.times import propose_expiry, propose_units
from token_tools.views.hints import has_action_word, render_unknown_argument

_LOG: Final = logging.getLogger(__name__)
MAX_ARGUMENT_CHARS: Final = 4_096
"""Characters of an argument; no pattern sees a longer one."""

MAX_ARGUMENTS: Final = 1_000
"""Arguments of one call that are looked at."""

MAX_MISTAKES: Final = 8
"""Mistakes in the arguments of one call that are told."""

JsonSchema = dict[str, Any]
"""A JSON schema."""

_CONSENT_SCOPE: Final[ContextVar[anyio.CancelScope]] = ContextVar("consent_scope")
_RENDER_NO_CONSENT: Final[ContextVar[Callable[[NoConsent], str]]] = ContextVar("render_no_consent")
_DROPPED_KEYWORDS: Final = {"title", "$defs", "$ref", "anyOf"}
_ADDED_BY_HOSTS: Final = {
    # n8n, to every tool of a workflow: n8n-io/n8n#21500, n8n-io/n8n#37308
    "toolCallId",
    "sessionId",
    "action",
    "chatInput",
    "tool",
    "wait_for_previous",  # Gemini CLI: google-gemini/gemini-cli#27403
    "task_progress",  # Cline: cline/cline#9684, cline/cline#10426
    "explanation",  # Amazon Q: Amazon-Q-Developer/language-servers#1717
    "__tool_use_purpose",  # Kiro CLI writes it into the input of each tool; seen in what its hooks are given
    # What several clients were seen to add: cyanheads/mcp-ts-core#453
    "_meta",
    "tool_call_description",
}
"""Arguments that no model wrote and no model can leave out."""

_INTERNAL_ERROR: Final = "This server stumbled over a fault of its own, of which its log (stderr) tells the operator."
_OUTCOME_UNKNOWN: Final = (
    "What was done by then is not known: look at the user's tokens with list_access_tokens before you try again."
)

_NULL_WORDS: Final = ("null", "none", "None", "undefined")
"""What models write instead of JSON's null."""

_MISTAKE_TEXTS: Final = {
    "string_pattern_mismatch": (
        "the digits of a token, about 22 of them, and nothing else; of a user, list_access_tokens(user=…) tells the "
        "ids of the tokens."
    ),
    "too_long": f"no longer than {MAX_ARGUMENT_CHARS:,} characters.",
}
"""What an argument must be, by the kind of mistake that says so."""


class StrictMetadata(FuncMetadata):
    """Arguments as they came: a user named `null` or `[1]` stays the text that it is."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """The arguments that say something.

        Models that have to write every argument write null or "" for those that they do not mean, and hosts add some of
        their own.
        """
        added = _ADDED_BY_HOSTS.difference(self.arg_model.model_fields).intersection(data)
        if has_action_word(data.get("action")):
            # A model that wrote that to delete_access_token wants something else than its host.
            added -= {"action"}
        for name in sorted(added):
            _log_host_argument(name)
        return {name: value for name, value in data.items() if name not in added and not is_empty(value)}


@cache
def _log_host_argument(name: str) -> None:
    """Tell the operator, once."""
    _LOG.warning("The host adds an argument %s to the calls of tools; it is ignored", name)


def is_empty(value: object) -> bool:
    """Whether an argument is there and says nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


class StrictArguments(ArgModelBase):
    """Nothing but what is named, and no `true` where a number belongs: to Python it is 1."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_at_once(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and len(value) > MAX_ARGUMENT_CHARS:
            raise PydanticCustomError("too_long", "no such text")
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is int:
            raise PydanticCustomError("int_type", "no number")
        return value


class StrictTool(Tool):
    """A tool that takes exactly its own arguments and whose errors are this project's own words."""

    @classmethod
    def publish(cls, fn: Callable[..., Any], *, title: str, description: str, annotations: ToolAnnotations) -> Self:
        """The tool that a function is: its name, parameters and result, as a client should see them.

        The description is no docstring, which Python can be told to leave out.
        """
        tool = cls.from_function(fn, title=title, annotations=annotations, description=description)
        loose = tool.fn_metadata
        arguments = create_model(loose.arg_model.__name__, __base__=(loose.arg_model, StrictArguments))
        # The schema is the same but for one word; to make it anew for each tool is a hundredth of a server's start.
        tool.parameters = flatten_schema(tool.parameters) | {"additionalProperties": False}
        tool.fn_metadata = StrictMetadata(
            arg_model=arguments,
            output_model=loose.output_model,
            output_schema=_flatten_output_schema(loose.output_schema or {}),
        )
        return cast(Self, tool)

    async def run(
        self,
        arguments: dict[str, Any],
        context: Context[Any, Any],
        convert_result: bool = False,  # noqa: FBT001, FBT002 - the SDK's signature
    ) -> Any:  # noqa: ANN401 - the same
        """Check the arguments, then run the tool.

        Raises:
            ToolError: With a text that says what to write instead, or what happened and what to do.
        """
        if len(arguments) > MAX_ARGUMENTS:
            properties: Mapping[str, JsonSchema] = self.parameters["properties"]
            raise self._explain_refusal(
                f"These are {len(arguments):,} arguments. {self.name} takes {', '.join(properties)}."
            )
        given = self.fn_metadata.pre_parse_json(arguments)
        try:
            self.fn_metadata.validate_arguments(given)
        except ValidationError as invalid:
            # A union reports once for each of its members: one line an argument is enough.
            mistakes = {str(mistake["loc"][0]): mistake for mistake in invalid.errors(include_url=False)}
            told = [self._render_mistake(*mistake, given) for mistake in [*mistakes.items()][:MAX_MISTAKES]]
            raise self._explain_refusal("\n".join(told)) from None
        with anyio.CancelScope() as patience:
            _CONSENT_SCOPE.set(patience)
            try:
                return await super().run(given, context, convert_result)
            except ToolError as failure:
                raise self._explain_failure(failure) from failure.__cause__
            except MCPError:
                # The only thing that a client is asked for in a call is a human's answer.
                raise self._explain_no_consent("failed") from None
        raise self._explain_no_consent("timed_out")

    def _explain_refusal(self, told: str) -> ToolError:
        """The error of a call that changed nothing; where it could have, the first words say so."""
        return ToolError(f"Nothing was done. {told}" if self._may_change_tokens else told)

    def _explain_no_consent(self, no_consent: NoConsent) -> ToolError:
        return self._explain_refusal(redact(truncate(_RENDER_NO_CONSENT.get()(no_consent))))

    def _explain_failure(self, failure: ToolError) -> ToolError:
        match failure.__cause__:
            case TokenToolsError() as cause:
                told = redact(truncate(" ".join(filter(None, [str(cause), cause.advice]))))
                return ToolError(told) if cause.has_begun else self._explain_refusal(told)
            case ToolError():
                # Only the SDK raises these, about an answer without what was asked for.
                return self._explain_no_consent("not_boolean")
            case _:
                # The SDK logs what caused an error of this kind.
                return type(failure)(
                    f"{_INTERNAL_ERROR} {_OUTCOME_UNKNOWN}" if self._may_change_tokens else _INTERNAL_ERROR
                )

    @property
    def _may_change_tokens(self) -> bool:
        return self.annotations is not None and self.annotations.destructive_hint is True

    def _render_mistake(self, name: str, mistake: ErrorDetails, given: Collection[str]) -> str:
        schema = self.parameters["properties"].get(name, {})
        match mistake:
            case {"type": "extra_forbidden"}:
                return render_unknown_argument(self.name, name, self.parameters["properties"], given)
            case {"type": "missing"}:
                return f"`{name}` is missing. {schema['description']}"
            case {"type": kind} if kind in _MISTAKE_TEXTS:
                return f"`{name}` must be {_MISTAKE_TEXTS[kind]}"
            case {"input": given} if schema["type"] == "string" and "enum" not in schema and not isinstance(given, str):
                return f"`{name}` must be {_render_text_rule(name, given, schema)}"
            case {"type": "value_error", "ctx": {"error": error}}:
                return f"`{name}` {error}."
            case _:
                absent = ", or be left out" if mistake["input"] in _NULL_WORDS else ""
                return f"`{name}` must be {_render_type(schema)}{absent}."


async def refuse_secret_names(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """The middleware that refuses what is named by a secret, since the SDK repeats the name of what it does not know.

    Raises:
        MCPError: With a text that repeats nothing.
    """
    params = ctx.params or {}
    named = [name for name in (ctx.method, params.get("name"), params.get("uri")) if isinstance(name, str)]
    if ctx.request_id is not None and any(map(has_secret, named)):
        raise MCPError(
            INVALID_PARAMS,
            "There is no such thing here. Its name is not repeated: it is too long, or looks like a secret.",
        )
    return await call_next(ctx)


def start_consent_timeout(timeout: timedelta, render_no_consent: Callable[[NoConsent], str]) -> None:
    """From now on, the call that this is called in ends after `timeout`; for a question that is about to be asked.

    `render_no_consent` tells what it means if no answer comes of it.
    """
    _CONSENT_SCOPE.get().deadline = anyio.current_time() + timeout.total_seconds()
    _RENDER_NO_CONSENT.set(render_no_consent)


def stop_consent_timeout() -> None:
    """The call may take its time again: the question is answered."""
    _CONSENT_SCOPE.get().deadline = math.inf


def flatten_schema(schema: JsonSchema) -> JsonSchema:
    """The same JSON schema without `$ref`, without `anyOf` for what may be absent, and without `title` noise."""
    return _flatten_part(schema, schema.get("$defs", {}))


def _flatten_output_schema(schema: JsonSchema) -> JsonSchema:
    """The same for a result, whose objects need no words besides those of the tool."""
    definitions = {name: part | {"description": None} for name, part in schema.get("$defs", {}).items()}
    return _flatten_part(schema | {"description": None}, definitions)


def _flatten_part(schema: JsonSchema, definitions: Mapping[str, JsonSchema]) -> JsonSchema:
    if "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")] | schema
    if "anyOf" in schema:
        [given] = [option for option in schema["anyOf"] if option != {"type": "null"}]
        schema = given | schema
    flat = {
        key: value
        for key, value in schema.items()
        if key not in _DROPPED_KEYWORDS and (key not in {"default", "description"} or value is not None)
    }
    if "properties" in flat:
        flat["properties"] = {name: _flatten_part(part, definitions) for name, part in flat["properties"].items()}
    if "items" in flat:
        flat["items"] = _flatten_part(flat["items"], definitions)
    return flat


def _render_text_rule(name: str, given: object, schema: JsonSchema) -> str:
    """What text to write instead of something else; only a number is probably the right thing in the wrong form."""
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    match name:
        case "expiration_time" if is_number:
            told = f"text with a unit: write {propose_expiry(str(given))}."
        case "expiring_within" if is_number:
            told = f"text with a unit: write {propose_units(str(given))}."
        case "user":
            told = f"text. Write {propose_user(given)}."
        case "id" if is_number:
            told = (
                "text: write its digits in quotes, as list_access_tokens tells them; long JSON numbers may be inexact."
            )
        case "id" if isinstance(given, list):
            told = "text: the digits of one token. Make one call for each."
        case "after":
            told = "the `after` of the previous answer, as it stands there; leave it out for the first page."
        case _:
            told = f"text. {schema['description']}"
    return told


def _render_type(schema: JsonSchema) -> str:
    match schema:
        case {"type": "integer", "minimum": low, "maximum": high}:
            return f"a whole number from {low} to {high}"
        case {"enum": [*others, last]}:
            return f"{', '.join(others)} or {last}"
        case _:
            return "true or false, as JSON writes them"
