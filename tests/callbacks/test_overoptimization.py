"""The callback on tiny runs of PPO and DPO: what it measures, that it disturbs nothing, when it warns and stops."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from hfcourse.callbacks import OveroptimizationCallback
from hfcourse.errors import InputError
from hfcourse.trainers.dpo_trainer import DPOConfig, DPOTrainer
from tests.trainers.conftest import make_ppo  # noqa: F401
from tests.trainers.rollouts import PROMPTS, history, vowels

ROWS = [{"prompt": p, "bonus": float(i)} for i, p in enumerate(PROMPTS)]


def gold(prompts, completions, bonus, **columns):
    return [b - len(text) for b, text in zip(bonus, completions, strict=True)]


@pytest.fixture
def watched(make_ppo):  # noqa: F811
    def make(trainer=None, **options):
        trainer = trainer or make_ppo(max_steps=8, learning_rate=5e-3, beta=0.01)
        callback = OveroptimizationCallback(trainer, ROWS, gold, **{"every": 4, **options})
        trainer.add_callback(callback)
        return trainer, callback

    return make


@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_measures_grow_from_a_kl_of_zero_and_are_logged(watched, make_ppo, peft):  # noqa: F811
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if peft else None
    trainer = make_ppo(max_steps=8, learning_rate=2e-2, beta=0.01, peft_config=config)
    short = lambda completions, **_: [float(len(text) < 9) for text in completions]  # noqa: E731
    _, callback = watched(trainer, measures={"short": short})
    trainer.train()
    assert [m["step"] for m in callback.history] == [0, 4, 8]
    assert callback.history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert callback.history[2]["kl"] > 1e-3
    logged = history(trainer, "overoptimization/gold")
    assert set(logged) <= {m["gold"] for m in callback.history}
    assert 0 <= callback.history[0]["short"] <= 1
    assert callback.history[0]["gold"] == sum(callback.history[0]["golds"]) / len(ROWS)


def test_a_watched_run_is_the_run_that_was_not_watched(watched, make_ppo):  # noqa: F811
    plain = make_ppo(max_steps=8, learning_rate=5e-3, beta=0.01)
    plain.train()
    trainer, _ = watched()
    trainer.train()
    for p, q in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_budget_stops_the_run_or_raises_beta(watched):
    trainer, callback = watched(kl_budget=1e-6)
    trainer.train()
    assert trainer.state.global_step == 4 == callback.history[-1]["step"]
    trainer, _ = watched(kl_budget=1e-6, on_budget="raise_beta")
    trainer.train()
    assert trainer.state.global_step == 8
    assert trainer.beta == pytest.approx(0.01 * 1.5**2)
    trainer, _ = watched(kl_budget=1e6)
    trainer.train()
    assert trainer.state.global_step == 8


def test_it_warns_once_at_the_turn_and_remembers_after_a_resume(watched, caplog):
    _, callback = watched()
    planted = [0.0, 1.0, 4.0, 9.0, 16.0, 25.0, 36.0]
    for step, kl in enumerate(planted):
        gain = kl**0.5 * (1.2 - 0.3 * kl**0.5)
        golds = [gain + 0.01 * (i % 2) * (-1) ** step for i in range(8)]
        callback.history.append({"step": step, "kl": kl, "proxy": 2.0, "golds": golds})
        callback._warn_of_a_turn()
    warnings = [m for m in caplog.messages if "has turned" in m]
    assert len(warnings) == 1
    assert "since step 2 (KL 4.00)" in warnings[0]
    saved = callback.state()["attributes"]
    assert saved["has_warned"]
    assert len(saved["history"]) == len(planted)


def test_dpo_is_watched_with_a_proxy_given(tiny_llama, tiny_tokenizer, tmp_path):
    pairs = Dataset.from_list([{"prompt": p, "chosen": " a e i", "rejected": " x y"} for p in PROMPTS])
    args = DPOConfig(str(tmp_path), use_cpu=True, max_steps=2, learning_rate=1e-2, save_strategy="no", logging_steps=1)
    trainer = DPOTrainer(tiny_llama(0), args=args, train_dataset=pairs, processing_class=tiny_tokenizer)
    with pytest.raises(InputError, match="give proxy"):
        OveroptimizationCallback(trainer, ROWS, gold)
    with pytest.raises(InputError, match="only PPO and REINFORCE"):
        OveroptimizationCallback(trainer, ROWS, gold, vowels, on_budget="raise_beta")
    callback = OveroptimizationCallback(trainer, ROWS, gold, vowels, every=2, max_completion_length=4)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.history[-1]["kl"] > 1e-3
    assert {"proxy", "gold", "length", "repetition", "distinct_2"} <= set(callback.history[-1])
