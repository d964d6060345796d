"""What a vocabulary costs and brings: sizes compared on the same texts, between its two ends, characters and words."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from hfcourse.errors import InputError


@dataclass(frozen=True)
class Measures:
    """One way to cut texts into tokens. A word, here, is what stands between spaces.

    vocab_size: tokens that there are.
    bytes_per_token: UTF-8 bytes of the texts, spaces included, over their tokens: how much text fits into a context.
    fertility: tokens over words.
    unknown: share of the tokens that stand for something which training did not see.
    """

    units: str
    vocab_size: int
    bytes_per_token: float
    fertility: float
    unknown: float


class TrainingUnits:
    """The characters and words of the training texts, noted while they stream past.

    units = TrainingUnits()
    tokenizer = train_tokenizer(units.watch(texts), 8192)
    rows = units.compare(tokenizer, held_out_texts)
    """

    def __init__(self):
        self.characters: set[str] = set()
        self.words: set[str] = set()

    def watch(self, texts: Iterable[str]) -> Iterator[str]:
        """The same texts."""
        for text in texts:
            self.characters.update(text)
            self.words.update(text.split())
            yield text

    def compare(self, tokenizer: PreTrainedTokenizerFast, texts: list[str], max_sizes: int = 6) -> list[Measures]:
        """Characters, the tokenizer at up to `max_sizes` sizes (powers of two and its own), words.

        Raises:
            InputError: the texts hold no word.
        """
        words = [word for text in texts for word in text.split()]
        if not words:
            raise InputError("there is no text to measure the tokenizer on")
        num_bytes = sum(len(text.encode()) for text in texts)

        def measures(units: str, vocab_size: int, num_tokens: int, num_unknown: int) -> Measures:
            return Measures(
                units, vocab_size, num_bytes / num_tokens, num_tokens / len(words), num_unknown / num_tokens
            )

        characters = [character for text in texts for character in text]
        unseen = sum(character not in self.characters for character in characters)
        rows = [measures("characters", len(self.characters), len(characters), unseen)]
        for size in sizes_up_to(tokenizer, max_sizes):
            rows.append(measures("tokens", size, *count_tokens(first_tokens(tokenizer, size), texts)))
        unseen = sum(word not in self.words for word in words)
        return [*rows, measures("words", len(self.words), len(words), unseen)]


def count_tokens(backend: Tokenizer, texts: list[str]) -> tuple[int, int]:
    """(tokens, those of them that are the unknown token), without special tokens around the texts."""
    unknown = backend.model.unk_token
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    return sum(len(e) for e in encodings), sum(e.tokens.count(unknown) for e in encodings) if unknown else 0


def sizes_up_to(tokenizer: PreTrainedTokenizerFast, max_sizes: int) -> list[int]:
    """Powers of two that leave room for some merges, the greatest ones, and the whole vocabulary."""
    full = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    smallest = num_unmerged(tokenizer)
    powers = [2**n for n in range(4, full.bit_length() + 1) if smallest < 2**n < full]
    return [*powers[-(max_sizes - 1) :], full]


def num_unmerged(tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens before the first that was merged of others: special ones and alphabet."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    merged = [
        i for token, i in model["vocab"].items() if token not in special and len(_bare(token, prefix, suffix)) > 1
    ]
    return min(merged, default=len(model["vocab"]))


def _bare(token: str, prefix: str, suffix: str) -> str:
    return token.removeprefix(prefix).removesuffix(suffix)


def first_tokens(tokenizer: PreTrainedTokenizerFast, vocab_size: int) -> Tokenizer:
    """The tokenizer as it was when its vocabulary had this size: merges are learnt one after the other.

    Special tokens are kept, whatever their ids.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model, special = backend["model"], set(tokenizer.get_added_vocab())
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < vocab_size or token in special}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
    return Tokenizer.from_str(json.dumps(backend))


def as_table(rows: list[Measures]) -> str:
    """The rows for people to read."""
    lines = [f"{'units':<12}{'vocabulary':>12}{'bytes a token':>15}{'tokens a word':>15}{'unknown':>10}"]
    for r in rows:
        lines.append(
            f"{r.units:<12}{r.vocab_size:>12,}{r.bytes_per_token:>15.2f}{r.fertility:>15.2f}{r.unknown:>10.2%}"
        )
    return "\n".join(lines)
