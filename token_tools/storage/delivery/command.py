"""Delivery of new bearer tokens to a program of the operator, which puts each where it belongs: a vault, a cluster.

The program gets the bearer token on stdin and what it is for in its environment. What it prints goes to the log alone,
without secrets. Nobody here can look into the place to which it takes a token, so nothing is told of that.
"""

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from token_tools.cluster.identity import Identity
from token_tools.cluster.models import NewAccessToken
from token_tools.configuration import read_child_environment
from token_tools.errors import RETRY_ONCE_FIXED, DeliveryError
from token_tools.operator_input import format_input
from token_tools.quoting import has_secret, quote_untrusted
from token_tools.storage.delivery.base import (
    AskedToken,
    DeliveredToken,
    ForAnybody,
    KeepsNoFiles,
    Location,
    locate_recorded,
    sha256_fingerprint,
)
from token_tools.storage.delivery.child_process import (
    DEFAULT_BOUNDS,
    MAX_KEPT_BYTES,
    Bounds,
    ProgramFailed,
    run_program,
)
from token_tools.times import format_rfc3339

COMMAND: Final = "QUMULO_DELIVERY_COMMAND"
CHECK: Final = "QUMULO_DELIVERY_CHECK"
ID_VARIABLE: Final = "QUMULO_TOKEN_ID"
USER_VARIABLE: Final = "QUMULO_TOKEN_USER"
CLUSTER_VARIABLE: Final = "QUMULO_TOKEN_CLUSTER"
EXPIRES_VARIABLE: Final = "QUMULO_TOKEN_EXPIRES"
"""The variables that tell a program of the token; one that is not known is not there."""

MAX_LOGGED_CHARS: Final = MAX_KEPT_BYTES // 2
"""Characters of a program's output that are logged, from its end."""

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommandLocation:
    """A program that has taken the bearer token: the name of its file."""

    program: str
    kind: Literal["command"] = "command"
    naming_setting: ClassVar[str | None] = None
    is_earlier: Annotated[bool, Field(exclude=True)] = field(default=False)

    def render(self) -> str:
        """Name the setting and the program."""
        note = ", as far as is known" if self.is_earlier else ""
        return f"the hands of {_render_command(COMMAND, self.program)}{note}"

    def find_current(self) -> "CommandLocation":
        """Return the program; whether the bearer token is still where it was put is not known."""
        return CommandLocation(self.program, is_earlier=True)

    def remove(self) -> None:
        """Refuse: a program is not asked to give anything back.

        Raises:
            DeliveryError: Always.
        """
        raise DeliveryError(f"only the operator can remove what {_render_command(COMMAND, self.program)} has stored.")


@dataclass(frozen=True)
class CommandDelivery(ForAnybody, KeepsNoFiles):
    """The destination "a program of the operator", for the tokens of the cluster at an address.

    `check` is the program that is run before a token is created, None if there is none.
    """

    command: Sequence[str]
    check: Sequence[str] | None
    address: str
    bounds: Bounds = DEFAULT_BOUNDS

    @property
    def location(self) -> CommandLocation:
        """Where its tokens go."""
        return CommandLocation(_name_program(self.command))

    async def reserve(self, asked: AskedToken | None = None, /) -> "ReservedCommand":
        """Prove that the program is there, and that the check ends with 0."""
        environment = self._create_environment(asked)
        _check_executable(self.command, environment)
        if self.check is not None:
            await self.run(CHECK, self.check, environment)
        return ReservedCommand(self, environment)

    async def locate(
        self, _token_id: str, location: Location | None, _users: Collection[str] = (), /
    ) -> Location | None:
        """Return the recorded location.

        Raises:
            DeliveryError: If none is recorded: a killed server may have handed the token to the program.
        """
        if location is None:
            raise DeliveryError(f"{self.render_name()} may have been handed it, and cannot be asked.")
        return await locate_recorded(location)

    def render_possible_location(self, _user: str, /) -> str:
        """Name the program."""
        return f"{self.render_name()} was handed it"

    async def remove(self, delivered: DeliveredToken) -> None:
        """Refuse; see `CommandLocation.remove`."""
        delivered.location.remove()

    def render_name(self) -> str:
        """Return the setting and the program, as texts name them: `QUMULO_DELIVERY_COMMAND (vault)`."""
        return _render_command(COMMAND, self.location.program)

    async def run(self, setting: str, words: Sequence[str], environment: Mapping[str, str], stdin: bytes = b"") -> None:
        """Run the program that a setting names, to its end.

        Raises:
            DeliveryError: If it does not end with 0.
        """
        try:
            await run_program(words, environment, stdin, self.bounds)
        except ProgramFailed as failure:
            name = _render_command(setting, _name_program(words))
            raise DeliveryError(
                f"{name} {failure}. {_log_output(name, failure.output)}", advice=RETRY_ONCE_FIXED
            ) from None

    def _create_environment(self, asked: AskedToken | None) -> Mapping[str, str]:
        """Return what the programs find in their environment, as far as it is known before the token is created."""
        told = {ID_VARIABLE, USER_VARIABLE, CLUSTER_VARIABLE, EXPIRES_VARIABLE}
        inherited = {name: value for name, value in read_child_environment().items() if name not in told}
        known = {} if asked is None else {USER_VARIABLE: str(asked.user), EXPIRES_VARIABLE: _format_expiry(asked)}
        return {**inherited, CLUSTER_VARIABLE: self.address, **known}


@dataclass(frozen=True)
class ReservedCommand:
    """A program that is there and whose check ended with 0; `environment` is what it will find."""

    delivery: CommandDelivery
    environment: Mapping[str, str]

    async def store(self, token: NewAccessToken, user: Identity, /) -> DeliveredToken:
        """Hand the bearer token to the program, and wait until that has ended with 0.

        Raises:
            DeliveryError: If it does not; whether it has stored the bearer token is not known then.
        """
        delivery, bearer_token = self.delivery, token.bearer_token.get_secret_value().encode()
        environment = {**self.environment, USER_VARIABLE: str(user), ID_VARIABLE: token.id}
        await delivery.run(COMMAND, delivery.command, environment, bearer_token)
        return DeliveredToken(
            token.id,
            sha256_fingerprint(token.bearer_token),
            location=delivery.location,
            how_to_use=f"{delivery.render_name()} ended with 0; the operator knows where it keeps bearer tokens.",
        )

    async def release(self) -> None:
        """Do nothing: a check leaves nothing that is known here."""


def _check_executable(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check that a program is there and can be executed.

    Raises:
        DeliveryError: If not.
    """
    if shutil.which(words[0], path=os.pathsep.join(os.get_exec_path(environment))) is None:
        raise DeliveryError(
            f"{_render_command(COMMAND, _name_program(words))} is no program that this server can run: it must be an "
            "absolute path, or a program on the PATH of this server, and its user must be allowed to execute it.",
            advice=RETRY_ONCE_FIXED,
        )


def _name_program(words: Sequence[str]) -> str:
    return PurePath(words[0]).name


def _render_command(setting: str, program: str) -> str:
    return f"{setting} ({format_input(program)})"


def _format_expiry(asked: AskedToken) -> str:
    return "never" if asked.expires is None else format_rfc3339(asked.expires)


def _log_output(name: str, output: bytes) -> str:
    """Log the end of what a program has printed, without secrets; return where it is to be found."""
    text = output.decode(errors="replace").strip()
    if not text:
        return "It printed nothing."
    # A secret may be cut where the output was, so all that was kept is searched.
    shown = text if has_secret(text) else text[-MAX_LOGGED_CHARS:]
    _LOG.warning("%s printed: %s", name, quote_untrusted(shown, max_chars=MAX_LOGGED_CHARS))
    return "The log of this server tells what it printed."
