"""UL2's mixture, the prefix LM and multi-task batches: one shape, the right shares, and the way back."""

import numpy as np
import pytest
import torch

from hfcourse.collators import (
    PREFIX_LM,
    UL2_DENOISERS,
    DataCollatorForMixtureOfDenoisers,
    DataCollatorForSpanCorruption,
    DataCollatorForTextToText,
    Denoiser,
)
from hfcourse.collators.noise import noise_counts
from hfcourse.errors import InputError


def tokens_for(collator, rows, seed=0):
    return np.random.default_rng(seed).integers(3, 900, (rows, collator.raw_length))


def test_ul2_shapes_modes_and_the_way_back(t5_tokenizer):
    torch.manual_seed(0)
    collator = DataCollatorForMixtureOfDenoisers(t5_tokenizer, input_length=256)
    tokens = tokens_for(collator, 3500)
    batch = collator(tokens)
    assert {name: tuple(t.shape[1:]) for name, t in batch.items()} == {
        "input_ids": (256,),
        "attention_mask": (256,),
        "labels": (collator.target_length,),
    }
    assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == t5_tokenizer.pad_token_id)
    assert (batch["labels"] != -100).sum(1).max() == collator.target_length
    assert torch.equal(collator.reconstruct(batch["input_ids"], batch["labels"]), torch.from_numpy(tokens))
    modes = t5_tokenizer.convert_ids_to_tokens(batch["input_ids"][:, 0].tolist())
    counts = [modes.count(mode) for mode in ("[R]", "[X]", "[S]")]
    # 2/7, 4/7, 1/7 of 3500, each to 4 standard errors.
    np.testing.assert_allclose(counts, [1000, 2000, 500], atol=4 * 29.3)


def test_each_row_has_the_noise_of_a_denoiser_of_its_mode(t5_tokenizer):
    """(N, k) of every row is that of an R or an X denoiser; S rows have no sentinel, and r = ¼ on average."""
    collator = DataCollatorForMixtureOfDenoisers(t5_tokenizer, input_length=128, seed=1)
    batch = collator(tokens_for(collator, 2000))
    first_sentinel = 1000 + 3
    counts = {"[R]": set(), "[X]": set(), "[S]": []}
    for inputs, labels in zip(batch["input_ids"].numpy(), batch["labels"].numpy(), strict=True):
        mode = t5_tokenizer.convert_ids_to_tokens(int(inputs[0]))
        noise, spans = ((labels < 1000) & (labels > 1)).sum(), (labels >= first_sentinel).sum()
        if mode == "[S]":
            assert spans == 0
            counts[mode].append(noise)
        else:
            counts[mode].add((int(noise), int(spans)))
    for mode in ("[R]", "[X]"):
        assert counts[mode] == {
            noise_counts(collator.raw_length, d.noise_density, d.mean_noise_span_length)
            for d in UL2_DENOISERS
            if d.mode_token == mode
        }
    half = collator.raw_length / 4
    assert abs(np.mean(counts["[S]"]) - half) < 4 * half / np.sqrt(3 * len(counts["[S]"]))
    assert len(counts["[S]"]) > 200


def test_prefix_lm_cuts_anywhere(t5_tokenizer):
    """L = 8: 1 to 7 tokens are kept, each number as likely: χ² of 7,000 rows with 6 degrees of freedom under 22.5."""
    torch.manual_seed(0)
    collator = DataCollatorForMixtureOfDenoisers(t5_tokenizer, PREFIX_LM, input_length=8)
    tokens = tokens_for(collator, 7000)
    batch = collator(tokens)
    kept = batch["attention_mask"].sum(1) - 1
    counts = np.bincount(kept, minlength=8)
    assert counts[0] == 0
    assert ((counts[1:] - 1000) ** 2 / 1000).sum() < 22.5
    row, n = 5, int(kept[5])
    assert batch["input_ids"][row, : n + 1].tolist() == [*tokens[row, :n], 1]
    assert batch["labels"][row, : 9 - n].tolist() == [*tokens[row, n:], 1]
    assert torch.equal(collator.reconstruct(batch["input_ids"], batch["labels"]), torch.from_numpy(tokens))


def test_one_denoiser_is_span_corruption(t5_tokenizer):
    mixture = DataCollatorForMixtureOfDenoisers(t5_tokenizer, (Denoiser(),), input_length=64, seed=2)
    plain = DataCollatorForSpanCorruption(t5_tokenizer, input_length=64, seed=2)
    tokens = tokens_for(plain, 8)
    batch = mixture(tokens)
    assert torch.equal(batch["input_ids"], plain(tokens)["input_ids"])
    assert torch.equal(batch["labels"], plain(tokens)["labels"])
    assert batch["attention_mask"].all()


def test_tasks_and_denoising_in_one_batch(t5_tokenizer):
    denoiser = DataCollatorForSpanCorruption(t5_tokenizer, input_length=32, seed=2)
    collator = DataCollatorForTextToText(denoiser)
    raw = tokens_for(denoiser, 2)
    task = {"input_ids": [5, 6, 1], "labels": np.array([7, 1])}
    rows = [{"input_ids": raw[0], "labels": None}, task, {"input_ids": raw[1]}]
    batch = collator(rows)
    assert batch["input_ids"][1].tolist() == [5, 6, 1] + [0] * 29
    assert batch["attention_mask"].sum(1).tolist() == [32, 3, 32]
    assert batch["labels"][1].tolist() == [7, 1] + [-100] * (denoiser.target_length - 2)
    expected = denoiser(raw)
    for name in ("input_ids", "labels"):
        assert torch.equal(batch[name][[0, 2]], expected[name])
    assert collator([task, task])["labels"].shape == (2, denoiser.target_length)
    assert torch.equal(collator([rows[0], rows[2]])["labels"], expected["labels"])
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["labels"][0], expected["labels"][0])
    with pytest.raises(InputError, match=f"labels: a task has 50 tokens, more than {denoiser.target_length}"):
        collator([{"input_ids": [5], "labels": [7] * 50}])


def test_what_is_missing_is_named(t5_tokenizer):
    with pytest.raises(InputError, match=r"mode_token: '\[NLG\]' is not in the vocabulary"):
        DataCollatorForMixtureOfDenoisers(t5_tokenizer, (Denoiser(mode_token="[NLG]"),))
    with pytest.raises(InputError, match="this mixture reads"):
        DataCollatorForMixtureOfDenoisers(t5_tokenizer, input_length=64)(np.ones((2, 60), dtype=int))
