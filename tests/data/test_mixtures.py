"""Mixtures: the rates by hand, the rows by counting, the stream the same wherever it is built."""

import pytest
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from hfcourse.data.mixtures import mix, mix_streams, mixing_rates, realised_counts
from hfcourse.errors import InputError


def rows(name, n):
    return Dataset.from_list([{"text": f"{name}{i}"} for i in range(n)])


def names(dataset, n=None):
    texts = (row["text"][0] for row in dataset)
    return [text for _, text in zip(range(n), texts, strict=False)] if n else [*texts]


@pytest.mark.parametrize(
    ("sizes", "cap", "temperature", "expected"),
    [
        ([300, 100], None, 1, [0.75, 0.25]),
        ([9000, 1000, 50], 1000, 1, [1000 / 2050, 1000 / 2050, 50 / 2050]),
        ([400, 100], None, 2, [20 / 30, 10 / 30]),  # square roots
        ([1600, 100], 400, 2, [20 / 30, 10 / 30]),  # the cap first, then the root: the other order gives 40 / 50
        ([27_000, 8], None, 3, [30 / 32, 2 / 32]),
        ([10**9, 1], None, 1e9, [0.5, 0.5]),
    ],
)
def test_rates_by_hand(sizes, cap, temperature, expected):
    assert mixing_rates(sizes, cap, temperature) == pytest.approx(expected, abs=1e-7)


def test_without_a_size_no_row_is_repeated():
    """Rates 0.75 and 0.25 of 30 and 20 rows: 40 rows, all of a and 10 of b."""
    mixed, counts = mix([rows("a", 30), rows("b", 20)], [0.75, 0.25])
    assert counts == [30, 10]
    assert len(set(mixed["text"])) == len(mixed) == 40
    assert names(mixed)[:10] != ["a"] * 10, "shuffled"


def test_a_small_dataset_is_repeated_evenly():
    mixed, counts = mix([rows("a", 30), rows("b", 4)], [0.5, 0.5], num_examples=20)
    assert counts == [10, 10]
    times = [mixed["text"][:].count(f"b{i}") for i in range(4)]
    assert sorted(times) == [2, 2, 3, 3]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 200), st.floats(0.5, 4), st.integers(1, 50)
)
@settings(max_examples=25, deadline=None)
def test_counts_are_the_rates_to_a_row(sizes, num_examples, temperature, cap):
    rates = mixing_rates(sizes, cap, temperature)
    mixed, counts = mix([rows(chr(97 + i), n) for i, n in enumerate(sizes)], rates, num_examples)
    assert sum(counts) == len(mixed) == num_examples
    assert all(abs(count - rate * num_examples) < 1 for count, rate in zip(counts, rates, strict=True))
    assert [names(mixed).count(chr(97 + i)) for i in range(len(sizes))] == counts


def test_the_seed_decides_everything():
    datasets, rates = [rows("a", 30), rows("b", 20)], [0.5, 0.5]
    assert mix(datasets, rates, seed=1)[0]["text"][:] == mix(datasets, rates, seed=1)[0]["text"][:]
    assert mix(datasets, rates, seed=1)[0]["text"][:] != mix(datasets, rates, seed=2)[0]["text"][:]


def test_a_stream_is_endless_and_its_shares_are_known_beforehand():
    streams = [rows("a", 30).to_iterable_dataset(), rows("b", 4).to_iterable_dataset()]
    rates = [0.7, 0.3]
    drawn = names(mix_streams(streams, rates, seed=3), 500)
    assert [drawn.count("a"), drawn.count("b")] == realised_counts(rates, 500, seed=3)
    assert drawn.count("a") == pytest.approx(350, abs=40)
    assert names(mix_streams(streams, rates, seed=3), 500) == drawn
    assert names(mix_streams(streams, rates, seed=4), 500) != drawn


def test_every_pass_of_a_stream_has_every_row_in_another_order():
    stream = mix_streams([rows("b", 8).to_iterable_dataset()], [1.0])
    texts = [row["text"] for _, row in zip(range(16), stream, strict=False)]
    assert set(texts[:8]) == set(texts[8:]) == {f"b{i}" for i in range(8)}
    assert texts[:8] != texts[8:]


def test_bad_settings_are_named():
    for arguments, message in (
        (([3, 2], None, 0), "mixture_temperature=0"),
        (([3, 2], 0, 1), "mixture_cap=0"),
        (([3, 0], None, 1), "datasets with rows"),
    ):
        with pytest.raises(InputError, match=message):
            mixing_rates(*arguments)
