"""Sentinels, the tokens that stand for a corrupted span, found by their names on every kind of tokenizer."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from hfcourse.errors import InputError


def sentinel_ids(tokenizer: PreTrainedTokenizerBase, count: int, name: str = "<extra_id_{}>") -> np.ndarray:
    """Ids of the first `count` sentinels, (count,) int64.

    They are looked up by name: where they lie in the vocabulary depends on how the tokenizer was made. T5's descend
    from its end, those of `T5Tokenizer(vocab=…)` ascend, and `train_new_from_iterator` puts them near the beginning.

    Args:
        count: sentinels a row needs.
        name: sentinel j is `name.format(j)`.

    Raises:
        InputError: fewer than `count` are in the vocabulary. Going on would make ordinary words sentinels.
    """
    names = [name.format(j) for j in range(count)]
    vocab = tokenizer.get_vocab()
    missing = next((token for token in names if token not in vocab), None)
    if missing is not None:
        raise InputError(
            f"sentinels: {count} are needed and the tokenizer has no {missing}; add them with tokenizer."
            f"add_special_tokens({{'extra_special_tokens': [...]}}) and resize the model, raise "
            "mean_noise_span_length or shorten input_length"
        )
    return np.array([vocab[token] for token in names], dtype=np.int64)
