"""Train a byte-level BPE tokenizer with the `tokenizers` library: the one that the models of the course read with."""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from hfcourse.errors import InputError

logger = logging.get_logger(__name__)

PAD_TOKEN = "<|pad|>"
EOS_TOKEN = "<|endoftext|>"
NUM_BYTES = 256


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: tuple[str, ...] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    chat_template: str | None = None,
) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding (https://huggingface.co/papers/1508.07909, on bytes as in GPT-2).

    The vocabulary starts with the 256 bytes, so that no text is unknown and decoding gives back every text exactly.
    Then the most frequent adjacent pair is merged again and again, within words (GPT-2's split), until the vocabulary
    is full. The same texts give the same tokenizer.

    Args:
        texts: read once, from the first to the last: a list, a column, or a stream.
        vocab_size: with the special tokens; `len(tokenizer)` at the end. Size the model by it.
        special_tokens: more tokens that are never split, such as ("<|im_start|>", "<|im_end|>").
        min_frequency: pairs seen more seldom are not merged; the vocabulary may then stay smaller, with a warning.
        model_max_length: the context of the model that will use it.
        chat_template: Jinja source that turns messages into text.

    Returns:
        Tokenizer whose `<|endoftext|>` is EOS and BOS and whose `<|pad|>` is another token: a padded EOS would be
        masked from the loss, and a model that never sees it never stops.

    Raises:
        InputError: `vocab_size` leaves no room for a merge, or there is no text.
    """
    special_tokens = [PAD_TOKEN, EOS_TOKEN, *special_tokens]
    if vocab_size <= NUM_BYTES + len(special_tokens):
        raise InputError(
            f"vocab_size={vocab_size}: must exceed {NUM_BYTES + len(special_tokens)}, the bytes and special tokens"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_with_text(texts), trainer)
    if bpe.get_vocab_size() < vocab_size:
        logger.warning(f"the texts gave {bpe.get_vocab_size()} tokens, fewer than vocab_size={vocab_size}")
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD_TOKEN, eos_token=EOS_TOKEN, bos_token=EOS_TOKEN, **limits
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _with_text(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise InputError("there is no text to train a tokenizer on")
