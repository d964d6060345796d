"""One process's share of a few steps of EmbeddingsTrainer; prints its tables as a line of JSON.

As a script: `embeddings.py output_dir batch_size`, once a rank.
"""

import json
import sys

import torch
from datasets import Dataset

from hfcourse import EmbeddingsConfig, EmbeddingsTrainer


class CountedPairs(EmbeddingsTrainer):
    """Nothing is drawn by chance: windows of one, and the negatives follow from the center."""

    def draw(self, blocks, generator=None):
        self.args.window = 1
        batch = super().draw(blocks, generator)
        steps = torch.arange(1, self.args.num_negatives + 1)
        return {**batch, "negatives": (batch["center"][:, None] + steps) % self.model_size}

    @property
    def model_size(self) -> int:
        return len(self._keep)

    @staticmethod
    def options(batch_size: int) -> dict:
        return dict(
            per_device_train_batch_size=batch_size,
            max_steps=2,
            optim="sgd",
            learning_rate=5.0,
            max_grad_norm=0.0,
            subsample=0,
        )


def corpus() -> Dataset:
    """41 words in texts of 1 to 9 words, so that blocks of 16 hold different numbers of pairs."""
    lengths = [1 + (5 * i) % 9 for i in range(60)]
    texts = [" ".join(f"w{(7 * i + j) % 41}" for j in range(length)) for i, length in enumerate(lengths)]
    return Dataset.from_dict({"text": texts})


if __name__ == "__main__":
    args = EmbeddingsConfig(
        sys.argv[1],
        use_cpu=True,
        disable_tqdm=True,
        min_count=1,
        hidden_size=8,
        block_size=16,
        save_strategy="no",
        **CountedPairs.options(int(sys.argv[2])),
    )
    trainer = CountedPairs(args, train_dataset=corpus())
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    learnt = {name: p.tolist() for name, p in model.named_parameters()}
    print(json.dumps({"num_processes": trainer.accelerator.num_processes, "tables": learnt}))
    torch.distributed.destroy_process_group()
