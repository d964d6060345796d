"""EmbeddingsTrainer: the loss is the pure function's, accumulation and processes do not change it, resume is exact."""

import json
import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from hfcourse import EmbeddingsConfig, EmbeddingsTrainer
from hfcourse.errors import InputError
from hfcourse.losses import skip_gram_negative_sampling_loss
from hfcourse.models.skip_gram import SkipGram
from hfcourse.models.word_vectors import SAFETENSORS_FILE, TEXT_FILE, WordVectors
from tests.distributed.embeddings import CountedPairs, corpus
from tests.distributed.launch import run_on_processes

QUICK = dict(use_cpu=True, disable_tqdm=True, min_count=1, hidden_size=8, block_size=16, logging_steps=1)


def trainer_of(folder, dataset=None, trainer_class=EmbeddingsTrainer, **options):
    args = EmbeddingsConfig(str(folder), **{**QUICK, "save_strategy": "no", **options})
    return trainer_class(args, train_dataset=dataset or corpus())


def tables(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_the_loss_is_the_pure_functions_mean_over_pairs(tmp_path):
    trainer = trainer_of(tmp_path, subsample=0)
    torch.nn.init.normal_(trainer.model.context.weight)
    batch = trainer.draw(torch.tensor([[0, 1, 2, 3, -1, 4, 5, 6]]))
    center, context = trainer.model.center.weight, trainer.model.context.weight
    expected = skip_gram_negative_sampling_loss(
        center[batch["center"]], context[batch["context"]], context[batch["negatives"]]
    )
    assert batch["negatives"].shape == (len(batch["center"]), 5)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected.mean())
    given = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(1000))
    torch.testing.assert_close(given, expected.sum() / 1000)


def test_a_batch_without_pairs_is_no_loss_and_no_gradient(tmp_path):
    trainer = trainer_of(tmp_path)
    loss = trainer.compute_loss(trainer.model, trainer.draw(torch.tensor([[-1, 3, -1]])))
    loss.backward()
    assert loss.item() == 0
    assert trainer.model.center.weight.grad.abs().sum() == 0


def test_it_starts_as_word2vec_does(tmp_path):
    """Every score is 0, so that a pair costs (1 + K) log 2."""
    trainer = trainer_of(tmp_path, subsample=0)
    assert trainer.model.center.weight.abs().max() <= 0.5 / 8
    assert trainer.model.center.weight.std() > 0.02
    assert trainer.model.context.weight.abs().sum() == 0
    loss = trainer.compute_loss(trainer.model, trainer.draw(torch.arange(8)[None]))
    torch.testing.assert_close(loss, torch.tensor(6.0).mul(torch.tensor(2.0).log()))


def test_one_batch_of_eight_is_four_of_two(tmp_path):
    """The blocks hold different numbers of pairs: a mean of the batches' means would weigh them wrongly."""
    options = dict(
        max_steps=3, subsample=0, optim="sgd", learning_rate=5.0, lr_scheduler_type="constant", max_grad_norm=0.0
    )
    whole = trainer_of(tmp_path, None, CountedPairs, per_device_train_batch_size=8, **options)
    whole.train()
    options |= dict(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    parts = trainer_of(tmp_path, None, CountedPairs, **options)
    parts.train()
    for name, table in tables(whole).items():
        torch.testing.assert_close(tables(parts)[name], table, atol=1e-6, rtol=1e-5)
    assert [log["loss"] for log in parts.state.log_history[:3]] == pytest.approx(
        [log["loss"] for log in whole.state.log_history[:3]], abs=1e-4
    )


def test_two_processes_equal_one(tmp_path):
    script = Path(__file__).parents[1] / "distributed" / "embeddings.py"
    ranks = [json.loads(out.splitlines()[-1]) for out in run_on_processes(script, str(tmp_path / "two"), "4")]
    alone = trainer_of(tmp_path / "one", trainer_class=CountedPairs, **CountedPairs.options(8))
    alone.train()
    for rank in ranks:
        assert rank["num_processes"] == 2
        for name, table in tables(alone).items():
            torch.testing.assert_close(torch.tensor(rank["tables"][name]), table, atol=1e-6, rtol=1e-5)


def test_killed_and_resumed_it_is_the_same(tmp_path):
    """In the middle of an epoch, with thinning: windows and noise are drawn as if nothing had happened."""
    options = dict(max_steps=8, save_strategy="steps", save_steps=3, per_device_train_batch_size=2, subsample=0.05)
    whole = trainer_of(tmp_path / "whole", **options)
    whole.train()
    resumed = trainer_of(tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    for name, table in tables(whole).items():
        assert torch.equal(tables(resumed)[name], table), name


def test_saved_it_loads_as_model_and_as_vectors(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model()
    trainer.card_dataset = "world/corpus"
    trainer.create_model_card()
    center = trainer.model.center.weight.detach()
    loaded = SkipGram.from_pretrained(tmp_path)
    assert torch.equal(loaded.center.weight, center)
    assert torch.equal(loaded.context.weight, trainer.model.context.weight)
    for file in (SAFETENSORS_FILE, TEXT_FILE):
        vectors = WordVectors.load(tmp_path / file)
        assert list(vectors.words) == loaded.config.words == trainer.model.config.words
        assert torch.equal(vectors.vectors, center)
    card = (tmp_path / "README.md").read_text()
    assert f"{len(center)} words, 8 dimensions" in card
    assert "world/corpus" in card
    assert "2 steps, last loss" in card


def test_evaluation_asks_the_same_every_time(tmp_path):
    args = EmbeddingsConfig(str(tmp_path), **QUICK, save_strategy="no")
    trainer = EmbeddingsTrainer(args, train_dataset=corpus(), eval_dataset=corpus())
    torch.nn.init.normal_(trainer.model.context.weight)
    first, second = trainer.evaluate()["eval_loss"], trainer.evaluate()["eval_loss"]
    assert first == second > 1


def test_epochs_and_steps_draw_others(tmp_path):
    drawn = []

    class Watched(EmbeddingsTrainer):
        def draw(self, blocks, generator=None):
            drawn.append(super().draw(blocks, generator))
            return drawn[-1]

    dataset = Dataset.from_dict({"text": [" ".join(f"w{i % 7}" for i in range(15))]})  # one block, one step an epoch
    trainer_of(tmp_path, dataset, Watched, max_steps=3, subsample=0).train()
    assert len({tuple(batch["negatives"].flatten().tolist()) for batch in drawn}) == 3
    assert len({len(batch["center"]) for batch in drawn}) > 1


def test_a_tokenizers_tokens_as_words(tmp_path, tiny_tokenizer):
    args = EmbeddingsConfig(str(tmp_path), **QUICK)
    dataset = Dataset.from_dict({"text": ["The red fox sleeps.", "The red door."]})
    trainer = EmbeddingsTrainer(args, train_dataset=dataset, processing_class=tiny_tokenizer)
    assert set(trainer.model.config.words) == {
        token for text in dataset["text"] for token in tiny_tokenizer.tokenize(text)
    }


def planted(num_sentences: int = 3000) -> Dataset:
    """Twelve nouns of three kinds and four owners: kind and owner each bring words of their own, and nothing else."""
    rng, sentences = random.Random(0), []
    for _ in range(num_sentences):
        kind, owner = rng.randrange(3), rng.randrange(4)
        signs = [f"kind{kind}sign{rng.randrange(4)}", f"owner{owner}sign{rng.randrange(4)}"]
        rng.shuffle(signs)
        sentences.append(f"{signs[0]} noun{kind}of{owner} {signs[1]}")
    return Dataset.from_dict({"text": sentences})


def test_analogies_are_learnt(tmp_path):
    """noun0of1 is to noun2of1 as noun0of3 to noun2of3: 72 such questions, right by chance once in nine at best."""
    options = dict(hidden_size=16, window=1, subsample=0, num_train_epochs=8, per_device_train_batch_size=4)
    trainer = trainer_of(tmp_path, planted(), **options, logging_steps=100, block_size=128)
    trainer.train()
    grid = [(k, m, o, p) for k in range(3) for m in range(3) for o in range(4) for p in range(4) if k != m and o != p]
    questions = [(f"noun{k}of{o}", f"noun{m}of{o}", f"noun{k}of{p}", f"noun{m}of{p}") for k, m, o, p in grid]
    accuracy, asked = trainer.model.word_vectors().analogy_accuracy(questions)
    assert asked == len(questions) == 72
    assert accuracy > 0.9


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="train_dataset: has no column 'text', only"):
        trainer_of(tmp_path, Dataset.from_dict({"body": ["a"]}))
    with pytest.raises(InputError, match="min_count=50: 0 of 3 different words occur so often"):
        trainer_of(tmp_path, Dataset.from_dict({"text": ["a b c"]}), min_count=50)
    with pytest.raises(InputError, match="window, num_negatives and min_count must be at least 1"):
        trainer_of(tmp_path, window=0)
