"""Measured quantities, how they compare, and the target that each should reach."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

OUR_NAME: Final = "token tools"

Samples = Mapping[str, Sequence[float]]
"""The measured values of each contender, one for each round."""


@dataclass(frozen=True)
class Figure:
    """One quantity of every contender; less is better unless `more_is_better`.

    `values` are by contender, this project's under `OUR_NAME`; if that is missing, there was nothing to measure, and
    `note` says why. `ratios` are ours to each rival's, of pairs that were measured directly one after the other if
    there are such pairs.
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
        """Whether there is a value of this project."""
        return OUR_NAME in self.values


def unmeasured(what: str, unit: str, reason: str, *, target: str = "") -> Figure:
    """Return a figure without values, for something that this project does not have yet."""
    return Figure(what, unit, {}, target=target, note=reason)


def compare(samples: Samples) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median of each contender, and for each rival the median of the ratios of all rounds, ours to its."""
    ratios = {
        rival: median(ours / theirs for ours, theirs in zip(samples[OUR_NAME], samples[rival], strict=True))
        for rival in samples
        if rival != OUR_NAME
    }
    return {name: median(values) for name, values in samples.items()}, ratios


async def alternate(
    contenders: Mapping[str, Callable[[], Awaitable[float]]], *, rounds: int, warmup_rounds: int = 1
) -> Samples:
    """Measure each contender once in every round, after some rounds that do not count.

    They take turns so that whatever else the machine does meets all of them alike.
    """
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warmup_rounds + rounds):
        for name, measure in contenders.items():
            value = await measure()
            if number >= warmup_rounds:
                samples[name].append(value)
    return samples
