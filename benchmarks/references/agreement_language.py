"""A language in which verbs agree with nouns: what words have in common shows in their neighbours alone."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class AgreementLanguage:
    """[CLS] … noun … verb … noun … verb … [SEP]: fillers, and pairs of a noun and the verb behind it, of one class.

    Nothing tells a word's class but the company that it keeps, so that of few labels little can be learnt without the
    text. Whether a verb agrees is a question to two words at once: no word votes for either answer.

    Args:
        nouns, verbs: of each class. length: words of a sentence. pairs: in a sentence.
    """

    classes: int = 8
    nouns: int = 20
    verbs: int = 5
    fillers: int = 20
    length: int = 8
    pairs: int = 2

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL) + self.classes * (self.nouns + self.verbs) + self.fillers

    def sentences(self, count: int, rng: np.random.Generator, agrees: np.ndarray | None = None):
        """((count, length + 2) ids, (count,) classes of the first nouns).

        Args:
            agrees: (count,) bool, whether the first verb is of the first noun's class; None: all do.
        """
        first_noun = len(SPECIAL)
        first_verb = first_noun + self.classes * self.nouns
        first_filler = first_verb + self.classes * self.verbs
        words = first_filler + rng.integers(self.fillers, size=(count, self.length))
        places = np.sort(rng.random((count, self.length)).argsort(1)[:, : 2 * self.pairs], axis=1)
        noun_class = rng.integers(self.classes, size=(count, self.pairs))
        verb_class = noun_class.copy()
        if agrees is not None:
            others = (noun_class[:, 0] + rng.integers(1, self.classes, size=count)) % self.classes
            verb_class[:, 0] = np.where(agrees, noun_class[:, 0], others)
        noun = first_noun + noun_class * self.nouns + rng.integers(self.nouns, size=noun_class.shape)
        verb = first_verb + verb_class * self.verbs + rng.integers(self.verbs, size=noun_class.shape)
        np.put_along_axis(words, places, np.stack([noun, verb], axis=2).reshape(count, -1), axis=1)
        ids = np.pad(words, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 2)))
        return torch.from_numpy(ids), torch.from_numpy(noun_class[:, 0])

    def task(self, name: str, count: int, rng: np.random.Generator):
        """(ids, labels, number of classes) of "class of the first noun" or "first verb agrees"."""
        if name == "class":
            return *self.sentences(count, rng), self.classes
        agrees = rng.random(count) < 0.5
        return self.sentences(count, rng, agrees)[0], torch.from_numpy(agrees.astype(np.int64)), 2

    def tokenizer(self) -> PreTrainedTokenizerFast:
        words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), self.vocab_size))]
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
        names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
