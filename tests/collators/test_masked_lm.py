"""What is hidden, how much of it, what is put in its place: each against the law that it is drawn from."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings, strategies as st

from hfcourse.collators import DataCollatorForMaskedLM
from hfcourse.collators.masked_lm import take_what_fits
from hfcourse.collators.span_masks import span_length_probabilities, span_masks
from hfcourse.collators.words import WordStarts
from hfcourse.data import static_masks
from hfcourse.errors import InputError
from tests.collators.conftest import TEXTS

CLS, SEP, MASK, PAD, VOCAB = 2, 3, 4, 0, 52


def runs(mask):
    """(B, L) int: which run of True a place belongs to, counted from 0 in each row; elsewhere that of the last one."""
    first = mask.copy()
    first[:, 1:] &= ~mask[:, :-1]
    return first.cumsum(1) - 1


def sentence_rows(tokenizer, count=1, seed=0):
    """Rows [CLS] … [SEP] of several lengths, from words of the vocabulary."""
    rng = np.random.default_rng(seed)
    return [[CLS, *rng.integers(5, len(tokenizer), n).tolist(), SEP] for n in rng.integers(20, 60, count)]


def hidden(batch):
    return (batch["labels"] != -100).numpy()


@pytest.mark.parametrize("masking", ["token", "whole_word", "span"])
@pytest.mark.parametrize("exact_count", [False, True])
def test_labels_are_what_was_there(word_piece, masking, exact_count):
    torch.manual_seed(0)
    rows = sentence_rows(word_piece, 200)
    batch = DataCollatorForMaskedLM(word_piece, masking, exact_count=exact_count)(rows)
    width = max(map(len, rows))
    for i, row in enumerate(rows):
        n, labels, ids = len(row), batch["labels"][i].tolist(), batch["input_ids"][i].tolist()
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
        assert ids[n:] == [PAD] * (width - n)
        assert labels[0] == labels[n - 1] == -100
        assert set(labels[n:]) <= {-100}
        assert all(label in (-100, token) for label, token in zip(labels, row, strict=False))
        assert [a for a, label in zip(ids, labels, strict=True) if label == -100][:n] == [
            *[a for a, label in zip(row, labels, strict=False) if label == -100],
            *[PAD] * (width - n),
        ][:n]


def test_dynamic_counts_are_binomial(word_piece):
    """40 tokens at 0.15: mean 6 and variance 5.1, each to 4 standard errors of 4,000 rows."""
    torch.manual_seed(0)
    counts = hidden(DataCollatorForMaskedLM(word_piece)(np.full((4000, 40), 9))).sum(1)
    assert counts.mean() == pytest.approx(6, abs=4 * math.sqrt(5.1 / 4000))
    assert counts.var() == pytest.approx(5.1, abs=4 * 5.1 * math.sqrt(2 / 4000))


def test_exact_counts_are_berts(word_piece):
    """num = min(max_predictions, max(1, round(0.15·len))), special tokens counted in len, half to even."""
    rows = [[CLS, *[9] * (n - 2), SEP] for n in (3, 10, 30, 50, 57)]
    assert [round(0.15 * len(row)) for row in rows] == [0, 2, 4, 8, 9]
    counts = hidden(DataCollatorForMaskedLM(word_piece, exact_count=True)(rows)).sum(1)
    assert counts.tolist() == [1, 2, 4, 8, 9]
    limited = DataCollatorForMaskedLM(word_piece, exact_count=True, max_predictions=4)
    assert hidden(limited(rows)).sum(1).tolist() == [1, 2, 4, 4, 4]


def test_which_tokens_are_hidden_is_uniform(word_piece):
    """Exactly 2 of 10 places, 9,000 rows: 45 pairs of 200 each; χ²₄₄ stays under 78.7 with probability 0.999."""
    torch.manual_seed(0)
    rows = np.full((9000, 12), 9)
    rows[:, 0], rows[:, -1] = CLS, SEP
    pairs = Counter(map(bytes, hidden(DataCollatorForMaskedLM(word_piece, exact_count=True)(rows))))
    assert len(pairs) == 45
    assert sum((n - 200) ** 2 / 200 for n in pairs.values()) < 78.7


def test_eighty_ten_ten(word_piece):
    """Of the hidden ones 0.8 + 0.1/V are [MASK], 0.1 + 0.1/V stay, and every other token takes 0.1/V."""
    torch.manual_seed(0)
    batch = DataCollatorForMaskedLM(word_piece, mlm_probability=0.5)(np.full((2000, 100), 9))
    shown = batch["input_ids"][batch["labels"] != -100]
    vocab_size = len(word_piece)
    expected = torch.full((vocab_size,), 0.1 / vocab_size)
    expected[MASK] += 0.8
    expected[9] += 0.1
    counts, expected = torch.bincount(shown, minlength=vocab_size), expected * len(shown)
    assert ((counts - expected) ** 2 / expected).sum() < vocab_size - 1 + 4 * math.sqrt(2 * (vocab_size - 1))
    # A common misreading: 10 % of all tokens, not of the hidden ones.
    assert (batch["input_ids"] != 9).float().mean().item() == pytest.approx(0.5 * 0.9, abs=0.01)


@pytest.mark.parametrize("kind", ["word_piece", "byte_level", "metaspace"])
@pytest.mark.parametrize("exact_count", [False, True])
def test_words_are_hidden_whole(kind, exact_count, request):
    """All of a word or nothing of it, in rows of different lengths, Chinese among them, whatever the share."""
    torch.manual_seed(0)
    tokenizer = request.getfixturevalue(kind)
    rows = list(tokenizer(list(TEXTS) * 60, add_special_tokens=False)["input_ids"])
    starts, collator = WordStarts(tokenizer), DataCollatorForMaskedLM(tokenizer, "whole_word", exact_count=exact_count)
    masks, shares, long_words = hidden(collator([{"input_ids": row} for row in rows])), [], 0
    for row, mask in zip(rows, masks, strict=True):
        begins = np.flatnonzero(starts(np.array([row]))[0])[1:]
        words, maskable = np.split(mask[: len(row)], begins), ~np.isin(row, tokenizer.all_special_ids)
        assert all(word.all() or not word.any() for word in words)
        long_words += sum(word.all() and len(word) > 1 for word in words)
        shares.append(mask.sum() / maskable.sum())
        if exact_count:
            assert mask.sum() <= max(round(0.15 * len(row)), 1)
    assert long_words > 30
    if not exact_count:
        assert np.mean(shares) == pytest.approx(0.15, abs=0.03)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(0, 25))
def test_what_fits_is_taken_in_order(sizes, count):
    """BERT's loop, word by word."""
    left, expected = count, []
    for size in sizes:
        expected.append(size <= left)
        left -= size * expected[-1]
    taken = take_what_fits(np.array([sizes, sizes[::-1]]), np.array([count, count]))
    assert taken[0].tolist() == expected


def test_a_segmenter_may_say_where_words_begin(word_piece):
    """Chinese words of two characters: a column `word_starts`, from any segmenter."""
    torch.manual_seed(0)
    rows = [{"input_ids": [40, 41, 42, 43, 44, 45], "word_starts": [1, 0, 1, 0, 1, 0]}] * 300
    masks = hidden(DataCollatorForMaskedLM(word_piece, "whole_word", mlm_probability=0.5)(rows))
    assert (masks[:, 0::2] == masks[:, 1::2]).all()
    assert len(set(map(bytes, masks))) == 8


def test_span_lengths_are_geometric_and_renormalised():
    """One span of at most 10 words in a row of 400: mean 3.797 within 3 standard errors, χ² of the ten lengths.

    Σ l·p(1-p)^(l-1) / Σ p(1-p)^(l-1) = 3.797 at p = 0.2; clipping min(g, 10) instead would give 4.463.
    """
    p = span_length_probabilities()
    mean = float((p * np.arange(1, 11)).sum())
    assert mean == pytest.approx(3.797, abs=5e-4)
    rows = 10_000
    keys = np.random.default_rng(0).integers(0, 2**63, rows).astype(np.uint64)
    starts = np.ones((rows, 60), dtype=bool)
    masks = span_masks(keys, starts, np.full(rows, 60), np.full(rows, 10))
    assert (masks.sum(1) == 10).all()
    lengths = _first_drawn_lengths(keys)
    assert lengths.mean() == pytest.approx(mean, abs=3 * lengths.std() / math.sqrt(rows))
    counts = np.bincount(lengths, minlength=11)[1:]
    assert ((counts - rows * p) ** 2 / (rows * p)).sum() < 27.9  # χ²₉ at 0.999


def _first_drawn_lengths(keys):
    """The run of masked words behind the first anchor, which a budget of 1 shows: among 990 words, 10 of them masked,
    another span touches it in 1 of 100 rows, and no first span is cut."""
    rows = len(keys)
    masks = np.zeros(rows, dtype=np.int64)
    for block in np.split(np.arange(rows), 10):
        starts, lengths = np.ones((len(block), 1000), dtype=bool), np.full(len(block), 990)
        anchor = span_masks(keys[block], starts, lengths, np.full(len(block), 1)).argmax(1)
        ten = span_masks(keys[block], starts, lengths, np.full(len(block), 10))
        run = ten[np.arange(len(block))[:, None], anchor[:, None] + np.arange(10)]
        masks[block] = np.logical_and.accumulate(run, axis=1).sum(1)
    return masks


def test_spans_keep_the_budget_and_begin_at_words(byte_level):
    """⌈0.15·m⌉ tokens, m without the special ones; every span begins where a word does."""
    torch.manual_seed(0)
    ids = byte_level(TEXTS[0] * 2, add_special_tokens=False)["input_ids"]
    row = [1, *ids, 2]
    starts = WordStarts(byte_level)(np.array([row]))[0]
    masks = hidden(DataCollatorForMaskedLM(byte_level, "span")([row] * 500))
    assert set(masks.sum(1)) == {math.ceil(0.15 * len(ids))}
    first = masks & ~np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    assert not (first & ~starts).any()
    assert not masks[:, [0, -1]].any()


def test_a_span_is_replaced_as_one(word_piece):
    """All [MASK], all kept, or all drawn anew (from the row's own tokens, which are 9 and 10 here)."""
    torch.manual_seed(0)
    tokens = np.tile([9, 10], (3000, 30))
    batch = DataCollatorForMaskedLM(word_piece, "span")(tokens)
    mask, ids = hidden(batch), batch["input_ids"].numpy()
    span = runs(mask)
    shares = Counter()
    for row in range(3000):
        for j in range(span[row].max() + 1):
            where = mask[row] & (span[row] == j)
            shown, was = ids[row][where], tokens[row][where]
            kind = "mask" if (shown == MASK).all() else "kept" if (shown == was).all() else "random"
            assert kind == "mask" or MASK not in shown
            if where.sum() >= 5:  # a shorter random span is often the kept one by chance
                shares[kind] += 1
    total = sum(shares.values())
    assert total > 2000
    for kind, p in (("mask", 0.8), ("kept", 0.1), ("random", 0.1)):
        assert shares[kind] / total == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / total) + 0.004)


@pytest.mark.parametrize("streaming", [False, True])
def test_static_masks_are_few_and_kept(word_piece, streaming):
    """4 copies, 6 epochs: a row has 4 masks and not one more; without them each epoch brings another."""
    row = sentence_rows(word_piece)[0]
    dataset = Dataset.from_dict({"input_ids": [row, row[::-1]], "id": [0, 1]})
    copies = static_masks(dataset.to_iterable_dataset() if streaming else dataset, dupe_factor=4, seed=1)
    rows = list(copies)
    assert [r["id"] for r in rows] == [0, 1] * 4
    assert len({r["mask_seed"] for r in rows}) == 8
    collator = DataCollatorForMaskedLM(word_piece, exact_count=True, seed=3)
    seen = set()
    for epoch in range(6):
        collator.set_epoch(epoch)
        batch = collator(rows)
        seen |= {bytes(mask) for mask, r in zip(hidden(batch), rows, strict=True) if r["id"] == 0}
    assert len(seen) == 4
    plain = set()
    for epoch in range(6):
        collator.set_epoch(epoch)
        plain |= {bytes(hidden(collator([{"input_ids": row}])))}
    assert len(plain) == 6
    assert [r["mask_seed"] for r in static_masks(dataset, 4, seed=2)] != [r["mask_seed"] for r in rows]
    with pytest.raises(InputError, match="dupe_factor=0"):
        static_masks(dataset, 0)


def test_a_seeded_mask_does_not_depend_on_its_neighbours(word_piece):
    """A longer row in the batch pads the others; their masks stay."""
    rows = sentence_rows(word_piece, 6)
    for masking in ("token", "whole_word", "span"):
        collator = DataCollatorForMaskedLM(word_piece, masking, seed=1)
        whole = collator(rows)
        for i, row in enumerate(rows):
            alone = collator([row])
            assert torch.equal(alone["labels"][0], whole["labels"][i, : len(row)])


def test_special_tokens_may_be_given(word_piece):
    torch.manual_seed(0)
    rows = [{"input_ids": [9] * 10, "special_tokens_mask": [1] * 5 + [0] * 5}] * 100
    masks = hidden(DataCollatorForMaskedLM(word_piece, mlm_probability=0.9)(rows))
    assert not masks[:, :5].any()
    assert masks[:, 5:].mean() > 0.8
    assert DataCollatorForMaskedLM(word_piece, pad_to_multiple_of=8)(rows)["labels"].shape == (100, 16)


def test_what_cannot_be_used_is_one_line(word_piece, t5_tokenizer):
    for arguments, message in [
        ({"masking": "word"}, "choose token, whole_word, span"),
        ({"mlm_probability": 1.5}, "must lie between"),
        ({"mask_replace_prob": 0.95}, "at most 1 together"),
        ({"max_predictions": 20}, "set exact_count"),
    ]:
        with pytest.raises(InputError, match=message):
            DataCollatorForMaskedLM(word_piece, **arguments)
    with pytest.raises(InputError, match="mask_token: the tokenizer has none"):
        DataCollatorForMaskedLM(t5_tokenizer)
    with pytest.raises(InputError, match="no row of the batch has a token"):
        DataCollatorForMaskedLM(word_piece)([[]])
