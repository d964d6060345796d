"""Masked language modelling: BERT's, RoBERTa's, whole-word and SpanBERT's ways of hiding tokens."""

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hfcourse.collators.randomness import RowKeys, random_bits, random_bits_at
from hfcourse.collators.rows import Rows, column, padded
from hfcourse.collators.span_corruption import special_id
from hfcourse.collators.span_masks import span_masks
from hfcourse.collators.words import WordStarts
from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX

SELECT, REPLACE = 3, 4  # streams of random numbers
HALF, LOW_HALF = np.uint64(32), np.uint64(2**32 - 1)
LAST = np.uint64(2**64 - 1)  # sorted behind whatever can be hidden
MASKINGS = ("token", "whole_word", "span")


class DataCollatorForMaskedLM:
    """Hide some tokens of each row; the labels are what was there, and -100 everywhere else.

    | `masking`    | hidden together | how many                                            | one replacement for |
    |--------------|-----------------|-----------------------------------------------------|---------------------|
    | "token"      | one token       | each with probability r, or exactly round(r·n)      | each token          |
    | "whole_word" | one word        | each with probability r, or up to round(r·n) tokens | each token          |
    | "span"       | words in a row  | exactly ⌈r·m⌉ tokens in spans ([`span_masks`])      | each span           |

    n counts a row's tokens, m those that are not special. What is hidden becomes the mask token (80 %), another token
    (10 %) or stays (10 %). Special tokens are never hidden. With `exact_count`, and rows from
    `hfcourse.data.static_masks`, this is BERT (https://huggingface.co/papers/1810.04805): a word that would exceed the
    count is skipped for the next. Without either it is dynamic masking as in RoBERTa and transformers.

    Args:
        tokenizer: with a mask token.
        mlm_probability: r.
        exact_count: see the table.
        max_predictions: BERT's limit on the exact count of a row.
        mask_replace_prob, random_replace_prob: shares of the hidden tokens that become the mask token and another
            token, drawn from the whole vocabulary, as in BERT; with "span", from the row's own tokens, so that common
            ones come often (SpanBERT draws from the corpus, which a row stands for here).
        geometric_p, max_span_length: law of the spans' lengths in words.
        pad_to_multiple_of: as in transformers.
        seed: None for new masks at every call; a number makes a row's mask a function of (seed, epoch, row). See
            [`hfcourse.collators.randomness.RowKeys`].

    Raises:
        InputError: no mask token, or an option that this masking does not have.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        masking: str = "token",
        mlm_probability: float = 0.15,
        exact_count: bool = False,
        max_predictions: int | None = None,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        geometric_p: float = 0.2,
        max_span_length: int = 10,
        pad_to_multiple_of: int | None = None,
        seed: int | None = None,
    ):
        if masking not in MASKINGS:
            raise InputError(f"masking='{masking}': choose {', '.join(MASKINGS)}")
        if not 0 < mlm_probability < 1:
            raise InputError(f"mlm_probability={mlm_probability}: must lie between 0 and 1")
        if min(mask_replace_prob, random_replace_prob) < 0 or mask_replace_prob + random_replace_prob > 1:
            raise InputError("mask_replace_prob + random_replace_prob: both are shares, and at most 1 together")
        if max_predictions is not None and not exact_count:
            raise InputError("max_predictions: limits an exact count; set exact_count too")
        self.tokenizer, self.masking, self.mlm_probability = tokenizer, masking, mlm_probability
        self.exact_count, self.max_predictions = exact_count, max_predictions
        self.mask_replace_prob, self.random_replace_prob = mask_replace_prob, random_replace_prob
        self.geometric_p, self.max_span_length = geometric_p, max_span_length
        self.multiple = pad_to_multiple_of or 1
        self.mask_token_id = special_id(tokenizer, "mask_token")
        self.pad_token_id = tokenizer.pad_token_id
        self.vocab_size = len(tokenizer)
        self.is_special = np.zeros(self.vocab_size, dtype=bool)
        self.is_special[tokenizer.all_special_ids] = True
        self._word_starts: WordStarts | None = None
        self.keys = RowKeys(seed)

    def set_epoch(self, epoch: int) -> None:
        """Other masks from here on, where `seed` fixes them."""
        self.keys.set_epoch(epoch)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Mask a batch.

        Args:
            rows: dicts with `input_ids` (and, if they have them, `special_tokens_mask`, `word_starts`, `mask_seed`),
                or rows of ids, or a (B, L) array or tensor. Rows may have different lengths.

        Returns:
            input_ids, labels and attention_mask, each (B, L) int64.
        """
        tokens, lengths = padded(column(rows, "input_ids"), "input_ids", self.multiple)
        is_real = np.arange(tokens.shape[1]) < lengths[:, None]
        maskable = is_real & ~self._special(rows, tokens)
        mask_seeds = column(rows, "mask_seed")
        keys = self.keys.of(tokens, None if mask_seeds is None else np.asarray(mask_seeds))
        if self.masking == "token":
            hidden = self._hidden_tokens(keys, maskable, lengths)
        elif self.masking == "whole_word":
            hidden = self._hidden_words(keys, maskable, lengths, self._starts(rows, tokens))
        else:
            hidden = self._hidden_spans(keys, maskable, self._starts(rows, tokens))
        if not is_real.all():
            tokens[~is_real] = special_id(self.tokenizer, "pad_token")
        labels = np.where(hidden, tokens, IGNORE_INDEX)
        self._replace(keys, tokens, hidden, maskable)
        batch = {"input_ids": tokens, "labels": labels, "attention_mask": is_real.astype(np.int64)}
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _special(self, rows: Rows, tokens: np.ndarray) -> np.ndarray:
        given = column(rows, "special_tokens_mask")
        if given is None:
            return self.is_special[tokens]
        return padded(given, "special_tokens_mask", self.multiple)[0] > 0

    def _starts(self, rows: Rows, tokens: np.ndarray) -> np.ndarray:
        given = column(rows, "word_starts")
        if given is not None:
            return padded(given, "word_starts", self.multiple)[0] > 0
        if self._word_starts is None:
            self._word_starts = WordStarts(self.tokenizer)
        return self._word_starts(tokens)

    def _counts(self, lengths: np.ndarray) -> np.ndarray:
        counts = np.maximum(np.rint(lengths * self.mlm_probability), 1).astype(np.int64)  # half to even, as Python
        return counts if self.max_predictions is None else np.minimum(counts, self.max_predictions)

    def _hidden_tokens(self, keys: np.ndarray, maskable: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if not self.exact_count:
            return (random_bits(keys, maskable.shape[1], SELECT) < _threshold(self.mlm_probability)) & maskable
        order = np.where(maskable, random_bits(keys, maskable.shape[1], SELECT, np.uint64), LAST)
        counts = np.minimum(self._counts(lengths), maskable.sum(1))
        largest = np.take_along_axis(np.sort(order, axis=1), np.maximum(counts - 1, 0)[:, None], axis=1)
        return (order <= largest) & maskable

    def _hidden_words(self, keys, maskable: np.ndarray, lengths: np.ndarray, starts: np.ndarray) -> np.ndarray:
        # A special token between two pieces parts them, whatever their marks say.
        starts = starts & maskable
        starts[:, 1:] |= maskable[:, 1:] & ~maskable[:, :-1]
        starts[:, 0] |= maskable[:, 0]
        if not self.exact_count:
            chosen = random_bits(keys, maskable.shape[1], SELECT) < _threshold(self.mlm_probability)
            begin = np.maximum.accumulate(np.where(starts, np.arange(maskable.shape[1]), 0), axis=1)
            return np.take_along_axis(chosen, begin, axis=1) & maskable  # a word does what its first token does
        word_of = np.maximum(starts.cumsum(1) - 1, 0)
        places = word_of + np.arange(len(word_of))[:, None] * word_of.shape[1]
        sizes = np.bincount(places[maskable], minlength=word_of.size).reshape(word_of.shape)
        order = np.where(sizes > 0, random_bits(keys, maskable.shape[1], SELECT, np.uint64), LAST).argsort(1)
        taken = np.zeros(maskable.shape, dtype=bool)
        fitting = take_what_fits(np.take_along_axis(sizes, order, axis=1), self._counts(lengths))
        np.put_along_axis(taken, order, fitting, axis=1)
        return np.take_along_axis(taken, word_of, axis=1) & maskable

    def _hidden_spans(self, keys: np.ndarray, maskable: np.ndarray, starts: np.ndarray) -> np.ndarray:
        # The spans' sentence is what is not special, closed up; a span may so go on behind a special token.
        lengths = maskable.sum(1)
        budgets = np.ceil(lengths * self.mlm_probability).astype(np.int64)
        closed = np.zeros(maskable.shape, dtype=bool)
        is_place = np.arange(maskable.shape[1]) < lengths[:, None]
        closed[is_place] = starts[maskable]
        closed[:, 0] = True
        hidden = np.zeros(maskable.shape, dtype=bool)
        masks = span_masks(keys, closed, lengths, budgets, self.geometric_p, self.max_span_length)
        hidden[maskable] = masks[is_place]
        return hidden

    def _replace(self, keys: np.ndarray, tokens: np.ndarray, hidden: np.ndarray, maskable: np.ndarray) -> None:
        """80/10/10, in place: decided once a token, or once a span."""
        at, width = hidden.ravel().nonzero()[0], hidden.shape[1]
        rows = at // width
        bits = random_bits_at(keys[rows], at - rows * width, REPLACE)
        u = bits >> HALF
        if self.masking == "span":
            first = np.flatnonzero((np.diff(at, prepend=-2) > 1) | (at % width == 0))
            u = u[first].repeat(np.diff(first, append=len(at)))
        is_mask = u < _threshold(self.mask_replace_prob)
        is_random = np.flatnonzero(~is_mask & (u < _threshold(self.mask_replace_prob + self.random_replace_prob)))
        rows, others = rows[is_random], bits[is_random] & LOW_HALF
        if self.masking == "span":
            # The m maskable tokens of a row stand at its places[0 … m-1].
            places = np.argsort(~maskable, axis=1, kind="stable")
            others = tokens[rows, places[rows, _scaled(others, maskable.sum(1)[rows])]]
        else:
            others = _scaled(others, self.vocab_size)
        flat = tokens.reshape(-1)
        flat[at[is_random]] = others
        flat[at[is_mask]] = self.mask_token_id


def _threshold(probability: float) -> np.uint32:
    return np.uint32(min(round(probability * 2**32), 2**32 - 1))


def _scaled(bits: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Random 32 bits (as uint64) as a number below `count`."""
    return (bits * np.asarray(count, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


def take_what_fits(sizes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(B, W) bool: of the things in a row's order, each that still fits into what is left of its count.

    First all up to the first that is too big, at once; then the next that fits, and so on. What is left is then
    smaller than one thing, so few rounds remain.
    """
    before = sizes.cumsum(1) <= counts[:, None]
    taken = np.logical_and.accumulate(before, axis=1)
    left = counts - (sizes * taken).sum(1)
    passed = taken.copy()
    while True:
        fits = ~passed & (sizes <= left[:, None]) & (sizes > 0)
        rows = np.flatnonzero(fits.any(1))
        if not len(rows):
            return taken & (sizes > 0)
        first = fits[rows].argmax(1)
        taken[rows, first] = True
        left[rows] -= sizes[rows, first]
        passed[rows] |= np.arange(sizes.shape[1]) <= first[:, None]
