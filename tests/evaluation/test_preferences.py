"""Accuracy of a reward model on pairs, by hand."""

import math

import pytest
from datasets import Dataset

from hfcourse import DPOConfig, DPOTrainer
from hfcourse.errors import InputError
from hfcourse.evaluation.preferences import measure_implicit_reward, measure_reward_model


def lengths(model, tokenizer, prompts, completions, batch_size):
    return [[float(len(c)), 2.0 * len(c)] for c in completions]


def test_report_by_hand(monkeypatch, tiny_tokenizer):
    """Two heads, the texts' lengths once and twice: margins 3, -1.5, 0 on average, so 1 of 3 is right (a tie is not),
    the mean margin is ½, the heads differ by 2, 1, 0 (deviation 2/√2, 1/√2, 0: mean 1/√2)."""
    monkeypatch.setattr("hfcourse.evaluation.preferences.score_heads", lengths)
    rows = [
        {"prompt": "p", "chosen": "abc", "rejected": "a", "p_chosen": 0.9},
        {"prompt": "p", "chosen": "a", "rejected": "ab", "p_chosen": 0.6},
        {"prompt": "p", "chosen": "a", "rejected": "b", "p_chosen": 0.5},
    ]
    measured = measure_reward_model(None, tiny_tokenizer, rows)
    assert measured["num_pairs"] == 3
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["accuracy_low"] <= 1 / 3 <= measured["accuracy_high"]
    assert measured["margin"] == pytest.approx(0.5)
    assert measured["margin_std"] == pytest.approx(0.5**0.5)
    assert measured["loss"] == pytest.approx((math.log1p(math.exp(-3)) + math.log1p(math.exp(1.5)) + math.log(2)) / 3)
    assert [b["margin"] for b in measured["reliability"]] == [0, 1.5, 3]
    assert [b["agreement"] for b in measured["reliability"]] == [0, 0, 1]
    assert [b["accuracy"] for b in measured["accuracy_by_label"]] == [0, 0, 1]
    assert measured["longer_preferred"] == 1


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_the_implicit_reward_is_what_dpo_logs(tiny_llama, tiny_tokenizer, tmp_path, chat):
    """Margin and accuracy of one batch as DPOTrainer's evaluation has them, which reads the pairs by other code; with
    policy and reference exchanged the margin has the other sign."""

    def side(text, role="assistant"):
        return [{"role": role, "content": text.strip()}] if chat else text

    texts = [
        ("Mara lives", " near the river.", " in"),
        ("The fox", " sleeps.", " eats the bread."),
        ("a", " b", " c d"),
    ]
    rows = [{"prompt": side(p, "user"), "chosen": side(c), "rejected": side(r)} for p, c, r in texts]
    policy, reference = tiny_llama(0), tiny_llama(1)
    args = DPOConfig(
        str(tmp_path), beta=0.3, per_device_eval_batch_size=4, use_cpu=True, bf16=False, eval_strategy="steps"
    )
    pairs = Dataset.from_list(rows)
    trainer = DPOTrainer(
        policy, reference, args, train_dataset=pairs, eval_dataset=pairs, processing_class=tiny_tokenizer
    )
    logged = trainer.evaluate()
    measured = measure_implicit_reward(policy, reference, tiny_tokenizer, rows, beta=0.3)
    assert measured["margin"] == pytest.approx(logged["eval_rewards/margins"], abs=1e-5)
    assert measured["accuracy"] == pytest.approx(logged["eval_rewards/accuracies"])
    assert measured["loss"] == pytest.approx(logged["eval_loss"], abs=1e-5)
    swapped = measure_implicit_reward(reference, policy, tiny_tokenizer, rows, beta=0.3)
    assert swapped["margin"] == pytest.approx(-measured["margin"], abs=1e-6)
    assert abs(measured["margin"]) > 1e-3


def test_no_pairs():
    with pytest.raises(InputError, match="no pairs"):
        measure_reward_model(None, None, [])
