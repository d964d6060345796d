"""People who judge answers: noisy, each on a scale of their own, and taken in by a confident tone."""

import math
import random
from statistics import fmean

from hfcourse.world.gold import RIGHT, gold_terms, is_confident

# What a confident wording is worth to a person, true or not.
CONFIDENCE_BONUS = 0.3

# How often a person checks what is stated. Unchecked, a wrong answer passes for a right one.
CHECKS = 1 / 3


class Annotators:
    """A pool of simulated people; every judgement is a pure function of (seed, annotator, row, answers).

        u(y)  = right + polite + form + 0.3 [y sounds certain]        terms of the gold; nobody counts sentences
        u'(y) = the same, a wrong answer taken for a right one        to who did not check it: two times in three
        score = offset_k + scale_k · u(y) + noise_k · N(0, 1)         each person has an offset, scale and noise
        P(a over b) = ⅓ σ(Δu / temperature_k) + ⅔ σ(Δu' / temperature_k)        Bradley-Terry, a temperature each

    That nobody can know an answer they see without looking it up.

    Args:
        num_annotators: people in the pool.
        seed: draws their traits: offset ~ N(0, 1.5), scale ~ U(0.3, 1.5), noise ~ U(0.5, 1.5),
            temperature ~ U(0.25, 0.55).
    """

    def __init__(self, num_annotators: int = 8, seed: int = 0):
        self.num_annotators, self.seed = num_annotators, seed
        rng = random.Random(f"annotators/{seed}")
        self.traits = [
            {
                "offset": rng.gauss(0, 1.5),
                "scale": rng.uniform(0.3, 1.5),
                "noise": rng.uniform(0.5, 1.5),
                "temperature": rng.uniform(0.25, 0.55),
            }
            for _ in range(num_annotators)
        ]

    def utility(self, row: dict, completion: str, checked: bool = True) -> float:
        """u, or u' of what was not checked: what the people, who share their taste, would pay for a completion."""
        terms = gold_terms(completion, row["answer"], row["tone"], row["length"], row["candidates"])
        deceived = terms["right"] < 0 and row["answer"] and not checked
        right = RIGHT if deceived else terms["right"]
        return right + terms["polite"] + terms["form"] + CONFIDENCE_BONUS * is_confident(completion)

    def score(self, row: dict, completion: str, annotator: int) -> float:
        """The rating that one person gives; ratings of two people do not compare."""
        traits, rng = self.traits[annotator], self._rng("score", annotator, row, completion)
        noise, checked = rng.gauss(0, traits["noise"]), rng.random() < CHECKS
        return traits["offset"] + traits["scale"] * self.utility(row, completion, checked) + noise

    def preference(self, row: dict, a: str, b: str, annotator: int | None = None) -> float:
        """P(a is preferred to b), by one person or, without one, by somebody of the pool."""
        people = self.traits if annotator is None else [self.traits[annotator]]
        return sum(
            share * fmean(1 / (1 + math.exp(-margin / person["temperature"])) for person in people)
            for share, checked in ((CHECKS, True), (1 - CHECKS, False))
            for margin in [self.utility(row, a, checked) - self.utility(row, b, checked)]
        )

    def compare(self, row: dict, a: str, b: str, annotator: int) -> bool:
        """Whether one person prefers a to b, this time; asked again, the person says the same."""
        return self._rng("compare", annotator, row, a, b).random() < self.preference(row, a, b, annotator)

    def bayes_accuracy(self, rows: list[dict], pairs: list[tuple[str, str]]) -> float:
        """Mean of max(p, 1 - p): how often the best possible guess of a stranger's comparison is right."""
        probabilities = [self.preference(row, *pair) for row, pair in zip(rows, pairs, strict=True)]
        return fmean(max(p, 1 - p) for p in probabilities)

    def _rng(self, act: str, annotator: int, row: dict, *texts: str) -> random.Random:
        question = f"{row['instruction']}|{row['context']}|{row['question']}"
        return random.Random("|".join([act, str(self.seed), str(annotator), question, *texts]))
