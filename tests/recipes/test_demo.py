"""The whole life, tiny: killed once inside a training stage, started again, and what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hfcourse.pipeline.life import METHODS
from hfcourse.report.table import table_rows

ROOT = Path(__file__).parent.parent.parent
STAGES = ("tokenizer", "pretrain", "sft", "preferences", "reward", "ppo", "dpo", "evaluation")
COLUMNS = {
    *("gold_reward", "gold_reward_se", "proxy_reward", "kl_to_sft", "accuracy"),
    *("minutes", "flops", "human_labels", "parameters_changed"),
}
FEW_SECONDS = 120


def start(folder) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "recipes" / "demo.py"), "--fast", "true", "--output_dir", str(folder)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_after_first_checkpoint(run: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + FEW_SECONDS
    while not (folder / "pretrain" / "checkpoint-15" / "trainer_state.json").is_file():
        assert run.poll() is None, run.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """(folder, output of the second start): pretraining was killed after its first checkpoint."""
    folder = tmp_path_factory.mktemp("a life") / "demo"
    first = start(folder)
    kill_after_first_checkpoint(first, folder)
    assert not (folder / "pretrain" / "stage.json").exists()
    output = start(folder).communicate(timeout=FEW_SECONDS)[0]
    assert (folder / "report.html").is_file(), output
    return folder, output


@pytest.fixture(scope="module")
def results(life):
    return json.loads((life[0] / "results.json").read_text(encoding="utf-8"))


def test_a_killed_life_goes_on_from_its_checkpoint(life):
    folder, output = life
    assert "resuming from" in (folder / "pretrain" / "log.txt").read_text(encoding="utf-8")
    assert re.search(r"\[1/8\] Tokenizer.*\(kept\)", output)
    assert not re.search(r"\[2/8\].*\(kept\)", output)
    assert all(f"[{n}/8]" in output for n in range(1, 9))


def test_results_have_their_form(results):
    assert {"minutes", "seed", "reward_model", "methods"} <= results.keys()
    assert {"accuracy", "bayes_accuracy"} <= results["reward_model"].keys()
    assert tuple(results["methods"]) == METHODS
    assert all(method.keys() >= COLUMNS for method in results["methods"].values())
    assert [(d["before"], d["after"]) for d in results["differences"]] == [
        ("pretrained", "prompted"),
        ("prompted", "sft"),
        ("sft", "ppo"),
        ("sft", "dpo"),
    ]


def test_minutes_are_those_of_the_stages(life, results):
    minutes = {s: json.loads((life[0] / s / "stage.json").read_text())["minutes"] for s in STAGES}
    assert results["minutes"] == pytest.approx(sum(minutes.values()))
    needed = minutes["preferences"] + minutes["reward"] + minutes["ppo"]
    assert results["methods"]["ppo"]["minutes"] == pytest.approx(needed)
    assert results["methods"]["prompted"]["minutes"] == 0


def test_costs_by_hand(life, results):
    """Pretraining: 6 N D with D = 30 steps × 8 rows × 256 tokens, N read from the weights."""
    methods, n = results["methods"], results["methods"]["pretrained"]["parameters_changed"]
    assert methods["pretrained"]["flops"] == 6 * n * 30 * 8 * 256
    assert methods["prompted"]["flops"] == methods["prompted"]["parameters_changed"] == 0
    assert methods["sft"]["human_labels"] == 96
    assert 0 < methods["ppo"]["parameters_changed"] <= n
    pairs = json.loads((life[0] / "preferences" / "preferences.json").read_text())["train"]["num_pairs"]
    assert methods["ppo"]["human_labels"] == methods["dpo"]["human_labels"] == pairs


def test_the_sft_model_is_no_distance_from_itself(results):
    assert results["methods"]["sft"]["kl_to_sft"] == pytest.approx(0.0, abs=1e-6)
    assert results["methods"]["pretrained"]["kl_to_sft"] > 0.01


def test_differences_are_paired_by_prompt(life, results):
    rows = {m: (life[0] / "evaluation" / m / "samples.jsonl").read_text().splitlines() for m in ("sft", "dpo")}
    before, after = ([json.loads(row) for row in rows[m]] for m in ("sft", "dpo"))
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    mean = sum(a["gold_reward"] - b["gold_reward"] for b, a in zip(before, after, strict=True)) / len(before)
    assert results["differences"][3]["mean"] == pytest.approx(mean)


class Resources(HTMLParser):
    """Every address that a browser would load, and all text."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.texts = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        loads = ("src", "srcset", "data", "poster", "xlink:href", "href")
        self.addresses += [value for name, value in attrs if name in loads]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_needs_nothing_else(life):
    page = (life[0] / "report.html").read_text(encoding="utf-8")
    parser = Resources()
    parser.feed(page)
    assert all(address.startswith("#") for address in parser.addresses)
    assert not parser.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(re.findall("<svg", page)) == 9


def test_the_report_says_what_the_results_say(life, results):
    folder, output = life
    page = unescape((folder / "report.html").read_text(encoding="utf-8"))
    rows = re.findall(r"<tr>(<td>.*?)</tr>", page)
    cells = [tuple(re.findall(r"<td>(.*?)</td>", row)) for row in rows[: len(METHODS)]]
    assert cells == table_rows(results["methods"])
    assert all(re.search(r"\s+│\s+".join(map(re.escape, row)), output) for row in cells), "and so does the terminal"
    for d in results["differences"]:
        assert f"{d['mean']:+.2f} gold reward on the same prompts, ± {2 * d['se']:.2f}" in page
    assert page.count('class="holds"') == sum(d["holds"] for d in results["differences"]) + (
        results["reward_model"]["bayes_accuracy"] - results["reward_model"]["accuracy"] <= 0.05
    )


def test_the_figure_is_a_png(life):
    assert (life[0] / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_every_model_is_an_ordinary_folder(life):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    for stage in ("pretrain", "sft", "ppo", "dpo"):
        AutoModelForCausalLM.from_pretrained(life[0] / stage)
        AutoTokenizer.from_pretrained(life[0] / stage)
    assert AutoModelForSequenceClassification.from_pretrained(life[0] / "reward").config.num_labels == 1


def test_a_second_start_runs_nothing(life, results):
    run = start(life[0])
    output = run.communicate(timeout=FEW_SECONDS)[0]
    assert run.returncode == 0, output
    assert output.count("(kept)") == len(STAGES)
    assert json.loads((life[0] / "results.json").read_text(encoding="utf-8")) == results
