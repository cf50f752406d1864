"""Runs the command that a command line asks for, and turns what stops it into one line and an exit status."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import cast

from token_tools.cli.arguments import is_command_named, parse_arguments
from token_tools.cli.stderr import redact_stderr
from token_tools.configuration import remember_given_secrets
from token_tools.errors import SettingsError, UsageError, add_doctor
from token_tools.posix import IS_WINDOWS
from token_tools.server.app import SERVER_NAME
from token_tools.server.failed_start import answer_requests


def run_command(words: Sequence[str]) -> int:
    """Run the command that the words of a command line ask for, and return the exit status.

    The status is 2 if the words or a setting are wrong, or if nobody reads what is printed, and otherwise that of the
    command.
    """
    redact_stderr()
    remember_given_secrets()
    # Logs go to stderr, since stdout belongs to the protocol. The SDK leaves a configuration alone that it finds.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # A repeated request is not worth a warning: if all attempts fail, the answer says so.
    logging.getLogger("stamina").setLevel(logging.ERROR)
    if sys.stdout is None:
        return _fail("stdin or stdout is closed, and there is no other way to talk.", words)
    if IS_WINDOWS:
        # Without this, what goes into a file or a pipe there is in an old encoding that lacks most signs.
        cast(io.TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8")
    try:
        arguments = parse_arguments(words)
        return arguments.run(arguments.settings, **arguments.options)
    except* UsageError as failures:
        status = _fail(str(_find_first(failures)), words)
    except* SettingsError as failures:
        status = _fail(add_doctor(str(_find_first(failures))), words)
    except* BrokenPipeError:
        # Python flushes stdout once more when it exits, and would fail again on what is still in its buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 2
    return status


def _find_first(failures: ExceptionGroup[SettingsError]) -> SettingsError:
    """Return the first failure of a group, which may be one of groups."""
    first = failures.exceptions[0]
    return _find_first(first) if isinstance(first, ExceptionGroup) else first


def _fail(reason: str, words: Sequence[str]) -> int:
    # The words decide, since they may be what is wrong.
    if is_command_named(words):
        sys.stderr.write(f"{SERVER_NAME}: {reason}\n")
        return 2
    # Some client's log blanks the word after `token-tools:`, which would be the name of the setting.
    message = f"{SERVER_NAME} could not start: {reason}"
    sys.stderr.write(f"{message}\n")
    answer_requests(message)
    return 2
