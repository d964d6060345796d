"""Rollouts of TRL's last PPO with its four models; runs with trl 1.12.0 first on PYTHONPATH and benchmarks/ second.

    trl_ppo_speed.py folder num_rollouts

The folder holds `policy`, `reward` (a sequence classifier), `prompts.json` (lists of ids) and `settings.json`. Prints
one line of JSON: seconds of each rollout with its updates, and the peak of memory in MB. On a CPU core seconds, and
memory over the interpreter's; with `on_gpu` wall clock in bfloat16, and what tensors held.
"""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import trl
from datasets import Dataset
from references.device_clock import peak_mb, reset_peak, wait
from references.process_memory import memory
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    def __init__(self, on_gpu: bool):
        self.now, self.marks = (time.perf_counter if on_gpu else time.process_time), []

    def on_train_begin(self, args, state, control, **kwargs):
        reset_peak()
        self.marks.append(self.now())

    def on_step_end(self, args, state, control, **kwargs):
        wait()
        self.marks.append(self.now())


def main(folder: str, num_rollouts: int) -> None:
    assert trl.__version__ == "1.12.0", trl.__version__
    torch.set_num_threads(1)
    base = memory("VmRSS")
    s, prompts = (json.loads(Path(folder, f"{name}.json").read_text()) for name in ("settings", "prompts"))
    on_gpu = s.get("on_gpu", False)
    clock = Clock(on_gpu)
    causal, classifier = AutoModelForCausalLM.from_pretrained, AutoModelForSequenceClassification.from_pretrained
    args = PPOConfig(
        output_dir=f"{folder}/trl", use_cpu=not on_gpu, bf16=on_gpu, gradient_checkpointing=False, report_to="none",
        disable_tqdm=True, save_strategy="no", logging_steps=10**6, num_sample_generations=0, learning_rate=1e-5,
        per_device_train_batch_size=s["batch"], local_rollout_forward_batch_size=s["batch"], num_mini_batches=1,
        total_episodes=s["batch"] * num_rollouts, num_ppo_epochs=s["epochs"], response_length=s["completion"],
        temperature=1.0, kl_coef=0.05,
    )  # fmt: skip
    trainer = PPOTrainer(
        args,
        AutoTokenizer.from_pretrained(f"{folder}/policy", padding_side="left"),
        causal(f"{folder}/policy"),
        causal(f"{folder}/policy"),
        classifier(f"{folder}/reward", num_labels=1),
        Dataset.from_dict({"input_ids": prompts * num_rollouts}),
        classifier(f"{folder}/reward", num_labels=1),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:4]}),
        callbacks=[clock],
    )
    trainer.train()
    seconds = [b - a for a, b in pairwise(clock.marks)]
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb() if on_gpu else memory("VmHWM") - base}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
