"""Span corruption, T5's pretraining task: spans of a text become sentinels, and the model writes what they hide."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hfcourse.collators.noise import (
    NOISE,
    corrupted_lengths,
    gap_numbers,
    iid_noise,
    noise_counts,
    random_spans,
    raw_length_for,
    regular_noise,
)
from hfcourse.collators.randomness import RowKeys, stream_steps
from hfcourse.collators.rows import Rows, column, matrix
from hfcourse.collators.sentinels import sentinel_ids
from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX

TOKENS_AT_ONCE = 2**17
LAWS = {"iid": iid_noise, "regular": regular_noise}


class DataCollatorForSpanCorruption:
    """Blocks of text in, inputs with sentinels and the spans that they hide out (https://huggingface.co/papers/1910.10683).

        text      Thank you for inviting me to your party last week
        input_ids Thank you <X> me to your party <Y> week </s>
        labels    <X> for inviting <Y> last </s>

    Noise density r, mean span length μ, the raw length and both output lengths belong together, so that one object
    owns all of them: pack your text into blocks of [`raw_length`] tokens. No batch is ever padded, every batch has
    the same two shapes, and [`reconstruct`] gives back the text.

    As in T5's code there is no sentinel after the last span, texts are taken without a separator, and N and k are
    rounded half to even (in float64, T5 in float32: N differs at a few lengths, such as 190 at r = 0.15).

    Args:
        tokenizer: with EOS and the sentinels `<extra_id_0>`, `<extra_id_1>`, …
        noise_density: r, the share of the tokens that is noise.
        mean_noise_span_length: μ; N/k is as near to it as whole numbers allow.
        input_length: tokens of an input, EOS included.
        noise: "spans" (T5's law), "iid" (each token for itself) or "regular" (one period a row). The last two have no
            fixed number of spans: rows are blocks of `input_length` - 1, and outputs are padded to constant shapes.
        free_ends: T5's spans never touch a row's first token and always its last, and short rows (k = 1) have one
            mask. With free ends all masks of N tokens in k spans are equally likely, with the same lengths.
        seed: None for new masks at every call; a number makes a row's mask a function of (seed, epoch, row). See
            [`hfcourse.collators.randomness.RowKeys`].

    Raises:
        InputError: too few sentinels, no EOS, or lengths that leave nothing to learn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        noise_density: float = 0.15,
        mean_noise_span_length: float = 3.0,
        input_length: int = 512,
        noise: str = "spans",
        free_ends: bool = False,
        seed: int | None = None,
    ):
        if not 0 < noise_density < 1:
            raise InputError(f"noise_density={noise_density}: must lie between 0 and 1")
        if mean_noise_span_length < 1:
            raise InputError(f"mean_noise_span_length={mean_noise_span_length}: a span has at least one token")
        if noise not in ("spans", *LAWS):
            raise InputError(f"noise='{noise}': choose spans, {', '.join(LAWS)}")
        if free_ends and noise != "spans":
            raise InputError(f"free_ends: noise='{noise}' has no ends to free; leave it out")
        self.tokenizer, self.noise, self.free_ends = tokenizer, noise, free_ends
        self.noise_density, self.mean_noise_span_length = noise_density, mean_noise_span_length
        self.input_length = input_length
        self.eos_token_id = special_id(tokenizer, "eos_token")
        if noise == "spans":
            self.raw_length = raw_length_for(input_length, noise_density, mean_noise_span_length)
            self.num_noise_tokens, self.num_noise_spans = noise_counts(
                self.raw_length, noise_density, mean_noise_span_length
            )
            # At density 1/2 the raw length may fall short of filling the input; the shape is what it gives.
            self.input_length, self.target_length = corrupted_lengths(
                self.raw_length, noise_density, mean_noise_span_length
            )
            self.sentinels = sentinel_ids(tokenizer, self.num_noise_spans)
        else:
            self.raw_length = input_length - 1
            self.target_length = self.raw_length + 2  # noise and sentinels: no row has more of both than it has tokens
            self.sentinels = sentinel_ids(tokenizer, (self.raw_length + 1) // 2)
            self.pad_token_id = special_id(tokenizer, "pad_token")
        self.keys = RowKeys(seed)

    def set_epoch(self, epoch: int) -> None:
        """Other masks from here on, where `seed` fixes them."""
        self.keys.set_epoch(epoch)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Corrupt a batch.

        Args:
            rows: dicts with `input_ids`, or rows of ids, or one (B, raw_length) array or tensor of them. Arrays of any
                integer type are fastest; lists of Python integers cost more than all the rest.

        Returns:
            input_ids (B, input_length) and labels (B, target_length), int64. Where noise is not "spans": padded, with
            an attention_mask, and labels of -100.
        """
        tokens = matrix(column(rows, "input_ids"))
        if tokens.shape[1] != self.raw_length:
            raise InputError(
                f"input_ids: rows have {tokens.shape[1]} tokens, but inputs of {self.input_length} at "
                f"noise_density={self.noise_density} are made of {self.raw_length} (raw_length); pack them to that"
            )
        keys = self.keys.of(tokens)
        if self.noise == "spans":
            counts = self.num_noise_tokens, self.num_noise_spans
            inputs, targets = corrupt(tokens, keys, *counts, self.sentinels, self.eos_token_id, self.free_ends)
            return {"input_ids": torch.from_numpy(inputs), "labels": torch.from_numpy(targets)}
        mask = LAWS[self.noise](keys, self.raw_length, self.noise_density)
        corrupted = corrupt_mask(tokens, mask, self.sentinels, self.eos_token_id)
        return padded_pairs(*corrupted, self.input_length, self.target_length, self.pad_token_id)

    def reconstruct(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The inverse: (B, raw_length) raw tokens of a batch that this collator has made, exactly.

        (Where the raw tokens hold no sentinels themselves, which T5 does not exclude either.)
        """
        rows = [
            reconstruct_row(i, t, self.sentinels, self.eos_token_id)
            for i, t in zip(np.asarray(input_ids), np.asarray(labels), strict=True)
        ]
        return torch.from_numpy(matrix(rows))


def special_id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Id of a special token, such as "eos_token"; raises InputError where the tokenizer has none."""
    token_id = getattr(tokenizer, f"{name}_id")
    if token_id is None:
        raise InputError(f"{name}: the tokenizer has none; set tokenizer.{name}")
    return token_id


def corrupt(
    tokens: np.ndarray,
    keys: np.ndarray,
    noise: int,
    spans: int,
    sentinels: np.ndarray,
    eos: int,
    free_ends: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (B, M+k+1) and targets (B, N+k+1) of tokens (B, L), of which N in k random spans are noise.

    Row by row where numba is installed, else all rows at once ([`random_spans`], then [`corrupt_spans`]): the same
    bytes, and the first costs a batch of 8 rows less than half.
    """
    length = tokens.shape[1]
    if (corrupt_rows := compiled()) is not None:
        gaps = gap_numbers(length, noise, free_ends)
        steps = stream_steps(NOISE, -(-gaps.nbytes // 8))
        return corrupt_rows(tokens, keys, steps, gaps, noise, spans, sentinels, eos)
    # Some rows at a time: what is in the cache costs the same however large the batch is.
    at_once = max(1, TOKENS_AT_ONCE // length)
    parts = []
    for i in range(0, len(tokens), at_once):
        lengths = random_spans(keys[i : i + at_once], length, noise, spans, free_ends)
        parts.append(corrupt_spans(tokens[i : i + at_once], *lengths, sentinels, eos))
    return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))


@cache
def compiled() -> Callable | None:
    """`compiled_spans.corrupt_rows`; None without numba, with a numpy that it refuses, or no folder for its cache."""
    try:
        from hfcourse.collators.compiled_spans import corrupt_rows
    except (ImportError, RuntimeError):
        return None
    return corrupt_rows


def corrupt_spans(
    tokens: np.ndarray, kept_lengths: np.ndarray, noise_lengths: np.ndarray, sentinels: np.ndarray, eos: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of spans whose lengths add up alike in every row. Without a loop over rows or spans.

    With a_j kept tokens before span j of b_j noise tokens, sentinel j (from 0) stands in the input at Σ_{i≤j} a_i + j
    and in the target at Σ_{i<j} b_i + j.

    Args:
        tokens: (B, L).
        kept_lengths: (B, k) or (B, k+1), the last being what follows the last span. noise_lengths: (B, k).

    Returns:
        (B, M+k+1) and (B, N+k+1) int64, EOS last.
    """
    (rows, spans), length = noise_lengths.shape, tokens.shape[1]
    order, begin = np.arange(spans), np.arange(rows)[:, None] * length
    kept_through, noise_through = kept_lengths[:, :spans].cumsum(1), noise_lengths.cumsum(1)
    noise_total, behind = int(noise_through[0, -1]), begin - order - 1

    # Place p of an input, behind its j-th sentinel, is read at p - j + Σ_{i≤j} b_i, until the next sentinel …
    lengths = np.ones((rows, spans + 1), dtype=np.int64)
    lengths[:, 0], lengths[:, -1] = 0, 2
    lengths[:, : kept_lengths.shape[1]] += kept_lengths
    offsets = np.empty((rows, spans + 1), dtype=np.int64)
    offsets[:, :1], offsets[:, 1:] = begin, noise_through + behind
    inputs = _read(tokens, offsets, lengths, length - noise_total + spans + 1)
    _write(inputs, kept_through + order, sentinels, eos)

    # … and place p of a target at p - j + Σ_{i≤j} a_i.
    lengths = noise_lengths + 1
    lengths[:, -1] += 1
    targets = _read(tokens, kept_through + behind, lengths, noise_total + spans + 1)
    _write(targets, noise_through - noise_lengths + order, sentinels, eos)
    return inputs, targets


def _read(tokens: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """(B, width) int64: runs of tokens, each read as far from its own place as its offset says."""
    places = offsets.ravel().repeat(lengths.ravel()).reshape(-1, width)
    places += np.arange(width)
    return tokens.ravel().take(places, mode="clip").astype(np.int64, copy=False)  # the last EOS has no token to read


def _write(side: np.ndarray, places: np.ndarray, sentinels: np.ndarray, eos: int) -> None:
    side[np.arange(len(side))[:, None], places] = sentinels
    side[:, -1] = eos


def corrupt_mask(
    tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of any noise mask, a pure function of it: rows of whatever lengths come out.

    Args:
        tokens, mask: (B, L). A run of noise is a span; there may be none.

    Returns:
        ((flat input tokens, (B,) lengths), (flat target tokens, (B,) lengths)), EOS last in each row.
    """
    first = mask.copy()
    first[:, 1:] &= ~mask[:, :-1]
    spans = first.cumsum(1)
    sentinel = sentinels[np.maximum(spans, 1) - 1]
    inputs = _ragged(np.where(first, sentinel, tokens), ~mask | first, eos)
    # Each token twice, the sentinel of its span before it; then those that are noise, and the sentinels that begin.
    pairs = np.stack([sentinel, tokens], axis=2).reshape(len(tokens), -1)
    targets = _ragged(pairs, np.stack([first, mask], axis=2).reshape(len(tokens), -1), eos)
    return inputs, targets


def _ragged(values: np.ndarray, chosen: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.pad(values, ((0, 0), (0, 1)), constant_values=eos)
    chosen = np.pad(chosen, ((0, 0), (0, 1)), constant_values=True)
    return values[chosen], chosen.sum(1)


def padded_pairs(
    inputs: tuple[np.ndarray, np.ndarray],
    targets: tuple[np.ndarray, np.ndarray],
    input_length: int,
    target_length: int,
    pad: int,
) -> dict[str, torch.Tensor]:
    """input_ids and attention_mask (B, input_length), labels (B, target_length) of flat tokens and their lengths."""
    sides = []
    for (flat, lengths), width, fill in ((inputs, input_length, pad), (targets, target_length, IGNORE_INDEX)):
        side = np.full((len(lengths), width), fill, dtype=np.int64)
        is_real = np.arange(width) < lengths[:, None]
        side[is_real] = flat
        sides += [torch.from_numpy(side), torch.from_numpy(is_real.astype(np.int64))]
    return {"input_ids": sides[0], "attention_mask": sides[1], "labels": sides[2]}


def reconstruct_row(inputs: np.ndarray, targets: np.ndarray, sentinels: np.ndarray, eos: int) -> np.ndarray:
    """Raw tokens of one row: each sentinel of the input gives way to what follows it in the target.

    Padding lies behind EOS, which ends either side; EOS within the text stays, for the last one is the end.
    """
    inputs, targets = (side[: np.flatnonzero(side == eos)[-1]] for side in (inputs, targets))
    places = [np.flatnonzero(np.isin(side, sentinels)) for side in (inputs, targets)]
    if not np.array_equal(inputs[places[0]], targets[places[1]]):
        raise InputError("labels: their sentinels are not those of the inputs; is this one batch of one collator?")
    kept = np.split(inputs, places[0])
    hidden = np.split(targets, places[1])[1:]
    parts = [kept[0]]
    for hidden_part, kept_part in zip(hidden, kept[1:], strict=True):
        parts += [hidden_part[1:], kept_part[1:]]
    return np.concatenate(parts)
