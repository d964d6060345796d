"""Every command in the README names files that are there and flags that their recipe takes."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"`((?:python|accelerate launch)[^`]* recipes/[^`]*|python recipes/[^`]*)`", README)))


def test_there_are_commands_for_every_recipe():
    named = set(re.findall(r"recipes/(\w+)\.py", " ".join(COMMANDS)))
    assert named | {"demo"} == {path.stem for path in (ROOT / "recipes").glob("*.py")}


@pytest.mark.parametrize("command", COMMANDS)
def test_files_and_flags_of_a_command(command, monkeypatch, capsys):
    paths = re.findall(r"(?:recipes|accelerate_configs)/[\w/.]+\.(?:py|yaml)", command)
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    recipe = next(path for path in paths if path.endswith(".py"))
    monkeypatch.setattr(sys, "argv", [recipe, "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / recipe), run_name="__main__")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    flags = re.findall(r"--\w+", command.partition(recipe)[2])
    assert [flag for flag in flags if flag not in shown] == []


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, re.MULTILINE))
def test_make_targets(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
