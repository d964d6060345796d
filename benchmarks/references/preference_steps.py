"""Steps of preference trainers, ours and TRL's, on pairs of given lengths: times in turn, peak memory by process."""

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from references.paired import paired_rounds

VOCAB_SIZE, WIDTH, LAYERS, PAIRS_A_STEP = 8192, 384, 6, 4
# Tokens of prompt and of each answer, EOS included; "hh" has those of 16 real comparisons.
SHAPES = {"1:1": (64, 64), "4:1": (256, 64), "8:1": (512, 64)}
ROUNDS = {"1:1": 7, "4:1": 5, "8:1": 5, "hh": 3, "hh sorted": 3}
VARIANTS = ("trl", "plain", "ours")


def config() -> LlamaConfig:
    sizes = dict(hidden_size=WIDTH, intermediate_size=1024, num_hidden_layers=LAYERS, num_attention_heads=6)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=1)
    return LlamaConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=1024, num_labels=1, **sizes, **ids)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, VOCAB_SIZE)}, "w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def lengths_of(shape: str) -> list[tuple[int, int, int]]:
    if shape in SHAPES:
        prompt, answer = SHAPES[shape]
        return [(prompt, answer, answer)] * PAIRS_A_STEP
    rows = json.loads(Path(__file__).with_name("hh_rlhf_lengths.json").read_text())["lengths"][:16]
    return sorted(rows, key=lambda row: row[0] + max(row[1:])) if shape == "hh sorted" else rows


def pairs(shape: str) -> Dataset:
    return text_pairs(lengths_of(shape))


def text_pairs(lengths: list[tuple[int, int, int]]) -> Dataset:
    """Pairs of random words; each row of `lengths` has the tokens of a prompt and of its two answers, EOS included."""
    draw = torch.Generator().manual_seed(0)

    def text(length: int, before: str = "") -> str:
        return before + " ".join(f"w{i}" for i in torch.randint(2, VOCAB_SIZE, (length,), generator=draw).tolist())

    rows = [
        {"prompt": text(prompt), "chosen": text(chosen - 1, " ") + " ", "rejected": text(rejected - 1, " ") + " "}
        for prompt, chosen, rejected in lengths
    ]
    return Dataset.from_list(rows)


def step_of(trainer, pairs_a_step: int = PAIRS_A_STEP) -> Callable[[], None]:
    """Forward, backward and AdamW on every batch of the trainer's data, as `train()` does them."""
    rows = [trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]
    keep = trainer._signature_columns or (trainer._set_signature_columns_if_needed(), trainer._signature_columns)[1]
    rows = [{name: value for name, value in row.items() if name in keep} for row in rows]
    batches = [trainer.data_collator(rows[i : i + pairs_a_step]) for i in range(0, len(rows), pairs_a_step)]
    trainer.create_optimizer()
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped, trainer.current_gradient_accumulation_steps = model, 1

    def step() -> None:
        for batch in batches:
            trainer.training_step(model, dict(batch))
            optimizer.step()
            optimizer.zero_grad()

    return step


def peak_memory(step: Callable[[], None]) -> float:
    """MB that the second of two steps needs at its peak, weights and optimizer included."""
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    step()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def compare(script: str, make: Callable[[str, Dataset, str], object], num_scored: Callable[[int, int], int]) -> dict:
    """Run as `script`, or as `script --memory SHAPE VARIANT`, which prints MB alone.

    Args:
        make: (variant, pairs, output_dir) -> trainer, for each of VARIANTS.
        num_scored: (chosen, rejected) -> positions that meet a head of the vocabulary's size.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if "--memory" in sys.argv:
            shape, variant = sys.argv[-2:]
            print(peak_memory(step_of(make(variant, pairs(shape), folder))))
            raise SystemExit
        results = {}
        for shape in ROUNDS:
            steps = {variant: step_of(make(variant, pairs(shape), folder)) for variant in VARIANTS}
            losses_agree(make, shape, folder)
            times = paired_rounds(steps, rounds=ROUNDS[shape], calls=1)
            results[shape] = summary(shape, times, num_scored)
            results[shape]["peak_mb"] = {v: round(memory_of(script, shape, v)) for v in ("trl", "ours")}
            print(shape, json.dumps(results[shape]), file=sys.stderr, flush=True)
        return results


def losses_agree(make, shape: str, folder: str) -> None:
    """The same loss to 1e-5 on the first batch, or what is compared is not the same work."""
    losses = []
    for variant in ("ours", "trl"):
        trainer = make(variant, pairs(shape), folder)
        keep = (trainer._set_signature_columns_if_needed(), trainer._signature_columns)[1]
        rows = [{n: v for n, v in trainer.train_dataset[i].items() if n in keep} for i in range(PAIRS_A_STEP)]
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item())
    assert abs(losses[0] - losses[1]) < 1e-5, losses


def memory_of(script: str, shape: str, variant: str) -> float:
    command = [sys.executable, script, "--memory", shape, variant]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def summary(shape: str, times: dict[str, list[float]], num_scored) -> dict:
    """Medians, ratios within each round, and the floor 3 · 2N (P + C + R) at the rate of a plain matrix product."""

    def ratio(slow: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[slow], times["ours"], strict=True)), 2)

    layer_params = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * 1024)
    rows = lengths_of(shape)
    flops = sum(3 * 2 * layer_params * sum(row) for row in rows)
    flops += sum(3 * 2 * VOCAB_SIZE * WIDTH * num_scored(*row[1:]) for row in rows)
    floor = flops / matrix_rate()
    return {
        "seconds": {name: round(statistics.median(t), 3) for name, t in times.items()},
        "trl_over_ours": ratio("trl"),
        "plain_over_ours": ratio("plain"),
        "floor_seconds": round(floor, 3),
        "ours_over_floor": round(statistics.median(times["ours"]) / floor, 2),
    }


def matrix_rate() -> float:
    """FLOP/s of (1024, 384) @ (384, 1024), the best of 20."""
    a, b = torch.randn(1024, WIDTH), torch.randn(WIDTH, 1024)
    seconds = []
    for _ in range(20):
        begin = time.thread_time()
        a @ b
        seconds.append(time.thread_time() - begin)
    return 2 * 1024 * WIDTH * 1024 / min(seconds)
