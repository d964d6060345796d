"""Stages run once, are killed anywhere, and go on."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from hfcourse.errors import InputError
from hfcourse.pipeline.files import write_json
from hfcourse.pipeline.stages import Stage, StageResult, read_result, run_stages

# A life of three stages in a process of its own, which kills itself with SIGKILL where argv[2] says. Stage "count"
# keeps its progress in a file, as a training stage does in checkpoints; every run of a stage is noted in ran.txt.
LIFE = """
import os, signal, sys
from pathlib import Path
from hfcourse.pipeline.stages import Stage, run_stages

folder, kill_at = Path(sys.argv[1]), sys.argv[2]

def die_at(place):
    if kill_at == place:
        os.kill(os.getpid(), signal.SIGKILL)

def stage(name, work):
    def run(path):
        with (folder / "ran.txt").open("a") as ran:
            ran.write(name + " ")
        die_at(f"start of {name}")
        result = work(path)
        die_at(f"end of {name}")
        return result
    return Stage(name, name.title(), run, lambda metrics: f"value {metrics['value']}")

def count(path):
    steps = path / "steps.txt"
    done = int(steps.read_text()) if steps.exists() else 0
    for step in range(done + 1, 5):
        steps.write_text(str(step))
        with (folder / "ran.txt").open("a") as ran:
            ran.write(f"step{step} ")
        die_at(f"step {step}")
    return {"value": step}

stages = [stage("first", lambda path: {"value": 1}), stage("count", count), stage("last", lambda path: {"value": 3})]
run_stages(stages, folder, {"seed": 0})
"""


def live(folder, kill_at="never"):
    command = [sys.executable, "-c", LIFE, str(folder), kill_at]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kill_at", "ran"),
    [
        ("start of first", "first first count step1 step2 step3 step4 last "),
        ("end of first", "first first count step1 step2 step3 step4 last "),
        ("start of count", "first count count step1 step2 step3 step4 last "),
        ("step 2", "first count step1 step2 count step3 step4 last "),
        ("start of last", "first count step1 step2 step3 step4 last last "),
    ],
)
def test_a_killed_life_goes_on_where_it_stopped(tmp_path, kill_at, ran):
    """Finished stages are not run again; one that was killed inside goes on from its own progress."""
    assert live(tmp_path, kill_at).returncode == -signal.SIGKILL
    resumed = live(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "ran.txt").read_text() == ran
    results = {name: read_result(tmp_path / name).metrics["value"] for name in ("first", "count", "last")}
    assert results == {"first": 1, "count": 4, "last": 3}
    assert "[2/3] Count" in resumed.stdout
    assert "value 4" in resumed.stdout


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_minutes_count_killed_attempts(tmp_path):
    """1.5 s in an attempt that died, then one of at least 0.2 s: at least 1.7 s together."""
    (tmp_path / "slow").mkdir()
    write_json(tmp_path / "slow" / "elapsed.json", {"seconds": 1.5})
    stage = Stage("slow", "Slow", lambda folder: time.sleep(0.2) or {})
    assert 1.7 <= 60 * run_stages([stage], tmp_path, console=quiet())["slow"].minutes < 2.5


def test_time_is_written_down_while_a_stage_runs(tmp_path):
    seen = []

    def run(folder):
        time.sleep(0.8)
        seen.append(json.loads((folder / "elapsed.json").read_text())["seconds"])
        return {}

    run_stages([Stage("slow", "Slow", run)], tmp_path, console=quiet())
    assert 0.4 < seen[0] <= 0.9


def test_a_second_run_keeps_everything(tmp_path):
    calls = []
    stage = Stage("one", "One", lambda folder: calls.append(1) or {"loss": 2.5}, lambda m: f"loss {m['loss']}")
    first = run_stages([stage], tmp_path, console=quiet())
    console = quiet()
    assert run_stages([stage], tmp_path, console=console) == first
    assert calls == [1]
    assert "(kept)   loss 2.5" in console.file.getvalue()


def test_output_of_a_stage_goes_to_its_log(tmp_path, capfd):
    def run(folder):
        print("printed")
        os.system("echo from a child process")
        return {}

    run_stages([Stage("talks", "Talks", run)], tmp_path)
    log = (tmp_path / "talks" / "log.txt").read_text().split("\n")
    assert {"printed", "from a child process"} <= set(log)
    shown = capfd.readouterr().out
    assert "[1/1] Talks" in shown
    assert "printed" not in shown


def test_a_failure_leaves_no_result_shows_the_log_and_raises(tmp_path):
    def run(folder):
        print("the reason")
        raise SystemExit(2)

    console = quiet()
    with pytest.raises(SystemExit):
        run_stages([Stage("fails", "Fails", run)], tmp_path, console=console)
    assert read_result(tmp_path / "fails") is None
    assert "the reason" in console.file.getvalue()


def test_a_folder_of_other_settings_is_refused(tmp_path):
    stage = Stage("one", "One", lambda folder: {})
    run_stages([stage], tmp_path, {"seed": 0, "fast": True}, quiet())
    with pytest.raises(InputError, match=r"other settings \(seed\)"):
        run_stages([stage], tmp_path, {"seed": 1, "fast": True}, quiet())
    assert run_stages([stage], tmp_path, {"seed": 0, "fast": True}, quiet())["one"].metrics == {}


def test_half_a_result_is_no_result(tmp_path):
    """The file appears under its name only when it is whole."""
    (tmp_path / "stage.json.partial").write_text('{"name": "one", "min')
    assert read_result(tmp_path) is None
    write_json(tmp_path / "stage.json", {"name": "one", "minutes": 0.5, "metrics": {"a": 1}})
    assert read_result(tmp_path) == StageResult(0.5, {"a": 1})
