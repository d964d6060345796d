"""What a model is worth: answers and their scores, likelihoods, and differences with their uncertainty."""

from hfcourse.evaluation.generation import Completion, generate
from hfcourse.evaluation.kl import sequence_kl
from hfcourse.evaluation.multiple_choice import choice_logps, measure_multiple_choice
from hfcourse.evaluation.perplexity import perplexity
from hfcourse.evaluation.preferences import measure_implicit_reward, measure_reward_model
from hfcourse.evaluation.prompting import few_shot_prompts
from hfcourse.evaluation.statistics import Estimate, estimate, paired_difference, wilson_interval, win_rate

__all__ = [
    "Completion",
    "Estimate",
    "choice_logps",
    "estimate",
    "few_shot_prompts",
    "generate",
    "measure_implicit_reward",
    "measure_multiple_choice",
    "measure_reward_model",
    "paired_difference",
    "perplexity",
    "sequence_kl",
    "wilson_interval",
    "win_rate",
]
