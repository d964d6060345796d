"""What the report says follows from the numbers."""

import pytest

from hfcourse.report.comparison import HEADINGS as COMPARED, ROWS
from hfcourse.report.table import HEADINGS, claims, overoptimization, table_rows

METHOD = {
    **{"gold_reward": 1.234, "gold_reward_se": 0.056, "proxy_reward": -0.5, "kl_to_sft": 3.21, "accuracy": 0.876},
    **{"minutes": 2.04, "flops": 1.23e13, "human_labels": 2991, "parameters_changed": 1_966_272},
}


def results(mean, se, accuracy=0.7):
    difference = {"before": "sft", "after": "ppo", "mean": mean, "se": se, "holds": mean > 2 * se}
    return {"differences": [difference], "reward_model": {"accuracy": accuracy, "bayes_accuracy": 0.75}}


def test_a_row_by_hand():
    (row,) = table_rows({"ppo": METHOD})
    assert row == ("RLHF (PPO)", "1.23 ± 0.06", "-0.50", "3.2", "88 %", "2.0", "1.2e+13", "2,991", "1,966,272")
    assert len(row) == len(HEADINGS)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (+0.50, (True, "RLHF (PPO) is better than Instruction tuned (SFT)")),
        (+0.19, (False, "no difference shown between RLHF (PPO) and Instruction tuned (SFT)")),
        (-0.19, (False, "no difference shown between RLHF (PPO) and Instruction tuned (SFT)")),
        (-0.50, (False, "RLHF (PPO) is worse than Instruction tuned (SFT)")),
    ],
)
def test_a_claim_needs_two_standard_errors(mean, verdict):
    """se = 0.1: only beyond ±0.2 is anything said of which is better."""
    holds, text = claims(results(mean, 0.1))[0]
    assert (holds, text.partition(":")[0]) == verdict
    assert text.endswith(f"{mean:+.2f} gold reward on the same prompts, ± 0.20")


@pytest.mark.parametrize(("accuracy", "holds"), [(0.75, True), (0.71, True), (0.69, False)])
def test_the_reward_model_is_held_against_bayes(accuracy, holds):
    claimed, text = claims(results(1.0, 0.1, accuracy))[1]
    assert claimed == holds
    assert ("not within" in text) != holds
    assert f"{100 * accuracy:.1f} %" in text
    assert "75.0 %" in text


def test_the_closing_table_is_complete():
    """Ten lines (idea, parameters, stage, data, labels, compute, strengths, weaknesses, uses, works), four methods."""
    assert len(ROWS) == 10
    assert all(len(row) == len(COMPARED) == 5 for row in ROWS)
    assert all(cell for row in ROWS for cell in row)
    assert ROWS[1][1:] == ("No", "Yes", "Yes", "Yes")


def test_overoptimization_is_named():
    """PPO: the learnt reward rose, the gold fell. DPO: both rose."""
    sft = {"proxy_reward": 0.0, "gold_reward": 1.5, "accuracy": 0.7}
    ppo = {"proxy_reward": 0.7, "gold_reward": 1.25, "accuracy": 0.3}
    dpo = {"proxy_reward": 0.25, "gold_reward": 1.75, "accuracy": 0.7}
    assert overoptimization({"sft": sft, "ppo": ppo, "dpo": dpo}) == [
        "RLHF (PPO) against SFT: reward model +0.70, gold reward -0.25, right answers -40 points; "
        "the reward model is being hacked",
        "DPO against SFT: reward model +0.25, gold reward +0.25, right answers +0 points",
    ]
