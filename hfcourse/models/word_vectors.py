"""Word vectors: neighbours, analogies, files of word2vec, GloVe and safetensors, and as a model's embedding table."""

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError


@dataclass(frozen=True)
class WordVectors:
    """words: all different. vectors: (V, d) float32, one a word."""

    words: Sequence[str]
    vectors: Tensor

    def __contains__(self, word: str) -> bool:
        return word in self._row

    def __getitem__(self, word: str) -> Tensor:
        """(d,). Raises InputError for a word without a vector."""
        return self.vectors[self._id(word)]

    def nearest(self, query: str | Tensor, k: int = 10, without: Iterable[str] = ()) -> list[tuple[str, float]]:
        """The k words with the largest cosine to a word (itself left out) or a vector (d,)."""
        without = {*without, query} if isinstance(query, str) else set(without)
        query = self._directions[self._id(query)] if isinstance(query, str) else F.normalize(query.float(), dim=0)
        cosines = self._directions @ query
        cosines[[self._row[word] for word in without if word in self]] = -torch.inf
        best = cosines.topk(min(k, len(self.words) - len(without & self._row.keys())))
        return [(self.words[i], c) for c, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def analogy(self, a: str, b: str, c: str, k: int = 1) -> list[tuple[str, float]]:
        """a is to b as c is to …: argmax cos(x, b - a + c) of unit vectors, none of the three being an answer.

        3CosAdd of Mikolov, Yih, Zweig 2013, https://aclanthology.org/N13-1090.
        """
        a_, b_, c_ = (self._directions[self._id(word)] for word in (a, b, c))
        return self.nearest(b_ - a_ + c_, k, without=(a, b, c))

    def analogy_accuracy(self, questions: Iterable[tuple[str, str, str, str]]) -> tuple[float, int]:
        """(share of questions whose first answer is the fourth word, questions asked: those with all four vectors)."""
        asked = [question for question in questions if all(word in self for word in question)]
        right = sum(self.analogy(a, b, c)[0][0] == d for a, b, c, d in asked)
        return right / max(len(asked), 1), len(asked)

    def save_word2vec(self, path: str | Path) -> None:
        """word2vec's text: "V d", then a line a word. Raises InputError for a word that has a space in it."""
        for word in self.words:
            if not word or word.split() != [word]:
                raise InputError(f"'{word}': word2vec's text format parts words by spaces; save safetensors instead")
        with Path(path).open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{len(self.words)} {self.vectors.shape[1]}\n")
            for word, vector in zip(self.words, self.vectors.tolist(), strict=True):
                file.write(f"{word} {' '.join(f'{x:.9g}' for x in vector)}\n")  # nine digits are a float32, exactly

    def save_safetensors(self, path: str | Path) -> None:
        """The tensor "vectors", with the words as a JSON list in the metadata: one file, and no code in it."""
        metadata = {"format": "pt", "words": json.dumps(list(self.words), ensure_ascii=False)}
        save_file({"vectors": self.vectors.contiguous()}, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> "WordVectors":
        """A folder of the recipe, word2vec's or GloVe's text (also gzipped), or safetensors.

        Args:
            tokenizer: names the rows of a safetensors file that does not (one matrix, a row a token).

        Raises:
            InputError: no such file, or none that can be read as vectors.
        """
        path = Path(path).expanduser()
        path = path / SAFETENSORS_FILE if path.is_dir() else path
        if not path.is_file():
            raise InputError(f"word vectors: there is no file '{path}'")
        return cls(*(_read_safetensors(path, tokenizer) if path.suffix == ".safetensors" else _read_text(path)))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _directions(self) -> Tensor:
        return F.normalize(self.vectors, dim=1)

    def _id(self, word: str) -> int:
        if word not in self._row:
            raise InputError(f"'{word}' has no vector; {len(self.words):,} words have")
        return self._row[word]


SAFETENSORS_FILE, TEXT_FILE = "word_vectors.safetensors", "word_vectors.txt"


def _read_safetensors(path: Path, tokenizer: PreTrainedTokenizerBase | None) -> tuple[list[str], Tensor]:
    with safe_open(path, framework="pt") as file:
        matrices = [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118
        if len(matrices) != 1:
            raise InputError(f"{path}: holds {len(matrices)} matrices; word vectors are one")
        vectors, named = file.get_tensor(matrices[0]).float(), (file.metadata() or {}).get("words")
    if named is None and tokenizer is None:
        raise InputError(f"{path}: does not name its rows; give the tokenizer that they belong to")
    words = json.loads(named) if named else tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if len(words) != len(vectors):
        raise InputError(f"{path}: has {len(vectors)} rows for {len(words)} words")
    return words, vectors


def _read_text(path: Path) -> tuple[list[str], Tensor]:
    words, rows = [], []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2:  # word2vec's header; GloVe has none
                continue
            size = len(rows[0]) if rows else len(fields) - 1
            word, *numbers = line.rstrip().rsplit(" ", size)  # a word of GloVe's may hold spaces
            try:
                rows.append(np.array(numbers, dtype=np.float32))
            except ValueError as e:
                raise InputError(f"{path}: line {number} is not a word and its vector: {e}") from e
            if len(numbers) != size or size < 1:
                raise InputError(f"{path}: line {number} has {len(numbers)} numbers, not {size}")
            words.append(word)
    if not rows:
        raise InputError(f"{path}: holds no word vectors")
    return words, torch.from_numpy(np.stack(rows))


def load_embedding_table(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: WordVectors, freeze: bool = False
) -> int:
    """Put word vectors into a model's input embeddings, where its tokens have one; the other rows stay as they are.

    A token takes the vector of its own name, or of the word that it is when it stands alone ("Ġriver", "▁river" and
    "river" find each other). Where the model ties its output to its input embeddings, both change.

    Args:
        freeze: the whole table is trained no more (and with it a tied output layer).

    Returns:
        How many rows were set.

    Raises:
        InputError: vectors of another length than the table's, or none for any token.
    """
    table = model.get_input_embeddings().weight
    if vectors.vectors.shape[1] != table.shape[1]:
        raise InputError(
            f"word vectors have {vectors.vectors.shape[1]} dimensions, the model's embeddings {table.shape[1]}; "
            "train one of them with the other's size"
        )
    found = {}
    for token, i in tokenizer.get_vocab().items():
        word = next((name for name in _names(token) if name in vectors), None)
        if word is not None and i < len(table):
            found[i] = vectors[word]
    if not found:
        raise InputError("no token of the tokenizer has a word vector; were they trained on other units?")
    with torch.no_grad():
        table[list(found)] = torch.stack(list(found.values())).to(table)
    table.requires_grad_(not freeze)
    return len(found)


def _names(token: str) -> tuple[str, ...]:
    bare = token[1:] if token[:1] in ("Ġ", "▁") else token
    return token, bare, f"▁{bare}", f"Ġ{bare}"
