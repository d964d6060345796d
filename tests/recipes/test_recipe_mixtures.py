"""sft on mixtures and chats: TRL's keys in a YAML, shares printed, every error one line."""

import json

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hfcourse.pipeline.files import read_json

QUESTIONS = [{"question": f"Where is the tea {i}?", "answer": "x", "output": "Near the river."} for i in range(12)]
TASKS = [{"input": f"colour of door {i}", "target": "blue", "task": "colours"} for i in range(4)]


@pytest.fixture
def files(tmp_path):
    for name, rows in (("questions", QUESTIONS), ("tasks", TASKS)):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            Dataset.from_list(rows).to_json(tmp_path / name / f"{split}.jsonl")
    return tmp_path


@pytest.fixture
def flags(tiny_llama_dir, files):
    (files / "mix.yaml").write_text(
        f"model_name_or_path: {tiny_llama_dir}\noutput_dir: {files / 'out'}\ntemplate: four_part_en\n"
        f"datasets:\n- path: {files / 'questions'}\n  columns: [question, output]\n- path: {files / 'tasks'}\n"
        "  template: plain\n"
    )
    return ["--config", files / "mix.yaml", "--max_steps=2", "--per_device_train_batch_size=2", "--disable_tqdm=true"]


def shares(capsys):
    return [line.split(": ", 2)[2] for line in capsys.readouterr().out.splitlines() if line.startswith("mixture:")]


def test_proportional_with_a_cap_and_a_temperature(run, flags, files, capsys):
    run("sft", *flags, "--eval_strategy=steps", "--eval_steps=2", "--num_eval_examples=3")
    assert shares(capsys) == [
        "12 of 16 rows, 75.0 % (asked: 75.0 %), drawn from 12",
        "4 of 16 rows, 25.0 % (asked: 25.0 %), drawn from 4",
    ]
    assert read_json(files / "out" / "all_results.json")["eval_loss"] > 0
    run("sft", *flags, "--mixture_cap=4", "--mixture_size=10")
    assert [share.split(" rows")[0] for share in shares(capsys)] == ["5 of 10", "5 of 10"]
    run("sft", *flags, "--mixture_temperature=2")  # √12 : √4
    assert [share.split(" rows")[0] for share in shares(capsys)] == ["10 of 16", "6 of 16"]


def test_a_stream(run, flags, capsys):
    run("sft", *flags, "--dataset_streaming=true", *mapped(flags, num_examples=12))
    counts = [int(share.split()[0]) for share in shares(capsys)]
    assert sum(counts) == 2 * 2


def mapped(flags, **more):
    """The datasets of the YAML as command-line JSON, with more keys."""
    folder = flags[1].parent
    entries = ({"path": str(folder / "questions"), "columns": ["question", "output"]}, {"path": str(folder / "tasks")})
    return ["--datasets", *(json.dumps({**entry, **more}) for entry in entries)]


def test_trls_fractions(run, flags, capsys):
    run("sft", *flags, *mapped(flags, fraction=0.2))
    half = "4 of 8 rows, 50.0 % (asked: 50.0 %), drawn from"
    assert shares(capsys) == [f"{half} 12", f"{half} 4"]


def test_errors_name_the_key(error_of, flags, files):
    def error(*entries, more=()):
        return error_of("sft", *flags, "--datasets", *(json.dumps(entry) for entry in entries), *more)

    questions = {"path": str(files / "questions")}
    assert "unknown key 'weight'; known are path" in error({**questions, "weight": 1})
    assert "has no 'path'" in error({"name": "x"})
    assert "is not a JSON object" in error_of("sft", *flags, "--datasets", "rows.jsonl")
    assert "in place of dataset_name" in error(questions, more=["--dataset_name=x"])
    assert "has no column 'colour'" in error({**questions, "columns": ["colour"]})
    assert "makes them alike" in error(questions, {"path": str(files / "tasks"), "template": None})
    assert "for all datasets or for none" in error({**questions, "fraction": 0.5}, questions)
    assert "a stream has no size" in error(questions, more=["--dataset_streaming=true"])
    assert "there is no file or folder" in error({"path": "no/such/rows.jsonl"})


def test_chats(run, flags, files):
    run("sft", *flags, "--chat_template_path=chatml", "--template=flan")
    saved = AutoTokenizer.from_pretrained(files / "out")
    assert saved.eos_token == "<|im_end|>"
    assert "generation" in saved.chat_template
