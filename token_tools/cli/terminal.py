"""What a person sees and answers in a terminal: questions, and colour where there is one."""

import sys
from typing import Final, Literal

from token_tools.configuration import wants_no_colour
from token_tools.errors import UsageError

Colour = Literal["green", "yellow", "red", "bold"]
_CODES: Final[dict[Colour, str]] = {"green": "32", "yellow": "33", "red": "31", "bold": "1"}


def print_line(text: str = "") -> None:
    """Print a line at once, so that it stands there before what follows takes its time."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def colour(text: str, code: Colour) -> str:
    """Return a text in colour if stdout is a terminal and the user has not said NO_COLOR."""
    return f"\033[{_CODES[code]}m{text}\033[0m" if sys.stdout.isatty() and not wants_no_colour() else text


def ask(question: str, *, option: str, default: str | None = None) -> str:
    """Return what a person answers; an empty answer is the default, and asked again where there is none.

    Raises:
        UsageError: If nobody can be asked; the text names the option that answers instead.
    """
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError(f"nobody can be asked here, so that {option} has to be given.")
    while True:
        sys.stdout.write(f"{question}{f' [{default}]' if default else ''}: ")
        sys.stdout.flush()
        answer = sys.stdin.readline()
        if not answer:
            raise UsageError(f"there was no answer: {option} can be given instead.")
        if answer.strip() or default:
            return answer.strip() or str(default)


def ask_whether(question: str, *, option: str) -> bool:
    """Return whether a person says yes; everything else is a no.

    Raises:
        UsageError: If nobody can be asked; the text names the option that answers instead.
    """
    return ask(f"{question} yes or no", option=option, default="no").casefold() in {"y", "yes"}
