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
    from hfcourse.pipeline.law_report import REPLICATION, describe_law, describe_sweep, read_runs

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
    print(f"{numbers['num_runs']} runs                     95 % interval      averaged loss   Chinchilla, replicated")
    for name, value in numbers["law"].items():
        low, high = numbers["interval"][name]
        others = f"{numbers['averaged_loss'][name]:>14.5g} {getattr(REPLICATION, name):>18.5g}"
        print(f"{name:>9} {value:>10.5g}   [{low:>9.4g}, {high:>9.4g}] {others}")
    low, high = numbers["a_interval"]
    print(
        f"N* ∝ C^a {law.exponents[0]:>10.4f}   [{low:>9.4f}, {high:>9.4f}] {numbers['averaged_loss']['a']:>14.4f}",
        end="",
    )
    print(f" {REPLICATION.exponents[0]:>18.4f}")
    print(
        f"objective {numbers['objective']:.5g}, averaged instead of summed {numbers['averaged_loss']['objective']:.5g}"
    )
    if "budget" in numbers:
        print("C = {flops:.3g}: N* {N:.3g}, D* {D:.3g}, loss {loss:.4f}".format(**numbers["budget"]))
    held_out = numbers.get("held_out")
    if held_out:
        print("held out: foreseen {foreseen:.4f}, measured {loss:.4f}, error {error:+.2%}".format(**held_out))
    try:
        from hfcourse.report.scaling_figure import write_scaling_figure
    except ImportError as e:
        print(f"no figure: {e}; pip install 'hfcourse[report]'")
        return
    write_scaling_figure(folder / "figure.png", law, *runs, held_out)
    print(f"figure: {folder / 'figure.png'}")


if __name__ == "__main__":
    recipe(main)
