"""A tiny English world whose truth is known: text to learn from, questions to answer, people to please."""

from hfcourse.world.annotators import Annotators
from hfcourse.world.datasets import load
from hfcourse.world.gold import false_confidence, gold_reward, gold_terms, is_confident, is_right

__all__ = ["Annotators", "false_confidence", "gold_reward", "gold_terms", "is_confident", "is_right", "load"]
