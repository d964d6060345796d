"""TRL's last PPO on a world that was saved to a folder; runs with trl 1.12.0 first on PYTHONPATH, hfcourse left out.

    trl_ppo.py folder seed beta learning_rate num_rollouts

The folder holds the reference model with its tokenizer and `rewards.pt`, {prompt and answer ids: reward}. It leaves
the trained policy in `folder/policy` and prints one line of JSON: the seconds of `train()`, of clock and core.
"""

import json
import os
import sys
import time
from types import SimpleNamespace

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer


class TableReward(torch.nn.Module):
    """A reward model as TRL asks for one, which looks rows up: by their digits, for a loop over rows would be slow."""

    base_model_prefix = "backbone"

    def __init__(self, rewards: dict[tuple[int, ...], float], vocab_size: int, pad_id: int):
        super().__init__()
        self.vocab_size, self.pad_id = vocab_size, pad_id
        table = torch.zeros(vocab_size ** max(map(len, rewards)))
        for ids, reward in rewards.items():
            code = 0
            for i in ids:
                code = code * vocab_size + i
            table[code] = reward
        self.table = torch.nn.Parameter(table, requires_grad=False)
        self.score = torch.nn.Identity()

    def backbone(self, input_ids, attention_mask, **kwargs):
        code = torch.zeros_like(input_ids[:, 0])
        for column, counts in zip(input_ids.T, attention_mask.T, strict=True):
            code = torch.where(counts.bool(), code * self.vocab_size + column, code)
        return SimpleNamespace(hidden_states=[self.table[code][:, None, None].expand(*input_ids.shape, 1)])


def main(folder: str, seed: int, beta: float, learning_rate: float, num_rollouts: int) -> None:
    assert trl.__version__ == "1.12.0", trl.__version__
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(f"{folder}/reference", padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(f"{folder}/reference")
    critic = AutoModelForSequenceClassification.from_pretrained(f"{folder}/reference", num_labels=1)
    rewards = torch.load(f"{folder}/rewards.pt")
    prompts = torch.load(f"{folder}/prompts.pt")
    args = PPOConfig(
        output_dir=f"{folder}/trl_ppo",
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=10**6,
        num_sample_generations=0,
        per_device_train_batch_size=256,
        local_rollout_forward_batch_size=256,
        num_mini_batches=1,
        total_episodes=256 * num_rollouts,
        num_ppo_epochs=4,
        learning_rate=learning_rate,
        response_length=max(map(len, rewards)) - max(map(len, prompts)),
        stop_token="eos",
        temperature=1.0,
        kl_coef=beta,
    )
    trainer = PPOTrainer(
        args,
        tokenizer,
        policy,
        AutoModelForCausalLM.from_pretrained(f"{folder}/reference"),
        TableReward(rewards, policy.config.vocab_size, tokenizer.pad_token_id),
        Dataset.from_dict({"input_ids": prompts}),
        critic,
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:4]}),
    )
    wall, core = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = {"seconds": time.perf_counter() - wall, "core_seconds": time.process_time() - core}
    policy.save_pretrained(f"{folder}/policy")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
