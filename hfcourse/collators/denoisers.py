"""Mixtures of denoisers (UL2) and of tasks: rows of different origin in one batch of constant shapes."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hfcourse.collators.noise import (
    corrupted_lengths,
    max_prefix_noise,
    noise_counts,
    prefix_noise,
    raw_length_for,
)
from hfcourse.collators.randomness import RowKeys, uniform
from hfcourse.collators.rows import Rows, column, matrix
from hfcourse.collators.sentinels import sentinel_ids
from hfcourse.collators.span_corruption import corrupt, padded_pairs, reconstruct_row, special_id
from hfcourse.errors import InputError

CHOICE = 2  # stream of random numbers


@dataclass(frozen=True)
class Denoiser:
    """One of a mixture's tasks.

    Args:
        noise_density: r. For a prefix LM the mean share that is to be written, or None: any share is as likely.
        mean_noise_span_length: μ, or None for a prefix LM: the beginning is read, the rest is written, no sentinels.
        mode_token: put before the input, so that the model knows what is asked of it; None: nothing is.
        weight: how often, relative to the others.
    """

    noise_density: float | None = 0.15
    mean_noise_span_length: float | None = 3.0
    mode_token: str | None = None
    weight: float = 1.0


PREFIX_LM = (Denoiser(None, None),)
# https://huggingface.co/papers/2205.05131, Table 2: regular, sequential and extreme denoising, seven equal parts.
UL2_DENOISERS = (
    Denoiser(0.15, 3.0, "[R]"),
    Denoiser(0.15, 8.0, "[R]"),
    Denoiser(0.5, 3.0, "[X]"),
    Denoiser(0.5, 8.0, "[X]"),
    Denoiser(0.15, 64.0, "[X]"),
    Denoiser(0.5, 64.0, "[X]"),
    Denoiser(0.25, None, "[S]"),
)


class DataCollatorForMixtureOfDenoisers:
    """Each row goes to one of several denoisers; the batch has the same shapes whichever they are.

    `raw_length` is the longest that fits every denoiser's input, `target_length` what the longest target needs; the
    rest is padding, which attention_mask and labels of -100 mark.

    Args:
        tokenizer: with EOS, a pad token, the mode tokens, and `<extra_id_0>`, `<extra_id_1>`, …
        denoisers: [`UL2_DENOISERS`] by default; [`PREFIX_LM`] is T5's prefix LM.
        input_length: tokens of an input, mode token and EOS included.
        seed: as for [`DataCollatorForSpanCorruption`].

    Raises:
        InputError: a special token that a denoiser needs is not in the vocabulary.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        denoisers: tuple[Denoiser, ...] = UL2_DENOISERS,
        input_length: int = 512,
        seed: int | None = None,
    ):
        self.tokenizer, self.denoisers, self.input_length = tokenizer, tuple(denoisers), input_length
        self.eos_token_id = special_id(tokenizer, "eos_token")
        self.pad_token_id = special_id(tokenizer, "pad_token")
        self.mode_ids = [_mode_id(tokenizer, denoiser.mode_token) for denoiser in self.denoisers]
        self.raw_length = min(
            _raw_length(denoiser, input_length - (mode is not None))
            for denoiser, mode in zip(self.denoisers, self.mode_ids, strict=True)
        )
        self.target_length = max(_target_length(denoiser, self.raw_length) for denoiser in self.denoisers)
        spans = [_counts(denoiser, self.raw_length)[1] for denoiser in self.denoisers]
        self.sentinels = sentinel_ids(tokenizer, max(spans))
        weights = np.array([denoiser.weight for denoiser in self.denoisers], dtype=np.float64)
        self._thresholds = (weights / weights.sum()).cumsum()[:-1]
        self.keys = RowKeys(seed)

    def set_epoch(self, epoch: int) -> None:
        """Other denoisers and masks from here on, where `seed` fixes them."""
        self.keys.set_epoch(epoch)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (B, input_length), labels (B, target_length); rows of `raw_length` tokens."""
        tokens = matrix(column(rows, "input_ids"))
        if tokens.shape[1] != self.raw_length:
            raise InputError(
                f"input_ids: rows have {tokens.shape[1]} tokens, but this mixture reads {self.raw_length} "
                "(raw_length); pack them to that"
            )
        keys = self.keys.of(tokens)
        chosen = np.searchsorted(self._thresholds, uniform(keys, 1, CHOICE)[:, 0], side="right")
        batch: dict[str, torch.Tensor] = {}
        for i, denoiser in enumerate(self.denoisers):
            where = np.flatnonzero(chosen == i)
            if len(where):
                for name, part in self._corrupt(denoiser, self.mode_ids[i], tokens[where], keys[where]).items():
                    whole = batch.setdefault(name, part.new_empty((len(tokens), part.shape[1])))
                    whole[torch.from_numpy(where)] = part
        return batch

    def _corrupt(self, denoiser: Denoiser, mode_id: int | None, tokens: np.ndarray, keys: np.ndarray):
        if denoiser.mean_noise_span_length is None:
            mask = prefix_noise(keys, self.raw_length, denoiser.noise_density)
            sides = [(tokens[~mask], (~mask).sum(1)), (tokens[mask], mask.sum(1))]
            inputs, targets = (_append(flat, lengths, self.eos_token_id) for flat, lengths in sides)
        else:
            noise, spans = _counts(denoiser, self.raw_length)
            sides = corrupt(tokens, keys, noise, spans, self.sentinels[:spans], self.eos_token_id)
            inputs, targets = ((side.ravel(), np.full(len(side), side.shape[1])) for side in sides)
        if mode_id is not None:
            inputs = _prepend(*inputs, mode_id)
        return padded_pairs(inputs, targets, self.input_length, self.target_length, self.pad_token_id)

    def reconstruct(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The inverse: (B, raw_length) raw tokens of a batch that this collator has made, exactly."""
        modes, rows = [mode for mode in self.mode_ids if mode is not None], []
        for inputs, targets in zip(np.asarray(input_ids), np.asarray(labels), strict=True):
            inputs = inputs[1:] if inputs[0] in modes else inputs
            if targets[0] in self.sentinels[:1]:
                rows.append(reconstruct_row(inputs, targets, self.sentinels, self.eos_token_id))
            else:
                ends = [np.flatnonzero(side == self.eos_token_id)[-1] for side in (inputs, targets)]
                rows.append(np.concatenate([inputs[: ends[0]], targets[: ends[1]]]))
        return torch.from_numpy(matrix(rows))


class DataCollatorForTextToText:
    """Tasks and denoising in one stream: rows with `labels` are tasks, all others go to the denoising collator.

    Tasks are padded to the denoiser's two lengths, so that multi-task training has the same shapes throughout.

    Args:
        denoiser: a [`DataCollatorForSpanCorruption`] or a [`DataCollatorForMixtureOfDenoisers`].
    """

    def __init__(self, denoiser):
        self.denoiser, self.pad_token_id = denoiser, special_id(denoiser.tokenizer, "pad_token")
        self.raw_length, self.input_length = denoiser.raw_length, denoiser.input_length
        self.target_length = denoiser.target_length

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the denoiser."""
        self.denoiser.set_epoch(epoch)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (B, input_length), labels (B, target_length), padded with -100.

        Raises:
            InputError: a task that is longer than the shapes.
        """
        is_task = np.array([_has_labels(row) for row in rows])
        tasks = [row for row in rows if _has_labels(row)]
        for name, limit in (("input_ids", self.input_length), ("labels", self.target_length)):
            longest = max((len(row[name]) for row in tasks), default=0)
            if longest > limit:
                raise InputError(f"{name}: a task has {longest} tokens, more than {limit}; shorten it")
        sides = (_flat([row[name] for row in tasks]) for name in ("input_ids", "labels"))
        batch = padded_pairs(*sides, self.input_length, self.target_length, self.pad_token_id)
        if is_task.all():
            return batch
        raw = [row for row in rows if not _has_labels(row)]
        noisy = self.denoiser(raw)
        noisy.setdefault("attention_mask", torch.ones_like(noisy["input_ids"]))
        order = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(is_task), np.flatnonzero(~is_task)])))
        return {name: torch.cat([batch[name], noisy[name]])[order] for name in batch}


def _has_labels(row: dict) -> bool:
    return row.get("labels") is not None and len(row["labels"]) > 0


def _flat(rows: list) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *(np.asarray(row, dtype=np.int64) for row in rows)]), lengths


def _mode_id(tokenizer: PreTrainedTokenizerBase, token: str | None) -> int | None:
    if token is not None and token not in tokenizer.get_vocab():
        raise InputError(
            f"mode_token: '{token}' is not in the vocabulary; tokenizer.add_special_tokens({{'extra_special_tokens': "
            f"['{token}', …]}}) and resize the model, or use denoisers without one"
        )
    return None if token is None else tokenizer.get_vocab()[token]


def _raw_length(denoiser: Denoiser, input_length: int) -> int:
    if denoiser.mean_noise_span_length is None:
        return input_length  # one token at least is noise, and EOS takes its place
    return raw_length_for(input_length, denoiser.noise_density, denoiser.mean_noise_span_length)


def _target_length(denoiser: Denoiser, raw_length: int) -> int:
    if denoiser.mean_noise_span_length is None:
        return max_prefix_noise(raw_length, denoiser.noise_density) + 1
    return corrupted_lengths(raw_length, denoiser.noise_density, denoiser.mean_noise_span_length)[1]


def _counts(denoiser: Denoiser, raw_length: int) -> tuple[int, int]:
    if denoiser.mean_noise_span_length is None:
        return 0, 0
    return noise_counts(raw_length, denoiser.noise_density, denoiser.mean_noise_span_length)


def _append(flat: np.ndarray, lengths: np.ndarray, token: int) -> tuple[np.ndarray, np.ndarray]:
    return np.insert(flat, lengths.cumsum(), token), lengths + 1


def _prepend(flat: np.ndarray, lengths: np.ndarray, token: int) -> tuple[np.ndarray, np.ndarray]:
    return np.insert(flat, lengths.cumsum() - lengths, token), lengths + 1
