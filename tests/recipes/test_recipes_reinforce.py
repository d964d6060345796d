"""reinforce: its YAML parses, two steps run and leave an ordinary model, what it cannot use is one line."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

RECIPES = Path(__file__).parents[2] / "recipes"
YAMLS = sorted((RECIPES / "configs" / "reinforce").glob("*.yaml"))


@pytest.fixture
def run(monkeypatch):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["reinforce.py", *map(str, argv)])
        runpy.run_path(str(RECIPES / "reinforce.py"), run_name="__main__")

    return run


@pytest.fixture
def prompts(tmp_path):
    Dataset.from_list([{"prompt": f"Where is {name}?"} for name in ("Mara", "the fox", "Oakton", "the door")]).to_json(
        tmp_path / "prompts.jsonl"
    )
    return tmp_path / "prompts.jsonl"


def test_two_steps(run, prompts, tiny_llama_dir, tmp_path):
    """A function by its dotted path rewards them: `len` of the prompts is no reward, so one that takes columns."""
    (tmp_path / "rewards.py").write_text(
        "def spaces(completions, **c):\n    return [t.count(' ') for t in completions]\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        run(
            *(f"--model_name_or_path={tiny_llama_dir}", f"--dataset_name={prompts}", "--reward_funcs=rewards.spaces"),
            *("--baseline=leave_one_out", "--num_generations=2", "--per_device_train_batch_size=4", "--max_steps=2"),
            *("--max_completion_length=4", "--logging_steps=1", f"--output_dir={tmp_path / 'out'}"),
        )
    finally:
        sys.path.remove(str(tmp_path))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.hidden_size == 32
    logs = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [log["ratio_at_step0"] for log in logs if "reward" in log] == pytest.approx([1.0, 1.0], abs=2e-5)


def test_the_gold_is_watched_and_a_budget_stops_the_run(run, prompts, tiny_llama_dir, tmp_path, monkeypatch):
    """Four steps, measured at 0 and 2: any step away from the reference is beyond a budget of 1e-9 nats."""
    (tmp_path / "watched_rewards.py").write_text(
        "def spaces(completions, **c):\n    return [t.count(' ') for t in completions]\n"
        "def short(completions, **c):\n    return [-len(t) for t in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run(
        *(f"--model_name_or_path={tiny_llama_dir}", f"--dataset_name={prompts}", "--learning_rate=0.01"),
        *("--reward_funcs=watched_rewards.spaces", "--gold_func=watched_rewards.short", "--watch_steps=2"),
        *("--kl_budget=1e-9", "--eval_strategy=epoch", "--dataset_test_split=train", "--max_steps=4", "--beta=0.01"),
        *("--per_device_train_batch_size=4", "--max_completion_length=4", "--logging_steps=1"),
        f"--output_dir={tmp_path / 'out'}",
    )
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    watched = [log for log in state["log_history"] if "overoptimization/gold" in log]
    assert watched[-1]["overoptimization/gold"] < 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--reward_funcs=math.sqrt", "--kl_budget=1"], "kl_budget: is watched together with gold_func"),
        (
            ["--reward_funcs=math.sqrt", "--gold_func=math.sqrt", "--max_completion_length=4"],
            "gold_func: is measured on held-out prompts",
        ),
        (["--reward_funcs=math.sqrt", "--baseline=leave_one_out"], "leave_one_out needs at least 2"),
        (["--reward_funcs=math.sqrt", "--baseline=median"], "invalid choice: 'median'"),
        ([], "give --reward_model_path, --reward_funcs, or both"),
    ],
)
def test_what_the_user_can_mend_is_one_line(run, prompts, tiny_llama_dir, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as left:
        run(
            *(
                f"--model_name_or_path={tiny_llama_dir}",
                f"--dataset_name={prompts}",
                "--per_device_train_batch_size=4",
            ),
            *(f"--output_dir={tmp_path / 'out'}", *flags),
        )
    assert left.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_yaml_parses_and_says_how_to_launch_it(path, run, capsys):
    with pytest.raises(SystemExit):
        run("--config", path, "--no_such_flag")
    assert "unknown key '--no_such_flag' in the command line" in capsys.readouterr().err.splitlines()[-1]
    header = path.read_text(encoding="utf-8").splitlines()[0]
    assert header.endswith(f"recipes/reinforce.py --config recipes/configs/reinforce/{path.name}")
