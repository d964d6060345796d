"""Train a tokenizer to use: byte-level BPE by the `tokenizers` library, or one of those to read."""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from hfcourse.errors import InputError
from hfcourse.tokenization.backend import add_sentinels
from hfcourse.tokenization.bpe import BPE, UNK_TOKEN, train_bpe
from hfcourse.tokenization.merging import progress_off
from hfcourse.tokenization.wordpiece import BERT_SPECIAL_TOKENS, WordPiece, train_wordpiece

logger = logging.get_logger(__name__)

PAD_TOKEN = "<|pad|>"
EOS_TOKEN = "<|endoftext|>"
END_OF_WORD = "</w>"
NUM_BYTES = 256


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: tuple[str, ...] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    chat_template: str | None = None,
    sentinels: int = 0,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding (https://huggingface.co/papers/1508.07909, on bytes as in GPT-2).

    The vocabulary starts with the 256 bytes, so that no text is unknown and decoding gives back every text exactly.
    Then the most frequent adjacent pair is merged again and again, within words (GPT-2's split), until the vocabulary
    is full. The same texts give the same tokenizer. The library does it on all cores; [`train_bpe`] is the same to
    read, with the same result.

    Args:
        texts: read once, from the first to the last: a list, a column, or a stream.
        vocab_size: with the special tokens; `len(tokenizer)` at the end. Size the model by it.
        special_tokens: more tokens that are never split, such as ("<|im_start|>", "<|im_end|>").
        min_frequency: pairs seen more seldom are not merged; the vocabulary may then stay smaller, with a warning.
        model_max_length: the context of the model that will use it.
        chat_template: Jinja source that turns messages into text.
        sentinels: how many of T5's `<extra_id_i>` are added to the `vocab_size` tokens, the first with the highest id.
        show_progress: bars for texts and merges, on a terminal.

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
        show_progress=show_progress,
    )
    bpe.train_from_iterator(_with_text(tqdm(texts, desc="texts", disable=progress_off(show_progress))), trainer)
    if bpe.get_vocab_size() < vocab_size:
        logger.warning(f"the texts gave {bpe.get_vocab_size()} tokens, fewer than vocab_size={vocab_size}")
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD_TOKEN, eos_token=EOS_TOKEN, bos_token=EOS_TOKEN, **limits
    )
    add_sentinels(tokenizer, sentinels)
    tokenizer.chat_template = chat_template
    return tokenizer


def _with_text(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise InputError("there is no text to train a tokenizer on")


def train_by_algorithm(
    algorithm: str,
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: tuple[str, ...] = (),
    min_frequency: int = 2,
    model_max_length: int | None = None,
    chat_template: str | None = None,
    sentinels: int = 0,
    lowercase: bool = False,
) -> PreTrainedTokenizerFast:
    """A tokenizer of one of the recipe's four kinds, with the special tokens that its models expect, and progress.

    | `algorithm`            | trained by                             | special tokens before `special_tokens` |
    |------------------------|----------------------------------------|----------------------------------------|
    | `bpe`                  | [`train_tokenizer`]                    | `PAD_TOKEN`, `EOS_TOKEN` (and BOS)     |
    | `bpe_characters`       | [`train_bpe`] on characters and `</w>` | these two, `<unk>`                     |
    | `wordpiece`            | [`train_wordpiece`] by count           | BERT's five                            |
    | `wordpiece_likelihood` | [`train_wordpiece`] by the score       | BERT's five                            |

    Raises:
        InputError: as they do; too small a vocabulary for the alphabet; `lowercase` for BPE.
    """
    if lowercase and not algorithm.startswith("wordpiece"):
        raise InputError(f"lowercase: is for wordpiece; '{algorithm}' keeps capitals")
    ends = {"model_max_length": model_max_length, "chat_template": chat_template, "sentinels": sentinels}
    if algorithm == "bpe":
        return train_tokenizer(texts, vocab_size, special_tokens, min_frequency, **ends, show_progress=True)
    if algorithm == "bpe_characters":
        special_tokens = (PAD_TOKEN, EOS_TOKEN, UNK_TOKEN, *special_tokens)
        bpe = train_bpe(texts, vocab_size, special_tokens, min_frequency, False, END_OF_WORD, show_progress=True)
        tokens = {"pad_token": PAD_TOKEN, "eos_token": EOS_TOKEN, "bos_token": EOS_TOKEN}
        return _full(bpe, vocab_size).to_tokenizer(**tokens, **ends)
    score = {"wordpiece": "count", "wordpiece_likelihood": "likelihood"}[algorithm]
    special_tokens = (*BERT_SPECIAL_TOKENS, *special_tokens)
    wordpiece = train_wordpiece(texts, vocab_size, special_tokens, min_frequency, score, lowercase, show_progress=True)
    return _full(wordpiece, vocab_size).to_tokenizer(**ends)


def _full(learnt: BPE | WordPiece, vocab_size: int) -> BPE | WordPiece:
    """Raises InputError for an alphabet that is larger than the vocabulary; warns of a vocabulary that is not full."""
    if len(learnt.vocab) > vocab_size:
        raise InputError(
            f"vocab_size={vocab_size}: must be at least {len(learnt.vocab)}, the characters and special tokens"
        )
    if len(learnt.vocab) < vocab_size:
        logger.warning(f"the texts gave {len(learnt.vocab)} tokens, fewer than vocab_size={vocab_size}")
    return learnt
