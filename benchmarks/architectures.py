"""Encoder, encoder-decoder or decoder, deep or wide: one task, one recipe, equal FLOPs, one table.

    python benchmarks/architectures.py        # half an hour on a core; goes on where it was, in runs/architectures

What is compared is log p(target | input) on the world's text-to-text tasks (feeling, question, translation, title), in
nats a target token with its EOS, on questions that the training text never asks; and the share of targets whose every
token is the most likely one (for the decoders: what greedy decoding gets wholly right).

    decoder          Llama, causal, reads input EOS target:  Π_t p(y_t | x, y_<t), the loss on the target alone
    encoder          the same Llama, every position sees all; the target is 8 masks:  Π_t p(y_t | x), in one pass
    encoder-decoder  T5 (gated), half of the layers on each side:  Π_t p(y_t | x, y_<t)

All three are probabilities of the same target, so that their losses compare, over all tasks and task by task. That
the encoder's tokens cannot see one another is its handicap, and that it needs one pass its merit. The pretraining
losses of the three (masked, span corruption, causal) are of different predictions, do not compare, and are not here.

Recipe: AdamW (0.9, 0.95), weight decay 0.1, 32 examples a step, cosine to 0 after 5 % of warm-up, clipped at 1. Peaks
are 0.6/width and its halves and doubles, as long as the held-out loss falls, so that no row's best lies at an edge;
with it another seed of weights and order. A row is the mean of its two seeds, "±" half of what they differ by. FLOPs
are torch's count of a step (eager attention), every position read, and all runs spend the same. What differs besides
the architecture: T5 has relative position biases, its own initialisation and a gated GELU, Llama rotary ones, SwiGLU.

Writes architectures.json and, as a table, architectures.md.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hfcourse.pipeline.files import write_json
from hfcourse.tokenization import train_tokenizer
from hfcourse.world import load

VOCAB_SIZE, INPUT_LENGTH, TARGET_LENGTH = 512, 40, 8
BATCH_SIZE, NUM_TRAIN, NUM_TEST = 32, 40_000, 1024
BUDGET = 1.2e12
FIRST_PEAK = 0.6  # divided by the width
NUM_SEEDS = 2
SHAPES = ((96, 2), (64, 4), (48, 8))  # width, layers: about as many parameters in the layers
ARCHITECTURES = ("encoder", "encoder-decoder", "decoder")
TASKS = ("sentiment", "question", "translate", "title")
PAD, EOS, MASK, IGNORE = 0, 1, 2, -100


def read(split: str, num_examples: int, tokenizer=None):
    """(tokenizer, [(input ids, target ids)], each with EOS, [task]); pairs too long for the lengths are left out."""
    rows = load("text_to_text", split, num_examples=num_examples)
    inputs, targets, tasks = list(rows["input"]), list(rows["target"]), list(rows["task"])
    if tokenizer is None:
        texts = [f"{x} {y}" for x, y in zip(inputs, targets, strict=True)]
        tokenizer = train_tokenizer(texts[:5000], VOCAB_SIZE, special_tokens=("<|mask|>",))
    encoded = [
        tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (inputs, [f" {y}" for y in targets])
    ]
    pairs = [([*x, EOS], [*y, EOS]) for x, y in zip(*encoded, strict=True)]
    kept = [i for i, (x, y) in enumerate(pairs) if len(x) <= INPUT_LENGTH and len(y) <= TARGET_LENGTH]
    print(f"{split}: {len(kept)} of {len(pairs)} pairs are short enough", flush=True)
    return tokenizer, [pairs[i] for i in kept], [tasks[i] for i in kept]


def padded(rows: list[list[int]], length: int, fill: int) -> torch.Tensor:
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def batch_of(architecture: str, pairs) -> tuple[dict, torch.Tensor]:
    """Model inputs and labels aligned with its logits: (B, T), -100 where no target token is predicted."""
    x, y = [list(column) for column in zip(*pairs, strict=True)]
    total = INPUT_LENGTH + TARGET_LENGTH
    if architecture == "encoder-decoder":
        ids, labels = padded(x, INPUT_LENGTH, PAD), padded(y, TARGET_LENGTH, IGNORE)
        start = torch.full_like(labels[:, :1], PAD)
        read = torch.cat([start, labels[:, :-1].where(labels[:, :-1] != IGNORE, PAD)], 1)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "decoder_input_ids": read}, labels
    if architecture == "decoder":
        ids = padded([a + b for a, b in pairs], total, PAD)
        labels = padded([[IGNORE] * (len(a) - 1) + b for a, b in pairs], total, IGNORE)  # one earlier: it predicts
        return {"input_ids": ids}, labels
    ids = padded([a + [MASK] * TARGET_LENGTH for a in x], total, PAD)
    labels = padded([[IGNORE] * len(a) + b for a, b in pairs], total, IGNORE)
    seen = (ids != PAD)[:, None, None, :].expand(-1, 1, total, -1)
    return {"input_ids": ids, "attention_mask": torch.zeros(seen.shape).masked_fill(~seen, -1e9)}, labels


def model_of(architecture: str, width: int, layers: int, vocab_size: int):
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    mlp = -(-8 * width // 12) * 4
    if architecture == "encoder-decoder":
        config = T5Config(
            vocab_size=vocab_size,
            d_model=width,
            d_ff=mlp,
            d_kv=width // 4,
            num_heads=4,
            num_layers=layers // 2,
            num_decoder_layers=layers // 2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            decoder_start_token_id=PAD,
        )
        return T5ForConditionalGeneration(config)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=INPUT_LENGTH + TARGET_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def losses_of(model, inputs: dict, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p of every target token (B, T), 0 elsewhere, and per row whether each is the most likely one (B,)."""
    logits = model(**inputs, use_cache=False).logits
    right = (logits.argmax(-1) == labels) | (labels == IGNORE)
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none"), right.all(1)


def loss_of(model, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    """Mean nats a target token."""
    return losses_of(model, inputs, labels)[0].sum() / (labels != IGNORE).sum()


def evaluate(architecture: str, model, pairs, tasks: list[str]) -> dict:
    """Nats a target token and the share of targets that are wholly right, over all tasks and of each."""
    inputs, labels = batch_of(architecture, pairs)
    with torch.no_grad():
        losses, right = losses_of(model.eval(), inputs, labels)
    numbers = {}
    for name in ("all", *TASKS):
        rows = torch.tensor([name in ("all", task) for task in tasks])
        loss = losses[rows].sum() / (labels[rows] != IGNORE).sum()
        numbers[name] = (round(loss.item(), 4), round(right[rows].float().mean().item(), 4))
    return numbers


def flops_a_step(architecture: str, width: int, layers: int, pairs, vocab_size: int) -> int:
    model = model_of(architecture, width, layers, vocab_size)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        loss_of(model, *batch_of(architecture, pairs[:BATCH_SIZE])).backward()
    return counter.get_total_flops()


def train(architecture: str, width: int, layers: int, peak: float, seed: int, train_pairs, test, vocab_size) -> dict:
    flops = flops_a_step(architecture, width, layers, train_pairs, vocab_size)
    steps = round(BUDGET / flops)
    torch.manual_seed(seed)
    model = model_of(architecture, width, layers, vocab_size)
    optimizer = torch.optim.AdamW(model.parameters(), peak / width, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warm_up, 0.5 + 0.5 * float(torch.tensor(torch.pi * i / steps).cos()))
    )
    order = torch.cat([torch.randperm(len(train_pairs)) for _ in range(1 + steps * BATCH_SIZE // len(train_pairs))])
    start = time.perf_counter()
    for step in range(steps):
        rows = [train_pairs[i] for i in order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE].tolist()]
        loss_of(model, *batch_of(architecture, rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "losses": evaluate(architecture, model, *test),
        "params": model.num_parameters(),
        "steps": steps,
        "gflop_a_step": round(flops / 1e9, 3),
        "peak": peak,
        "seconds": round(seconds, 1),
    }


def best_peak(loss_at) -> float:
    """The peak with the lowest loss: from FIRST_PEAK by halves or doubles, whichever way it falls, until it rises."""
    peak, factor = FIRST_PEAK, 0.5
    if loss_at(peak * factor) >= loss_at(peak):
        factor = 2.0
    while loss_at(peak * factor) < loss_at(peak):
        peak *= factor
    return peak


def table(rows: dict) -> str:
    """Markdown: nats a token and per cent wholly right, of each row."""
    lines = [
        "| architecture, layers × width | parameters | GFLOP a step | steps | nats a target token | targets right | "
        + " | ".join(TASKS)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(TASKS),
    ]
    for name, row in rows.items():
        cells = [f"{row['params']:,}", row["gflop_a_step"], row["steps"], f"{row['loss']:.3f} ± {row['spread']:.3f}"]
        cells += [f"{row['right']:.0%}", *(f"{loss:.2f}, {right:.0%}" for loss, right in row["tasks"].values())]
        lines.append(f"| {name} | " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "runs" / "architectures"
    tokenizer, train_pairs, _ = read("train", NUM_TRAIN)
    _, *test = read("test", NUM_TEST, tokenizer)

    def run(architecture: str, width: int, layers: int, peak: float, seed: int = 0) -> dict:
        path = folder / f"{architecture}_{width}_{layers}_{peak:g}_{seed}.json"
        if not path.is_file():
            write_json(path, train(architecture, width, layers, peak, seed, train_pairs, test, len(tokenizer)))
            print(path.stem, path.read_text(encoding="utf-8"), flush=True)
        return json.loads(path.read_text(encoding="utf-8"))

    def loss_at(*arguments) -> float:
        return run(*arguments)["losses"]["all"][0]

    rows = {}
    for architecture in ARCHITECTURES:
        for shape in SHAPES:
            peak = best_peak(partial(loss_at, architecture, *shape))
            seeds = [run(architecture, *shape, peak, seed) for seed in range(NUM_SEEDS)]
            tasks = {
                task: [round(fmean(run["losses"][task][i] for run in seeds), 4) for i in (0, 1)]
                for task in ("all", *TASKS)
            }
            losses = [run["losses"]["all"][0] for run in seeds]
            row = {name: seeds[0][name] for name in ("params", "gflop_a_step", "steps", "peak")}
            row |= {"loss": tasks["all"][0], "right": tasks.pop("all")[1], "tasks": tasks}
            rows[f"{architecture}, {shape[1]} × {shape[0]}"] = row | {
                "spread": round(max(losses) - min(losses), 4) / 2
            }
    seconds = sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in folder.glob("*.json"))
    result = {"benchmark": "architectures", "budget_flops": BUDGET, "rows": rows, "minutes": round(seconds / 60, 1)}
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    Path(__file__).with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))
    print(line)


if __name__ == "__main__":
    main()
