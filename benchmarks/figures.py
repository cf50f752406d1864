"""Measured quantities: how often each is measured, how they compare, and the target that each should reach."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

import anyio

OUR_NAME: Final = "token tools"

Samples = Mapping[str, Sequence[float]]
"""The measured values of each contender, one for each round."""

Value = TypeVar("Value")
Action = Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True)
class Figure:
    """One quantity of every contender; less is better unless `more_is_better`.

    `values` are by contender, this project's under `OUR_NAME`. `ratios` are ours to each rival's, of pairs that
    were measured directly one after the other if there are such pairs.
    """

    what: str
    unit: str
    values: Mapping[str, float]
    ratios: Mapping[str, float] = field(default_factory=dict[str, float])
    target: str = ""
    reached: bool | None = None
    note: str = ""
    more_is_better: bool = False


@dataclass(frozen=True)
class Repetitions:
    """How often each kind of measurement is repeated."""

    starts: int = 15
    decodings: int = 400
    lists: int = 200
    processes: int = 7
    bursts: int = 15
    audits: int = 3
    calls: int = 10_000
    http_rounds: int = 15
    http_calls: int = 10
    http_growth_calls: int = 100_000


Measure = Callable[[Path, Repetitions], Coroutine[Any, Any, list[Figure]]]
QUICK_REPETITIONS: Final = Repetitions(
    starts=5,
    decodings=100,
    lists=40,
    processes=3,
    bursts=5,
    audits=1,
    calls=1_000,
    http_rounds=3,
    http_calls=4,
    http_growth_calls=4_000,
)


def compare(samples: Samples) -> tuple[dict[str, float], dict[str, float]]:
    """Return the median of each contender, and for each rival the median of the ratios of all rounds, ours to its."""
    ratios = {
        rival: median(ours / theirs for ours, theirs in zip(samples[OUR_NAME], samples[rival], strict=True))
        for rival in samples
        if rival != OUR_NAME
    }
    return {name: median(values) for name, values in samples.items()}, ratios


def split_pairs(pairs: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[Samples, Samples]:
    """Return the first value of each pair, and the second value of each."""
    return (
        {name: [first for first, _ in values] for name, values in pairs.items()},
        {name: [second for _, second in values] for name, values in pairs.items()},
    )


def sum_rivals(samples: Samples, name: str) -> Samples:
    """Return ours, and under `name` the sum of all rivals' values of each round."""
    rivals = [values for contender, values in samples.items() if contender != OUR_NAME]
    return {OUR_NAME: samples[OUR_NAME], name: [sum(values) for values in zip(*rivals, strict=True)]}


async def alternate(
    contenders: Mapping[str, Callable[[], Awaitable[Value]]],
    *,
    rounds: int,
    warmup_rounds: int = 1,
    pause_seconds: float = 0,
) -> Mapping[str, Sequence[Value]]:
    """Measure each contender once in every round, after some rounds that do not count.

    They take turns so that whatever else the machine does meets all of them alike. Each turn begins with a pause.
    """
    samples: dict[str, list[Value]] = {name: [] for name in contenders}
    for number in range(warmup_rounds + rounds):
        for name, measure in contenders.items():
            await anyio.sleep(pause_seconds)
            value = await measure()
            if number >= warmup_rounds:
                samples[name].append(value)
    return samples


async def measure_seconds(action: Action) -> float:
    """Return how long an action takes."""
    began = time.perf_counter()
    await action()
    return time.perf_counter() - began


async def measure_blocking_seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes that blocks this process, in the form that `alternate` expects."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
