"""The command line: serve over stdio (the default), demo, sandbox."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import anyio
from pydantic import SecretStr

from token_tools import __version__
from token_tools.cli.stderr import redact_stderr
from token_tools.credentials import encode_store
from token_tools.errors import SettingsError
from token_tools.operator_input import MAX_SHOWN_CHARS, find_secret_reason
from token_tools.quoting import is_visible, quote_untrusted
from token_tools.server.app import SERVER_NAME, create_server
from token_tools.server.failed_start import answer_requests
from token_tools.server.stdio import serve
from token_tools.settings import (
    MAX_PORT,
    SECRET_SETTINGS,
    Settings,
    load_settings,
    remember_given_secrets,
    variable_name,
)
from token_tools.shutdown import Shutdown, new_event_loop
from token_tools.times import utc_now

if TYPE_CHECKING:
    import httpx

_LOG: Final = logging.getLogger(__name__)
DEMO_HOST: Final = "demo-cluster"

_COMMANDS_WITHOUT_CLIENT: Final = {"demo", "sandbox"}
"""The commands that serve no client over stdin."""

Command = Callable[[dict[str, Any]], int]
"""What a command does with its options; gives the exit status."""


def run_command(words: Sequence[str]) -> int:
    """Do what the words of a command line ask for, and give the exit status.

    It is 0 when all went well, 1 when the demo did not or nobody reads what is printed, 2 when a setting is wrong.
    """
    redact_stderr()
    remember_given_secrets()
    # To stderr, and before the SDK configures it otherwise: stdout belongs to the protocol.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # A repeated request is no news; one that was given up is an answer.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        return _parse_and_run(words)
    except* SettingsError as failures:
        # Some client's log blanks the word after `token-tools:`, which would be the name of the setting.
        told = f"{SERVER_NAME} could not start: {failures.exceptions[0]}"
        sys.stderr.write(f"{told}\n")
        if _COMMANDS_WITHOUT_CLIENT.isdisjoint(words):
            answer_requests(told)
        status = 2
    except* BrokenPipeError:
        # What could not be printed would otherwise be tried once more at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    return status


def _parse_and_run(words: Sequence[str]) -> int:
    _check_no_secrets(words)
    options = vars(_build_parser().parse_args(words))
    commands: Mapping[str, Command] = {"serve": _serve, "demo": _play_demo, "sandbox": _run_sandbox}
    command = commands[options.pop("command")]
    if sys.stdout is None or (command is _serve and sys.stdin is None):
        raise SettingsError("stdin or stdout is closed, and there is no other way to talk.")
    return command(options)


class _Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, and of an option that does not exist the nearest that does."""

    known_options: ClassVar[set[str]] = set()
    """All options, those of the commands included."""

    def add_argument(self, *names: Any, **details: Any) -> argparse.Action:  # noqa: ANN401 - argparse's own signature
        """As argparse does it."""
        action = super().add_argument(*names, **details)
        self.known_options.update(action.option_strings)
        return action

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # noqa: ANN401 - argparse's own signature
        # What is no command may be anything, so it is not repeated.
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, f"there is no such command; there are {' and '.join(action.choices)}.")

    def error(self, message: str) -> NoReturn:
        """Refuse to start, in one line.

        Raises:
            SettingsError: In any case.
        """
        told = self._render_unknown_option() or message
        raise SettingsError(told if is_visible(told) else quote_untrusted(told, max_chars=MAX_SHOWN_CHARS))

    def _render_unknown_option(self) -> str | None:
        given = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("--")]
        unknown = next((option for option in given if option not in self.known_options), None)
        if unknown is None:
            return None
        name = unknown.removeprefix("--").replace("-", "_")
        if name in SECRET_SETTINGS:
            return (
                f"{unknown} is no option, since every user of the machine could read it: a secret is only an "
                f"environment variable, {variable_name(name)}."
            )
        near = difflib.get_close_matches(unknown, self.known_options, n=1)
        return (
            f"there is no option {unknown}; {f'nearest is {near[0]}' if near else '--help tells those that there are'}."
        )


def _check_no_secrets(words: Sequence[str]) -> None:
    secret = next(filter(None, map(find_secret_reason, words)), None)
    if secret is not None:
        raise SettingsError(
            f"an argument is wrong: {secret}. Every user of this machine can read arguments; a secret is only an "
            "environment variable, QUMULO_BEARER_TOKEN."
        )


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=SERVER_NAME,
        description="MCP server for the access tokens of a Qumulo Core cluster; serves over stdio.",
        epilog="Each option is also an environment variable: --ca-file is QUMULO_CA_FILE. Secrets are only that.",
        allow_abbrev=False,
    )
    parser.set_defaults(command="serve")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--demo", action="store_true", help="Serve an embedded cluster instead of a real one")
    _add_setting_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="demo | sandbox")
    demo = commands.add_parser("demo", help="Play a short conversation with the server on an embedded cluster")
    demo.set_defaults(command="demo")
    sandbox = commands.add_parser("sandbox", help="Serve an embedded cluster over HTTPS, for other clients")
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
    return parser


def _parse_port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {MAX_PORT}")
    return port


def _add_setting_options(parser: argparse.ArgumentParser) -> None:
    """An option for every setting that is not a secret; one that is not given is left to the environment."""
    for name, field in Settings.model_fields.items():
        if name in SECRET_SETTINGS:
            continue
        option = f"--{name.replace('_', '-')}"
        help_text = f"{field.description} [{variable_name(name)}]"
        if field.annotation is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=help_text
            )
        else:
            parser.add_argument(option, metavar="VALUE", default=argparse.SUPPRESS, help=help_text)


def _serve(options: dict[str, Any]) -> int:
    if options.pop("demo"):
        # What is tried out leaves no trace among what is real.
        with TemporaryDirectory(prefix=f"{SERVER_NAME}-demo-") as folder:
            _serve_cluster(*_embed_cluster(options, Path(folder)))
    else:
        _serve_cluster(load_settings(options))
    return 0


def _serve_cluster(settings: Settings, cluster_transport: httpx.AsyncBaseTransport | None = None) -> None:
    if not settings.verify_tls:
        _LOG.warning(
            "QUMULO_VERIFY_TLS=false: the certificate of %s is not verified; anyone on the way can read the credential",
            settings.address,
        )
    ending = Shutdown(settings.timeout)
    server = create_server(settings, cluster_transport=cluster_transport, ending=ending)
    anyio.run(serve, server, ending, backend_options={"loop_factory": new_event_loop})


def _embed_cluster(options: Mapping[str, Any], folder: Path) -> tuple[Settings, httpx.AsyncBaseTransport]:
    # The embedded cluster is only loaded by those who want it.
    import httpx  # noqa: PLC0415

    from token_tools.sandbox.app import create_app  # noqa: PLC0415
    from token_tools.sandbox.demo import create_demo_cluster  # noqa: PLC0415

    demo = create_demo_cluster(utc_now)
    chosen = {"delivery_dir": folder / "tokens", **options}
    fixed = {
        "state_dir": folder,
        "host": DEMO_HOST,
        "port": 8000,
        "bearer_token": SecretStr(demo.bearer_token),
        "credentials_file": None,
        "ca_file": None,
        "verify_tls": True,
    }
    return load_settings({**chosen, **fixed}), httpx.ASGITransport(create_app(demo.cluster))


def _play_demo(_options: dict[str, Any]) -> int:
    from token_tools.cli.demo import play_conversation  # noqa: PLC0415 - the client half of the SDK is not for servers

    return 0 if anyio.run(play_conversation) else 1


def _run_sandbox(options: dict[str, Any]) -> int:
    from token_tools.sandbox.app import create_app  # noqa: PLC0415
    from token_tools.sandbox.demo import create_demo_cluster  # noqa: PLC0415
    from token_tools.sandbox.faults import Faults, parse_faults  # noqa: PLC0415
    from token_tools.sandbox.https import Address, serve_https  # noqa: PLC0415

    demo = create_demo_cluster(utc_now)
    with TemporaryDirectory(prefix=f"{SERVER_NAME}-sandbox-") as folder:
        credentials = Path(folder, "credentials")
        credentials.touch(mode=0o600)
        credentials.write_bytes(encode_store(SecretStr(demo.admin_bearer_token)))

        def announce(address: Address) -> None:
            _print_lines(
                "An embedded cluster with invented data, until Ctrl-C. For a shell:\n",
                f"export QUMULO_HOST={address.host}",
                f"export QUMULO_PORT={address.port}",
                f"export QUMULO_CA_FILE={address.ca_file}",
                f"export QUMULO_BEARER_TOKEN={demo.admin_bearer_token}",
                f"\nqq --host {address.host} --port {address.port} --credentials-store {credentials} who_am_i",
            )

        app = Faults(create_app(demo.cluster), parse_faults(options["faults"]))
        serve_https(app, port=options["sandbox_port"], folder=Path(folder), on_started=announce)
    return 0


def _print_lines(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()
