"""Fit a scaling law L(N, D) = E + A/N^α + B/D^β: to runs of a csv, or to a sweep that is made here.

    python recipes/scaling_laws.py --runs_csv runs.csv --csv_columns N D loss --output_dir runs/my_law
    python recipes/scaling_laws.py --config recipes/configs/scaling_laws/llama_world.yaml

A sweep trains small Llamas of --hidden_sizes on --num_tokens with CausalLMTrainer, one file a run. Killed, it goes on
with the runs that are missing; with more sizes, tokens or budget, it adds to them. With --budget_flops or
--budget_minutes it makes the runs that tell most about the one held out (`hfcourse.scaling.design`); --num_workers
train side by side. Writes law.json, runs.csv and figure.png (which needs matplotlib, the extra `report`).

What to watch: `error`, by how much the law misses the held-out run, which is larger than any fitted; and the interval
of `a`, the exponent of N* ∝ C^a.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, parse, recipe
from hfcourse.pipeline.sweep import SweepArguments, run_sweep


@dataclass
class LawArguments:
    _argument_group_name = "law"

    runs_csv: str | None = field(default=None, metadata={"help": "Fit these runs instead of making any."})
    csv_columns: list[str] = field(
        default_factory=lambda: ["N", "D", "loss"], metadata={"help": "Its columns: parameters, tokens, loss."}
    )
    flops: float | None = field(default=None, metadata={"help": "Say what the law makes of this budget, too."})


def main():
    script_args, sweep, args = parse(ScriptArguments, SweepArguments, LawArguments, description=__doc__)
    if len(args.csv_columns) != 3:
        raise InputError(f"csv_columns: {args.csv_columns} are not three names: parameters, tokens, loss")

    from hfcourse.pipeline.files import write_json, write_text
    from hfcourse.pipeline.law_report import describe_law, describe_sweep, law_text, read_runs

    folder = Path(sweep.output_dir)
    if args.runs_csv is not None:
        runs = read_runs(args.runs_csv, tuple(args.csv_columns))
        law, _, numbers = describe_law(*runs)
    else:
        records = run_sweep(sweep, script_args)
        fitted = [r for r in records if (r["hidden_size"], r["num_tokens"]) != sweep.held_out]
        law, numbers = describe_sweep(records, sweep.held_out, sweep.count)
        runs = [[r[name] for r in fitted] for name in (sweep.count, "num_tokens", "loss")]
        names = ("hidden_size", "total", "non_embedding", "num_tokens", "learning_rate", "loss", "seconds")
        lines = [",".join(names), *(",".join(str(r[name]) for name in names) for r in records)]
        write_text(folder / "runs.csv", "\n".join(lines) + "\n")

    if args.flops is not None:
        num_params, num_tokens = law.compute_optimal(args.flops)
        numbers["budget"] = {"flops": args.flops, "N": float(num_params), "D": float(num_tokens)}
        numbers["budget"]["loss"] = float(law.optimal_loss(args.flops))
    write_json(folder / "law.json", numbers)
    print(law_text(law, numbers))
    try:
        from hfcourse.report.scaling_figure import write_scaling_figure
    except ImportError as e:
        print(f"no figure: {e}; pip install 'hfcourse[report]'")
        return
    write_scaling_figure(folder / "figure.png", law, *runs, numbers.get("held_out"))
    print(f"figure: {folder / 'figure.png'}")


if __name__ == "__main__":
    recipe(main)
