"""Texts that every machine has: documentation that comes with Python and torch, and Chinese by the rules of chance."""

import importlib.util
import random
from pathlib import Path
from pydoc_data.topics import topics

MEGABYTE = 1_000_000


def english(num_bytes: int = MEGABYTE) -> list[str]:
    """Python's help topics and the source of torch's docstrings, paragraph by paragraph: just over `num_bytes`."""
    torch = Path(importlib.util.find_spec("torch").origin).parent
    sources = [torch / name for name in ("_torch_docs.py", "_tensor_docs.py", "nn/functional.py")]
    texts = [*topics.values(), *(path.read_text(encoding="utf-8") for path in sources)]
    return _first([part for text in texts for part in text.split("\n\n")], num_bytes)


def chinese(num_bytes: int = MEGABYTE) -> list[str]:
    """Sentences of short words whose frequencies fall as 1/rank: every clause is one "word" to GPT-2's split."""
    rng = random.Random("chinese")
    characters = [chr(0x4E00 + 7 * i) for i in range(2500)]
    words = ["".join(rng.choices(characters, k=rng.choice((1, 2, 2, 2, 3)))) for _ in range(20_000)] + [
        "BPE",
        "2024年",
    ]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    drawn = iter(rng.choices(words, weights, k=num_bytes // 4))
    sentences, size = [], 0
    while size <= num_bytes:
        clauses = ["".join(next(drawn) for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        sentences.append("，".join(clauses) + "。")
        size += len(sentences[-1].encode())
    return sentences


def _first(texts: list[str], num_bytes: int) -> list[str]:
    size = 0
    for i, text in enumerate(texts, 1):
        size += len(text.encode())
        if size > num_bytes:
            return texts[:i]
    raise AssertionError(f"there are only {size} bytes of text on this machine")


def random_texts(rng: random.Random) -> list[str]:
    """A few short texts of few different characters: full of ties, overlaps ("aaa") and strings reached twice."""
    characters = rng.choice(("ab", "abc", "abcdé狐", "the n", "lowerst", "狐狸在河边。")) + " "
    return ["".join(rng.choices(characters, k=rng.randint(1, 60))) for _ in range(rng.randint(1, 15))] + ["ab"]
