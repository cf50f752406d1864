"""The clusters of one server, and asking all of them at once."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import anyio

from token_tools.config_file import name_table_keys
from token_tools.errors import TokenToolsError
from token_tools.operations.calls import naming_cluster
from token_tools.operations.services import Services

Answer = TypeVar("Answer")


class Label(NamedTuple):
    """What texts call a cluster: its address, and among others its name; `table` is the one that config.toml has.

    `prefix` begins what is said of it alone, and `title` is the shortest that it is called, whether there are others or
    not.
    """

    address: str
    name: str | None = None
    table: str | None = None

    @property
    def title(self) -> str:
        """The cluster's name in config.toml, or its address if it has none."""
        return self.table or self.address

    @property
    def prefix(self) -> str:
        """The beginning of a line that is about this cluster: `lab: `, or nothing if there is no other one."""
        return "" if self.name is None else f"{self.name}: "

    def render_failure(self, failure: TokenToolsError) -> str:
        """Return why this cluster did not answer; settings are called as its operator calls them."""
        return name_table_keys(str(failure), self.name)


@dataclass(frozen=True)
class Fleet:
    """The clusters that a call is about, in the operator's order, each with its services."""

    members: Sequence[Services]

    def narrow(self, name: str) -> "Fleet":
        """Return the cluster of that name alone."""
        return Fleet([services for services in self.members if services.name == name])

    async def ask_all(self, ask: Callable[[Services], Awaitable[Answer]]) -> "FleetAnswers[Answer]":
        """Ask all clusters at once. What one cannot answer stops no other.

        Raises:
            TokenToolsError: If none of them can answer. It is the failure of the first one, and tells those of others.
        """
        found = await self.ask_each(ask)
        if not found.answers:
            raise _explain_failures(found.failures)
        return found

    async def ask_each(self, ask: Callable[[Services], Awaitable[Answer]]) -> "FleetAnswers[Answer]":
        """Ask all clusters at once, and return what they answer, even if none of them can."""
        answers: dict[int, Answer] = {}
        failures: dict[int, TokenToolsError] = {}

        async def ask_one(number: int) -> None:
            services = self.members[number]
            with naming_cluster(services.name):
                try:
                    answers[number] = await ask(services)
                except TokenToolsError as failure:
                    failures[number] = failure

        async with anyio.create_task_group() as tasks:
            for number in range(len(self.members)):
                tasks.start_soon(ask_one, number)
        labels = [Label(services.address, services.name, services.table) for services in self.members]
        return FleetAnswers(
            [(labels[number], answers[number]) for number in sorted(answers)],
            [(labels[number], failures[number]) for number in sorted(failures)],
        )


@dataclass(frozen=True)
class FleetAnswers(Generic[Answer]):
    """What clusters answered, and why others did not."""

    answers: Sequence[tuple[Label, Answer]]
    failures: Sequence[tuple[Label, TokenToolsError]] = ()


def _explain_failures(failures: Sequence[tuple[Label, TokenToolsError]]) -> TokenToolsError:
    """Explain why no cluster answered; what all of them say is said once."""
    first = failures[0][1]
    if len({str(failure) for _, failure in failures}) == 1:
        return first
    return type(first)(" ".join(f"{label.prefix}{label.render_failure(failure)}" for label, failure in failures))
