"""What is measured, how it compares, and what it should have been."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

OUR_NAME: Final = "token tools"

Samples = Mapping[str, Sequence[float]]
"""What was measured, round by round, for each contender."""


@dataclass(frozen=True)
class Figure:
    """One quantity of every contender; less is better unless `more_is_better`.

    `values` are by contender, this project's under `OUR_NAME`; without it, the thing is not there to be measured, and
    `note` says why. `ratios` are ours to a rival's: of pairs measured one right after the other where there are pairs.
    """

    what: str
    unit: str
    values: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict[str, float])
    target: str = ""
    reached: bool | None = None
    note: str = ""
    more_is_better: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether this project has what was to be measured."""
        return OUR_NAME in self.values


def unmeasured(what: str, unit: str, reason: str, *, target: str = "") -> Figure:
    """A figure of something that is not there yet."""
    return Figure(what, unit, {}, target=target, note=reason)


def compare(samples: Samples) -> tuple[dict[str, float], dict[str, float]]:
    """The median of each contender, and the median of ours to each rival's, round by round."""
    ratios = {
        rival: median(mine / theirs for mine, theirs in zip(samples[OUR_NAME], samples[rival], strict=True))
        for rival in samples
        if rival != OUR_NAME
    }
    return {name: median(values) for name, values in samples.items()}, ratios


async def alternate(
    contenders: Mapping[str, Callable[[], Awaitable[float]]], *, rounds: int, warmup_rounds: int = 1
) -> Samples:
    """Each contender in turn, round by round, after some rounds that do not count.

    What else the machine does meets all of them alike.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup_rounds + rounds):
        for name, measure in contenders.items():
            value = await measure()
            if number >= warmup_rounds:
                samples[name].append(value)
    return samples
