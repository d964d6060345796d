"""A training stream: pass after pass over the same rows, each in another order, without an end."""

from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
from datasets import IterableDataset

NUM_SHARDS_AT_ONCE = 10  # read in turns, as datasets does


def endless_stream(dataset: IterableDataset, buffer_size: int = 1000, seed: int = 0) -> IterableDataset:
    """The rows of `dataset` again and again, drawn at random from a buffer of `buffer_size` rows; 0 keeps their order.

    So a training stays in its first epoch, and a resumed one finds its place by counting rows. (Where a stream ends,
    `transformers.Trainer` starts it anew, but resumes as if it had not.) Shards, where there are several, are read in
    another order in each pass, too. The pieces of a long document ([`hfcourse.data.text_stream`]) stay together: they
    pass the buffer by.

    Args:
        dataset: rows of any columns. One without rows gives a stream without rows.
        buffer_size: rows kept in memory. The larger, the better they mix.
        seed: another order.
    """
    if buffer_size > 0:
        in_pieces = "begins" in (dataset.column_names or ())
        # Of datasets' own shuffling only the order of the shards: a buffer of one row.
        dataset = dataset.shuffle(
            seed=seed, buffer_size=1, max_buffer_input_shards=1 if in_pieces else NUM_SHARDS_AT_ONCE
        )
    order = {"buffer_size": buffer_size, "seed": seed}
    return IterableDataset.from_generator(_passes, features=dataset.features, gen_kwargs={"dataset": dataset, **order})


def _passes(dataset: IterableDataset, buffer_size: int, seed: int) -> Iterator[dict]:
    for epoch in count():
        dataset.set_epoch(epoch)
        row = None
        for row in _through_buffer(dataset, buffer_size, np.random.default_rng((seed, epoch))):
            yield row
        if row is None:
            return


def _through_buffer(rows: Iterable[dict], buffer_size: int, rng: np.random.Generator) -> Iterator[dict]:
    """Each row takes the place of one drawn from the buffer, which goes on; at the end the rest, in any order."""
    buffer: list[dict] = []
    for row in rows:
        if not (row.get("begins", True) and row.get("ends", True)):
            yield row
        elif len(buffer) < buffer_size:
            buffer.append(row)
        elif buffer_size > 0:
            place = rng.integers(buffer_size)
            buffer[place], row = row, buffer[place]
            yield row
        else:
            yield row
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
