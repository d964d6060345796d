"""finetune: a head of classes, text to text with either kind of model; figures from generated answers."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hfcourse.pipeline.files import read_json

STEPS = ["--max_steps=2", "--per_device_train_batch_size=4", "--per_device_eval_batch_size=8", "--disable_tqdm=true"]
EVALUATED = ["--eval_strategy=steps", "--eval_steps=2", "--logging_steps=1", "--save_strategy=no"]


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer), **shape)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    shape = dict(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4)
    T5ForConditionalGeneration(
        T5Config(vocab_size=len(tiny_tokenizer), decoder_start_token_id=0, **shape)
    ).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def reviews(tmp_path):
    rows = [{"text": f"The tea {i} is {w}.", "label": w} for i in range(6) for w in ("good", "bad", "odd")]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_json(tmp_path / "reviews" / f"{split}.jsonl")
    return tmp_path / "reviews"


def test_classes_with_names(run, encoder, reviews, tmp_path):
    named = ["--model_name_or_path", encoder, "--dataset_name", reviews, "--output_dir", tmp_path / "out"]
    run("finetune", *named, *STEPS, *EVALUATED)
    results = read_json(tmp_path / "out" / "all_results.json")
    assert 0 <= results["eval_f1_macro"] <= results["eval_accuracy"] + 0.5 <= 1.5
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "bad", 1: "good", 2: "odd"}


@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder"])
def test_text_to_text(kind, run, t5, tiny_llama_dir, tmp_path):
    model = t5 if kind == "encoder-decoder" else tiny_llama_dir
    named = ["--model_name_or_path", model, "--dataset_name=world/text_to_text", "--output_dir", tmp_path]
    sizes = ["--num_train_examples=16", "--num_eval_examples=24", "--max_completion_length=6"]
    template = [] if kind == "encoder-decoder" else ["--template=plain"]
    run("finetune", *named, *sizes, *template, *STEPS, *EVALUATED)
    results = read_json(tmp_path / "all_results.json")
    for name in ("exact_match", "f1", "rougeL"):
        assert 0 <= results[f"eval_{name}"] <= 1
        assert results[f"eval_{name}_se"] >= 0
    assert {name for name in results if name.endswith("/exact_match")} == {
        f"eval_{task}/exact_match" for task in ("question", "sentiment", "title", "translate")
    }
    assert results["eval_loss"] > 0


def test_a_mixture_with_an_adapter(run, t5, tmp_path, capsys):
    for name in ("one", "two"):
        rows = [{"input": f"{name} {i}", "target": name} for i in range(6)]
        Dataset.from_list(rows).to_json(tmp_path / f"{name}.jsonl")
    entries = [f'{{"path": "{tmp_path / name}.jsonl"}}' for name in ("one", "two")]
    lora = ["--use_peft", "--lora_r=2", "--lora_target_modules", "q", "v"]
    run(
        "finetune", "--model_name_or_path", t5, "--datasets", *entries, *lora, *STEPS, "--output_dir", tmp_path / "out"
    )
    assert capsys.readouterr().out.count("6 of 12 rows, 50.0 %") == 2
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_errors_are_one_line(error_of, encoder, t5, reviews, tmp_path):
    named = ["--output_dir", tmp_path / "out", "--dataset_name", reviews, *STEPS]
    Dataset.from_list([{"text": "a", "label": "bad"}, {"text": "b", "label": "new"}]).to_json(reviews / "test.jsonl")
    assert "'new' is in the test split" in error_of("finetune", "--model_name_or_path", encoder, *named, *EVALUATED)
    (reviews / "test.jsonl").unlink()
    Dataset.from_list([{"text": "a", "label": 0.5}] * 3).to_json(reviews / "train.jsonl")
    assert "is this a column of classes" in error_of("finetune", "--model_name_or_path", encoder, *named)
    Dataset.from_list([{"body": "a"}] * 3).to_json(reviews / "train.jsonl")
    assert "neither 'prompt' and 'completion'" in error_of("finetune", "--model_name_or_path", t5, *named)
