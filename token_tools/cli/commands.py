"""Runs the command that a command line asks for, and turns what stops it into one line and an exit status."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Final

import anyio

from token_tools.cli import demo, journal, sandbox, serve_demo
from token_tools.cli.arguments import Arguments, parse_arguments
from token_tools.cli.serve import serve_clusters
from token_tools.cli.stderr import redact_stderr
from token_tools.configuration import find_address, load_profiles, load_state_settings, remember_given_secrets
from token_tools.errors import SettingsError
from token_tools.server.app import SERVER_NAME
from token_tools.server.failed_start import answer_requests

_COMMANDS_WITHOUT_CLIENT: Final = {"demo", "sandbox", "journal"}
"""The commands that serve no client over stdin."""


def run_command(words: Sequence[str]) -> int:
    """Run the command that the words of a command line ask for, and return the exit status.

    The status is 0 if all went well, 1 if the demo failed, if nobody reads what is printed or if the journal has what
    is unfinished and was asked for it, 2 if a setting is wrong or the journal cannot be read or printed.
    """
    redact_stderr()
    remember_given_secrets()
    # Logs go to stderr, since stdout belongs to the protocol. The SDK leaves a configuration alone that it finds.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # A repeated request is not worth a warning: if all attempts fail, the answer says so.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        return _run(parse_arguments(words))
    except* SettingsError as failures:
        # Some client's log blanks the word after `token-tools:`, which would be the name of the setting.
        message = f"{SERVER_NAME} could not start: {failures.exceptions[0]}"
        sys.stderr.write(f"{message}\n")
        # The words decide, since the failure may be that they could not be parsed.
        if _COMMANDS_WITHOUT_CLIENT.isdisjoint(words):
            answer_requests(message)
        status = 2
    except* BrokenPipeError:
        # Python flushes stdout once more when it exits, and would fail again on what is still in its buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    return status


def _run(arguments: Arguments) -> int:
    if sys.stdout is None or (arguments.command == "serve" and sys.stdin is None):
        raise SettingsError("stdin or stdout is closed, and there is no other way to talk.")
    if arguments.command == "demo":
        return 0 if anyio.run(demo.play_conversation) else 1
    if arguments.command == "journal":
        query = arguments.journal_query
        cluster = None if query.cluster is None else find_address(arguments.settings, query.cluster)
        return journal.print_journal(load_state_settings(arguments.settings), query._replace(cluster=cluster))
    if arguments.command == "sandbox":
        sandbox.serve_sandbox(port=arguments.sandbox_port, faults=arguments.faults)
    elif arguments.is_demo:
        serve_demo.serve_demo_cluster(arguments.settings)
    else:
        serve_clusters(load_profiles(arguments.settings, clusters=arguments.clusters))
    return 0
