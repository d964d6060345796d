"""prompt: examples, instructions, chains of thought, votes; scored, counted, gone on with."""

import json

import pytest

import hfcourse.evaluation.answering as answering
from hfcourse.pipeline.files import read_json, read_jsonl


@pytest.fixture
def questions(tmp_path):
    rows = [
        {"question": f"{i} apples and {i} more?", "answer": f"{i} + {i} = <<{i}+{i}={2 * i}>>{2 * i}.\n#### {2 * i}"}
        for i in range(2, 10)
    ]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def flags(questions, tiny_llama, tiny_tokenizer, tmp_path):
    model = tmp_path / "model"
    tiny_llama(0, max_position_embeddings=1024).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    flags = ["--model_name_or_path", model, "--dataset_name", questions, "--dataset_test_split=train[:4]"]
    flags += ["--shots_dataset_name", questions, "--shots_split=train[4:]", "--num_shots=2", "--extract=number"]
    return [*flags, "--output_dir", tmp_path / "out", "--template=chain_of_thought", "--max_completion_length=6"]


@pytest.fixture
def shown(monkeypatch):
    """Every prompt that the model is given."""
    prompts, generate = [], answering.generate

    def showing(model, tokenizer, texts, *arguments):
        prompts.extend(texts)
        return generate(model, tokenizer, texts, *arguments)

    monkeypatch.setattr(answering, "generate", showing)
    return prompts


def test_a_chain_of_thought_with_votes(run, flags, shown, tmp_path):
    run("prompt", *flags, "--num_samples=3", "--shots_strategy=similar", "--instruction=Count well.")
    measured, rows = read_json(tmp_path / "out" / "evaluation.json"), read_jsonl(tmp_path / "out" / "samples.jsonl")
    assert [row["reference"] for row in rows] == ["4", "6", "8", "10"]
    assert [point["k"] for point in measured["accuracy_by_k"]] == [1, 2, 3]
    assert measured["accuracy"] == measured["accuracy_by_k"][0]["accuracy"] == sum(row["right"] for row in rows) / 4
    assert (measured["num_samples"], measured["shots_strategy"], measured["num_prompts"]) == (3, "similar", 4)
    assert measured["prompt_tokens"] > measured["completion_tokens"] > 0
    assert len(shown) == 12
    first = next(text for text in shown if text.endswith("2 apples and 2 more?\nAnswer: Let's think step by step."))
    assert first.startswith("Count well.\n\nQuestion: ")
    assert "Let's think step by step. 6 + 6 = 12. The answer is 12." in first
    assert (tmp_path / "out" / "accuracy_by_k.png").read_bytes().startswith(b"\x89PNG")
    asked = len(shown)
    run("prompt", *flags, "--num_samples=3", "--shots_strategy=similar", "--instruction=Count well.")
    assert len(shown) == asked, "nothing is asked twice"


def test_chats_and_greedy_answers(run, flags, shown, tmp_path):
    run(
        "prompt", *flags, "--apply_chat_template=true", "--temperature=0", "--num_shots=1", "--shots_strategy=balanced"
    )
    assert [[turn["role"] for turn in chat] for chat in shown] == [["user", "assistant", "user"]] * 4
    assert read_json(tmp_path / "out" / "evaluation.json")["apply_chat_template"] is True


def test_letters_of_multiple_choice(run, flags, shown, tmp_path):
    rows = [{"question": f"Colour {i}?", "choices": ["red", "blue"], "answer": i % 2} for i in range(6)]
    (tmp_path / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["--dataset_name", tmp_path / "mmlu.jsonl", "--shots_dataset_name", tmp_path / "mmlu.jsonl"]
    run("prompt", *flags, *named, "--template=multiple_choice", "--extract=letter", "--num_shots=0")
    assert sorted(shown)[0] == "Colour 0?\nA. red\nB. blue\nAnswer:"
    assert [row["reference"] for row in read_jsonl(tmp_path / "out" / "samples.jsonl")] == ["A", "B", "A", "B"]


def test_errors_are_one_line(error_of, flags):
    assert "extract: say what" in error_of("prompt", *flags[:-7], "--num_samples=2", "--output_dir=x")
    assert "temperature: must exceed 0" in error_of("prompt", *flags, "--num_samples=2", "--temperature=0")
    assert "row 0: --extract finds nothing" in error_of("prompt", *flags, "--extract=letter")
    assert "choose random, similar, balanced" in error_of("prompt", *flags, "--shots_strategy=best")
    assert "only 4 examples" in error_of("prompt", *flags, "--num_shots=5")
