"""Pretraining encoder-decoders: the loss is the pure function, masks follow the rows, tasks go in the same stream."""

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    Trainer,
    TrainingArguments,
)

from hfcourse import SpanCorruptionConfig, SpanCorruptionTrainer
from hfcourse.errors import InputError
from hfcourse.losses import language_modeling_loss

RAW_LENGTH = 34  # of inputs of 32 at r = 0.15, μ = 3


def rows(count, seed=0):
    ids = torch.randint(3, 900, (count, RAW_LENGTH), generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({"input_ids": ids.tolist()})


def tasks(count=8):
    texts = [" ".join(f"w{3 + (i * k) % 50}" for k in range(1, 4 + i % 5)) for i in range(count)]
    return Dataset.from_dict({"input": texts, "target": [text.split()[0] for text in texts], "task": ["copy"] * count})


def make(model, tokenizer, folder, train=None, held_out=None, task_rows=None, **config):
    defaults = dict(
        max_steps=1, logging_steps=1, save_strategy="no", learning_rate=0.1, optim="sgd", max_grad_norm=0.0
    )
    args = SpanCorruptionConfig(str(folder), input_length=32, disable_tqdm=True, **{**defaults, **config})
    return SpanCorruptionTrainer(
        model,
        args,
        train_dataset=rows(8) if train is None else train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        tasks=task_rows,
    )


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def pure_loss(model, batch):
    """By hand: the decoder reads the labels one place later, after the start token."""
    labels = batch["labels"]
    shifted = torch.cat([torch.zeros(len(labels), 1, dtype=torch.long), labels[:, :-1]], dim=1).clamp(min=0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    return language_modeling_loss(model(**inputs, decoder_input_ids=shifted).logits, labels)


@pytest.mark.parametrize("with_tasks", [False, True])
def test_the_loss_is_the_pure_function_on_the_batch(with_tasks, tiny_t5, t5_tokenizer, tmp_path):
    model = tiny_t5()
    trainer = make(model, t5_tokenizer, tmp_path, task_rows=tasks() if with_tasks else None)
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(model, dict(batch))
    assert loss.item() == pytest.approx(pure_loss(model, batch).item(), abs=1e-6)
    assert loss.item() == pytest.approx(model(**batch).loss.item(), abs=1e-6)  # one batch: T5's own mean


def test_accumulation_equals_one_batch_where_the_plain_trainer_multiplies(tiny_t5, t5_tokenizer, tmp_path):
    """Tasks of several lengths among the rows, so that batches weigh differently."""
    weights, losses = [], []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        trainer = make(
            tiny_t5(),
            t5_tokenizer,
            tmp_path,
            rows(4),
            task_rows=tasks(4),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            train_sampling_strategy="sequential",
        )
        assert len(trainer.train_dataset) >= 8
        losses.append(trainer.train().training_loss)
        weights.append(parameters(trainer.model))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=1e-5)
        torch.testing.assert_close(weights[other], weights[0], atol=1e-6, rtol=0)
    batch = trainer.data_collator(list(trainer.train_dataset.select(range(8))))
    assert losses[0] == pytest.approx(pure_loss(tiny_t5(), batch).item(), abs=1e-5)

    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, use_cpu=True,
        remove_unused_columns=False, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    plain = Trainer(tiny_t5(), args, data_collator=trainer.data_collator, train_dataset=trainer.train_dataset)
    assert plain.train().training_loss > 3 * losses[0]


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
def test_resume_equals_no_kill_bit_for_bit(optim, tiny_t5, t5_tokenizer, tmp_path):
    """With dropout and tasks; epochs of 4 steps and more, killed within the second."""

    def run(folder, **config):
        config = {"max_steps": 8, "learning_rate": 1e-2, "max_grad_norm": 1.0, "rms_scaled": True, **config}
        config |= dict(per_device_train_batch_size=2, optim=optim)
        return make(tiny_t5(dropout=0.1), t5_tokenizer, folder, rows(5), task_rows=tasks(3), **config)

    whole = run(tmp_path / "whole")
    whole.train()
    run(tmp_path / "killed", save_strategy="steps", save_steps=6).train()
    resumed = run(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-6"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    kind = {"adamw_torch": "RMSScaledAdamW", "adafactor": "Adafactor"}[optim]
    assert type(whole.optimizer.optimizer).__name__ == kind


@pytest.mark.parametrize("rms_scaled", [True, False])
def test_adafactors_first_step_by_hand(rms_scaled, tiny_t5, t5_tokenizer, tmp_path):
    """At the first step β₂ is 0, so that of a matrix's gradient g, with R and C the means over the columns and rows of
    g² + 1e-30 and m the mean of all, u = g / √(R·C/m), and of a vector's u = g / √(g² + 1e-30). Then u is divided by
    max(1, RMS(u)), and the step is 0.1·u, relative to max(1e-3, RMS(θ)) if scaled.
    Algorithm 4 of https://huggingface.co/papers/1804.04235.
    """
    model = tiny_t5()
    trainer = make(model, t5_tokenizer, tmp_path, optim="adafactor", rms_scaled=rms_scaled)
    pure_loss(model, trainer.data_collator(list(trainer.train_dataset))).backward()
    expected = []
    for p in model.parameters():
        squares, theta = p.grad.square() + 1e-30, p.detach()
        if p.dim() == 2:
            squares = squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / squares.mean()
        u = p.grad / squares.sqrt()
        u = u / max(1.0, u.square().mean().sqrt().item())
        scale = max(1e-3, theta.square().mean().sqrt().item()) if rms_scaled else 1.0
        expected.append((theta - 0.1 * scale * u).flatten())
    model.zero_grad()
    trainer.train()
    torch.testing.assert_close(parameters(model), torch.cat(expected), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("objective", ["span_corruption", "prefix_lm", "ul2"])
def test_texts_are_packed_into_the_rows_that_the_noise_needs(objective, tiny_t5, t5_tokenizer, tmp_path):
    """Without a token between documents, as in T5, and then back: what the rows hold is the text."""
    texts = [" ".join(f"w{3 + (i + k) % 900}" for k in range(50)) for i in range(20)]
    dataset = Dataset.from_dict({"text": texts})
    trainer = make(tiny_t5(), t5_tokenizer, tmp_path, dataset, dataset, objective=objective, max_steps=2)
    ids = [row["input_ids"] for row in trainer.train_dataset]
    assert {len(row) for row in ids} == {trainer.data_collator.raw_length}
    stream = [token for text in texts for token in t5_tokenizer(text)["input_ids"]]
    flat = [int(token) for row in ids for token in row]
    assert flat == stream[: len(flat)]
    batch = next(iter(trainer.get_train_dataloader()))
    raw = trainer.data_collator.reconstruct(batch["input_ids"], batch["labels"])
    assert {tuple(row) for row in raw.tolist()} <= {tuple(row.tolist()) for row in ids}
    trainer.train()
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_loss"] == second["eval_loss"]


def test_a_share_of_the_rows_are_tasks(tiny_t5, t5_tokenizer, tmp_path):
    trainer = make(tiny_t5(), t5_tokenizer, tmp_path, rows(300), task_rows=tasks(40), task_rate=0.25)
    labels = [row["labels"] for row in trainer.train_dataset]
    share = sum(len(label) > 0 for label in labels) / len(labels)
    assert share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(labels)) ** 0.5)
    row = next(row for row in trainer.train_dataset if len(row["labels"]))
    texts = t5_tokenizer.batch_decode([row["input_ids"], row["labels"]])
    assert all(text.endswith("</s>") for text in texts)
    assert texts[0].split()[0] == texts[1].split()[0]


@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(BartForConditionalGeneration, BartConfig), (M2M100ForConditionalGeneration, M2M100Config)],
)
def test_other_encoder_decoders_read_as_they_do(model_class, config_class, t5_tokenizer, tmp_path):
    """BART shifts the labels itself; M2M100, which is NLLB too, does so within its forward alone."""
    torch.manual_seed(0)
    shape = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4)
    config = config_class(
        vocab_size=len(t5_tokenizer), encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64, dropout=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1, **shape,
    )  # fmt: skip
    model = model_class(config).eval()
    trainer = make(model, t5_tokenizer, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    batch["labels"][:4, 5:] = -100  # read as padding
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(model(**batch).loss.item(), abs=1e-6)


def test_saved_and_loaded(tiny_t5, t5_tokenizer, tmp_path):
    model = tiny_t5()
    trainer = make(model, t5_tokenizer, tmp_path)
    trainer.train()
    trainer.save_model()
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    batch = trainer.data_collator(list(trainer.train_dataset))
    written = [m.eval().generate(batch["input_ids"], max_new_tokens=6) for m in (model, loaded)]
    assert torch.equal(*written)
    assert written[0][:, 0].tolist() == [model.config.decoder_start_token_id] * 8
    assert written[0].shape[1] > 1
    assert AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("<extra_id_0>") == len(t5_tokenizer) - 1


def test_what_cannot_be_used_is_one_line(tiny_t5, t5_tokenizer, tmp_path):
    with pytest.raises(InputError, match="objective='mlm': choose span_corruption"):
        make(tiny_t5(), t5_tokenizer, tmp_path, objective="mlm")
    with pytest.raises(InputError, match=r"tasks: the dataset has no column 'target', only input"):
        make(tiny_t5(), t5_tokenizer, tmp_path, task_rows=Dataset.from_dict({"input": ["w3"]}))
    with pytest.raises(InputError, match=r"task_rate=1.0: must lie between"):
        make(tiny_t5(), t5_tokenizer, tmp_path, task_rows=tasks(), task_rate=1.0)
    model = tiny_t5()
    del model.config.decoder_start_token_id
    with pytest.raises(InputError, match="decoder_start_token_id: the model's config has none"):
        make(model, t5_tokenizer, tmp_path)
    with pytest.raises(InputError, match="a tokenizer is needed"):
        make(tiny_t5(), None, tmp_path)
    with pytest.raises(InputError, match="rms_scaled: there is no such 'sgd'; set --optim adafactor"):
        make(tiny_t5(), t5_tokenizer, tmp_path, rms_scaled=True).train()
    short = Dataset.from_dict({"input_ids": [[5] * 20] * 4})
    with pytest.raises(InputError, match=r"rows have 20 tokens, but inputs of 32 .* are made of 34"):
        make(tiny_t5(), t5_tokenizer, tmp_path, short).train()
