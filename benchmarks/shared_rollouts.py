"""A rollout of PPO, its prompts computed once for all of their completions or once for each: seconds of one core.

    python benchmarks/shared_rollouts.py    # about three minutes of one core

Llama, 6 layers of width 384, vocabulary 8192, float32, 8 completions in one micro-batch, 4 or 8 to a prompt; prompt :
completion 64 : 64, 256 : 64, 512 : 64 tokens. "score" is the policy's and the reference's pass over the rollout,
"epoch" forward and backward of the loss; `tokens` is k (P + C) / (P + k C), what the token count alone would gain.
Prints one line of JSON and writes shared_rollouts.json.
"""

import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

import torch
import transformers
import trl
from datasets import Dataset
from references.paired import median_ratio, paired_rounds
from references.preference_steps import SHAPES, VOCAB_SIZE, config, tokenizer
from transformers import LlamaForCausalLM

from hfcourse import PPOConfig, PPOTrainer

BATCH, GENERATIONS, ROUNDS = 8, (4, 8), 5


def phases(
    shape: str, num_generations: int, shared_prefix: bool, folder: str
) -> dict[str, Callable[[], torch.Tensor]]:
    """Scoring of one rollout of random tokens, and an epoch of it; each returns what must agree."""
    prompt, completion = SHAPES[shape]
    torch.manual_seed(0)
    args = PPOConfig(
        folder, use_cpu=True, bf16=False, gradient_checkpointing=False, per_device_train_batch_size=BATCH,
        num_generations=num_generations, max_completion_length=completion, max_steps=1, shared_prefix=shared_prefix,
    )  # fmt: skip
    words = torch.randint(2, VOCAB_SIZE, (BATCH, prompt))
    texts = [" ".join(f"w{i}" for i in row) for row in words.tolist()]
    trainer = PPOTrainer(
        LlamaForCausalLM(config()), lambda completions, **_: list(range(BATCH)), args,
        Dataset.from_dict({"prompt": texts}), processing_class=tokenizer(),
    )  # fmt: skip
    prompts = words[: BATCH // num_generations].repeat_interleave(num_generations, 0).tolist()
    completions = torch.randint(2, VOCAB_SIZE, (BATCH, completion)).tolist()
    trainer._generate = lambda _: (prompts, completions, [""] * BATCH)
    trainer.model.train()
    rollout = trainer._generate_and_score_completions([{"prompt": ""}] * BATCH)

    def score():
        with torch.no_grad():
            return trainer._score_rollout(rollout)[1]

    def epoch():
        trainer.model.zero_grad()
        for batch in trainer._split_into_updates(rollout):
            trainer._compute_loss(trainer.model, batch).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    return {"score": score, "epoch": epoch}


def compare(shape: str, num_generations: int, folder: str) -> dict:
    plain, shared = (phases(shape, num_generations, way, folder) for way in (False, True))
    for name in plain:
        a, b = plain[name](), shared[name]()
        assert (a - b).norm() < 1e-5 * a.norm(), name  # or it is not the same work
    prompt, completion = SHAPES[shape]
    tokens = num_generations * (prompt + completion) / (prompt + num_generations * completion)
    result = {"tokens": round(tokens, 2)}
    for name in plain:
        times = paired_rounds({"plain": plain[name], "shared": shared[name]}, rounds=ROUNDS, calls=1)
        seconds = {way: round(statistics.median(t), 3) for way, t in times.items()}
        result[name] = {"seconds": seconds, "plain_over_shared": round(median_ratio(*times.values()), 2)}
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = {f"{shape} x {k}": compare(shape, k, folder) for shape in SHAPES for k in GENERATIONS}
    line = {
        "benchmark": "shared_rollouts",
        **results,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__},
        "machine": f"{platform.machine()}, one thread",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(line) + "\n", encoding="utf-8")
    print(json.dumps(line))
