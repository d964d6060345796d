"""evaluate, prompt, label_preferences: each kind of data is measured, each error is one line."""

import json

import pytest
from datasets import Dataset

from hfcourse.data import load_dataset
from hfcourse.pipeline.files import read_jsonl

WORLD = ["--dataset_name=world/prompts", "--template=four_part_en", "--num_eval_examples=6"]


@pytest.fixture(scope="module")
def policy(tiny_llama, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny_llama(0, max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(tiny_llama, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    tiny_llama(1, max_position_embeddings=1024).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward_model(policy, tiny_tokenizer, tmp_path_factory):
    from hfcourse.models.reward_model import load_reward_model

    folder = tmp_path_factory.mktemp("reward")
    load_reward_model(str(policy)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def evaluation_in(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_answers_on_the_world(run, policy, reference, reward_model, tmp_path):
    judges = ["--reward_model_path", reward_model, "--ref_model_name_or_path", reference]
    flags = ["--model_name_or_path", policy, "--output_dir", tmp_path, "--max_completion_length=4"]
    run("evaluate", *flags, *WORLD, *judges)
    measured, rows = evaluation_in(tmp_path), read_jsonl(tmp_path / "samples.jsonl")
    assert measured["num_prompts"] == len(rows) == 6
    for column, name in {"gold_reward": "gold_reward", "proxy_reward": "proxy_reward", "kl": "kl"}.items():
        assert measured[name] == pytest.approx(sum(row[column] for row in rows) / 6)
        assert measured[f"{name}_se"] > 0 or column == "gold_reward"
    assert measured["kl"] > 0
    assert measured["versions"].keys() >= {"torch", "transformers", "trl"}
    assert all(row["prompt"].startswith("Instruction: ") and row["prompt"].endswith("Output:") for row in rows)


def test_real_prompts_have_no_gold(run, policy, tmp_path):
    Dataset.from_dict({"prompt": ["The red fox", "Two apples"]}).to_json(tmp_path / "prompts.jsonl")
    files = ["--dataset_name", tmp_path / "prompts.jsonl", "--dataset_test_split=train", "--output_dir", tmp_path]
    run("evaluate", "--model_name_or_path", policy, *files, "--max_completion_length=4")
    measured = evaluation_in(tmp_path)
    assert measured["mean_length"] <= 4
    assert not {"gold_reward", "accuracy", "proxy_reward", "kl"} & measured.keys()


def test_chat_prompts(run, policy, reference, reward_model, tmp_path):
    chats = [[{"role": "user", "content": text}] for text in ("The red fox", "Two apples and three")]
    Dataset.from_dict({"prompt": chats}).to_json(tmp_path / "chats.jsonl")
    files = ["--dataset_name", tmp_path / "chats.jsonl", "--dataset_test_split=train", "--output_dir", tmp_path]
    judges = ["--reward_model_path", reward_model, "--ref_model_name_or_path", reference]
    run("evaluate", "--model_name_or_path", policy, *files, *judges, "--max_completion_length=4")
    measured = evaluation_in(tmp_path)
    assert measured["num_prompts"] == 2
    assert measured["kl"] > 0
    assert "proxy_reward" in measured


def test_pairs_measure_the_reward_model(run, reward_model, tmp_path):
    pairs = {"prompt": ["The"] * 3, "chosen": [" red fox", " river", " tea"], "rejected": [" apples", " door", " two"]}
    Dataset.from_dict(pairs).to_json(tmp_path / "pairs.jsonl")
    files = ["--dataset_name", tmp_path / "pairs.jsonl", "--dataset_test_split=train", "--output_dir", tmp_path]
    run("evaluate", "--reward_model_path", reward_model, *files)
    measured = evaluation_in(tmp_path)
    assert measured["num_pairs"] == 3
    assert 0 <= measured["accuracy_low"] <= measured["accuracy"] <= measured["accuracy_high"] <= 1


def test_multiple_choice_and_text(run, policy, tmp_path):
    flags = ["--model_name_or_path", policy, "--num_eval_examples=8"]
    run("evaluate", *flags, "--dataset_name=world/multiple_choice", "--output_dir", tmp_path / "choices")
    measured = evaluation_in(tmp_path / "choices")
    assert measured["num_questions"] == sum(s["num_questions"] for s in measured["subjects"].values()) == 8
    run("evaluate", *flags, "--dataset_name=world/corpus", "--output_dir", tmp_path / "text")
    assert evaluation_in(tmp_path / "text")["bits_per_byte"] > 0


def test_prompt_shows_examples(run, policy, reference, tmp_path):
    shots = ["--shots_dataset_name=world/instructions", "--num_shots=2", "--num_shots_pool=5"]
    flags = ["--model_name_or_path", policy, "--output_dir", tmp_path, "--max_completion_length=4"]
    run("prompt", *flags, *WORLD, *shots, "--ref_model_name_or_path", reference)
    measured, rows = evaluation_in(tmp_path), read_jsonl(tmp_path / "samples.jsonl")
    assert (measured["num_shots"], measured["num_shots_pool"]) == (2, 5)
    assert all(row["prompt"].count("Question: ") == 1 for row in rows), "the record has the prompt without examples"


def label(run, policy, folder, *flags):
    sizes = ["--num_train_examples=12", "--num_eval_examples=6", "--temperature=3", "--max_completion_length=12"]
    files = ["--dataset_name=world/prompts", "--template=four_part_en", "--output_dir", folder]
    run("label_preferences", "--model_name_or_path", policy, *files, *sizes, *flags)
    return json.loads((folder / "preferences.json").read_text(encoding="utf-8"))


@pytest.fixture
def finishing(monkeypatch):
    """Every answer counts as finished: the tiny model hardly ever writes EOS."""
    import hfcourse.evaluation as evaluation

    generate = evaluation.generate
    monkeypatch.setattr(evaluation, "generate", lambda *args: [c._replace(finished=True) for c in generate(*args)])


@pytest.mark.usefixtures("finishing")
def test_pairs_are_labelled(run, policy, tmp_path):
    report = label(run, policy, tmp_path, "--num_generations=3")
    pairs = load_dataset(str(tmp_path), "train", required_columns=("prompt", "chosen", "rejected"))
    assert report["train"]["num_pairs"] + report["train"]["num_left_out"] == 12 * 3
    assert len(pairs) == report["train"]["num_pairs"]
    assert len(load_dataset(str(tmp_path), "test")) == report["test"]["num_pairs"]
    assert 0.5 <= report["test"]["bayes_accuracy"] <= 1
    assert {row["annotator"] for row in pairs} == {f"person_{i}" for i in range(8)}
    assert {"model_chosen", "gold_chosen", "p_chosen", "shown_first", "agreement"} <= set(pairs.column_names)


@pytest.mark.usefixtures("finishing")
def test_labelling_that_was_killed_keeps_what_it_had(run, policy, tmp_path):
    whole = label(run, policy, tmp_path)
    before = (tmp_path / "train.parquet").stat().st_mtime_ns
    (tmp_path / "test.parquet").unlink()
    journal = (tmp_path / ".labels" / "verdicts_test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / ".labels" / "verdicts_test.jsonl").write_text("".join(journal[:2]) + journal[2][:9])
    (tmp_path / "preferences.json").write_text(json.dumps({"train": whole["train"]}))
    assert label(run, policy, tmp_path) == whole
    assert (tmp_path / ".labels" / "verdicts_test.jsonl").read_text() == "".join(journal)
    assert (tmp_path / "train.parquet").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        label(run, policy, tmp_path, "--seed=1")


@pytest.fixture
def judge_that_reads(monkeypatch):
    """A tiny model takes whatever stands first; this one prefers the longer answer."""
    from hfcourse.annotation import judge

    def choice_logps(model, tokenizer, prompts, choices):
        parts = [p.split("[Answer A]")[1].split("Which answer")[0].split("[Answer B]") for p in prompts]
        return [[float(len(a)), float(len(b))] for a, b in parts]

    monkeypatch.setattr(judge, "choice_logps", choice_logps)


@pytest.mark.usefixtures("finishing", "judge_that_reads")
@pytest.mark.parametrize("annotator", ["judge", "likelihood", "reward_model"])
def test_models_that_judge(annotator, run, policy, reference, reward_model, tmp_path):
    judge = ["--annotator", annotator, "--judge_model", reward_model if annotator == "reward_model" else policy]
    report = label(run, policy, tmp_path, *judge, "--answer_models", policy, reference, "--num_generations=1")
    pairs = list(load_dataset(str(tmp_path), "train"))
    assert len(pairs) == report["train"]["num_pairs"]
    assert {pairs[0]["model_chosen"], pairs[0]["model_rejected"]} == {str(policy), str(reference)}
    assert "bayes_accuracy" not in report["train"], "of the world's people alone"
    assert ("flip_rate" in report["train"]) == (annotator == "judge")


@pytest.mark.usefixtures("finishing", "judge_that_reads")
def test_a_constitution_and_aspects(run, error_of, policy, tmp_path):
    (tmp_path / "rules.txt").write_text("Prefer tea.")
    flags = ["--annotator=judge", "--judge_model", policy, "--constitution", tmp_path / "rules.txt", "--aspects=true"]
    label(run, policy, tmp_path / "out", *flags)
    rated = read_jsonl(tmp_path / "out_ultrafeedback" / "train.jsonl")
    assert len(rated) == 12
    assert set(rated[0]["completions"][0]) == {"model", "response", "annotations", "overall_score"}
    needed = ["--model_name_or_path", policy, "--output_dir", tmp_path / "x", *WORLD, "--annotator=judge"]
    assert error_of("label_preferences", *needed) == "error: judge_model: is required for annotator=judge"
    missing = ["--judge_model", policy, "--constitution", tmp_path / "no.txt"]
    assert "constitution: cannot read" in error_of("label_preferences", *needed, *missing)


def test_ratings_become_pairs(run, tmp_path):
    """UltraFeedback's shape: two prompts with three rated answers each; equal ratings make no pair."""
    completions = [
        {"response": t, "model": m, "stars": s} for t, m, s in (("a", "x", 1), ("b", "y", 5), ("c", "z", 5))
    ]
    rows = [{"instruction": f"Where {i}?", "completions": completions} for i in range(2)]
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--annotator=ratings", "--rating_column=stars", "--dataset_name", tmp_path / "rated.jsonl"]
    run("label_preferences", *flags, "--dataset_test_split=train", "--output_dir", tmp_path / "out")
    pairs = list(load_dataset(str(tmp_path / "out"), "train"))
    assert {(p["chosen"], p["rejected"], p["margin"]) for p in pairs} == {("b", "a", 4.0), ("c", "a", 4.0)}
    assert {p["model_rejected"] for p in pairs} == {"x"}


@pytest.mark.usefixtures("finishing")
def test_you_at_the_terminal(run, policy, tmp_path, monkeypatch, capsys):
    """q after three pairs; the second time the rest is asked, and the split is finished."""
    keys = iter(["a", "b", "t", "q"])
    monkeypatch.setattr("builtins.input", lambda ask: next(keys))
    flags = ["--model_name_or_path", policy, "--dataset_name=world/prompts", "--template=four_part_en"]
    flags += ["--num_train_examples=5", "--num_eval_examples=2", "--temperature=3", "--max_completion_length=12"]
    flags += ["--annotator=terminal", "--annotator_name=Mara", "--output_dir", tmp_path]
    run("label_preferences", *flags)
    assert "train: stopped; run it again to go on" in capsys.readouterr().out
    assert len(load_dataset(str(tmp_path), "train")) == 2
    asked = []
    monkeypatch.setattr("builtins.input", lambda ask: asked.append(ask) or "a")
    run("label_preferences", *flags)
    report = json.loads((tmp_path / "preferences.json").read_text())
    assert report["train"]["num_labelled"] + report["test"]["num_labelled"] == 3 + len(asked)
    assert {row["annotator"] for row in load_dataset(str(tmp_path), "train")} == {"Mara"}


def test_several_processes_are_refused(error_of, policy, monkeypatch, tmp_path):
    """Each would answer every prompt and write the same files. (What accelerate reports is all that is replaced.)"""
    from accelerate import PartialState

    monkeypatch.setattr(PartialState(), "num_processes", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    flags = ["--model_name_or_path", policy, "--output_dir", tmp_path]
    assert "one process" in error_of("evaluate", *flags, *WORLD)


def test_errors_are_one_line(error_of, policy, tmp_path):
    flags = ["--model_name_or_path", policy, "--output_dir", tmp_path]
    assert "template" in error_of("evaluate", *flags, "--dataset_name=world/prompts", "--num_eval_examples=4")
    assert "num_eval_examples" in error_of("evaluate", *flags, "--dataset_name=world/prompts")
    assert "shots_dataset_name" in error_of("prompt", *flags, *WORLD)
    assert "temperature" in error_of(
        "evaluate", *flags, *WORLD, "--ref_model_name_or_path", policy, "--temperature=0", "--max_completion_length=2"
    )
    assert "no column 'answer'" in error_of(
        "label_preferences", *flags, "--dataset_name=world/corpus", "--num_train_examples=2"
    )
    assert "did you mean 'num_shots'" in error_of("prompt", *flags, *WORLD, "--num_shot=2")
