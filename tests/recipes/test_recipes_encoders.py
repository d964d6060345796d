"""pretrain_masked_lm, pretrain_span_corruption: two steps of every architecture and objective, saved and loaded."""

import io
import json
import sys

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

from hfcourse.models.span_boundary import SPAN_BOUNDARY_FILE
from hfcourse.models.word_vectors import SAFETENSORS_FILE, TEXT_FILE, WordVectors

TEXTS = ["The red fox sleeps near the river.", "Mara lives in Oakton and likes green tea."] * 60
SHAPE = ["--hidden_size=16", "--num_hidden_layers=1", "--num_attention_heads=2", "--disable_tqdm=true"]
TWO_STEPS = ["--max_steps=2", "--per_device_train_batch_size=2", "--logging_steps=1"]
EVALUATED = ["--eval_strategy=steps", "--eval_steps=2", "--per_device_eval_batch_size=2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for split in ("train", "test"):
        Dataset.from_dict({"text": TEXTS}).to_json(folder / f"{split}.jsonl")
    return folder


@pytest.fixture(scope="module")
def vectors(corpus, tmp_path_factory):
    """Word vectors in all of the recipe's files, as long as the models here are wide."""
    folder, words = tmp_path_factory.mktemp("vectors"), sorted({word for text in TEXTS for word in text[:-1].split()})
    table = torch.randn(len(words), 16, generator=torch.Generator().manual_seed(0))
    WordVectors(words, table).save_word2vec(folder / TEXT_FILE)
    WordVectors(words, table).save_safetensors(folder / SAFETENSORS_FILE)
    return folder


@pytest.fixture
def tokenizer(run, corpus, tmp_path):
    def train(algorithm, *flags):
        folder = tmp_path / algorithm
        named = ["--dataset_name", corpus, "--vocab_size=300", "--algorithm", algorithm, "--output_dir", folder]
        run("train_tokenizer", *named, *flags)
        return folder

    return train


def results_of(folder):
    return json.loads((folder / "all_results.json").read_text())


@pytest.mark.parametrize(
    ("architecture", "algorithm", "flags"),
    [
        ("bert", "wordpiece", ["--exact_count=true", "--dupe_factor=2", "--masking=whole_word"]),
        ("bert", "wordpiece", ["--masking=span", "--span_boundary=true"]),
        ("roberta", "bpe", ["--isolate_documents=true"]),
        ("modernbert", "bpe", ["--isolate_documents=true", "--masking=whole_word"]),
    ],
)
def test_an_encoder(run, corpus, tokenizer, tmp_path, architecture, algorithm, flags):
    folder, named = tmp_path / "model", ["--tokenizer_name_or_path", tokenizer(algorithm), "--dataset_name", corpus]
    named += ["--architecture", architecture, "--output_dir", folder, "--block_size=24", *flags]
    run("pretrain_masked_lm", *named, *SHAPE, *TWO_STEPS, *EVALUATED)
    model, saved = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (model.config.model_type, model.config.vocab_size) == (architecture, len(saved))
    assert saved.convert_ids_to_tokens(saved.mask_token_id) == saved.mask_token
    assert saved.mask_token_id < len(saved)
    assert (folder / SPAN_BOUNDARY_FILE).is_file() == ("--span_boundary=true" in flags)
    assert 0 < results_of(folder)["eval_loss"] < 10
    run("pretrain_masked_lm", "--model_name_or_path", folder, *named[2 : -len(flags) or None], *TWO_STEPS)  # and on


@pytest.mark.parametrize("objective", ["span_corruption", "prefix_lm", "ul2"])
def test_an_encoder_decoder(run, corpus, tokenizer, tmp_path, objective):
    folder, modes = tmp_path / "model", ["--special_tokens", "[R]", "[X]", "[S]"]
    named = ["--tokenizer_name_or_path", tokenizer("bpe", "--sentinels=100", *modes), "--dataset_name", corpus]
    tasks = ["--tasks_name=world/text_to_text", "--num_tasks=20", "--task_rate=0.3"]
    tasks = [] if objective == "prefix_lm" else tasks
    named += ["--objective", objective, "--input_length=64", "--output_dir", folder, *tasks]
    run("pretrain_span_corruption", *named, "--rms_scaled=true", *SHAPE, *TWO_STEPS, *EVALUATED)
    model, saved = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (model.config.vocab_size, model.config.decoder_start_token_id) == (len(saved), saved.pad_token_id)
    assert 0 < results_of(folder)["eval_loss"] < 10
    card = (folder / "README.md").read_text()
    assert "AutoModelForSeq2SeqLM" in card
    assert "Span corruption" in card


def test_a_stream_of_text_is_enough(run, corpus, tokenizer, tmp_path):
    named = ["--dataset_name", corpus, "--dataset_streaming=true", "--output_dir", tmp_path / "model", *SHAPE]
    flags = [*named, *TWO_STEPS, "--save_strategy=no"]
    run("pretrain_masked_lm", "--tokenizer_name_or_path", tokenizer("wordpiece"), *flags, "--block_size=24")
    sentinels = tokenizer("bpe", "--sentinels=100")
    run("pretrain_span_corruption", "--tokenizer_name_or_path", sentinels, *flags, "--input_length=32")


@pytest.mark.parametrize("source", ["standard input", "shards"])
def test_text_comes_by_a_pipe_or_in_shards(run, tokenizer, tmp_path, monkeypatch, source):
    """Twelve rows of text, whose number nobody knows beforehand. What is read of them is for `tests/data`."""
    name, words = "-", tokenizer("wordpiece")
    if source == "standard input":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS[:12]).encode())))
    else:
        name = tmp_path / "shards"
        for i in range(3):
            Dataset.from_dict({"text": TEXTS[:4]}).to_json(name / f"train-{i:05d}-of-00003.jsonl")
    named = ["--tokenizer_name_or_path", words, "--dataset_name", name, "--dataset_streaming=true"]
    flags = ["--output_dir", tmp_path / "model", "--block_size=24", "--save_strategy=no", *SHAPE, *TWO_STEPS]
    run("pretrain_masked_lm", *named, *flags)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "model").config.vocab_size == len(
        AutoTokenizer.from_pretrained(words)
    )


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize(
    ("recipe", "algorithm", "file"),
    [
        ("pretrain_masked_lm", "wordpiece", ""),
        ("pretrain_span_corruption", "bpe", "word_vectors.txt"),
        ("pretrain_causal_lm", "bpe", "word_vectors.safetensors"),
    ],
)
def test_word_vectors_are_the_embedding_table(
    run, vectors, corpus, tokenizer, tmp_path, recipe, algorithm, file, freeze
):
    """Frozen they stay what they were, and are learnt from there on if not; other tokens begin anew."""
    folder, words = tmp_path / "model", WordVectors.load(vectors)
    size = {"pretrain_span_corruption": "--input_length=32"}.get(recipe, "--block_size=24")
    named = ["--tokenizer_name_or_path", tokenizer(algorithm, "--sentinels=100"), "--dataset_name", corpus, size]
    named += ["--word_vectors", vectors / file, "--freeze_embeddings", str(freeze), "--output_dir", folder]
    run(recipe, *named, *SHAPE, *TWO_STEPS, "--learning_rate=1e-2", "--save_strategy=no")
    saved = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    table, vocab = model.get_input_embeddings().weight.detach(), saved.get_vocab()
    known = [(i, token.lstrip("Ġ")) for token, i in vocab.items() if token.lstrip("Ġ") in words]
    assert len(known) >= 5
    rows, expected = table[[i for i, _ in known]], torch.stack([words[word] for _, word in known])
    assert torch.equal(rows, expected) == freeze
    assert torch.allclose(
        rows, expected, atol=0.1
    )  # two steps of Adam of 0.01 at most, and a tenth is far from chance


def test_bad_input_is_one_line(error_of, vectors, corpus, tokenizer, tmp_path):
    wordpiece, plain = tokenizer("wordpiece"), tokenizer("bpe")
    out = ["--dataset_name", corpus, "--output_dir", tmp_path / "out", *TWO_STEPS]
    masked = ["pretrain_masked_lm", "--tokenizer_name_or_path", wordpiece, *out]
    corrupted = ["pretrain_span_corruption", "--tokenizer_name_or_path", plain, *out]
    cases = [
        ([*masked, "--masking=words"], "masking='words': choose token, whole_word, span"),
        ([*masked, "--num_attention_heads=3"], "num_attention_heads=3: must divide"),
        ([*masked, "--template=plain"], "template: pretraining reads one column"),
        ([*masked, "--architecture=t5"], "architecture"),
        ([*masked, "--word_vectors", vectors], "word vectors have 16 dimensions, the model's embeddings 256"),
        ([*masked, "--word_vectors", tmp_path / "v.txt"], "word vectors: there is no file"),
        ([*masked, "--block_size=99999"], "shorter than one block"),
        ([*masked, "--model_name_or_path", tmp_path], "nothing that AutoModelForMaskedLM loads"),
        (corrupted, "the tokenizer has no <extra_id_0>"),
        ([*corrupted, "--objective=mlm"], "objective='mlm'"),
        ([*corrupted, "--num_attention_heads=3"], "num_attention_heads=3: must divide"),
        ([*corrupted, "--template=plain"], "template: pretraining reads one column"),
    ]
    for argv, message in cases:
        error = error_of(*argv)
        assert error.startswith("error: "), argv
        assert message in error, argv


@pytest.mark.parametrize("name", ["pretrain_masked_lm", "pretrain_span_corruption"])
def test_help_is_worth_reading(name, run, capsys):
    with pytest.raises(SystemExit):
        run(name, "--help")
    text = capsys.readouterr().out
    assert "What to watch:" in text
    assert f"recipes/{name}.py" in text
