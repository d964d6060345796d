"""pretrain_embeddings: the YAML parses, vectors and a model come out, analogies are counted, bad input is one line."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse.models.word_vectors import WordVectors

RECIPES = Path(__file__).parents[2] / "recipes"
TEXTS = ["The red fox sleeps near the river.", "Mara lives in Oakton and likes green tea."] * 20
TINY = ["--max_steps=3", "--min_count=1", "--block_size=16", "--logging_steps=1", "--disable_tqdm=true"]


@pytest.fixture
def run(monkeypatch):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["pretrain_embeddings.py", *map(str, argv)])
        runpy.run_path(str(RECIPES / "pretrain_embeddings.py"), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    Dataset.from_dict({"text": TEXTS}).to_json(path)
    return path


def test_words_their_neighbours_and_analogies(run, corpus, tmp_path, capsys):
    (tmp_path / "questions.txt").write_text(": colours\nred fox green tea\nred fox blue sky\n")
    named = ["--dataset_name", corpus, "--output_dir", tmp_path / "v", "--hidden_size=8", *TINY]
    run(*named, "--neighbours_of", "river", "--analogies_file", tmp_path / "questions.txt", "--eval_strategy=no")
    vectors = WordVectors.load(tmp_path / "v")
    assert sorted(vectors.words) == sorted({word.strip(".") for text in TEXTS for word in text.split()})
    shown = capsys.readouterr().out
    assert re.search(r"river: (\w+ -?\d\.\d\d, ){4}\w+ -?\d\.\d\d\n", shown)
    assert "of 1 questions right (1 have unknown words)" in shown
    assert json.loads((tmp_path / "v" / "all_results.json").read_text())["analogies_asked"] == 1
    assert "15 words, 8 dimensions" in (tmp_path / "v" / "README.md").read_text()


def test_tokens_of_a_model_become_its_embedding_table(run, corpus, tiny_llama_dir, tmp_path):
    model = ["--tokenizer_name_or_path", tiny_llama_dir, "--load_into", tiny_llama_dir, "--hidden_size=32"]
    run("--dataset_name", corpus, "--output_dir", tmp_path, *model, *TINY)
    vectors, tokenizer = WordVectors.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path / "model")
    table = AutoModelForCausalLM.from_pretrained(tmp_path / "model").get_input_embeddings().weight
    ids = tokenizer.convert_tokens_to_ids(list(vectors.words))
    assert torch.equal(table[ids].detach(), vectors.vectors)
    before = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    assert torch.equal(table[tokenizer.eos_token_id], before.get_input_embeddings().weight[tokenizer.eos_token_id])
    assert torch.equal(before.lm_head.weight, AutoModelForCausalLM.from_pretrained(tmp_path / "model").lm_head.weight)


@pytest.mark.parametrize("path", sorted((RECIPES / "configs" / "pretrain_embeddings").glob("*.yaml")), ids=str)
def test_every_yaml_parses_and_says_how_to_launch_it(path, run, capsys):
    with pytest.raises(SystemExit):
        run("--config", path, "--no_such_flag")
    assert "unknown key '--no_such_flag'" in capsys.readouterr().err
    assert f"recipes/configs/pretrain_embeddings/{path.name}" in path.read_text().splitlines()[0]


def test_bad_input_is_one_line(run, corpus, tiny_llama_dir, tmp_path, capsys):
    (tmp_path / "bad.txt").write_text("a b c\n")
    named = ["--dataset_name", corpus, "--output_dir", tmp_path / "out", *TINY]
    cases = [
        (["--dataset_name", "world/corpus", "--dataset_streaming=true"], "num_train_examples: is required"),
        ([*named, "--analogies_file", tmp_path / "bad.txt"], "analogies_file: 'a b c' is not four words"),
        ([*named, "--analogies_file", tmp_path / "none.txt"], "analogies_file: there is no file"),
        ([*named, "--text_column=body"], "has no column 'body'"),
        ([*named, "--min_count=1000"], "min_count=1000: 0 of 15 different words occur so often"),
        ([*named, "--hidden_size=8", "--load_into", tiny_llama_dir], "have 32 dimensions; set --hidden_size 32"),
        ([*named, "--load_into", tmp_path / "no" / "such" / "model"], "load_into: no model in"),
        ([*named, "--neighbours_of", "zebra"], "'zebra' has no vector"),
    ]
    for argv, message in cases:
        with pytest.raises(SystemExit) as left:
            run(*argv)
        error = capsys.readouterr().err.splitlines()[-1]
        assert left.value.code == 2, argv
        assert error.startswith("error: "), argv
        assert message in error, argv
