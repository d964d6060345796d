"""Recipes run in the process of the tests: importing the stack anew would cost seconds each time."""

import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = ("Mara", "the fox", "Oakton", "the door", "Rosa", "the river", "the tea", "an apple")


@pytest.fixture
def run(monkeypatch):
    """`run("sft", "--max_steps", 2)`: what `python recipes/sft.py --max_steps 2` does."""

    def run(name, *argv):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture
def error_of(run, capsys):
    """The last line on stderr of a recipe that must leave with 2."""

    def error_of(name, *argv):
        with pytest.raises(SystemExit) as left:
            run(name, *argv)
        assert left.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return error_of


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A file of eight comparisons of unequal length, which serves as prompts and as prompts with answers too."""
    rows = [
        {"prompt": f"Where is {name}?", "completion": a, "chosen": a, "rejected": f" No {name}."}
        for name, a in zip(NAMES, [" Near.", " Near the river, I think."] * 4, strict=True)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    Dataset.from_list(rows).to_json(path)
    return path


@pytest.fixture
def rewards(tmp_path, monkeypatch):
    """Flags of a reward function of one's own, which counts spaces."""
    (tmp_path / "rewards.py").write_text(
        "def spaces(completions, **columns):\n    return [float(str(c).count(' ')) for c in completions]\n"
        "def nan(completions, **columns):\n    return [float('nan')] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield ["--reward_funcs", "rewards.spaces"]
    sys.modules.pop("rewards", None)
