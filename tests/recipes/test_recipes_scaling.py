"""scaling_laws and plan: a csv, a sweep that is killed and goes on, a budget, and what cannot be used."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from transformers import AutoModelForCausalLM

from hfcourse.pipeline import sweep_run
from hfcourse.pipeline.files import write_json
from hfcourse.pipeline.launch import ScriptArguments, parse
from hfcourse.pipeline.sweep import SweepArguments, _workers, run_file
from hfcourse.pipeline.sweep_run import prepare, sizes_of, train_run
from hfcourse.scaling import ScalingLaw
from hfcourse.scaling.methods import RECIPES as RECIPES_OF_METHODS, Batch
from hfcourse.scaling.planner import DEVICES, launch_line, plan_strategies
from hfcourse.scaling.shapes import shape_for
from hfcourse.tokenization import train_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
OURS = ("scaling_laws", "plan")
YAMLS = sorted(path for name in OURS for path in (RECIPES / "configs" / name).glob("*.yaml"))
LAW = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
TINY = ["--hidden_sizes", "4", "8", "16", "--num_tokens", "640", "1920", "5760", "--num_attention_heads=1"]
TINY += ["--num_hidden_layers=1", "--block_size=16", "--per_device_train_batch_size=2", "--vocab_size=270"]
TINY += ["--num_eval_blocks=8", "--held_out_hidden_size=24", "--dataset_name=world/corpus", "--learning_rate=0.03"]
TINY += ["--num_train_examples=60", "--num_eval_examples=10"]


@pytest.fixture(scope="module")
def runs_csv(tmp_path_factory):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 3e11, 5)))
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    rows = [f"{a:.6g},{b:.6g},{LAW.loss(a, b):.8f}" for a, b in zip(n, d, strict=True)]
    path.write_text("\n".join(["params,tokens,nats", *rows]) + "\n")
    return path


def test_a_law_from_a_csv(run, runs_csv, tmp_path, capsys):
    columns = ["--csv_columns", "params", "tokens", "nats"]
    run("scaling_laws", "--runs_csv", runs_csv, *columns, "--output_dir", tmp_path, "--flops=1e21")
    numbers = json.loads((tmp_path / "law.json").read_text())
    assert numbers["num_runs"] == 25
    assert numbers["law"]["alpha"] == pytest.approx(LAW.alpha, abs=1e-3)
    assert numbers["a"] == pytest.approx(LAW.exponents[0], abs=1e-3)
    assert numbers["budget"]["N"] == pytest.approx(LAW.compute_optimal(1e21)[0], rel=0.01)
    assert numbers["averaged_loss"]["objective"] > 10 * numbers["objective"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "C = 1e+21: N*" in shown
    assert "at Kaplan's sizes 0.7" in shown
    assert numbers["exchange_rate"]["rate"] == pytest.approx(float(LAW.exchange_rate(1e10, 3e11)), rel=0.01)
    assert 0.7 < numbers["a_without_embeddings"] < 0.8  # as Kaplan's 0.73, from a law whose a is 0.51
    assert re.search(r"alpha\s+0\.347", shown)


def made(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*.json")}


def planted(args, run, folder, num_threads):
    """Stands for `train_run`: nothing is trained, the loss is the law's. So the sweep's own part is seen alone."""
    sizes = sizes_of(args, run[0], folder)
    law = ScalingLaw(E=1.0, A=30.0, B=60.0, alpha=0.5, beta=0.5)
    points = [run[1] // 4, run[1] // 2, run[1]]
    record = {"hidden_size": run[0], "num_tokens": run[1], **sizes, "learning_rate": 0.1}
    record |= {"seconds": 6e-8 * sizes["total"] * run[1]}
    record |= {"loss": float(law.loss(sizes["total"], run[1]))}
    record |= {"curve": [(tokens, float(law.loss(sizes["total"], tokens)) * 1.1) for tokens in points]}
    write_json(run_file(folder, run), record)
    return record


def test_a_sweep_goes_on_where_it_was(run, tmp_path, capsys, monkeypatch):
    """A budget for some runs; then, without it, the rest of the grid, none made twice; the planted law is found."""
    monkeypatch.setattr(sweep_run, "train_run", planted)
    argv = ["scaling_laws", *TINY, "--output_dir", tmp_path]
    run(*argv, "--budget_flops=8e8")
    first = made(tmp_path)
    numbers = json.loads((tmp_path / "law.json").read_text())
    records = [json.loads((tmp_path / "runs" / name).read_text()) for name in first]
    assert sum(6 * r["total"] * r["num_tokens"] for r in records) <= 8e8
    assert "width24_tokens5760.json" in first  # what is held out is kept in the budget
    assert 5 <= numbers["num_runs"] < 9
    assert capsys.readouterr().out.count("tokens  loss") == numbers["num_runs"]

    run(*argv)
    after = made(tmp_path)
    assert len(after) == 10
    assert {name: after[name] for name in first} == first
    numbers = json.loads((tmp_path / "law.json").read_text())
    assert numbers["num_runs"] == 9
    assert numbers["law"]["alpha"] == pytest.approx(0.5, abs=1e-4)
    held_out = numbers["held_out"]
    assert held_out["error"] == pytest.approx(0, abs=1e-6)
    assert held_out["times_the_flops_of_the_largest_fitted"] == pytest.approx(13464 / 7504)
    assert numbers["unfinished_too_high"] == pytest.approx([np.log(1.1)] * 3, abs=1e-2)
    rows = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(rows) == 11
    assert (tmp_path / "figure.png").is_file()


def test_minutes_are_a_budget_too(run, tmp_path, monkeypatch):
    """10⁸ FLOPs a second: the grid of nine takes 5.9 s and the run held out 4.7 s; half a minute buys all, 8 s not."""
    monkeypatch.setattr(sweep_run, "train_run", planted)
    run("scaling_laws", *TINY, "--output_dir", tmp_path / "all", "--budget_minutes=0.5")
    assert len(made(tmp_path / "all")) == 10
    run("scaling_laws", *TINY, "--output_dir", tmp_path / "few", "--budget_minutes", 8 / 60)
    assert 6 <= len(made(tmp_path / "few")) < 10
    records = [json.loads(path.read_text()) for path in (tmp_path / "few" / "runs").glob("*.json")]
    assert sum(record["seconds"] for record in records) <= 8


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    """kill -9 runs no handler: a pool's processes would finish their run beside the next start, and wait forever."""
    pids = tmp_path / "pids"
    program = f"""
import os, pathlib, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from hfcourse.pipeline.sweep import _end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
    pid = pool.submit(os.getpid).result()
    pool.submit(time.sleep, 60)
    pathlib.Path({str(pids)!r}).write_text(str(pid))
    time.sleep(60)
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, script])
    until(lambda: pids.is_file() and pids.read_text())
    parent.kill()
    parent.wait()
    until(lambda: not is_running(int(pids.read_text())))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_real_runs_are_the_same_in_every_process(tmp_path):
    """Two runs in this process and in two others: the same losses on the way; and what a run records.

    Llama of width 8, one layer, MLP of 24, 270 tokens: 4·8² + 3·8·24 + 2·8 + 8 = 856, and 2160 of embeddings. The
    learning rate is 0.03 at width 32, 4 times that at width 8.
    """
    script_args, args = parse(ScriptArguments, SweepArguments, argv=[*TINY, "--output_dir", str(tmp_path)])
    prepare(args, script_args, tmp_path)
    runs = [(8, 1920), (16, 640)]
    here = [train_run(args, run, tmp_path, 1) for run in runs]
    with _workers(2) as submit:
        there = [future.result() for future in [submit(args, run, tmp_path, 1) for run in runs]]
    assert [record["curve"] for record in here] == [record["curve"] for record in there]
    record = here[0]
    assert (record["non_embedding"], record["total"]) == (856, 856 + 2160)
    assert record["learning_rate"] == pytest.approx(0.12)
    tokens, losses = zip(*record["curve"], strict=True)
    assert tokens[-1] == record["num_tokens"] == 1920
    assert losses[-1] == record["loss"] < losses[0] < 7
    assert list(tokens) == sorted(tokens)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "width16_tokens640.json",
        "width8_tokens1920.json",
    ]


def test_a_plan_for_a_budget(run, tmp_path, capsys):
    """Chinchilla's law, replicated, at 10²¹: N* 2.78 B, D* 60 B; 8 × 989e12 · 0.4 · 86,400 s a day: 3.66 days."""
    run("plan", "--flops=1e21", "--output_json", tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["budget"]["num_params"] == pytest.approx(2.78e9, rel=2e-3)
    assert plan["budget"]["num_tokens"] == pytest.approx(60e9, rel=2e-3)
    assert plan["budget"]["days"] == pytest.approx(1e21 / (8 * 989e12 * 0.4 * 86_400), rel=1e-9)
    assert plan["shape"]["num_params"] == pytest.approx(2.78e9, rel=0.05)
    shown = capsys.readouterr().out
    assert plan["strategies"][plan["recommended"]]["command"] in shown
    run("plan", "--days", plan["budget"]["days"], "--output_json", tmp_path / "same.json")
    assert json.loads((tmp_path / "same.json").read_text())["budget"]["flops"] == pytest.approx(1e21, rel=1e-9)


def test_a_plan_by_a_law_of_ones_own(run, tmp_path):
    law = {"E": 1.0, "A": 4.0, "B": 1.0, "alpha": 0.5, "beta": 0.5}
    (tmp_path / "law.json").write_text(json.dumps({"law": law}))
    run("plan", "--flops=6e12", "--law_json", tmp_path / "law.json", "--output_json", tmp_path / "plan.json")
    budget = json.loads((tmp_path / "plan.json").read_text())["budget"]
    assert (budget["num_params"], budget["num_tokens"]) == pytest.approx((4e6, 2.5e5))


def test_the_peak_falls_with_width_and_with_tokens():
    """0.03 at width 32 and 1 M tokens; half at twice the width; at 8 M tokens (1/8)^(1/3) = half of that."""
    args = SweepArguments(learning_rate=0.03, learning_rate_tokens_exponent=1 / 3)
    peaks = [args.peak_learning_rate(*run) for run in ((32, 1_000_000), (64, 1_000_000), (64, 8_000_000))]
    assert peaks == pytest.approx([0.03, 0.015, 0.0075])


def test_a_plan_for_a_model(run, tiny_llama_dir, tmp_path, capsys):
    model = ["plan", "--model_name_or_path", tiny_llama_dir, "--method=ppo", "--gpus=4xA100"]
    run(*model, "--strategy=fsdp2", "--output_json", tmp_path / "plan.json")
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert list(plan["strategies"]) == ["fsdp2"]
    command = plan["strategies"]["fsdp2"]["command"]
    out = capsys.readouterr().out
    assert out.strip().endswith(command)
    assert "not counted: a reward model of its own" in out
    assert "accelerate_configs/fsdp2.yaml --num_processes 4 recipes/ppo.py" in command
    run(*model)
    assert "take ddp:" in capsys.readouterr().out  # it is tiny


def test_launch_lines_are_understood_by_their_recipes(error_of):
    """Every method under every strategy: the accelerate file exists, and the recipe's own parser takes each flag.

    The parser names the first thing that it does not know: it must be the flag that was put there for this.
    """
    batch, shape = Batch(2, 32, 16, num_iterations=3), shape_for(3e8)
    parsed = set()
    for method, recipe in RECIPES_OF_METHODS.items():
        for plan in [
            plan
            for num_devices, model in ((1, None), (4, "my model"))
            for plan in plan_strategies(
                shape,
                method,
                batch,
                num_devices,
                DEVICES["h100"],
                gradient_checkpointing=True,
                model_name_or_path=model,
            )
        ]:
            words = shlex.split(plan.command)
            file = words[words.index("--config_file") + 1]
            assert (RECIPES.parent / file).is_file()
            is_parallel = not file.endswith("single_gpu.yaml")
            assert ("--num_processes" in words) == is_parallel  # else the file's own number would start
            flags = words[words.index(f"recipes/{recipe}.py") + 1 :]
            if (recipe, *flags) not in parsed:
                parsed.add((recipe, *flags))
                error = error_of(recipe, *flags, "--no_such_flag")
                assert error.startswith("error: unknown key '--no_such_flag' in the command line"), plan.command
    assert len(parsed) == 2 * 2 * len(RECIPES_OF_METHODS)


def test_a_launch_line_says_all_that_was_planned_for():
    """Context, precision and checkpointing decide the memory: by its defaults the recipe would start another run."""
    batch = Batch(2, 32, 16, num_iterations=3)
    line = launch_line("clm", "lora", 4, True, batch, 8, False, ["--hidden_size 64"])
    assert line == (
        "accelerate launch --config_file accelerate_configs/multi_gpu.yaml --num_processes 4 "
        "recipes/pretrain_causal_lm.py --hidden_size 64 --per_device_train_batch_size 2 --block_size 48 --bf16 false "
        "--gradient_checkpointing true --use_peft true --lora_r 8 --lora_target_modules all-linear"
    )
    assert "--max_length 48" in launch_line("dpo", "ddp", 4, True, batch)
    assert "--max_completion_length 16 --num_iterations 3" in launch_line("ppo", "none", 1, True, batch)


def test_a_model_launched_by_its_plan_has_the_planned_size(run, tmp_path):
    """The shape's flags, given to the recipe, make a model of as many parameters as the plan counts."""
    shape = shape_for(2e5, vocab_size=270)
    plan = plan_strategies(shape, "clm", Batch(2, 16, 16), 1, DEVICES["h100"], is_bf16=False, strategies=("none",))[0]
    words = shlex.split(plan.command)
    flags = words[words.index("recipes/pretrain_causal_lm.py") + 1 :]
    train_tokenizer(["a b c"], 270).save_pretrained(tmp_path / "tokenizer")
    run(
        *("pretrain_causal_lm", *flags, "--tokenizer_name_or_path", tmp_path / "tokenizer", "--max_steps=1"),
        *("--dataset_name=world/corpus", "--num_train_examples=20", "--output_dir", tmp_path / "model"),
        *("--save_strategy=no", "--use_cpu=true", "--report_to=none"),
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    vocabulary = model.config.vocab_size
    assert model.num_parameters() == shape.num_params + 2 * (vocabulary - 270) * shape.hidden_size


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_yaml_parses_and_says_how_to_launch_it(path, error_of):
    assert error_of(path.parent.name, "--config", path, "--no_such_flag").startswith(
        "error: unknown key '--no_such_flag' in the command line"
    )
    header = re.match(r"(# .*\n)+", path.read_text()).group()
    assert f"recipes/{path.parent.name}.py --config recipes/configs/{path.parent.name}/{path.name}" in header
    assert yaml.safe_load(path.read_text()).get("output_dir", "runs/").startswith("runs/")


def test_bad_input_is_one_line(error_of, runs_csv, tmp_path):
    sweep = ["scaling_laws", *TINY, "--output_dir", tmp_path]
    cases = [
        (["scaling_laws", "--runs_csv", tmp_path / "gone.csv"], "runs_csv: there is no file"),
        (["scaling_laws", "--runs_csv", runs_csv], "has no column 'N', only params, tokens, nats"),
        (["scaling_laws", "--runs_csv", runs_csv, "--csv_columns", "a", "b"], "are not three names"),
        ([*sweep, "--budget_flops=1e9", "--budget_minutes=1"], "give one of them"),
        ([*sweep, "--hidden_sizes", "4", "8"], "hidden_sizes: give at least 3"),
        ([*sweep, "--hidden_sizes", "4", "8", "9"], "9 is no multiple of 2 × num_attention_heads"),
        ([*sweep, "--num_tokens", "64", "640", "960"], "64 are fewer than 20 steps of 32"),
        ([*sweep, "--num_tokens", "640", "960", "999000"], "give more num_train_examples"),
        ([*sweep, "--budget_flops=10"], "budget: it allows 0 runs"),
        (["plan"], "give one of them, a budget or a model"),
        (["plan", "--flops=1e21", "--days=3"], "give one of them"),
        (["plan", "--flops=1e21", "--gpus=8xH42"], "'8xH42' is no 8xH100; the devices are V100, A100"),
        (["plan", "--flops=1e21", "--mfu=40"], "mfu: 40.0 is no share"),
        (["plan", "--flops=1e21", "--strategy=magic"], "strategy: 'magic' is none of none, lora"),
        (["plan", "--flops=1e21", "--law_json", runs_csv], "is no law.json"),
        (["plan", "--model_name_or_path", tmp_path], "no config in"),
    ]
    for argv, message in cases:
        error = error_of(*argv)
        assert error.startswith("error: "), argv
        assert message in error, argv
