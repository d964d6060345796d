"""Classes: the loss by hand, accumulation, metrics of the whole evaluation."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from hfcourse import ClassificationConfig, ClassificationTrainer
from hfcourse.errors import InputError
from hfcourse.metrics import class_metrics
from tests.trainers.resume import assert_resume_equals_no_kill

TEXTS = ("The red fox", "Mara lives in Oakton and likes green tea", "What?", "Two apples", "The door is blue")
ROWS = [{"text": text, "label": i % 3} for i, text in enumerate(TEXTS)]


@pytest.fixture(params=["encoder", "decoder"])
def make(request, tiny_tokenizer, tmp_path):
    def make(rows=ROWS, **config):
        torch.manual_seed(0)
        shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_labels=3)
        shape |= dict(vocab_size=len(tiny_tokenizer), pad_token_id=0)
        if request.param == "encoder":
            off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
            model = BertForSequenceClassification(BertConfig(**shape, **off))
        else:
            model = LlamaForSequenceClassification(LlamaConfig(**shape))
        settings = dict(max_steps=1, per_device_train_batch_size=5, learning_rate=0.1, optim="sgd", max_grad_norm=0.0)
        settings |= dict(save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, logging_steps=1)
        args = ClassificationConfig(**{"output_dir": str(tmp_path), **settings, **config})
        data = Dataset.from_list(rows)
        return ClassificationTrainer(
            model,
            args,
            train_dataset=data,
            eval_dataset=data,
            processing_class=tiny_tokenizer,
            compute_metrics=lambda p: class_metrics(np.argmax(p.predictions, -1), p.label_ids),
        )

    return make


def by_hand(trainer):
    """[log p of every class] of each row, run alone."""
    trainer.model.eval()
    with torch.no_grad():
        rows = [torch.tensor(trainer.processing_class(row["text"])["input_ids"])[None] for row in ROWS]
        return [trainer.model(input_ids=ids).logits[0].log_softmax(-1) for ids in rows]


def test_loss_and_metrics_by_hand(make):
    trainer = make(per_device_eval_batch_size=2)
    logps = by_hand(trainer)
    loss = -sum(logp[row["label"]].item() for logp, row in zip(logps, ROWS, strict=True)) / len(ROWS)
    measured = trainer.evaluate()
    assert measured["eval_loss"] == pytest.approx(loss, abs=1e-6)
    hits = [logp.argmax().item() == row["label"] for logp, row in zip(logps, ROWS, strict=True)]
    assert measured["eval_accuracy"] == sum(hits) / len(hits)
    assert "eval_perplexity" not in measured
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(loss, abs=1e-6)


def test_accumulation_equals_one_batch(make):
    whole, cut = make(), make(per_device_train_batch_size=1, gradient_accumulation_steps=5)
    losses = [trainer.train().training_loss for trainer in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    both = ([p.detach() for p in trainer.model.parameters()] for trainer in (whole, cut))
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_resume_equals_no_kill_bit_for_bit(make, tmp_path):
    """Epochs of 5 steps, killed within the second."""
    assert_resume_equals_no_kill(make, tmp_path, max_steps=9, killed_after=7)


def test_it_learns_the_classes(make):
    trainer = make(max_steps=60, learning_rate=3e-3, optim="adamw_torch")
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1.0


def test_bad_labels_are_named(make):
    with pytest.raises(InputError, match="row 1: label 3 is none of the model's classes 0 to 2"):
        make(rows=[{"text": "a", "label": 0}, {"text": "b", "label": 3}])
    with pytest.raises(InputError, match="no column 'label'"):
        make(rows=[{"text": "a"}])
