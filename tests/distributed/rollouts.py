"""PPO on replayed rollouts; a script once a rank: `rollouts.py output_dir [fsdp2]`. Prints what it learnt, as JSON.

The rollouts come from `output_dir/rollouts.json`: for each prompt of each rollout, the completion and its reward.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset

from hfcourse import PPOConfig, PPOTrainer
from hfcourse.tokenization import train_tokenizer
from tests.distributed.fsdp2 import shard_with_fsdp2
from tests.distributed.preferences import model, settings

ROWS, ROLLOUTS = 8, 5
METRICS = ("loss", "reward", "kl_sequence", "explained_variance", "loss/policy", "loss/value", "entropy", "grad_norm")


def write_rollouts(folder: str) -> None:
    """Ragged completions, rewards of both signs."""
    rollouts = {
        f"{chr(97 + i)}{r}": {
            "completion": "xyz" * (1 + (i + r) % 3) + "q" * (i % 4),
            "reward": (i * 7 + r * 3) % 5 - 2.0,
        }
        for r in range(ROLLOUTS)
        for i in range(ROWS)
    }
    Path(folder, "rollouts.json").write_text(json.dumps(rollouts))


def replaying(folder: str, processes: int, **overrides) -> PPOTrainer:
    tokenizer, rollouts = train_tokenizer(["a b"], 260), json.loads(Path(folder, "rollouts.json").read_text())
    args = PPOConfig(
        **settings(folder, ROWS // processes)
        | dict(max_steps=ROLLOUTS, num_iterations=1, max_completion_length=16, beta=0.1, shuffle_dataset=False)
        | overrides
    )
    reference = model()
    with torch.no_grad():
        reference.lm_head.weight.mul_(1.5)

    def reward(prompts, **columns):
        return [rollouts[prompt]["reward"] for prompt in prompts]

    trainer = PPOTrainer(
        model(),
        reward,
        args,
        Dataset.from_dict({"prompt": list(rollouts)}),
        processing_class=tokenizer,
        ref_model=reference,
    )

    def generate(prompts):
        texts = [rollouts[prompt]["completion"] for prompt in prompts]
        return tokenizer(prompts)["input_ids"], tokenizer(texts)["input_ids"], texts

    trainer._generate = generate
    return trainer


def learnt(trainer) -> dict:
    """Every rollout's advantages by prompt, the logs, and all parameters."""
    advantages, score = {}, trainer._generate_and_score_completions

    def remember(inputs):
        rollout = score(inputs)
        rows = zip(inputs, rollout["advantages"], rollout["completion_mask"].bool(), strict=True)
        advantages.update({row["prompt"]: a[mask].tolist() for row, a, mask in rows})
        return rollout

    trainer._generate_and_score_completions = remember
    trainer.train()
    parameters = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in trainer.model.parameters()]
    return {
        "num_processes": trainer.accelerator.num_processes,
        "advantages": advantages,
        "logged": [{n: log[n] for n in METRICS if n in log} for log in trainer.state.log_history if "reward" in log],
        "parameters": torch.cat([p.detach().flatten() for p in parameters]).tolist(),
    }


def runs(folder: str, processes: int) -> dict[str, dict]:
    adamw = dict(optim="adamw_torch", learning_rate=1e-2)
    results = {"sgd": learnt(replaying(folder, processes)), "adamw": learnt(replaying(folder, processes, **adamw))}
    for name in ("free", "again"):  # the policy's own samples
        trainer = replaying(folder, processes, max_steps=2)
        del trainer._generate
        trainer.reward_funcs[0] = lambda completions, **_: [float(len(text)) for text in completions]
        results[name] = learnt(trainer)
    if processes > 1:
        trainer = replaying(folder, processes)
        reduce = trainer.accelerator.reduce
        trainer.accelerator.reduce = lambda x, *_: x  # broken: each process whitens by its own moments
        results["broken"] = learnt(trainer)
        trainer.accelerator.reduce = reduce
    return results


if __name__ == "__main__":
    if sys.argv[2:] == ["fsdp2"]:
        shard_with_fsdp2()
        print(json.dumps(learnt(replaying(sys.argv[1], 2))))
    else:
        print(json.dumps(runs(sys.argv[1], 2)))
    torch.distributed.destroy_process_group()
