"""How many bytes of text each token stands for: what turns nats a token into bits a byte."""

import re

import numpy as np
from transformers import PreTrainedTokenizerBase

BYTE_FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> np.ndarray | None:
    """(len(tokenizer),) int64: bytes in UTF-8 of each token, 0 for special tokens; they add up to those of the text.

    Known for byte-level vocabularies (every character of a token is a byte) and for Metaspace (`▁` is a space; the
    space that it puts before a text is counted with it). None for others, which forget white space: nobody can say
    what their texts were.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special, added = set(tokenizer.all_special_ids), set(tokenizer.get_added_vocab().values())
    if any(token and token.startswith("Ġ") for token in tokens):
        length = len  # one printable character a byte
    elif any(token and "▁" in token for token in tokens):
        length = _metaspace_bytes
    else:
        return None
    counts = [
        0 if i in special or token is None else len(token.encode()) if i in added else length(token)
        for i, token in enumerate(tokens)
    ]
    return np.array(counts, dtype=np.int64)


def _metaspace_bytes(token: str) -> int:
    return 1 if BYTE_FALLBACK.fullmatch(token) else len(token.replace("▁", " ").encode())
