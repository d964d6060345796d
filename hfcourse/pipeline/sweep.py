"""A sweep over sizes and tokens: each run is one file, a budget chooses them, several train side by side."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfcourse.errors import InputError
from hfcourse.pipeline.files import claim_folder
from hfcourse.scaling.design import flops_of, next_run

MIN_RUNS = 5
# What may change between two starts on one folder: more sizes, more tokens, another budget.
NOT_SETTINGS = ("output_dir", "hidden_sizes", "num_tokens", "held_out_hidden_size", "held_out_num_tokens")
NOT_SETTINGS += ("budget_flops", "budget_minutes", "num_workers", "count")


@dataclass
class SweepArguments:
    """What is run, how each run is trained, and what may be spent."""

    _argument_group_name = "sweep"

    output_dir: str = field(default="scaling_laws", metadata={"help": "Folder of runs, law.json and figure.png."})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder. Unset: one of --vocab_size is trained on the corpus."}
    )
    vocab_size: int = field(default=512, metadata={"help": "Tokens of the tokenizer that is trained."})
    hidden_sizes: list[int] = field(
        default_factory=lambda: [12, 16, 24, 32], metadata={"help": "Widths of the models."}
    )
    num_tokens: list[int] = field(
        default_factory=lambda: [500_000, 1_000_000, 2_000_000, 4_000_000],
        metadata={"help": "Tokens that each size may be trained on; cut to whole steps."},
    )
    held_out_hidden_size: int | None = field(
        default=None, metadata={"help": "Width of the run that is predicted first and made last. Unset: none is made."}
    )
    held_out_num_tokens: int | None = field(
        default=None, metadata={"help": "Its tokens. Unset: the most of the rest."}
    )
    num_hidden_layers: int = field(default=2, metadata={"help": "Layers of every size."})
    num_attention_heads: int = field(default=2, metadata={"help": "Heads of every size."})
    block_size: int = field(default=128, metadata={"help": "Tokens a block."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Blocks a step, the same for all runs."})
    learning_rate: float = field(
        default=1e-2,
        metadata={"help": "Peak at learning_rate_width; falls to 0 on a cosine of each run's own length."},
    )
    learning_rate_width: int = field(default=32, metadata={"help": "The width that learning_rate was tuned at."})
    learning_rate_exponent: float = field(
        default=1.0,
        metadata={"help": "Peak = learning_rate × (learning_rate_width / width)^this; 1 is µP's for Adam."},
    )
    learning_rate_num_tokens: int = field(
        default=1_000_000, metadata={"help": "The tokens that learning_rate was tuned at."}
    )
    learning_rate_tokens_exponent: float = field(
        default=0.0,
        metadata={
            "help": "Peak × (learning_rate_num_tokens / num_tokens)^this: longer runs want a lower rate. About a "
            "third in 'Scaling Optimal LR Across Token Horizons' (2409.19913); 0 takes one rate for all."
        },
    )
    warmup_share: float = field(default=0.05, metadata={"help": "Share of a run's steps in which the rate rises."})
    weight_decay: float = field(default=0.1, metadata={"help": "Of AdamW."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the documents."})
    num_eval_blocks: int = field(default=256, metadata={"help": "Held-out blocks that the loss is measured on."})
    seed: int = field(default=0, metadata={"help": "Of weights and order."})
    count: str = field(
        default="total",
        metadata={"help": "N of the law: total or non_embedding.", "choices": ["total", "non_embedding"]},
    )
    budget_flops: float | None = field(default=None, metadata={"help": "6 N D of all runs together, at most."})
    budget_minutes: float | None = field(default=None, metadata={"help": "Minutes that the runs take, at most."})
    num_workers: int = field(
        default=1, metadata={"help": "Runs side by side, each in a process on its share of cores."}
    )

    def __post_init__(self):
        if self.budget_flops is not None and self.budget_minutes is not None:
            raise InputError("budget_flops and budget_minutes: give one of them")
        for name in ("hidden_sizes", "num_tokens"):
            if len(set(getattr(self, name))) < 3:
                raise InputError(f"{name}: give at least 3; a law cannot be told from fewer")
        for width in (*self.hidden_sizes, self.held_out_hidden_size or self.hidden_sizes[0]):
            if width % (2 * self.num_attention_heads):
                raise InputError(
                    f"hidden_sizes: {width} is no multiple of 2 × num_attention_heads; change one of them"
                )
        shortest = min(self.num_tokens)
        if shortest < 20 * self.tokens_a_step:
            raise InputError(f"num_tokens: {shortest} are fewer than 20 steps of {self.tokens_a_step}; give more")

    @property
    def tokens_a_step(self) -> int:
        return self.block_size * self.per_device_train_batch_size

    @property
    def held_out(self) -> tuple[int, int] | None:
        """(width, tokens) of the run that is predicted."""
        if self.held_out_hidden_size is None:
            return None
        return self.held_out_hidden_size, self.whole(self.held_out_num_tokens or max(self.num_tokens))

    def whole(self, num_tokens: int) -> int:
        """The tokens of whole steps: D of the law."""
        return num_tokens // self.tokens_a_step * self.tokens_a_step

    def peak_learning_rate(self, width: int, num_tokens: int) -> float:
        of_width = (self.learning_rate_width / width) ** self.learning_rate_exponent
        of_tokens = (self.learning_rate_num_tokens / num_tokens) ** self.learning_rate_tokens_exponent
        return self.learning_rate * of_width * of_tokens

    def grid(self) -> list[tuple[int, int]]:
        """(width, tokens) of the runs that may be made, without the one held out."""
        runs = [(width, self.whole(tokens)) for width in self.hidden_sizes for tokens in self.num_tokens]
        return [run for run in dict.fromkeys(runs) if run != self.held_out]

    def settings(self) -> dict:
        return {name: value for name, value in asdict(self).items() if name not in NOT_SETTINGS}


def run_sweep(args: SweepArguments, script_args, say=print) -> list[dict]:
    """Make the runs that the budget allows, those that tell most first; runs that the folder holds are not made again.

    Returns:
        What `hfcourse.pipeline.sweep_run.train_run` recorded of each run, the one held out last (where there is one).
    """
    from hfcourse.pipeline.sweep_run import prepare, sizes_of

    folder = Path(args.output_dir)
    claim_folder(folder, {"data": vars(script_args), "sweep": args.settings()})
    for scratch in (folder / "runs").glob("scratch*"):  # of runs that were killed
        shutil.rmtree(scratch, ignore_errors=True)
    prepare(args, script_args, folder)
    sizes = {width: sizes_of(args, width, folder)[args.count] for width, _ in (*args.grid(), *_one(args.held_out))}
    cores = max(1, (os.cpu_count() or 1) // args.num_workers)
    running: dict[Future, tuple[int, int]] = {}
    with _workers(args.num_workers) as submit:
        while True:
            while len(running) < args.num_workers:
                run = _choose(args, sizes, folder, list(running.values()))
                if run is None:
                    break
                running[submit(args, run, folder, cores)] = run
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                width, tokens = running.pop(future)
                say(f"width {width:>4}  {tokens:>10} tokens  loss {future.result()['loss']:.4f}")
        made = sum(read_run(folder, run) is not None for run in args.grid())
        if made < MIN_RUNS:
            raise InputError(
                f"budget: it allows {made} runs beside the one held out, and a law takes {MIN_RUNS}; raise it"
            )
        if args.held_out is not None and read_run(folder, args.held_out) is None:
            submit(args, args.held_out, folder, cores).result()
    return [r for run in (*args.grid(), *_one(args.held_out)) if (r := read_run(folder, run)) is not None]


def _one(run: tuple[int, int] | None) -> list[tuple[int, int]]:
    return [] if run is None else [run]


def run_file(folder: Path, run: tuple[int, int]) -> Path:
    return folder / "runs" / f"width{run[0]}_tokens{run[1]}.json"


def read_run(folder: Path, run: tuple[int, int]) -> dict | None:
    """What is recorded of a run, or None if it has not been finished."""
    path = run_file(folder, run)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _choose(args: SweepArguments, sizes: dict[int, int], folder: Path, running: list) -> tuple[int, int] | None:
    """The next (width, tokens), or None where the grid is finished or the budget is spent."""
    grid = args.grid()
    records = [record for run in grid if (record := read_run(folder, run)) is not None]
    target = args.held_out or max(grid, key=lambda run: sizes[run[0]] * run[1])
    as_law = {run: (sizes[run[0]], run[1]) for run in (*grid, target, *running)}
    costs, spent = _costs(args, [as_law[run] for run in (*grid, target)], records)
    under_way = sum(costs[grid.index(run)] for run in running)
    budget = _budget(args) - spent - under_way - (costs[-1] if args.held_out else 0)
    chosen = next_run(
        [as_law[run] for run in grid],
        [(record[args.count], record["num_tokens"]) for record in records],
        [record["loss"] for record in records],
        as_law[target],
        costs[:-1],
        budget,
        [as_law[run] for run in running],
    )
    return None if chosen is None else grid[chosen]


def _budget(args: SweepArguments) -> float:
    if args.budget_minutes is not None:
        return 60 * args.budget_minutes * args.num_workers
    return np.inf if args.budget_flops is None else args.budget_flops


def _costs(args: SweepArguments, runs: list, records: list[dict]) -> tuple[NDArray, float]:
    """Of each run, and of those that were made, in the unit of the budget; seconds are told from the runs so far."""
    if args.budget_minutes is None:
        done = [(record[args.count], record["num_tokens"]) for record in records]
        return flops_of(runs), float(flops_of(done).sum()) if done else 0.0
    return estimated_seconds(args.count, runs, records), sum(record["seconds"] for record in records)


def estimated_seconds(count: str, runs: list, records: list[dict]) -> NDArray:
    """Seconds = D·(c₀ + c₁ N), c ≥ 0, by least squares over the runs so far; one size alone scales with N."""
    n, d = np.asarray(runs, dtype=np.float64).T
    if not records:
        return flops_of(runs) * 1e-15  # only their order is known
    made = np.array([(record[count], record["num_tokens"], record["seconds"]) for record in records])
    per_token = made[:, 2] / made[:, 1]
    if len(set(made[:, 0])) == 1:
        return d * per_token.mean() * np.maximum(1, n / made[0, 0])
    slope, start = np.polyfit(made[:, 0], per_token, 1, w=np.sqrt(made[:, 1]))
    return d * np.maximum(start + slope * n, per_token.min())


@contextmanager
def _workers(num_workers: int) -> Iterator:
    """`submit(args, run, folder, cores)` -> Future, in this process or in one of several."""
    from hfcourse.pipeline.sweep_run import train_run

    if num_workers == 1:
        yield lambda *arguments: _done(train_run(*arguments))
        return
    with ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_end_with_parent) as pool:
        yield lambda *arguments: pool.submit(train_run, *arguments)


def _end_with_parent() -> None:
    """A pool's processes outlive a parent that is killed, and wait for work forever; these end with it."""

    def watch():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _done(result: dict) -> Future:
    future: Future = Future()
    future.set_result(result)
    return future
