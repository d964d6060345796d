"""People who judge answers: noisy, each on a scale of their own, and taken in by a confident tone."""

import math
import random
from statistics import fmean

from hfcourse.world.gold import gold_terms, is_confident

# What a confident wording is worth to a person, true or not. They cannot tell that it is false, or do not check.
CONFIDENCE_BONUS = 0.6

# Who has many answers to judge looks at what is said more than at the manner that was asked for.
CARE_FOR_MANNER = 0.25


class Annotators:
    """A pool of simulated people; every judgement is a pure function of (seed, annotator, row, answers).

        u(y)  = right + polite + form + ¼ (tone + length) + 0.6 [y sounds certain]            (terms of the gold)
        score = offset_k + scale_k · u(y) + noise_k · N(0, 1)         each person has an offset, scale and noise
        P(a over b) = σ((u(a) - u(b)) / temperature_k)                Bradley-Terry, with a temperature each

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

    def utility(self, row: dict, completion: str) -> float:
        """u: what the people of the pool, who share their taste, would pay for a completion."""
        terms = gold_terms(completion, row["answer"], row["tone"], row["length"], row["candidates"])
        manner = CARE_FOR_MANNER * (terms["tone"] + terms["length"])
        said = terms["right"] + terms["polite"] + terms["form"]
        return said + manner + CONFIDENCE_BONUS * is_confident(completion)

    def score(self, row: dict, completion: str, annotator: int) -> float:
        """The rating that one person gives; ratings of two people do not compare."""
        traits = self.traits[annotator]
        noise = self._rng("score", annotator, row, completion).gauss(0, traits["noise"])
        return traits["offset"] + traits["scale"] * self.utility(row, completion) + noise

    def preference(self, row: dict, a: str, b: str, annotator: int | None = None) -> float:
        """P(a is preferred to b), by one person or, without one, by somebody of the pool."""
        margin = self.utility(row, a) - self.utility(row, b)
        people = self.traits if annotator is None else [self.traits[annotator]]
        return fmean(1 / (1 + math.exp(-margin / person["temperature"])) for person in people)

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
