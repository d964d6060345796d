"""train_tokenizer, pretrain_causal_lm, sft: each runs two steps, each names what it cannot use."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
OURS = ("train_tokenizer", "pretrain_causal_lm", "sft")
TEXTS = ["The red fox sleeps near the river.", "Mara lives in Oakton and likes green tea."] * 40
SHAPE = ["--hidden_size=16", "--num_hidden_layers=1", "--num_attention_heads=2", "--block_size=16"]
TWO_STEPS = ["--max_steps=2", "--per_device_train_batch_size=2", "--logging_steps=1", "--disable_tqdm=true"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    Dataset.from_dict({"text": TEXTS}).to_json(path)
    return path


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    rows = [{"instruction": "Be short.", "question": f"What is {i}?", "output": f"It is {i}."} for i in range(8)]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_json(folder / f"{split}.jsonl")
    return folder


def test_from_text_to_an_assistant(run, corpus, answers, tmp_path):
    tokenizer, base, tuned = tmp_path / "tokenizer", tmp_path / "base", tmp_path / "tuned"
    run("train_tokenizer", "--dataset_name", corpus, "--vocab_size=280", "--output_dir", tokenizer)
    results = json.loads((tokenizer / "all_results.json").read_text())
    assert results["vocab_size"] == len(AutoTokenizer.from_pretrained(tokenizer)) == 280
    assert results["bytes_per_token"] > 1
    assert [row["units"] for row in results["table"]] == ["characters", "tokens", "words"]

    named = ["--tokenizer_name_or_path", tokenizer, "--dataset_name", corpus, "--output_dir", base]
    run("pretrain_causal_lm", *named, *SHAPE, *TWO_STEPS, "--max_position_embeddings=64")
    model = AutoModelForCausalLM.from_pretrained(base)
    assert (model.config.vocab_size, model.config.hidden_size, model.config.eos_token_id) == (280, 16, 1)
    assert AutoTokenizer.from_pretrained(base).pad_token == "<|pad|>"

    named = ["--model_name_or_path", base, "--dataset_name", answers, "--template=four_part_en", "--output_dir", tuned]
    run("sft", *named, *TWO_STEPS, "--eval_strategy=steps", "--eval_steps=2")
    assert AutoModelForCausalLM.from_pretrained(tuned).config.hidden_size == 16
    logs = json.loads((tuned / "trainer_state.json").read_text())["log_history"]
    assert [log["step"] for log in logs if "loss" in log] == [1, 2]
    assert "eval_loss" in json.loads((tuned / "all_results.json").read_text())


@pytest.mark.parametrize("algorithm", ["bpe", "bpe_characters", "wordpiece", "wordpiece_likelihood"])
def test_every_algorithm_leaves_a_tokenizer_and_a_table(run, corpus, tmp_path, capsys, algorithm):
    named = ["--dataset_name", corpus, "--output_dir", tmp_path, "--algorithm", algorithm, "--vocab_size=280"]
    run("train_tokenizer", *named, "--sentinels=2", "--special_tokens", "<mode>", "--dataset_train_split=train[:60]")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert "bytes a token" in capsys.readouterr().out
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["vocab_size"] == len(tokenizer) == tokenizer.convert_tokens_to_ids("<extra_id_0>") + 1
    assert results["unknown"] == 0
    assert "<mode>" in tokenizer.tokenize("the<mode>fox")
    assert (tokenizer.bos_token == "<|endoftext|>") == algorithm.startswith("bpe")
    assert (tokenizer.cls_token == "[CLS]") == algorithm.startswith("wordpiece")


def test_a_tokenizer_is_measured_on_held_out_rows(run, tmp_path):
    """Trained on ab ab: of the held-out "ab xb" half the words are unknown, and one of five characters."""
    for split, text in (("train", "ab ab"), ("test", "ab xb")):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": text}))
    named = ["--dataset_name", tmp_path, "--num_eval_examples=1", "--output_dir", tmp_path / "t", "--vocab_size=30"]
    run("train_tokenizer", *named, "--algorithm=wordpiece")
    rows = json.loads((tmp_path / "t" / "all_results.json").read_text())["table"]
    assert {row["units"]: row["unknown"] for row in rows} == {"characters": 0.2, "tokens": 0.5, "words": 0.5}


def test_going_on_with_a_model_by_an_adapter(run, corpus, answers, tiny_llama_dir, tmp_path):
    lora = ["--use_peft=true", "--lora_r=2", "--lora_target_modules", "q_proj", "v_proj"]
    named = ["--model_name_or_path", tiny_llama_dir, *TWO_STEPS, *lora]
    run("pretrain_causal_lm", *named, "--dataset_name", corpus, "--block_size=16", "--output_dir", tmp_path / "base")
    run("sft", *named, "--dataset_name", answers, "--template=alpaca", "--output_dir", tmp_path / "sft")
    for stage in ("base", "sft"):
        assert (tmp_path / stage / "adapter_config.json").is_file()
        assert AutoModelForCausalLM.from_pretrained(tmp_path / stage).config.hidden_size == 32


def test_resuming_a_recipe(run, corpus, tiny_llama_dir, tmp_path, capsys):
    named = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", corpus, "--block_size=16", *TWO_STEPS]
    named += ["--output_dir", tmp_path, "--save_steps=1", "--resume_from_checkpoint=auto"]
    run("pretrain_causal_lm", *named)
    assert "resuming" not in capsys.readouterr().out
    run("pretrain_causal_lm", *named, "--max_steps=3")
    assert f"resuming from {tmp_path / 'checkpoint-2'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 3


@pytest.mark.parametrize("name", OURS)
def test_help_is_worth_reading(name, run, capsys):
    with pytest.raises(SystemExit) as left:
        run(name, "--help")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "What to watch:" in text
    assert f"recipes/{name}.py" in text
    assert "--dataset_name" in text


@pytest.mark.parametrize("name", OURS)
def test_recipes_stay_short(name):
    assert len((RECIPES / f"{name}.py").read_text().splitlines()) <= 100


def test_bad_input_is_one_line(error_of, corpus, answers, tiny_llama_dir, tmp_path):
    model = ["--model_name_or_path", tiny_llama_dir, "--output_dir", tmp_path]
    new = ["--tokenizer_name_or_path", tiny_llama_dir, "--output_dir", tmp_path, *SHAPE]
    (tmp_path / "empty.jsonl").write_text("")
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "x " * 99, "completion": " y"}))
    cases = [
        (["sft", *model, "--dataset_name", corpus, "--template=four_part_en"], "no column 'instruction'"),
        (["sft", *model, "--dataset_name", answers], "no column 'prompt'"),
        (["sft", *model, "--dataset_name", answers, "--templat=plain"], "did you mean 'template'?"),
        (["sft", *model, "--dataset_name", long, "--max_length=32"], "row 0: max_length=32 leaves nothing to learn"),
        (["sft", *model, "--dataset_name", tmp_path / "empty.jsonl"], "is empty"),
        (["sft", *model], "dataset_name: is required"),
        (["sft", "--dataset_name", long], "model_name_or_path: is required"),
        (["sft", *model, "--dataset_name", long, "--resume_from_checkpoint=true"], "no checkpoint in"),
        (["sft", *model, "--dataset_name", long, "--expected_processes=2"], "expected_processes=2, but 1 started"),
        (["pretrain_causal_lm", *model, "--dataset_name", answers], "no column 'text'"),
        (["pretrain_causal_lm", *model, "--dataset_name", corpus, "--template=plain"], "template: pretraining"),
        (["pretrain_causal_lm", *new, "--dataset_name", corpus, "--block_size=99999"], "shorter than one block"),
        (["train_tokenizer", "--dataset_name", corpus, "--vocab_size=9"], "vocab_size=9: must exceed"),
        (["train_tokenizer", "--dataset_name", answers], "no column 'text'"),
        (["train_tokenizer", "--dataset_name", "world/corpus", "--dataset_streaming=true"], "num_train_examples"),
        (["train_tokenizer", "--dataset_name", corpus, "--push_to_hub=true"], "hub_model_id: is required"),
        (["train_tokenizer", "--dataset_name", corpus, "--lowercase=true"], "lowercase: is for wordpiece"),
        (["train_tokenizer", "--dataset_name", corpus, "--algorithm=bpe_characters", "--vocab_size=9"], "at least 32"),
        (["train_tokenizer", "--dataset_name", corpus, "--algorithm=unigram"], "invalid choice: 'unigram'"),
    ]
    for argv, message in cases:
        error = error_of(*argv)
        assert error.startswith("error: "), argv
        assert message in error, argv
