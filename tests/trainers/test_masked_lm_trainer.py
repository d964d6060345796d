"""Pretraining encoders: the loss is the pure function on the batch, however it is cut up; masks follow the rows."""

import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from hfcourse import MaskedLMConfig, MaskedLMTrainer
from hfcourse.errors import InputError
from hfcourse.losses import language_modeling_loss
from hfcourse.models.span_boundary import SPAN_BOUNDARY_FILE, SpanBoundaryHead, span_boundary_pairs

TEXTS = ["the quick brown fox jumped, didn't it?", "oakton is the capital of tea.", "3 foxes slept near the fox!"] * 12
CLS, SEP = 2, 3


def rows(count, seed=0):
    """Rows of several lengths: they weigh differently."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, 30, (count,), generator=generator).tolist()
    ids = [torch.randint(5, 48, (n,), generator=generator).tolist() for n in lengths]
    return Dataset.from_dict({"input_ids": [[CLS, *row, SEP] for row in ids]})


def make(model, tokenizer, folder, train=None, **config):
    defaults = dict(
        max_steps=1, logging_steps=1, save_strategy="no", learning_rate=0.1, optim="sgd", max_grad_norm=0.0
    )
    args = MaskedLMConfig(str(folder), disable_tqdm=True, **{**defaults, **config})
    return MaskedLMTrainer(model, args, train_dataset=rows(8) if train is None else train, processing_class=tokenizer)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def whole_batch(trainer):
    return trainer.data_collator(list(trainer.train_dataset))


def pure_loss(model, batch):
    labels = batch["labels"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return language_modeling_loss(logits, labels)


def modernbert(**overrides):
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ids = dict(pad_token_id=0, cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP)
    return ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=48, max_position_embeddings=130, initializer_range=0.2, **shape, **ids, **overrides
        )
    )


@pytest.fixture
def encoder(request, tiny_bert):
    return {"bert": tiny_bert, "roberta": roberta, "modernbert": modernbert}[request.param]()


@pytest.mark.parametrize("encoder", ["bert", "roberta", "modernbert"], indirect=True)
def test_the_loss_is_the_pure_function_and_the_head_reads_hidden_tokens_only(encoder, word_piece, tmp_path):
    """Where the widest layer of the head is met by all 8 rows, six of seven rows of its work are thrown away."""
    trainer, seen = make(encoder, word_piece, tmp_path), []
    batch = whole_batch(trainer)
    decoder = encoder.get_output_embeddings()
    hook = decoder.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    loss = trainer.compute_loss(encoder, dict(batch))
    hook.remove()
    assert seen == [(1, int((batch["labels"] != -100).sum()), 32)]
    assert loss.item() == pytest.approx(pure_loss(encoder, batch).item(), abs=1e-6)
    assert loss.item() == pytest.approx(encoder(**batch).loss.item(), abs=1e-6)  # one batch: the model's own mean


@pytest.mark.parametrize("span_boundary", [False, True])
def test_accumulation_equals_one_batch(span_boundary, tiny_bert, word_piece, tmp_path):
    """The masks are the rows', so 8 × 1, 2 × 4 and 1 × 8 hide the same tokens; a mean of means would still differ, and
    the plain Trainer would learn eight times as fast."""
    weights, losses = [], []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        trainer = make(
            tiny_bert(),
            word_piece,
            tmp_path,
            masking="span" if span_boundary else "token",
            mlm_probability=0.3,
            span_boundary=span_boundary,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        losses.append(trainer.train().training_loss)
        weights.append(parameters(trainer.model))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=1e-5)
        torch.testing.assert_close(weights[other], weights[0], atol=1e-6, rtol=0)
    if not span_boundary:
        assert losses[0] == pytest.approx(pure_loss(tiny_bert(), whole_batch(trainer)).item(), abs=1e-5)


@pytest.mark.parametrize("span_boundary", [False, True])
def test_resume_equals_no_kill_bit_for_bit(span_boundary, tiny_bert, word_piece, tmp_path):
    """With dropout; epochs of 4 steps, killed within the second: other masks in each epoch, and those of no kill."""

    def run(folder, **config):
        config = {"max_steps": 8, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0, **config}
        config |= dict(masking="span", span_boundary=span_boundary, per_device_train_batch_size=2)
        return make(tiny_bert(dropout=0.1), word_piece, folder, **config)

    whole = run(tmp_path / "whole")
    whole.train()
    run(tmp_path / "killed", save_strategy="steps", save_steps=6).train()
    resumed = run(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-6"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    logged = [[log["loss"] for log in t.state.log_history if "loss" in log][-2:] for t in (whole, resumed)]
    assert logged[0] == logged[1]


def test_epochs_hide_other_tokens_and_evaluations_the_same(tiny_bert, word_piece, tmp_path):
    config, seen = dict(max_steps=3, learning_rate=0.0, per_device_train_batch_size=2), []
    trainer = make(tiny_bert(), word_piece, tmp_path, rows(2), **config)
    collate = trainer.data_collator

    def remember(batch):
        seen.append(collate(sorted(batch, key=lambda row: len(row["input_ids"]))))
        return seen[-1]

    trainer.data_collator = remember
    trainer.train()
    masks = {bytes((batch["labels"] != -100).numpy()) for batch in seen}
    assert len(masks) == 3
    first, second = trainer.evaluate(rows(5, seed=2)), trainer.evaluate(rows(5, seed=2))
    assert first["eval_loss"] == second["eval_loss"]


def test_eval_loss_is_the_mean_over_hidden_tokens(tiny_bert, word_piece, tmp_path):
    model, held_out = tiny_bert(), rows(5, seed=1)
    trainer = make(model, word_piece, tmp_path, per_device_eval_batch_size=2)
    metrics = trainer.evaluate(held_out)
    expected = pure_loss(model, trainer._eval_collator(list(held_out))).item()
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)


def test_nothing_hidden_is_no_loss(tiny_bert, word_piece, tmp_path):
    """BERT's own mean over no token is NaN, and one such batch ends a run."""
    model = tiny_bert()
    trainer = make(model, word_piece, tmp_path)
    batch = whole_batch(trainer)
    batch["labels"][:] = -100
    assert torch.isnan(model(**batch).loss)
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def roberta(**overrides):
    torch.manual_seed(0)
    shape = dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2
    )
    drop = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return RobertaForMaskedLM(
        RobertaConfig(vocab_size=48, max_position_embeddings=130, pad_token_id=0, **shape, **drop, **overrides)
    )


@pytest.mark.parametrize("encoder", ["bert", "roberta", "modernbert"], indirect=True)
def test_isolated_documents_cost_what_they_cost_alone(encoder, word_piece, tmp_path):
    """RoBERTa counts positions from behind its pad token; handed over from 0, they would all be wrong."""
    model = encoder.eval()
    texts = Dataset.from_dict({"text": TEXTS})
    trainer = make(model, word_piece, tmp_path, texts, isolate_documents=True, block_size=32)
    batch = next(iter(trainer.get_train_dataloader()))
    total, count = 0.0, 0
    for ids, labels, positions in zip(batch["input_ids"], batch["labels"], batch["position_ids"], strict=True):
        cuts = (positions == 0).nonzero()[1:, 0]
        for piece, hidden in zip(ids.tensor_split(cuts), labels.tensor_split(cuts), strict=True):
            total += language_modeling_loss(model(input_ids=piece[None]).logits[0], hidden, num_items=1.0)
            count += int((hidden != -100).sum())
    assert count > 20
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx((total / count).item(), abs=1e-5)
    leaking = trainer.compute_loss(model, {n: x for n, x in batch.items() if n != "position_ids"})
    assert abs(leaking.item() - (total / count).item()) > 1e-4


def test_texts_are_packed_with_cls_and_sep(tiny_bert, word_piece, tmp_path):
    trainer = make(tiny_bert(), word_piece, tmp_path, Dataset.from_dict({"text": TEXTS}), block_size=24)
    ids = [row["input_ids"].tolist() for row in trainer.train_dataset]
    assert {(row[0], row[-1], len(row)) for row in ids} == {(CLS, SEP, 24)}
    inner = [token for row in ids for token in row[1:-1]]
    expected = [t for text in TEXTS for t in [*word_piece(text, add_special_tokens=False)["input_ids"], SEP]]
    assert inner == expected[: len(inner)]


def test_static_masks(tiny_bert, word_piece, tmp_path):
    """BERT: 2 copies of each row, an exact count, and the same masks in every epoch."""
    trainer = make(tiny_bert(), word_piece, tmp_path, rows(4), exact_count=True, dupe_factor=2)
    assert len(trainer.train_dataset) == 8
    batch = whole_batch(trainer)
    lengths = batch["attention_mask"].sum(1)
    assert (batch["labels"] != -100).sum(1).tolist() == [max(round(0.15 * n), 1) for n in lengths.tolist()]
    trainer.data_collator.set_epoch(5)
    assert torch.equal(whole_batch(trainer)["labels"], batch["labels"])


def test_pairs_by_hand():
    """Row 0: spans 2-3 and 5 are told from (1, 4) and (4, 6); the span at 8 has a special token beside it. Row 1: the
    span at the beginning has no left neighbour, and of a long one two tokens (the most here) are told."""
    labels = torch.full((2, 10), -100)
    labels[0, [2, 3, 5, 8]] = torch.tensor([12, 13, 15, 18])
    labels[1, [0, 3, 4, 5]] = torch.tensor([20, 23, 24, 25])
    special = torch.zeros(2, 10, dtype=torch.bool)
    special[0, [0, 9]] = True
    left, right, offsets, targets = span_boundary_pairs(labels, special, max_span_length=2)
    assert left.tolist() == [1, 1, 4, 12, 12]
    assert right.tolist() == [4, 4, 6, 16, 16]
    assert offsets.tolist() == [0, 1, 0, 0, 1]
    assert targets.tolist() == [12, 13, 15, 23, 24]


def test_the_span_boundary_loss_is_the_heads_on_its_pairs(tiny_bert, word_piece, tmp_path):
    model = tiny_bert()
    trainer = make(model, word_piece, tmp_path, masking="span", mlm_probability=0.3, span_boundary=True)
    batch = whole_batch(trainer)
    hidden = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    special = torch.isin(batch["input_ids"], torch.tensor(word_piece.all_special_ids))
    left, right, offsets, targets = span_boundary_pairs(batch["labels"], special, 20)
    assert len(targets) > 10
    scores, head = [], model.span_boundary_head
    for l, r, i in zip(left, right, offsets, strict=True):  # one by one, from the equation
        x = torch.cat([hidden.reshape(-1, 32)[l], hidden.reshape(-1, 32)[r], head.position_embeddings.weight[i]])
        scores.append(head.mlp(x) @ model.bert.embeddings.word_embeddings.weight.T)
    expected = pure_loss(model, batch) + torch.nn.functional.cross_entropy(torch.stack(scores), targets)
    model.train()
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_span_boundary_head_is_saved_beside_an_ordinary_model(tiny_bert, word_piece, tmp_path):
    model = tiny_bert()
    trainer = make(model, word_piece, tmp_path, masking="span", span_boundary=True)
    trainer.train()
    trainer.save_model()
    loaded, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    layers = (m.bert.encoder.layer[0].output.dense.weight for m in (loaded, model))
    assert torch.equal(*layers)
    assert set(load_file(tmp_path / SPAN_BOUNDARY_FILE)) == set(SpanBoundaryHead(model).state_dict())


def test_saved_and_loaded_it_fills_in_what_is_hidden(tiny_bert, word_piece, tmp_path):
    """With an evaluation that asks for all logits, which changes nothing of the training."""
    weights = []
    for compute_metrics in (None, lambda prediction: {"width": float(prediction.predictions.shape[1])}):
        trainer = make(tiny_bert(), word_piece, tmp_path, masking="span", span_boundary=True)
        trainer.compute_metrics = compute_metrics
        trainer.train()
        weights.append(parameters(trainer.model))
    assert torch.equal(*weights)
    assert trainer.evaluate(rows(3, seed=2))["eval_width"] == max(len(row["input_ids"]) for row in rows(3, seed=2))
    trainer.save_model()
    fill = pipeline("fill-mask", model=str(tmp_path), top_k=1)
    (answer,) = fill("the quick [MASK] jumped")
    ids = word_piece("the quick [MASK] jumped", return_tensors="pt")["input_ids"]
    logits = trainer.model.eval()(input_ids=ids).logits[0, ids[0] == word_piece.mask_token_id]
    assert answer["token"] == logits.argmax().item()
    assert answer["score"] == pytest.approx(logits.softmax(-1).max().item(), abs=1e-5)


def test_what_cannot_be_used_is_one_line(tiny_bert, word_piece, t5_tokenizer, tmp_path):
    args, texts = MaskedLMConfig(str(tmp_path)), Dataset.from_dict({"text": ["a"]})
    cases = [
        (dict(train_dataset=texts), "processing_class: a tokenizer"),
        (dict(processing_class=word_piece), "train_dataset: is required"),
        (dict(train_dataset=Dataset.from_dict({"text": []}), processing_class=word_piece), "train_dataset: is empty"),
        (dict(train_dataset=texts, processing_class=t5_tokenizer), "cls_token, sep_token"),
        (dict(train_dataset=Dataset.from_dict({"b": ["a"]}), processing_class=word_piece), "no column 'text' to pack"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            MaskedLMTrainer(tiny_bert(), args, **arguments)
    make(tiny_bert(), word_piece, tmp_path / "plain", save_strategy="steps", save_steps=1).train()
    resumed = make(tiny_bert(), word_piece, tmp_path / "plain", span_boundary=True, max_steps=2)
    with pytest.raises(InputError, match=f"holds no {SPAN_BOUNDARY_FILE}"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-1"))
