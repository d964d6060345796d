"""T5's law, its lengths, and the way back: each test names a mistake that somebody has made."""

import math
import sys
from collections import Counter
from itertools import product
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from benchmarks.references import scalar_span_corruption as scalar
from hfcourse.collators import DataCollatorForSpanCorruption, span_corruption
from hfcourse.collators.noise import (
    corrupted_lengths,
    gap_numbers,
    noise_counts,
    random_spans,
    raw_length_for,
    spans_to_mask,
)
from hfcourse.collators.randomness import HIGH_BITS
from hfcourse.collators.sentinels import sentinel_ids
from hfcourse.collators.span_corruption import corrupt_mask, corrupt_spans
from hfcourse.errors import InputError

EOS = 1


def keys(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


def masks_of(count, length, noise, spans, free_ends=False):
    return spans_to_mask(*random_spans(keys(count), length, noise, spans, free_ends))


@pytest.mark.parametrize(
    ("r", "mu", "input_length", "raw_length", "target_length"),
    [
        (0.15, 3, 64, 70, 14),
        (0.15, 3, 114, 126, 26),
        (0.15, 3, 128, 141, 29),
        (0.15, 3, 256, 284, 58),
        (0.15, 3, 512, 568, 114),
        (0.15, 3, 1024, 1137, 229),
        (0.5, 3, 512, 766, 512),
        (0.15, 8, 512, 588, 100),
    ],
)
def test_golden_lengths(r, mu, input_length, raw_length, target_length, t5_tokenizer):
    """What T5's compute_input_and_target_lengths gives."""
    collator = DataCollatorForSpanCorruption(t5_tokenizer, r, mu, input_length)
    assert (collator.raw_length, collator.target_length, collator.input_length) == (
        raw_length,
        target_length,
        input_length,
    )


@pytest.mark.parametrize(("r", "mu"), [(0.15, 3.0), (0.15, 1.0), (0.5, 3.0), (0.5, 1.0), (0.7, 2.0), (0.3, 8.0)])
def test_the_raw_length_is_the_longest_that_fits(r, mu):
    """By trying all. A copy that begins its search at the input length itself is wrong for every length at μ = 1."""
    for input_length in range(3, 300):
        fitting = [n for n in range(2, 2 * input_length + 9) if corrupted_lengths(n, r, mu)[0] <= input_length]
        longest = fitting[-1] if r < 0.5 else next(n for n in fitting if n + 1 not in fitting)
        inputs, targets = corrupted_lengths(longest, r, mu)
        expected = longest - 1 if r == 0.5 and targets > inputs else longest
        assert raw_length_for(input_length, r, mu) == expected


def test_counts_round_half_to_even():
    """L = 10, r = .25: N = round(2.5) = 2; N = 5, μ = 2: k = round(2.5) = 2; and never more spans than kept tokens."""
    assert noise_counts(10, 0.25, 1.0) == (2, 2)
    assert noise_counts(10, 0.5, 2.0) == (5, 2)
    assert noise_counts(568, 0.15, 3.0) == (85, 28)
    assert noise_counts(10, 0.9, 1.0) == (9, 1)
    assert noise_counts(2, 0.15, 3.0) == (1, 1)


def test_every_mask_is_equally_likely():
    """L = 8, N = 3, k = 2: C(2,1)·C(4,1) = 8 masks, 40,000 draws. χ² with 7 degrees of freedom stays under 24.3 with
    probability 0.999; a law with P(first part = 1) = ½ instead of ¼, as two independent coin flips give, exceeds 1000.
    """
    counts = Counter(map(bytes, masks_of(40_000, 8, 3, 2)))
    assert len(counts) == math.comb(2, 1) * math.comb(4, 1)
    assert sum((n - 5000) ** 2 / 5000 for n in counts.values()) < 24.3


def test_every_mask_is_equally_likely_with_free_ends():
    """L = 8, N = 3, k = 2, M = 5: C(2,1)·C(6,2) = 30 masks, which are all masks of 3 noise tokens in 2 runs."""
    counts = Counter(map(bytes, masks_of(60_000, 8, 3, 2, free_ends=True)))
    runs = {
        bytes(np.array(m, dtype=bool))
        for m in product([False, True], repeat=8)
        if sum(m) == 3 and sum(b and not a for a, b in zip((False, *m), m, strict=False)) == 2
    }
    assert set(counts) == runs
    assert len(runs) == 30
    assert sum((n - 2000) ** 2 / 2000 for n in counts.values()) < 58.3  # χ²₂₉ at 0.999


def test_position_bias_and_its_cure():
    """T5's first token is never noise, its last always (t5 #905). Freed, each is noise k/(M+1) of the time, and the
    law is the same from either end."""
    t5, free = masks_of(20_000, 568, 85, 28).mean(0), masks_of(20_000, 568, 85, 28, free_ends=True).mean(0)
    assert t5[0] == 0.0
    assert t5[-1] == 1.0
    np.testing.assert_allclose(t5[[1, 2, -3, -2]], [0.056, 0.089, 0.478, 0.683], atol=0.012)
    np.testing.assert_allclose(free[[0, -1]], 28 / 484, atol=4 * math.sqrt(0.058 * 0.942 / 20_000))
    np.testing.assert_allclose(free, free[::-1], atol=5 * math.sqrt(2 * 0.15 * 0.85 / 20_000))


def test_span_lengths_are_those_of_the_scalar_algorithm():
    """P(1 … 4) = C(N-1-l, k-2) / C(N-1, k-1) at N = 85, k = 28: .321 .220 .149 .101."""
    noise = random_spans(keys(4000), 568, 85, 28)[1]
    expected = [math.comb(84 - l, 26) / math.comb(84, 27) for l in range(1, 5)]
    np.testing.assert_allclose([(noise == l).mean() for l in range(1, 5)], expected, atol=0.006)
    rng = np.random.RandomState(0)
    scalar_lengths = np.concatenate([scalar.random_segmentation(85, 28, rng) for _ in range(4000)])
    np.testing.assert_allclose([(scalar_lengths == l).mean() for l in range(1, 5)], expected, atol=0.006)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 90), st.sampled_from([0.05, 0.15, 0.5, 0.8]), st.sampled_from([1.0, 3.0, 8.0]), st.booleans())
def test_given_the_mask_it_is_the_scalar_algorithm(length, r, mu, free_ends):
    """Mask → (input, target) is a pure function: three implementations, one answer, for every N, k and shape."""
    noise, spans = noise_counts(length, r, mu)
    lengths = random_spans(keys(5, length), length, noise, spans, free_ends)
    mask = spans_to_mask(*lengths)
    assert mask.shape == (5, length)
    assert (mask.sum(1) == noise).all()
    tokens = np.random.default_rng(length).integers(0, 900, (5, length))
    sentinels = np.arange(1499, 1499 - spans, -1)
    inputs, targets = corrupt_spans(tokens, *lengths, sentinels, EOS)
    assert (inputs.shape[1], targets.shape[1]) == corrupted_lengths(length, r, mu)
    by_mask = [flat.reshape(5, -1) for flat, _ in corrupt_mask(tokens, mask, sentinels, EOS)]
    np.testing.assert_array_equal(inputs, by_mask[0])
    np.testing.assert_array_equal(targets, by_mask[1])
    if not free_ends:  # the scalar form cannot begin with noise or end without
        expected = scalar.apply_mask(tokens, mask, sentinels, EOS)
        np.testing.assert_array_equal(inputs, expected["input_ids"])
        np.testing.assert_array_equal(targets, expected["labels"])


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.integers(2, 90), st.sampled_from([1200, 1500])),
    st.sampled_from([0.05, 0.15, 0.5, 0.8]),
    st.sampled_from([1.0, 3.0, 8.0]),
    st.booleans(),
    st.sampled_from(["uint16", "int64"]),
)
def test_compiled_it_is_the_same_to_the_bit(length, r, mu, free_ends, dtype):
    """With numba a row at a time, without it the batch at once; gaps of more than 1,024 numbers need 64 bits."""
    noise, spans = noise_counts(length, r, mu)
    tokens = np.random.default_rng(length).integers(0, 900, (5, length)).astype(dtype)
    arguments = tokens, keys(5, length), noise, spans, np.arange(3000, 3000 - spans, -1), EOS, free_ends
    with mock.patch.object(span_corruption, "compiled", return_value=None):
        expected = span_corruption.corrupt(*arguments)
    assert span_corruption.compiled().__name__ == "corrupt_rows"
    for side, expected_side in zip(span_corruption.corrupt(*arguments), expected, strict=True):
        assert side.dtype == expected_side.dtype == np.int64
        np.testing.assert_array_equal(side, expected_side)


@pytest.mark.parametrize("why", ["not installed", "nowhere to keep what it compiled"])
def test_numba_is_not_needed(why, monkeypatch):
    numba = SimpleNamespace(njit=mock.Mock(side_effect=RuntimeError("cannot cache function: no locator available")))
    monkeypatch.setitem(sys.modules, "numba", None if why == "not installed" else numba)
    monkeypatch.delitem(sys.modules, "hfcourse.collators.compiled_spans", raising=False)
    assert span_corruption.compiled.__wrapped__() is None


@pytest.mark.parametrize("free_ends", [False, True])
@pytest.mark.parametrize(("kept", "noise"), [(900, 20), (1022, 20), (1023, 20), (1024, 20), (1025, 20), (20, 1026)])
def test_the_numbers_of_gaps_are_each_once_and_leave_the_random_bits_alone(kept, noise, free_ends):
    """Where they did not, two of a row could be equal, and more gaps than k - 1 be among the k - 1 smallest."""
    numbers = gap_numbers(kept + noise, noise, free_ends)
    assert not (numbers & HIGH_BITS[numbers.dtype]).any()
    assert numbers.tolist() == [*range(noise - 1), *range(kept + 2 * free_ends - 1)]


def test_in_numpy_large_batches_are_the_same_as_small_ones(monkeypatch):
    """They are taken some rows at a time."""
    monkeypatch.setattr(span_corruption, "compiled", lambda: None)
    monkeypatch.setattr(span_corruption, "TOKENS_AT_ONCE", 4 * 70)
    tokens = np.random.default_rng(0).integers(0, 900, (11, 70))
    sentinels = np.arange(1499, 1496, -1)
    whole = span_corruption.corrupt(tokens, keys(11), 10, 3, sentinels, EOS)
    for row in range(11):
        alone = span_corruption.corrupt(tokens[row : row + 1], keys(11)[row : row + 1], 10, 3, sentinels, EOS)
        for side, of_whole in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(side[0], of_whole[row])


def test_by_hand():
    """Tokens 10…17, noise at 12, 13 and 16: ⟨X⟩ = 99, ⟨Y⟩ = 98.

    input  10 11 ⟨X⟩ 14 15 ⟨Y⟩ 17 EOS         target  ⟨X⟩ 12 13 ⟨Y⟩ 16 EOS   (no sentinel after the last span)
    """
    tokens = np.arange(10, 18)[None]
    inputs, targets = corrupt_spans(tokens, np.array([[2, 2, 1]]), np.array([[2, 1]]), np.array([99, 98]), EOS)
    assert inputs.tolist() == [[10, 11, 99, 14, 15, 98, 17, EOS]]
    assert targets.tolist() == [[99, 12, 13, 98, 16, EOS]]


@pytest.mark.parametrize(
    ("r", "mu", "input_length", "free_ends"),
    [(0.15, 3, 64, False), (0.15, 3, 64, True), (0.15, 1, 64, False), (0.5, 3, 64, False), (0.8, 4, 32, True)],
)
def test_what_was_hidden_is_found_again(r, mu, input_length, free_ends, t5_tokenizer):
    """10,000 rows, id 0 and EOS among the tokens: a filter `> 0` once dropped id 0 from every batch."""
    collator = DataCollatorForSpanCorruption(t5_tokenizer, r, mu, input_length, free_ends=free_ends)
    tokens = np.random.default_rng(0).integers(0, 40, (2000, collator.raw_length))
    assert {0, EOS} <= set(tokens[0]) | set(tokens[1])
    batch = collator(tokens)
    assert batch["input_ids"].shape == (2000, collator.input_length)
    assert batch["labels"].shape == (2000, collator.target_length)
    assert torch.equal(collator.reconstruct(**batch), torch.from_numpy(tokens))
    for side in batch.values():
        assert (side[:, -1] == EOS).all()
        found = side[side >= 1000].reshape(2000, -1)
        assert torch.equal(found, torch.from_numpy(collator.sentinels).expand_as(found))
    k = collator.num_noise_spans
    assert collator.sentinels.tolist() == [t5_tokenizer.convert_tokens_to_ids(f"<extra_id_{j}>") for j in range(k)]
    assert batch["input_ids"].ge(1000).sum(1).eq(k).all()


@pytest.mark.parametrize("noise", ["iid", "regular"])
def test_other_laws(noise, t5_tokenizer):
    collator = DataCollatorForSpanCorruption(t5_tokenizer, 0.3, 3.0, 65, noise=noise)
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).integers(3, 900, (4000, collator.raw_length))
    batch = collator(tokens)
    assert batch["input_ids"].shape == (4000, 65)
    assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == 0)
    assert torch.equal(collator.reconstruct(batch["input_ids"], batch["labels"]), torch.from_numpy(tokens))
    hidden = ((batch["labels"] < 1000) & (batch["labels"] > EOS)).sum(1).double() / 64
    if noise == "iid":
        # Bernoulli: the mean is r to 4 standard errors, and the variance r(1-r)/64 to 8 %.
        assert hidden.mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 64 / 4000))
        assert hidden.var().item() == pytest.approx(0.21 / 64, rel=0.08)
    else:
        assert hidden.mean().item() == pytest.approx(np.mean([l / round(l / 0.3) for l in range(1, 6)]), abs=0.005)


@pytest.mark.parametrize("kind", ["T5", "T5 from a vocabulary", "trained anew", "ours, saved and loaded", "WordPiece"])
def test_sentinels_go_by_name(kind, t5_tokenizer, tmp_path):
    """`len(tokenizer) - 1 - j` is right for the first kind alone: others ascend, or begin near 0."""
    corpus = ["the red fox sleeps near the river", "tea for two and two for tea"] * 50
    names = [f"<extra_id_{j}>" for j in range(100)]
    if kind == "T5":
        tokenizer = T5Tokenizer()
    elif kind == "T5 from a vocabulary":
        tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁the", -1.0), ("▁red", -2.0)])
    elif kind == "trained anew":
        tokenizer = T5Tokenizer().train_new_from_iterator(corpus, vocab_size=200)
    elif kind == "WordPiece":
        words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]", "[SEP]"]))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[SEP]", unk_token="[UNK]")
        tokenizer.add_special_tokens({"extra_special_tokens": names})
    else:
        t5_tokenizer.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = sentinel_ids(tokenizer, 100)
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == names
    by_position = [len(tokenizer) - 1 - j for j in range(100)]
    assert (ids.tolist() == by_position) == (kind in ("T5", "ours, saved and loaded"))
    collator = DataCollatorForSpanCorruption(tokenizer, input_length=32)
    labels = collator(np.full((1, collator.raw_length), 3))["labels"]
    assert tokenizer.convert_ids_to_tokens(labels[0, :1].tolist()) == ["<extra_id_0>"]


def test_rows_come_in_every_form(t5_tokenizer):
    collator = DataCollatorForSpanCorruption(t5_tokenizer, input_length=32, seed=3)
    tokens = np.random.default_rng(0).integers(3, 900, (4, collator.raw_length))
    expected = collator(tokens)
    forms = [
        tokens.astype(np.uint16),
        torch.from_numpy(tokens),
        list(tokens),
        tokens.tolist(),
        [{"input_ids": row} for row in tokens.tolist()],
        [{"input_ids": row} for row in torch.from_numpy(tokens).int()],
    ]
    for form in forms:
        batch = collator(form)
        assert {name: (t.dtype, t.tolist()) for name, t in batch.items()} == {
            name: (torch.int64, t.tolist()) for name, t in expected.items()
        }


def test_a_seeded_mask_belongs_to_its_row(t5_tokenizer):
    """Not to its place in the batch, nor to the process that draws it; another epoch or seed, another mask."""
    collator = DataCollatorForSpanCorruption(t5_tokenizer, input_length=64, seed=3)
    tokens = np.random.default_rng(0).integers(3, 900, (8, collator.raw_length))
    whole = collator(tokens)["input_ids"]
    halves = torch.cat([collator(tokens[5:])["input_ids"], collator(tokens[:5])["input_ids"]])
    assert torch.equal(halves, torch.cat([whole[5:], whole[:5]]))
    collator.set_epoch(1)
    assert (collator(tokens)["input_ids"] != whole).any(1).all()
    collator.set_epoch(0)
    assert torch.equal(collator(tokens)["input_ids"], whole)
    other = DataCollatorForSpanCorruption(t5_tokenizer, input_length=64, seed=4)
    assert (other(tokens)["input_ids"] != whole).any(1).all()


def test_without_a_seed_torch_decides(t5_tokenizer):
    collator = DataCollatorForSpanCorruption(t5_tokenizer, input_length=64)
    rows = np.tile(np.arange(3, 3 + collator.raw_length), (16, 1))
    torch.manual_seed(7)
    first, second = collator(rows)["input_ids"], collator(rows)["input_ids"]
    assert len({tuple(row.tolist()) for row in torch.cat([first, second])}) == 32
    torch.manual_seed(7)
    assert torch.equal(collator(rows)["input_ids"], first)


def test_workers_draw_different_masks_and_see_the_epoch(t5_tokenizer):
    """Equal rows, one batch a worker. Unseeded: no two alike. Seeded: all alike, and others in the next epoch."""
    row = np.arange(3, 73)
    data = [{"input_ids": row}] * 4
    for seed in (None, 5):
        collator = DataCollatorForSpanCorruption(t5_tokenizer, input_length=64, seed=seed)
        loader = torch.utils.data.DataLoader(
            data, batch_size=2, num_workers=2, collate_fn=collator, persistent_workers=True
        )
        epochs = []
        for epoch in range(2):
            collator.set_epoch(epoch)
            epochs.append([tuple(r) for batch in loader for r in batch["input_ids"].tolist()])
        assert [len(set(rows)) for rows in epochs] == ([4, 4] if seed is None else [1, 1])
        assert set(epochs[0]).isdisjoint(epochs[1])


def test_what_cannot_be_used_is_one_line(t5_tokenizer):
    with pytest.raises(InputError, match="120 are needed and the tokenizer has no <extra_id_100>") as raised:
        sentinel_ids(T5Tokenizer(), 120)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match=r"rows have 60 tokens, but inputs of 64 .* are made of 70"):
        DataCollatorForSpanCorruption(t5_tokenizer, input_length=64)(np.ones((2, 60), dtype=int))
    with pytest.raises(InputError, match=r"blocks of \[69, 70\] tokens in one batch"):
        DataCollatorForSpanCorruption(t5_tokenizer, input_length=64)([[5] * 70, [5] * 69])
    with pytest.raises(InputError, match=r"must be .* of integers"):
        DataCollatorForSpanCorruption(t5_tokenizer, input_length=64)(np.ones((2, 70)))
    for arguments, message in [
        ({"noise_density": 0.0}, "must lie between"),
        ({"mean_noise_span_length": 0.5}, "at least one token"),
        ({"input_length": 2}, "too short"),
        ({"noise": "random"}, "choose spans, iid, regular"),
        ({"noise": "iid", "free_ends": True}, "no ends to free"),
        ({"input_length": 100_000}, "are needed and the tokenizer has no <extra_id_500>"),
    ]:
        with pytest.raises(InputError, match=message):
            DataCollatorForSpanCorruption(t5_tokenizer, **arguments)
    no_eos = PreTrainedTokenizerFast(tokenizer_object=t5_tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="eos_token"):
        DataCollatorForSpanCorruption(no_eos)
