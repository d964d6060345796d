"""Byte-pair encoding to read: on bytes, as GPT-2 has it, or on characters with a sign for the end of a word."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import regex
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from hfcourse.errors import InputError
from hfcourse.tokenization.backend import split_at_special_tokens, to_fast_tokenizer
from hfcourse.tokenization.merging import learn_merges, progress_off

UNK_TOKEN = "<unk>"
GPT2_WORDS = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
SPACED_WORDS = regex.compile(r"\S+")
PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))


def _characters_of_bytes() -> dict[int, str]:
    """GPT-2's one character a byte: itself where it can be seen, else the next one from U+0100 on (a space is Ġ)."""
    hidden = (byte for byte in range(256) if byte not in PRINTABLE)
    return {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


CHARACTER_OF_BYTE = _characters_of_bytes()
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


@dataclass(frozen=True)
class BPE:
    """What [`train_bpe`] learnt.

    vocab: token -> id: special tokens, alphabet (by code point), then one token a merge.
    merges: (left, right) tokens, the most frequent first.
    """

    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    special_tokens: tuple[str, ...] = ()
    byte_level: bool = True
    end_of_word_suffix: str | None = None

    def encode(self, text: str) -> list[int]:
        """Ids of a text: special tokens as they are, the rest word by word.

        Raises:
            InputError: a character that training did not see, where the vocabulary has no `<unk>`.
        """
        ids = []
        for part, is_special in split_at_special_tokens(text, self.special_tokens):
            if is_special:
                ids.append(self.vocab[part])
            else:
                ids += (self._id(token) for word in self._words(part) for token in self._merged(word))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: exact on bytes; without an end-of-word suffix, characters lose the spaces between words."""
        tokens = [self._tokens[i] for i in ids]
        if self.byte_level:
            spelt = (
                token.encode() if token in self.special_tokens else bytes(map(BYTE_OF_CHARACTER.get, token))
                for token in tokens
            )
            return b"".join(spelt).decode(errors="replace")
        text = "".join(tokens)
        return text.replace(self.end_of_word_suffix, " ").removesuffix(" ") if self.end_of_word_suffix else text

    def to_tokenizer(
        self,
        sentinels: int = 0,
        *,
        pad_token: str | None = None,
        eos_token: str | None = None,
        bos_token: str | None = None,
        unk_token: str | None = None,
        append_eos: bool = False,
        model_max_length: int | None = None,
        chat_template: str | None = None,
    ) -> PreTrainedTokenizerFast:
        """An ordinary tokenizer of transformers: it saves, loads and pushes, and encodes as [`BPE.encode`] does.

        Args:
            sentinels: how many of T5's `<extra_id_i>` to add, the first with the highest id. Size a model by
                `len(tokenizer)`.
            pad_token, eos_token, bos_token, unk_token: which special token plays which part. On characters there is
                always an `unk_token`: `<unk>`, after the vocabulary, unless it is given or in it. (Without one the
                library would leave out what it does not know, without a word.)
            append_eos: every text ends in EOS, as T5's do.
            model_max_length: the context of the model that will use it.
            chat_template: Jinja source that turns messages into text.
        """
        vocab = dict(self.vocab)
        if not self.byte_level and unk_token is None:
            unk_token = UNK_TOKEN
            vocab.setdefault(UNK_TOKEN, len(vocab))
        options = {"unk_token": unk_token, "end_of_word_suffix": self.end_of_word_suffix}
        given = {name: option for name, option in options.items() if option is not None}
        bpe = Tokenizer(models.BPE(vocab, self.merges, **given))
        if self.byte_level:
            bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            bpe.decoder = decoders.ByteLevel()
        else:
            bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            suffix = self.end_of_word_suffix
            bpe.decoder = decoders.BPEDecoder(suffix) if suffix else decoders.Fuse()
        return to_fast_tokenizer(
            bpe,
            [*self.special_tokens, *([unk_token] if unk_token else [])],
            sentinels,
            roles={"pad_token": pad_token, "eos_token": eos_token, "bos_token": bos_token, "unk_token": unk_token},
            append_eos=append_eos,
            model_max_length=model_max_length,
            chat_template=chat_template,
        )

    def _words(self, text: str) -> list[str]:
        if self.byte_level:
            words = GPT2_WORDS.findall(text)
            return ["".join(map(CHARACTER_OF_BYTE.__getitem__, word.encode())) for word in words]
        return SPACED_WORDS.findall(text)

    def _merged(self, word: str) -> list[str]:
        """Tokens of a word: of the pairs that have a merge the earliest learnt goes first, of equals the leftmost."""
        tokens = _symbols(word, self.end_of_word_suffix)
        while True:
            learnt = [(self._rank[pair], i) for i, pair in enumerate(pairwise(tokens)) if pair in self._rank]
            if not learnt:
                return tokens
            i = min(learnt)[1]
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]

    def _id(self, token: str) -> int:
        i = self.vocab.get(token, self.vocab.get(UNK_TOKEN))
        if i is None:
            raise InputError(f"'{token}' was not in the training texts; have '{UNK_TOKEN}' among the special tokens")
        return i

    @cached_property
    def _rank(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _tokens(self) -> list[str]:
        return sorted(self.vocab, key=self.vocab.get)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str] = (),
    min_frequency: int = 0,
    byte_level: bool = True,
    end_of_word_suffix: str | None = None,
    show_progress: bool = False,
) -> BPE:
    """Byte-pair encoding, https://huggingface.co/papers/1508.07909: merges within words, the most frequent pair first.

    | `byte_level` | words                              | they are spelt in                                           |
    |--------------|------------------------------------|-------------------------------------------------------------|
    | True         | GPT-2's split, each with its space | 256 bytes: no text is unknown, decoding is exact            |
    | False        | what stands between spaces         | characters; the last one of a word with its suffix ("w</w>")|

    Vocabulary and merges are those of `tokenizers.trainers.BpeTrainer` on the same texts; with a suffix they are one
    of those, for that trainer then numbers tokens by chance, and breaks ties by number. (One exception: GPT-2's split
    asks what is a letter, and characters that came to Unicode after the library's tables are none there.)

    Args:
        texts: read once, from the first to the last: a list, a column, or a stream.
        vocab_size: with special tokens and alphabet, which are kept whole even where they are more than that.
        special_tokens: first ids, in this order; never split. In the training texts they are text like any other.
        min_frequency: pairs that occur more seldom are not merged.
        end_of_word_suffix: such as "</w>": "low" at the end of a word and "low" inside one are then two tokens.
        show_progress: bars for texts and merges, on a terminal.

    Raises:
        InputError: no text, or a suffix for bytes, which need none: a word holds the space before it.
    """
    if byte_level and end_of_word_suffix:
        raise InputError("end_of_word_suffix: is for characters; set byte_level=False")
    split = (GPT2_WORDS if byte_level else SPACED_WORDS).findall
    counts = Counter()
    for text in tqdm(texts, desc="texts", disable=progress_off(show_progress)):
        counts.update(split(text))
    if not counts:
        raise InputError("there is no text to train a tokenizer on")
    specials = tuple(dict.fromkeys(special_tokens))
    if byte_level:
        tokens = list(dict.fromkeys([*specials, *sorted(BYTE_OF_CHARACTER)]))
        char_of = {byte: chr(tokens.index(character)) for byte, character in CHARACTER_OF_BYTE.items()}
        words = {word.encode().decode("latin-1").translate(char_of): count for word, count in counts.items()}
    else:
        tokens, words = spell(counts, specials, suffix=end_of_word_suffix or "")
    merges = learn_merges(words, tokens, vocab_size, min_frequency, show_progress=show_progress)
    vocab = {token: i for i, token in enumerate(tokens)}
    return BPE(vocab, merges, specials, byte_level, end_of_word_suffix)


def spell(
    counts: dict[str, int], special_tokens: Iterable[str], prefix: str = "", suffix: str = ""
) -> tuple[list[str], dict[str, int]]:
    """The alphabet of the words, and the words spelt in its ids.

    Alphabet: special tokens, every character by code point, then those that carry a prefix or a suffix somewhere.
    """
    symbols = {word: _symbols(word, suffix, prefix) for word in counts}
    marked = {symbol for spelt in symbols.values() for symbol in spelt}
    tokens = list(dict.fromkeys([*special_tokens, *sorted({c for word in counts for c in word}), *sorted(marked)]))
    char_of = {token: chr(i) for i, token in enumerate(tokens)}
    return tokens, {"".join(map(char_of.get, spelt)): counts[word] for word, spelt in symbols.items()}


def _symbols(word: str, suffix: str | None, prefix: str = "") -> list[str]:
    """w o r d, with a prefix on all but the first and a suffix on the last."""
    symbols = [word[0], *(prefix + character for character in word[1:])]
    symbols[-1] += suffix or ""
    return symbols
