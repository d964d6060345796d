"""Two gloo processes with half the batch each learn what one process learns from the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.data import load_dataset
from tests.distributed.language_models import ROWS, train_both
from tests.distributed.launch import accelerate_launch, run_on_processes


def test_two_processes_equal_one(tmp_path):
    """A mean of the processes' means would weigh the tokens of the emptier half too much."""
    alone = train_both(str(tmp_path), ROWS)
    ranks = run_on_processes(Path(__file__).parent / "language_models.py", str(tmp_path), str(ROWS // 2))
    for out in ranks:
        for learnt, expected in zip(map(json.loads, out.splitlines()[-2:]), alone, strict=True):
            assert learnt.pop("num_processes") == 2
            torch.testing.assert_close(learnt.pop("sums"), expected["sums"], atol=1e-4, rtol=1e-5)
            for name, value in learnt.items():
                # TRL's evaluation averages over rows, and processes fill up different ones.
                if not (name == "eval_loss" and "entropy" in learnt):
                    assert value == pytest.approx(expected[name], abs=1e-5), name


def test_accelerate_launch_runs_sft_on_two_ranks(tiny_llama_dir, tmp_path):
    """16 rows in batches of 2: one process would need 8 steps for an epoch, two need 4."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Q{i}:", "completion": " yes." * (1 + i % 3)} for i in range(16)]
    path.write_text("\n".join(map(json.dumps, rows)))
    flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", path, "--output_dir", tmp_path / "out"]
    flags += ["--num_train_epochs=1", "--per_device_train_batch_size=2", "--logging_steps=1", "--expected_processes=2"]
    accelerate_launch("sft", *flags, "--disable_tqdm=true", "--save_strategy=no")
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    alone = SFTTrainer(
        str(tiny_llama_dir),
        SFTConfig(str(tmp_path / "one"), num_train_epochs=1, per_device_train_batch_size=4, logging_steps=1),
        train_dataset=load_dataset(str(path)),
    )
    alone.train()
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for ours, theirs in zip(tuned.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
