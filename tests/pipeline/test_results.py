"""What a method costs, by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hfcourse.pipeline import results
from hfcourse.pipeline.results import compare, flops_of_stages, num_parameters


@pytest.fixture
def root(tmp_path):
    """A model of 10 parameters; training stages that logged how many tokens they saw."""
    for stage, tokens in {"pretrain": None, "sft": 100, "reward": 200, "ppo": 300, "dpo": 400}.items():
        (tmp_path / stage).mkdir()
        save_file({"a": torch.zeros(2, 3), "b": torch.zeros(4)}, tmp_path / stage / "model.safetensors")
        history = [{"step": 1, "num_tokens": 1}, {"step": 2, "num_tokens": tokens}, {"train_loss": 1.0}]
        state = {"global_step": 5, "log_history": history if tokens else []}
        (tmp_path / stage / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path


def test_flops_by_hand(root, monkeypatch):
    """N = 10. Pretraining reads 5 steps × 2 rows × 3 accumulated × 7 tokens = 210: 6·10·210. Preferences: 2·10·75.
    PPO with 2 epochs: (4·2 + 2·6)·10·300. DPO: (6 + 2)·10·400."""
    arguments = SimpleNamespace(train_batch_size=2, gradient_accumulation_steps=3, block_size=7, num_iterations=2)
    monkeypatch.setattr(results, "_training_args", lambda folder: arguments)
    metrics = {"preferences": {"train": {"num_tokens": 50}, "test": {"num_tokens": 25}}}
    assert num_parameters(root / "pretrain") == 10
    assert flops_of_stages(root, metrics) == {
        "tokenizer": 0,
        "pretrain": 12_600,
        "sft": 6_000,
        "preferences": 1_500,
        "reward": 12_000,
        "ppo": 60_000,
        "dpo": 32_000,
    }


def test_changed_parameters_are_counted_one_by_one(root):
    save_file({"a": torch.tensor([[0.0, 1, 0], [2, 0, 3]]), "b": torch.zeros(4)}, root / "ppo" / "model.safetensors")
    assert results._parameters_changed(root, "ppo") == 3
    assert results._parameters_changed(root, "dpo") == 0
    assert results._parameters_changed(root, "prompted") == 0
    assert results._parameters_changed(root, "pretrained") == 10


def test_a_difference_holds_beyond_two_standard_errors(tmp_path):
    """Differences 1, 1, 1, 2: 1.25 ± 0.25, five standard errors."""
    for method, rewards in {"sft": [0, 5, -1, 2], "ppo": [1, 6, 0, 4]}.items():
        folder = tmp_path / "evaluation" / method
        folder.mkdir(parents=True)
        (folder / "samples.jsonl").write_text("".join(json.dumps({"gold_reward": r}) + "\n" for r in rewards))
    difference = compare(tmp_path, "sft", "ppo")
    assert difference == {"before": "sft", "after": "ppo", "mean": 1.25, "se": pytest.approx(0.25), "holds": True}
    assert not compare(tmp_path, "ppo", "sft")["holds"]
