"""Where words begin, from token ids alone: for WordPiece, byte-level and Metaspace vocabularies, Chinese included."""

import unicodedata

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hfcourse.errors import InputError

# A word begins here; one begins behind; this is the rest of one; what follows is the rest of this; a Han character
# begins here whose last bytes are in the tokens behind.
OPENS, CLOSES, CONTINUES, JOINS, HALF = 1, 2, 4, 8, 16
BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
LEAD_OF_HAN = range(0xE3, 0xEA)  # first byte in UTF-8 of U+3000 … U+9FFF


class WordStarts:
    """`word_starts(ids)`: which tokens begin a word, (B, L) bool.

    A word is a run of letters and digits; every sign and every Han character or kana is a word of its own, and so is
    every special token. It is found in tables of the vocabulary, so that no offsets and no second pass over the text
    are needed, and rows may have any length:

    | vocabulary            | what begins a word                                                        |
    |-----------------------|---------------------------------------------------------------------------|
    | WordPiece             | whatever lacks `##`                                                       |
    | byte-level (GPT-2)    | `Ġ`; a sign or Han character, and what follows one; never half a character |
    | Metaspace (T5, Llama) | `▁`; a sign or Han character, and what follows one                        |
    | `</w>` (the course)   | what follows a `</w>`, and signs as above                                 |
    | whole words           | every token                                                               |

    Raises:
        InputError: the vocabulary shows none of these marks although its model splits words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = set(tokenizer.all_special_ids)
        describe = _description(tokenizer, tokens)
        flags = [
            OPENS | CLOSES if i in special or token is None else describe(token) for i, token in enumerate(tokens)
        ]
        self._flags = np.array(flags, dtype=np.uint8)
        self._has_halves = bool((self._flags & HALF).any())

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        flags = self._flags[ids]
        starts = flags & OPENS > 0
        starts[:, 1:] |= flags[:, :-1] & CLOSES > 0
        starts[:, 0] = True
        starts[:, 1:] &= (flags[:, 1:] & CONTINUES == 0) & (flags[:, :-1] & JOINS == 0)
        if self._has_halves:  # behind the last byte of a Han character a word begins
            base = np.maximum.accumulate(np.where(flags & CONTINUES, 0, np.arange(ids.shape[1])), axis=1)
            is_half = np.take_along_axis(flags & HALF > 0, base, axis=1)
            starts[:, 1:] |= is_half[:, :-1] & (flags[:, 1:] & CONTINUES == 0)
        return starts


def _description(tokenizer: PreTrainedTokenizerBase, tokens: list[str]):
    """The function that reads a token of this kind of vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = type(getattr(backend, "model", None)).__name__
    if model == "WordPiece" or any(token and token.startswith("##") and len(token) > 2 for token in tokens):
        return lambda token: CONTINUES if token.startswith("##") and len(token) > 2 else OPENS
    if model == "WordLevel":
        return lambda token: OPENS
    if getattr(getattr(backend, "model", None), "end_of_word_suffix", None):
        return _of_end_of_word(backend.model.end_of_word_suffix)
    if any(token and "▁" in token for token in tokens):
        return lambda token: _of_text(token.replace("▁", " "))
    if any(token and token.startswith("Ġ") for token in tokens):
        return _of_bytes
    raise InputError(
        "whole_word: the vocabulary marks neither beginnings (Ġ, ▁) nor continuations (##) of words; give the rows a "
        "column 'word_starts' (1 where a word begins)"
    )


def _of_text(text: str) -> int:
    if not text.strip():  # a lone space: its word comes next
        return OPENS | JOINS
    return OPENS * _stands_alone(text[0]) | CLOSES * _stands_alone(text[-1])


def _of_end_of_word(suffix: str):
    def describe(token: str) -> int:
        ends = token.endswith(suffix)
        return _of_text(token.removesuffix(suffix)) | CLOSES * ends if token != suffix else CLOSES

    return describe


def _of_bytes(token: str) -> int:
    if any(character not in BYTE_OF for character in token):  # an added token, written as text
        return _of_text(token)
    data = bytes(BYTE_OF[character] for character in token)
    if data[0] & 0xC0 == 0x80:  # the rest of a character whose first bytes are in the token before
        rest = len(data) - len(data.lstrip(bytes(range(0x80, 0xC0))))
        if rest == len(data):
            return CONTINUES
        return CONTINUES | _of_bytes_of_text(data[rest:]) & CLOSES
    return _of_bytes_of_text(data)


def _of_bytes_of_text(data: bytes) -> int:
    text = data.decode("utf-8", errors="ignore")
    if not text:  # the beginning of a character
        return (OPENS | HALF) * (data[0] in LEAD_OF_HAN)
    rest = data[len(text.encode()) :]
    return OPENS * _stands_alone(text[0]) | HALF * (rest[0] in LEAD_OF_HAN) if rest else _of_text(text)


def _stands_alone(character: str) -> bool:
    """Whether it is no part of a longer word: a space, a sign, a Han character or kana."""
    if character.isspace() or 0x3040 <= ord(character) <= 0x30FF:
        return True
    category = unicodedata.category(character)
    is_han = category == "Lo" and unicodedata.name(character, "").startswith("CJK")
    return is_han or category[0] not in "LMN"
