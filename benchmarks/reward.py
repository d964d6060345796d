"""A step of a reward model, ours and stock TRL's in the same run: seconds of one core, and peak memory.

    python benchmarks/reward.py

Llama, 6 layers of width 384, vocabulary 8192, float32, 4 pairs a step; prompt : answer 64 : 64, 256 : 64, 512 : 64,
and the lengths of 16 comparisons of HH-RLHF (lengths only), as they come and sorted. "trl" is `trl.RewardTrainer`,
"plain" ours with `shared_prefix=False`, "ours" the default. The floor is 3 · 2N (P + C + R) at the rate of a matrix
product. Prints one line of JSON and writes reward.json.
"""

import json
import os
import platform
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

import torch
import transformers
import trl
from references.preference_steps import PAIRS_A_STEP, compare, config, tokenizer
from transformers import LlamaForSequenceClassification

from hfcourse import RewardConfig, RewardTrainer

SHARING_GOALS = {"1:1": 1.3, "4:1": 1.5, "8:1": 1.6}


def make(variant: str, pairs, folder: str):
    torch.manual_seed(0)
    settings = dict(
        output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None, report_to="none",
        per_device_train_batch_size=PAIRS_A_STEP, learning_rate=1e-5, max_steps=1,
    )  # fmt: skip
    if variant == "trl":
        trainer_class, args = trl.RewardTrainer, trl.RewardConfig(**settings)
    else:
        trainer_class, args = (
            RewardTrainer,
            RewardConfig(**settings, shared_prefix=None if variant == "ours" else False),
        )
    return trainer_class(
        LlamaForSequenceClassification(config()), args=args, train_dataset=pairs, processing_class=tokenizer()
    )


if __name__ == "__main__":
    results = compare(__file__, make, num_scored=lambda chosen, rejected: 0)
    line = {
        "benchmark": "reward",
        **results,
        "sharing_reached": {shape: results[shape]["plain_over_ours"] >= goal for shape, goal in SHARING_GOALS.items()},
        "memory_within_trls": all(row["peak_mb"]["ours"] <= row["peak_mb"]["trl"] for row in results.values()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "machine": f"{platform.machine()}, one thread",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(line) + "\n", encoding="utf-8")
    print(json.dumps(line))
