"""How a tool is published and called: a schema that clients can read, strict arguments, and errors in our own words.

The SDK drops unknown arguments in silence, quotes what was given in its errors, parses strings that look like JSON, and
publishes schemas with `$ref` and `anyOf`, on which several hosts fail. A `StrictTool` does none of that.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any, Final, Self, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.types import ToolAnnotations
from pydantic import ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from token_tools.config_file import name_table_keys
from token_tools.errors import TokenToolsError, render_doctor
from token_tools.operations.calls import find_named_cluster
from token_tools.quoting import MAX_ANSWER_CHARS, truncate
from token_tools.redaction import redact
from token_tools.server.callers import get_fleet
from token_tools.server.observation import note_failure
from token_tools.server.tool_arguments import MAX_ARGUMENT_CHARS, JsonSchema, render_mistake
from token_tools.views.hints import has_action_word, render_unknown_argument

_LOG: Final = logging.getLogger(__name__)
WARNING_FIELD: Final = "warning"
"""The field for warnings that an answer of every tool may have."""

MAX_ARGUMENTS: Final = 1_000
"""Arguments of one call; a call with more is refused."""

MAX_MISTAKES: Final = 8
"""Mistakes in the arguments of one call that the error names."""

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
"""Arguments that hosts add to calls. They are ignored, since no model can leave them out."""

_INTERNAL_ERROR: Final = "This server stumbled over a fault of its own, of which its log (stderr) tells the operator."
_OUTCOME_UNKNOWN: Final = (
    "What was done by then is not known: look at the user's tokens with list_access_tokens before you try again."
)


class StrictMetadata(FuncMetadata):
    """Takes arguments as they came, where the SDK parses JSON in them: a user named `[1]` stays that text."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that say something.

        Models that have to write every argument write null or "" for those that they do not mean, and hosts add some of
        their own.
        """
        added = _ADDED_BY_HOSTS.difference(self.arg_model.model_fields).intersection(data)
        if has_action_word(data.get("action")):
            # Such a word is the model's, which wants that action: it must not be ignored as one of the host's.
            added -= {"action"}
        for name in sorted(added):
            _log_host_argument(name)
        return {name: value for name, value in data.items() if name not in added and not is_empty(value)}


@cache
def _log_host_argument(name: str) -> None:
    """Log an argument that a host adds, once for each name."""
    _LOG.warning("The host adds an argument %s to the calls of tools; it is ignored", name)


def is_empty(value: object) -> bool:
    """Whether the value of an argument says nothing: null, or a text of nothing but blanks."""
    return value is None or (isinstance(value, str) and not value.strip())


class StrictArguments(ArgModelBase):
    """Refuses arguments that are not named, texts that are too long, and `true` as a number, which is 1 to Python."""

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
    def publish(
        cls,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        title: str,
        description: str,
        annotations: ToolAnnotations,
    ) -> Self:
        """Return the tool that calls this function, with schemas of its parameters and its result for clients.

        It is called as the function is, unless it has another name. The description is an argument, because Python
        can be told to leave docstrings out.
        """
        tool = cls.from_function(fn, name=name, title=title, annotations=annotations, description=description)
        loose = tool.fn_metadata
        arguments = create_model(loose.arg_model.__name__, __base__=(loose.arg_model, StrictArguments))
        # StrictArguments adds one word to the schema. To have it generated again would take a hundredth of the start.
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
        """Run the tool, if its arguments are what it takes.

        Raises:
            ToolError: With a text that says what to write instead, or what happened and what to do.
        """
        if len(arguments) > MAX_ARGUMENTS:
            raise self.explain_refusal(
                f"These are {len(arguments):,} arguments. {self.name} takes {', '.join(self._properties)}."
            )
        try:
            return await self.execute(arguments, context, convert_result=convert_result)
        except TokenToolsError as failure:
            note_failure(failure)
            await self.on_failure(failure, arguments, context)
            raise self._explain_failure(failure, context) from failure
        except UnexpectedToolError as crash:
            if isinstance(crash.__cause__, TokenToolsError):
                note_failure(crash.__cause__)
                await self.on_failure(crash.__cause__, arguments, context)
                raise self._explain_failure(crash.__cause__, context) from crash.__cause__
            # The SDK logs what caused an error of this type.
            outcome = f" {_OUTCOME_UNKNOWN}" if self._may_change_tokens else ""
            raise UnexpectedToolError(f"{_INTERNAL_ERROR}{outcome}") from crash.__cause__
        except ToolError as failure:
            raise self._explain_mistakes(failure, arguments) from None

    async def execute(self, arguments: dict[str, Any], context: Context[Any, Any], *, convert_result: bool) -> object:
        """Let the SDK validate the arguments and run the tool. A kind of tool can wrap this.

        Raises:
            ToolError: If the tool fails or its arguments are wrong; the SDK raises it, with what happened as its cause.
        """
        return await super().run(arguments, context, convert_result)

    async def on_failure(
        self, failure: TokenToolsError, arguments: Mapping[str, Any], context: Context[Any, Any]
    ) -> None:
        """Do what a failed call asks for besides its answer; a kind of tool can add something."""

    def explain_refusal(self, text: str) -> ToolError:
        """Explain a call that changed nothing; if the tool could have changed something, the first words say so."""
        return ToolError(f"Nothing was done. {text}" if self._may_change_tokens else text)

    def _explain_failure(self, failure: TokenToolsError, context: Context[Any, Any]) -> ToolError:
        members = get_fleet(context).members
        one = members[0] if len(members) == 1 else None
        table = None if one is None else one.table
        where = None if one is None or one.name is None else f"On {one.address}:"
        what = name_table_keys(str(failure), table)
        doctor = f"\nFor the operator: {render_doctor(table)}." if failure.operator_acts else ""
        told = " ".join(filter(None, [where, what, failure.advice]))
        text = redact(truncate(told, max_chars=MAX_ANSWER_CHARS - len(doctor))) + doctor
        return ToolError(text) if failure.has_begun else self.explain_refusal(text)

    def _explain_mistakes(self, failure: ToolError, arguments: dict[str, Any]) -> ToolError:
        """Explain arguments that the tool does not take."""
        invalid = cast(ValidationError, failure.__cause__)
        # A union reports once for each of its members: one line an argument is enough.
        mistakes = {str(mistake["loc"][0]): mistake for mistake in invalid.errors(include_url=False)}
        # The cluster was taken off the arguments.
        cluster = find_named_cluster()
        named = [] if cluster is None else ["cluster"]
        given = [*self.fn_metadata.pre_parse_json(arguments), *named]
        lines = [self._render_mistake(name, mistakes[name], given) for name in [*mistakes][:MAX_MISTAKES]]
        where = "" if cluster is None else f"On {cluster}: "
        return self.explain_refusal(where + "\n".join(lines))

    def _render_mistake(self, name: str, mistake: ErrorDetails, given: Collection[str]) -> str:
        if mistake["type"] == "extra_forbidden":
            return render_unknown_argument(self.name, name, self._properties, given)
        return render_mistake(name, mistake, self._properties[name])

    @property
    def _properties(self) -> Mapping[str, JsonSchema]:
        properties: Mapping[str, JsonSchema] = self.parameters["properties"]
        return properties

    @property
    def _may_change_tokens(self) -> bool:
        return self.annotations is not None and self.annotations.destructive_hint is True


def flatten_schema(schema: JsonSchema) -> JsonSchema:
    """Return a JSON schema without `$ref`, without `anyOf` for what may be absent, and without titles."""
    return _flatten_part(schema, schema.get("$defs", {}))


def _flatten_output_schema(schema: JsonSchema) -> JsonSchema:
    """Return a flat schema of a result, whose objects need no description besides that of the tool."""
    definitions = {name: part | {"description": None} for name, part in schema.get("$defs", {}).items()}
    flat = _flatten_part(schema | {"description": None}, definitions)
    return flat | {"properties": flat.get("properties", {}) | {WARNING_FIELD: {"type": "string"}}}


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
