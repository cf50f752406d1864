"""What the words of a command line mean, and what is wrong with them.

Every setting that is not a secret is also an option. A mistake is told in one line that repeats no secret.
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, NamedTuple, NoReturn, get_args

from token_tools import __version__
from token_tools.cluster.identity import Identity, parse_user
from token_tools.errors import SettingsError
from token_tools.operator_input import MAX_SHOWN_CHARS, find_secret_reason
from token_tools.quoting import is_visible, quote_untrusted
from token_tools.server.app import SERVER_NAME
from token_tools.setting_names import variable_name
from token_tools.settings import MAX_PORT, SECRET_SETTINGS, Settings
from token_tools.storage.attempts import Operation
from token_tools.times import parse_since, utc_now

Command = Literal["serve", "demo", "sandbox", "journal"]
"""What the program does; it serves unless a word says otherwise."""


_MIN_SIMILARITY: Final = 0.7
"""Ratio, from 0 to 1, from which on an option is told to be the nearest to one that there is not."""

OutputFormat = Literal["text", "json", "csv"]


class JournalQuery(NamedTuple):
    """Which entries of the record are to be printed, and how; what is None excludes none."""

    since: datetime | None = None
    cluster: str | None = None
    user: Identity | None = None
    token: str | None = None
    operation: str | None = None
    unfinished: bool = False
    output_format: OutputFormat = "text"


@dataclass(frozen=True)
class Arguments:
    """A command line, parsed: `settings` are the options that `Settings` knows, and only those that were given.

    `clusters` are the names of the only clusters that are to be served; none chooses all.
    """

    command: Command
    settings: Mapping[str, Any]
    clusters: Sequence[str]
    is_demo: bool
    sandbox_port: int
    faults: Sequence[str]
    journal_query: JournalQuery


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Return what the words ask for; `--help` and `--version` print their answer and end the process.

    Raises:
        SettingsError: If a word is a secret, an unknown option, an unknown command or an impossible value.
    """
    _check_no_secrets(words)
    try:
        options = vars(_create_parser().parse_args(words))
    except argparse.ArgumentError as mistake:
        message = _explain_unknown_option(words) or str(mistake)
        raise SettingsError(
            message if is_visible(message) else quote_untrusted(message, max_chars=MAX_SHOWN_CHARS)
        ) from None
    return Arguments(
        command=options["command"],
        settings={name: value for name, value in options.items() if name in Settings.model_fields},
        clusters=options["clusters"],
        is_demo=options["demo"],
        sandbox_port=options["sandbox_port"],
        faults=options["faults"],
        journal_query=JournalQuery(**{name: options[name] for name in JournalQuery._fields if name in options}),
    )


def _check_no_secrets(words: Sequence[str]) -> None:
    reason = next(filter(None, map(find_secret_reason, words)), None)
    if reason is not None:
        raise SettingsError(
            f"an argument is wrong: {reason}. Every user of this machine can read arguments; a secret is only an "
            "environment variable, QUMULO_BEARER_TOKEN."
        )


class _Parser(argparse.ArgumentParser):
    """A parser that raises its mistakes, and remembers which options there are."""

    known_options: ClassVar[set[str]] = set()
    """All options, those of the commands included: each command has a parser of its own."""

    def add_argument(self, *names: Any, **details: Any) -> argparse.Action:  # noqa: ANN401 - argparse has fifteen keywords here, each with a type of its own
        """Add an argument and remember its options."""
        action = super().add_argument(*names, **details)
        self.known_options.update(action.option_strings)
        return action

    def _check_value(self, action: argparse.Action, value: object) -> None:
        # argparse would repeat the word, which may be anything: a secret, for one.
        if action.choices is not None and value not in action.choices:
            *others, last = action.choices
            option = "".join(action.option_strings)
            self.error(
                f"{option} must be {', '.join(others)} or {last}."
                if option
                else f"there is no such command; there are {', '.join(others)} and {last}."
            )

    def error(self, message: str) -> NoReturn:
        """Raise the mistake; argparse itself would print its usage and exit.

        Raises:
            argparse.ArgumentError: Always.
        """
        raise argparse.ArgumentError(None, message)


def _explain_unknown_option(words: Sequence[str]) -> str | None:
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    unknown = next((option for option in options if option not in _Parser.known_options), None)
    if unknown is None:
        return None
    name = unknown.removeprefix("--").replace("-", "_")
    if name in SECRET_SETTINGS:
        return (
            f"{unknown} is no option, since every user of the machine could read it: a secret is only an "
            f"environment variable, {variable_name(name)}."
        )
    nearest = difflib.get_close_matches(unknown, _Parser.known_options, n=1, cutoff=_MIN_SIMILARITY)
    hint = f"nearest is {nearest[0]}" if nearest else "--help tells those that there are"
    return f"there is no option {unknown}; {hint}."


def _create_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=SERVER_NAME,
        description="MCP server for the access tokens of a Qumulo Core cluster; serves over stdio.",
        epilog="Each option is also an environment variable: --ca-file is QUMULO_CA_FILE. Secrets are only that.",
        allow_abbrev=False,
    )
    parser.set_defaults(command="serve", sandbox_port=0, faults=())
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--demo", action="store_true", help="Serve an embedded cluster instead of a real one")
    parser.add_argument(
        "--cluster",
        dest="clusters",
        action="append",
        default=[],
        metavar="NAME",
        help="Serve only this one of the clusters in config.toml; may be repeated",
    )
    _add_setting_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="demo | sandbox | journal")
    demo = commands.add_parser(
        "demo", help="Play a short conversation with the server on an embedded cluster", allow_abbrev=False
    )
    demo.set_defaults(command="demo")
    sandbox = commands.add_parser(
        "sandbox", help="Serve an embedded cluster over HTTPS, for other clients", allow_abbrev=False
    )
    sandbox.set_defaults(command="sandbox")
    sandbox.add_argument(
        "--port", dest="sandbox_port", type=_parse_port, default=0, help="Loopback port (default: any free one)"
    )
    sandbox.add_argument(
        "--fault",
        dest="faults",
        action="append",
        default=[],
        metavar="ENDPOINT=FAULT",
        help="Fail there in that way, such as create=cut-after or list=html; may be repeated",
    )
    _add_journal_options(
        commands.add_parser("journal", help="Print who changed which tokens, when, and who agreed", allow_abbrev=False)
    )
    return parser


def _add_journal_options(journal: argparse.ArgumentParser) -> None:
    """Add the options of the command that reads the record; it needs no cluster, and no other setting."""
    journal.set_defaults(command="journal")
    _add_setting_option(journal, "state_dir")
    _add_setting_option(journal, "config")
    journal.add_argument("--since", type=_parse_since, metavar="TIME", help="Such as 7d, or 2026-11-17T09:00:00Z")
    journal.add_argument(
        "--cluster", metavar="NAME", help="Only of this cluster: its name in config.toml, or HOST:PORT"
    )
    journal.add_argument("--user", type=_parse_user, help="Only this user's, such as local:jane")
    journal.add_argument(
        "--token", type=_parse_token_id, metavar="ID", help="Only of this token: changed, created or replaced"
    )
    journal.add_argument(
        "--operation", choices=get_args(Operation), metavar="WORD", help="Only these: create, rotate, update or delete"
    )
    journal.add_argument(
        "--unfinished",
        action="store_true",
        help="Only what has no known end and nobody has settled; the exit status is 1 if there is something",
    )
    journal.add_argument(
        "--format",
        dest="output_format",
        choices=get_args(OutputFormat),
        default="text",
        metavar="WORD",
        help="text for people, the newest last (default), json with an entry a line, or csv",
    )


def _add_setting_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each setting but the secrets; without the option, the environment decides."""
    for name in Settings.model_fields:
        if name not in SECRET_SETTINGS:
            _add_setting_option(parser, name)


def _add_setting_option(parser: argparse.ArgumentParser, name: str) -> None:
    field = Settings.model_fields[name]
    option = f"--{name.replace('_', '-')}"
    help_text = f"{field.description} [{variable_name(name)}]"
    if field.annotation is bool:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text)
    else:
        parser.add_argument(option, metavar="VALUE", default=argparse.SUPPRESS, help=help_text)


def _parse_since(text: str) -> datetime:
    try:
        return parse_since(text, now=utc_now())
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None


def _parse_user(text: str) -> Identity:
    try:
        user = parse_user(text)
    except ValueError as reason:
        raise argparse.ArgumentTypeError(str(reason)) from None
    if isinstance(user, Identity):
        return user
    raise argparse.ArgumentTypeError("must be a user by name or number: only a cluster knows who self is")


def _parse_token_id(text: str) -> str:
    if text.isascii() and text.isdecimal():
        return text
    raise argparse.ArgumentTypeError("must be the digits of a token, about 22 of them")


def _parse_port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {MAX_PORT}")
    return port
