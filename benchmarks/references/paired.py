"""CPU times of several functions on one busy machine: taken in turn, round by round, and compared within a round."""

import statistics
import time
from collections.abc import Callable


def paired_rounds(functions: dict[str, Callable[[], object]], rounds: int = 9, calls: int = 20) -> dict[str, list]:
    """Seconds a call, `rounds` of each: the fastest of `calls` in a round, all functions once before the next round.

    CPU seconds of this thread, so that other processes' share of the core does not count; the fastest, because what
    they do to the caches can only add. Each function is called once beforehand.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(min(_seconds(function) for _ in range(calls)))
    return times


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _seconds(function: Callable[[], object]) -> float:
    begin = time.thread_time()
    function()
    return time.thread_time() - begin
