"""Answers against references: exact match, F1, ROUGE-L, BLEU; by rouge-score and sacrebleu, which ask no Hub."""

import re
import string

from hfcourse.errors import InputError
from hfcourse.evaluation.statistics import estimate

ARTICLES = re.compile(r"\b(a|an|the)\b")


def text_metrics(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Means over the answers, from 0 to 1, with standard errors (`…_se`); BLEU is the corpus's, from 0 to 100.

    exact_match: equal, but for case, punctuation, articles and white space (SQuAD's).
    f1: harmonic mean of the shares of words that the two have in common (rouge-score's ROUGE-1 F).
    rougeL: the same of their longest common subsequence of words.
    bleu: sacrebleu's, with its own tokens and no smoothing but its default; meant for translations.

    Raises:
        InputError: fewer than two answers, or not as many as references.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu

    if len(predictions) != len(references):
        raise InputError(f"{len(predictions)} answers and {len(references)} references are not pairs")
    scorer = RougeScorer(["rouge1", "rougeL"])
    pairs = list(zip(predictions, references, strict=True))
    scores = [scorer.score(reference, prediction) for prediction, reference in pairs]
    of_each = {
        "exact_match": [float(normalized(prediction) == normalized(reference)) for prediction, reference in pairs],
        "f1": [score["rouge1"].fmeasure for score in scores],
        "rougeL": [score["rougeL"].fmeasure for score in scores],
    }
    metrics: dict[str, float] = {}
    for name, values in of_each.items():
        metrics[name], metrics[f"{name}_se"] = estimate(values)
    return {**metrics, "bleu": corpus_bleu(predictions, [references]).score}


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and further white space, as SQuAD compares answers."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(ARTICLES.sub(" ", bare).split())
