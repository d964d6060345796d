"""A training stream: every pass holds every row, in an order of its own that a seed decides."""

import itertools
from pathlib import Path

import pytest
from datasets import Dataset, IterableDataset

from hfcourse.data import endless_stream
from hfcourse.data.text_stream import text_stream


def stream(num_rows=20, num_shards=1):
    return Dataset.from_dict({"n": list(range(num_rows))}).to_iterable_dataset(num_shards)


def first(dataset, count):
    return [row["n"] for row in itertools.islice(dataset, count)]


@pytest.mark.parametrize(("buffer_size", "num_shards"), [(5, 1), (5, 4), (100, 1)])
def test_every_pass_holds_every_row_in_another_order(buffer_size, num_shards):
    rows = first(endless_stream(stream(num_shards=num_shards), buffer_size), 60)
    passes = [rows[i : i + 20] for i in (0, 20, 40)]
    assert [sorted(x) for x in passes] == [list(range(20))] * 3
    assert len({tuple(x) for x in passes}) == 3


def test_no_buffer_keeps_the_order():
    assert first(endless_stream(stream(), 0), 50) == [*range(20), *range(20), *range(10)]


def test_a_seed_is_an_order():
    """The same again from the same stream, from another of the same seed, and none from another seed."""
    dataset = endless_stream(stream(), 20, seed=1)
    assert first(dataset, 45) == first(dataset, 45) == first(endless_stream(stream(), 20, seed=1), 45)
    assert first(dataset, 45) != first(endless_stream(stream(), 20, seed=2), 45)


def test_nothing_without_end_is_nothing():
    empty = IterableDataset.from_generator(lambda: iter(()))
    assert list(endless_stream(empty, 5)) == []


@pytest.mark.parametrize("num_files", [1, 3])
def test_pieces_of_a_document_stay_together(tmp_path, monkeypatch, num_files):
    """Long lines between short ones: shuffled, they are the same documents in another order."""
    monkeypatch.setattr("hfcourse.data.text_stream.PIECE_CHARACTERS", 12)
    documents = [f"{i} " + "and so on " * (i % 3) + "end." for i in range(30)]
    files = [str(tmp_path / f"{i}.txt") for i in range(num_files)]
    for i, file in enumerate(files):
        Path(file).write_text("\n".join(documents[i::num_files]))
    rows = itertools.islice(endless_stream(text_stream(files), 7), sum(1 for _ in text_stream(files)))
    found = []
    for row in rows:
        found = [*found, row["text"]] if row["begins"] else [*found[:-1], found[-1] + row["text"]]
    assert sorted(found) == sorted(documents)
    assert found != documents
