"""One optimizer step of our DPO, Reward, SFT and REINFORCE trainers and of TRL's, from the same rows and weights.

A cell of the matrix is a method, in full or with LoRA, with the reference online or precomputed, at accumulation 1 or
4.
"""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import trl
from datasets import load_from_disk
from peft import LoraConfig
from transformers import LlamaForSequenceClassification, TrainerCallback

import hfcourse
from hfcourse.tokenization import train_tokenizer
from tests.distributed.preferences import LETTERS, ROWS, model, pairs, settings

# What tells the time or says where in the run it is.
NO_METRICS = {"epoch", "step", "learning_rate", "step_time"}
# RLOO's loss is one of ratios, ours of log-probs: two numbers with one gradient. RLOO's deviation is the unbiased one.
PARTED = {"reinforce": {"loss", "reward_std"}}


class Cell(NamedTuple):
    method: str
    weights: str
    reference: str
    accumulation: int

    def __str__(self) -> str:
        return "-".join(map(str, filter(None, self)))


CELLS = [
    Cell(method, weights, reference, accumulation)
    for method, references in (
        ("dpo", ("online", "precomputed")),
        ("reward", ("",)),
        ("sft", ("",)),
        ("reinforce", ("online",)),
    )
    for weights, reference, accumulation in product(("full", "lora"), references, (1, 4))
]


class Gradients(TrainerCallback):
    """Keeps the gradients that reach the optimizer."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.by_name = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def make(cell: Cell, library, folder: Path):
    """The cell's trainer, of `hfcourse` or of `trl`, its policy moved away from the reference."""
    trainer = globals()[f"_{cell.method}"](cell, library, folder)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(sum(name.replace("module.", "").encode()))
                scale = 0.3 if "lora_" in name else 0.05
                noise = scale * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise if "lora_" in name else parameter + noise)
    trainer.add_callback(gradients := Gradients())
    return trainer, gradients


def _config(cell: Cell, config_class, folder: Path, **more):
    num_processes = config_class(str(folder), use_cpu=True, bf16=False).world_size
    batch_size = ROWS // cell.accumulation // num_processes
    quiet = dict(bf16=False, gradient_checkpointing=False, report_to="none")
    return config_class(
        **settings(str(folder), batch_size), **quiet, gradient_accumulation_steps=cell.accumulation, **more
    )


def _options(cell: Cell, task_type: str = "CAUSAL_LM", **lora) -> dict:
    options = {"processing_class": train_tokenizer(["a b"], 260)}
    return options | ({"peft_config": LoraConfig(r=2, task_type=task_type, **lora)} if cell.weights == "lora" else {})


def _dpo(cell, library, folder):
    precompute = cell.reference == "precomputed"
    args = _config(cell, library.DPOConfig, folder, beta=0.2, precompute_ref_log_probs=precompute)
    reference = None if precompute or cell.weights == "lora" else model()
    # From files: processes of TRL cannot share the reference log-probs of rows in memory.
    rows = pairs() if library is hfcourse else load_from_disk(folder / "pairs")
    return library.DPOTrainer(model(), reference, args, train_dataset=rows, **_options(cell))


def _reward(cell, library, folder):
    args = _config(cell, library.RewardConfig, folder)
    options = _options(cell, "SEQ_CLS", modules_to_save=["score"])
    return library.RewardTrainer(model(LlamaForSequenceClassification), args, train_dataset=pairs(), **options)


def _sft(cell, library, folder):
    rows = pairs().rename_column("chosen", "completion").remove_columns("rejected")
    return library.SFTTrainer(model(), _config(cell, library.SFTConfig, folder), train_dataset=rows, **_options(cell))


def _reinforce(cell, library, folder):
    """Leave-one-out; TRL's RLOO, which loads its reference by the model's name. Completions are given, not sampled."""
    ours = library is hfcourse
    config_class, trainer_class = (
        (hfcourse.REINFORCEConfig, hfcourse.REINFORCETrainer) if ours else (trl.RLOOConfig, trl.RLOOTrainer)
    )
    baseline = {"baseline": "leave_one_out"} if ours else {}
    args = _config(cell, config_class, folder, max_completion_length=8, beta=0.2, num_generations=2, **baseline)
    options = _options(cell)
    trainer = trainer_class(str(folder / "reference"), lengths, args, pairs().select_columns("prompt"), **options)

    def generate(prompts):
        tokenizer = options["processing_class"]
        texts = ["xyz" * (1 + (LETTERS.index(p) + i % 2) % 3) for i, p in enumerate(prompts)]
        return tokenizer(prompts)["input_ids"], tokenizer(texts)["input_ids"], texts

    trainer._generate = generate
    return trainer


def lengths(prompts, completions, **columns):
    return [float(ord(prompt[0]) % 5) + len(text) for prompt, text in zip(prompts, completions, strict=True)]


def compare(cell: Cell, folder: Path) -> dict:
    """What a step of each library logs, and how far their gradients are apart, over the norm of TRL's."""
    logged, gradients = [], []
    for library in (hfcourse, trl):
        trainer, kept = make(cell, library, folder)
        trainer.train()
        logged.append(trainer.state.log_history[0])
        gradients.append(kept.by_name)
    ours, theirs = ({n.removeprefix("module."): g for n, g in by_name.items()} for by_name in gradients)
    assert set(ours) == set(theirs), cell
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    apart = torch.stack([(ours[n] - g).norm() for n, g in theirs.items()]).norm()
    return {
        "cell": str(cell),
        "num_processes": trainer.accelerator.num_processes,
        "gradient": norm.item(),
        "gradients_apart": (apart / norm).item(),
        "ours": logged[0],
        "theirs": logged[1],
    }


def prepare(folder: Path) -> Path:
    """The folder, with what TRL takes from files alone: RLOO's reference, and DPO's rows on several processes."""
    model().save_pretrained(folder / "reference")
    pairs().save_to_disk(folder / "pairs")
    return folder


def assert_agree(result: dict) -> None:
    """To float32 rounding: the gradients in norm and direction, and every metric that both log."""
    method = result["cell"].partition("-")[0]
    ours, theirs = result["ours"], result["theirs"]
    assert result["gradient"] > 1
    assert result["gradients_apart"] < 5e-6
    if method != "reinforce":
        assert set(ours) == set(theirs)
    names = (set(ours) & set(theirs)) - NO_METRICS - PARTED.get(method, set())
    if method == "reinforce" and not result["cell"].endswith("-1"):
        names.remove("entropy")  # RLOO's is a mean of micro-batches' means, ours of tokens
    assert len(names) >= 4
    assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=1e-5, abs=1e-6)
