"""What the words of a command line mean, and what is wrong with them.

A command is a module of this folder, which is loaded only if the command is named. Every setting that is not a secret
is also an option. A mistake is told in one line that repeats no secret.
"""

import argparse
import difflib
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast

from token_tools import __version__
from token_tools.cli import serve
from token_tools.errors import UsageError
from token_tools.http_settings import FIELDS
from token_tools.operator_input import MAX_SHOWN_CHARS, find_secret_reason
from token_tools.quoting import is_visible, quote_untrusted
from token_tools.server.app import SERVER_NAME
from token_tools.setting_names import variable_name
from token_tools.settings import SECRET_SETTINGS

_MIN_SIMILARITY: Final = 0.7
"""Ratio, from 0 to 1, from which on an option is told to be the nearest to one that there is not."""


class CommandModule(Protocol):
    """A module that is a command.

    `run` takes the settings that are given as options, and the command's own options by name; it returns the exit
    status.
    """

    run: Callable[..., int]

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the options of the command."""
        ...


class Command(NamedTuple):
    """What a command does, in a line, and command lines without the name of the program."""

    help: str
    examples: Sequence[str]


COMMANDS: Final[Mapping[str, Command]] = {
    "setup": Command(
        "Set this up for a cluster, step by step, with a credential of its own",
        ["setup", "setup --host cluster.example.com --user local:mcp-service --read-only --yes"],
    ),
    "doctor": Command(
        "Check all that has to be right, and say what mends what is not",
        ["doctor", "doctor --cluster lab", "doctor --json"],
    ),
    "trust": Command("Show the certificate of a cluster, and trust it if you agree", ["trust", "trust --cluster lab"]),
    "install": Command(
        "Let an assistant's program start this server, and try whether it does",
        [
            "install --client claude-code --host cluster.example.com",
            "install --client all --dry-run",
            "install --client vscode --scope project --print",
        ],
    ),
    "uninstall": Command(
        "Take the entry for this server out of an assistant's program again",
        ["uninstall --client claude-code", "uninstall --client all --dry-run"],
    ),
    "clients": Command("List the assistants' programs on this machine, and whether they know this server", ["clients"]),
    "audit": Command(
        "Audit the tokens of all clusters: what is a risk, what mends it, and what is new",
        [
            "audit",
            "audit --format html --output tokens.html",
            "audit --since-last --expiring-within 30d,14d,1d --fail-on expires_soon,never_expires",
        ],
    ),
    "journal": Command(
        "Print who changed which tokens, when, and who agreed",
        ["journal --since 7d", "journal --unfinished", "journal --format csv --user local:jane"],
    ),
    "prune": Command(
        "Remove files with bearer tokens whose tokens are gone",
        ["prune --dry-run", "prune", "prune --expired --yes"],
    ),
    "http": Command(
        "Serve MCP over HTTP, for clients on other machines and for teams",
        [
            "http --http-anonymous --demo",
            "http --http-listen unix:/run/qumulo-token-tools/mcp.sock --http-anonymous",
        ],
    ),
    "demo": Command("Play a short conversation with the server on an embedded cluster", ["demo"]),
    "sandbox": Command(
        "Serve an embedded cluster over HTTPS, for other clients",
        ["sandbox", "sandbox --port 8000", "sandbox --fault create=cut-after"],
    ),
    "completion": Command(
        "Print what a shell needs to complete these commands",
        [
            "completion bash > ~/.local/share/bash-completion/completions/qumulo-token-tools",
            "completion zsh > ~/.zfunc/_qumulo-token-tools",
            "completion fish > ~/.config/fish/completions/qumulo-token-tools.fish",
        ],
    ),
}
"""The commands, each of which is the module of its name. Without one, the program serves MCP over stdio."""

_SERVE: Final = Command(
    "MCP server for the access tokens of Qumulo Core clusters. Without a command, it serves over stdin and stdout the "
    "client that has started it. Each option is also an environment variable: --ca-file is QUMULO_CA_FILE. Secrets are "
    "only that.",
    ["setup", "doctor", "--host cluster.example.com --read-only", "--demo"],
)

_COMMAND: Final = "command"
_HELP_COLUMNS: Final = 80
"""Columns of a description; argparse leaves its lines as they are, for the sake of the examples."""


@dataclass(frozen=True)
class Arguments:
    """A command line, parsed.

    `run` is what it asks for; `settings` are the options that `Settings` knows, and only those that were given;
    `options` are the others, which `run` takes by name.
    """

    run: Callable[..., int]
    settings: Mapping[str, Any]
    options: Mapping[str, Any]


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Return what the words ask for; `--help` and `--version` print their answer and end the process.

    Raises:
        UsageError: If a word is a secret, an unknown option, an unknown command or an impossible value.
    """
    _check_no_secrets(words)
    parser = _create_parser(COMMANDS.keys() & words)
    try:
        given = vars(parser.parse_args(words))
    except argparse.ArgumentError as mistake:
        message = _render_unknown_option(words, parser.list_options()) or str(mistake)
        raise UsageError(
            message if is_visible(message) else quote_untrusted(message, max_chars=MAX_SHOWN_CHARS)
        ) from None
    name = given.pop(_COMMAND)
    if name:
        _check_belonging(name, given, parser.commands[name])
    return Arguments(
        _load(name).run if name else serve.run,
        settings={option: value for option, value in given.items() if option in FIELDS},
        options={option: value for option, value in given.items() if option not in FIELDS},
    )


def is_command_named(words: Sequence[str]) -> bool:
    """Tell whether a command is among the words, whatever is wrong with the others. No client is served then."""
    return not COMMANDS.keys().isdisjoint(words)


def create_parser() -> argparse.ArgumentParser:
    """Return a parser that knows all options of all commands."""
    return _create_parser(COMMANDS)


def _check_no_secrets(words: Sequence[str]) -> None:
    reason = next(filter(None, map(find_secret_reason, words)), None)
    if reason is not None:
        raise UsageError(
            f"an argument is wrong: {reason}. Every user of this machine can read arguments; a secret is only an "
            "environment variable, QUMULO_BEARER_TOKEN."
        )


def _check_belonging(command: str, given: Iterable[str], parser: "_Parser") -> None:
    """Check that no option stands before a command to which it means nothing. A setting may stand before each."""
    for option in given:
        if option not in FIELDS and option not in parser.list_destinations():
            raise UsageError(f"--{option.rstrip('s')} is an option for serving, and means nothing to `{command}`.")


class _Parser(argparse.ArgumentParser):
    """A parser that raises its mistakes; `commands` are the parsers of commands that it knows."""

    commands: Mapping[str, "_Parser"] = MappingProxyType({})

    def list_options(self) -> Sequence[str]:
        """Return all options, those of the commands included."""
        own = [option for action in self._actions for option in action.option_strings]
        return [*own, *(option for parser in self.commands.values() for option in parser.list_options())]

    def list_destinations(self) -> Sequence[str]:
        """Return the names under which the options of this parser alone are found."""
        return [action.dest for action in self._actions]

    def _check_value(self, action: argparse.Action, value: object) -> None:
        # argparse would repeat the word, which may be anything: a secret, for one.
        if action.choices is not None and value not in action.choices:
            *others, last = action.choices
            self.error(
                f"there is no such command; there are {', '.join(others)} and {last}."
                if action.dest == _COMMAND
                else f"{''.join(action.option_strings) or action.metavar} must be {', '.join(others)} or {last}."
            )

    def error(self, message: str) -> NoReturn:
        """Raise the mistake; argparse itself would print its usage and exit.

        Raises:
            argparse.ArgumentError: Always.
        """
        raise argparse.ArgumentError(None, message)


def _render_unknown_option(words: Sequence[str], known: Sequence[str]) -> str | None:
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = next((option for option in options if option not in known), None)
    if unknown is None:
        return None
    name = unknown.removeprefix("--").replace("-", "_")
    if name in SECRET_SETTINGS:
        return (
            f"{unknown} is no option, since every user of the machine could read it: a secret is only an "
            f"environment variable, {variable_name(name)}."
        )
    nearest = difflib.get_close_matches(unknown, known, n=1, cutoff=_MIN_SIMILARITY)
    hint = f"nearest is {nearest[0]}" if nearest else "--help tells those that there are"
    return f"there is no option {unknown}; {hint}."


def _create_parser(loaded: Iterable[str]) -> _Parser:
    """Return a parser of a whole command line, with the options of some commands."""
    usage = f"{SERVER_NAME} [OPTIONS]\n       {SERVER_NAME} COMMAND [OPTIONS]"
    parser = _Parser(prog=SERVER_NAME, usage=usage, **_describe(_SERVE))
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", dest=_COMMAND, metavar="COMMAND", prog=SERVER_NAME)
    for name, command in COMMANDS.items():
        command_parser = commands.add_parser(name, help=command.help, **_describe(command))
        if name in loaded:
            _load(name).add_arguments(command_parser)
    parser.commands = commands.choices
    serve.add_arguments(parser.add_argument_group("options for serving"))
    return parser


def _load(command: str) -> CommandModule:
    return cast(CommandModule, import_module(f"token_tools.cli.{command}"))


def _describe(command: Command) -> dict[str, Any]:
    """Return what argparse needs to know of a command for its help."""
    examples = "\n".join(f"  {SERVER_NAME} {example}" for example in command.examples)
    return {
        "description": textwrap.fill(command.help, _HELP_COLUMNS),
        "epilog": f"examples:\n{examples}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
