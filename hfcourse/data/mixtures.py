"""Several datasets as one: shares from their sizes, a cap and a temperature; seeded, and the same in every process."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets

from hfcourse.errors import InputError

DRAWS_AHEAD = 1024
BUFFER = 1000  # rows of a stream that are shuffled among themselves


def mixing_rates(sizes: list[int], cap: int | None = None, temperature: float = 1.0) -> list[float]:
    """Each dataset's share of the mixture (T5, https://huggingface.co/papers/1910.10683, section 3.5.2).

        rate_i ∝ min(n_i, K)^(1/T)

    K keeps a huge dataset from drowning the others (FLAN: 3000); T = 1 is proportional, T → ∞ equal shares.

    Args:
        sizes: n, rows of each dataset.
        cap: K; None for no cap.
        temperature: T.

    Raises:
        InputError: an empty dataset, a cap below 1, or a temperature that is not positive.
    """
    if temperature <= 0:
        raise InputError(f"mixture_temperature={temperature}: must be positive; 1 mixes by size, larger more evenly")
    if cap is not None and cap < 1:
        raise InputError(f"mixture_cap={cap}: must be at least 1")
    if not sizes or min(sizes) < 1:
        raise InputError("datasets: a mixture needs datasets with rows")
    capped = [min(n, cap or n) ** (1 / temperature) for n in sizes]
    return [weight / sum(capped) for weight in capped]


def mix(
    datasets: list[Dataset], rates: list[float], num_examples: int | None = None, seed: int = 0
) -> tuple[Dataset, list[int]]:
    """One dataset of exactly `rates` (to a row), shuffled, and how many rows each dataset gave.

    Rows are drawn without replacement; a dataset that is smaller than its share is begun anew, shuffled otherwise.

    Args:
        num_examples: rows of the mixture; None takes as many as there can be without repeating a row.
    """
    if num_examples is None:
        num_examples = int(min(len(d) / rate for d, rate in zip(datasets, rates, strict=True)) + 1e-9)
    counts = _counts(rates, num_examples)
    rng = np.random.default_rng(seed)
    chosen = [d.select(_drawn(len(d), n, rng)) for d, n in zip(datasets, counts, strict=True)]
    return concatenate_datasets(chosen).shuffle(seed=seed), counts


def mix_streams(datasets: list[IterableDataset], rates: list[float], seed: int = 0) -> IterableDataset:
    """An endless stream, each row from a dataset drawn at these rates; an exhausted dataset begins anew.

    Which dataset row t comes from is a function of (rates, seed, t) alone, see [`realised_counts`].
    """
    streams = tuple(d.shuffle(seed=seed, buffer_size=BUFFER) for d in datasets)  # of a list, workers would get parts
    return IterableDataset.from_generator(
        _stream, gen_kwargs={"streams": streams, "rates": tuple(rates), "seed": seed}
    )


def realised_counts(rates: list[float], num_examples: int, seed: int = 0) -> list[int]:
    """How many of the first `num_examples` rows of [`mix_streams`] come from each dataset; no row is read."""
    return np.bincount([*islice(_draws(rates, seed), num_examples)], minlength=len(rates)).tolist()


def _counts(rates: list[float], num_examples: int) -> list[int]:
    """Whole numbers that add up to `num_examples`: rounded down, and the largest remainders rounded up."""
    exact = [rate * num_examples for rate in rates]
    counts = [int(x + 1e-9) for x in exact]
    by_remainder = sorted(range(len(rates)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: num_examples - sum(counts)]:
        counts[i] += 1
    return counts


def _drawn(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    passes = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate([*passes, np.empty(0, dtype=int)])[:count]


def _draws(rates: Sequence[float], seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.choice(len(rates), size=DRAWS_AHEAD, p=rates).tolist()


def _stream(streams: tuple[IterableDataset, ...], rates: tuple[float, ...], seed: int) -> Iterator[dict]:
    rows = [_endless(stream) for stream in streams]
    for i in _draws(rates, seed):
        yield next(rows[i])


def _endless(stream: IterableDataset) -> Iterator[dict]:
    epoch = 0
    while True:
        stream.set_epoch(epoch)  # shuffled otherwise
        yield from stream
        epoch += 1
