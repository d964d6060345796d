"""`accelerate launch --config_file accelerate_configs/cpu_multi_process.yaml` runs sft, dpo and ppo on two ranks."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from hfcourse import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from hfcourse.data import load_dataset
from tests.distributed.launch import accelerate_launch

PLAIN_STEPS = dict(num_train_epochs=1, logging_steps=1, optim="sgd", learning_rate=0.1, max_grad_norm=0.0)


@pytest.fixture
def launch(tiny_llama_dir, tmp_path):
    """`launch("sft", rows, …)`: an epoch in batches of 2 a rank; the log of each step, and the model."""

    def launch(recipe, rows, *own):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", path, "--output_dir", tmp_path / "out"]
        flags += ["--per_device_train_batch_size=2", "--expected_processes=2", "--disable_tqdm=true", *own]
        flags += ["--save_strategy=no", *(f"--{name}={value}" for name, value in PLAIN_STEPS.items())]
        accelerate_launch(recipe, *flags)
        logs = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
        return [log for log in logs if "loss" in log], AutoModelForCausalLM.from_pretrained(tmp_path / "out")

    return launch


@pytest.mark.parametrize(
    ("recipe", "trainer_class", "config_class"), [("sft", SFTTrainer, SFTConfig), ("dpo", DPOTrainer, DPOConfig)]
)
def test_two_ranks_learn_what_one_process_learns(
    recipe, trainer_class, config_class, launch, tiny_llama, tiny_llama_dir, tmp_path
):
    """8 rows: two ranks with 2 rows each take 2 steps, as one process with 4 rows does; with 2 it would take 4."""
    answers = [" yes." * (1 + i % 3) for i in range(8)]
    rows = [{"prompt": f"Q{i}:", "completion": a, "chosen": a, "rejected": " no"} for i, a in enumerate(answers)]
    logs, tuned = launch(recipe, rows)
    assert len(logs) == 2
    args = config_class(str(tmp_path / "one"), per_device_train_batch_size=4, **PLAIN_STEPS)
    dataset = load_dataset(str(tmp_path / "rows.jsonl"))
    alone = trainer_class(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), args=args, train_dataset=dataset)
    alone.train()
    moved = 0
    for ours, theirs, old in zip(*(m.parameters() for m in (tuned, alone.model, tiny_llama(0))), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        moved = max(moved, (ours - old).abs().max().item())
    assert moved > 1e-3, "a hundred times the tolerance"


def test_ppo_on_two_ranks(launch, tmp_path, monkeypatch):
    """8 prompts, 4 completions a rollout: 2 updates, each on what the policy has just written."""
    (tmp_path / "rewards.py").write_text(
        "def spaces(completions, **c):\n    return [t.count(' ') for t in completions]"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = [{"prompt": f"Where is {name}?"} for name in "abcdefgh"]
    logs, tuned = launch(
        "ppo", rows, "--reward_funcs=rewards.spaces", "--num_iterations=1", "--max_completion_length=4"
    )
    assert [log["ratio_at_step0"] for log in logs] == pytest.approx([1, 1], abs=2e-5)
    assert all("rewards/spaces/mean" in log for log in logs)
    assert tuned.config.hidden_size == 32
    assert (tmp_path / "out" / "value_head.safetensors").is_file()
