"""Times of several functions on one busy machine: taken in turn, round by round, and compared within a round."""

import statistics
import time
from collections.abc import Callable


def paired_rounds(functions: dict[str, Callable[[], object]], rounds: int = 9, calls: int = 20) -> dict[str, list]:
    """Seconds a call, `rounds` of each: the fastest of `calls` in a round, all functions once before the next round.

    The fastest, because whatever else the machine does can only add; each function is called once beforehand.
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
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
