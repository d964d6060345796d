"""Exact match, F1, ROUGE-L, BLEU, accuracy and macro F1 by hand."""

import math

import pytest

from hfcourse.errors import InputError
from hfcourse.metrics import class_metrics, normalized, text_metrics


def test_what_counts_as_equal():
    assert normalized(" The  Red-Fox! ") == normalized("a redfox") == "redfox"
    assert normalized("another fox") == "another fox", "articles are whole words"


def test_texts_by_hand():
    """1: equal but for case and the article. 2: words "blue door", "the door is blue": 2 shared, F1 = 2·(2/2)(2/4)/(…)
    = 2/3; the longest common subsequence is one word, ROUGE-L = 2·(1/2)(1/4)/(3/4) = 1/3."""
    metrics = text_metrics(["The fox.", "blue door"], ["fox", "the door is blue"])
    assert metrics["exact_match"] == 0.5
    assert metrics["exact_match_se"] == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert metrics["f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)  # "the fox" and "fox": 2·(1/2)·1/(3/2) = 2/3 too
    assert metrics["rougeL"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_bleu_by_hand():
    """All 5 words, 4 pairs, 3 triples and 2 quadruples are right, but 5 words for 6: brevity penalty exp(1 - 6/5)."""
    metrics = text_metrics(["a b c d e", "a b c d e"], ["a b c d e f", "a b c d e f"])
    assert metrics["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_classes_by_hand():
    """Class 0: precision 2/3, recall 1, F1 = 4/5. Class 1: precision 1, recall 1/2, F1 = 2/3. Mean 11/15."""
    metrics = class_metrics([0, 0, 0, 1], [0, 0, 1, 1])
    assert metrics["accuracy"] == 0.75
    assert metrics["accuracy_se"] == pytest.approx(0.25)  # s² = 3/4·1/4·4/3 = 1/4, s/√4
    assert metrics["f1_macro"] == pytest.approx(11 / 15)


def test_unlike_lengths():
    with pytest.raises(InputError, match="1 answers and 2 references"):
        text_metrics(["a"], ["a", "b"])
