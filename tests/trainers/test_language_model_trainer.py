"""What the pretraining trainers share: the head meets what counts; all of it is there for those who ask."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from hfcourse import (
    CausalLMConfig,
    CausalLMTrainer,
    MaskedLMConfig,
    MaskedLMTrainer,
    TextToTextConfig,
    TextToTextTrainer,
)
from hfcourse.losses import language_modeling_loss

LENGTH = 12


def blocks(first, last):
    """Row i does not learn its first 2 i tokens, so some of what the model reads predicts nothing."""
    ids = torch.randint(first, last, (6, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    labels = [[-100] * (2 * i) + row[2 * i :] for i, row in enumerate(ids)]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


@pytest.fixture(params=["causal", "causal LoRA", "gpt2", "text to text", "masked"])
def trainer(request, tiny_llama, tiny_gpt2, tiny_bert, tiny_tokenizer, word_piece, tmp_path):
    settings = dict(max_steps=1, per_device_train_batch_size=6, learning_rate=0.0, save_strategy="no")
    settings |= dict(output_dir=str(tmp_path), disable_tqdm=True, use_cpu=True, bf16=False, max_grad_norm=0.0)
    if request.param == "masked":
        args, rows = MaskedLMConfig(**settings), blocks(5, 48).remove_columns("labels")
        return MaskedLMTrainer(tiny_bert(), args, train_dataset=rows, eval_dataset=rows, processing_class=word_piece)
    rows = blocks(4, 300)
    if request.param == "text to text":
        args, tokenizer = TextToTextConfig(**settings), tiny_tokenizer
        return TextToTextTrainer(tiny_llama(), args, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
    no_dropout = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    model = tiny_gpt2(**no_dropout) if request.param == "gpt2" else tiny_llama()
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False) if "LoRA" in request.param else None
    args = CausalLMConfig(**settings)
    return CausalLMTrainer(model, args, train_dataset=rows, eval_dataset=rows, peft_config=lora)


def aligned(trainer, batch):
    """Logits from the whole forward pass and the labels that they predict."""
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    logits = trainer.model(**inputs).logits
    if isinstance(trainer, MaskedLMTrainer):
        return logits, batch["labels"]
    return logits[:, :-1], batch["labels"][:, 1:]


def test_loss_and_gradient_are_those_of_all_logits(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    language_modeling_loss(*aligned(trainer, batch)).backward()
    assert found
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5)


def test_the_head_reads_what_counts_and_hands_out_all_on_request(trainer):
    """In training and in an evaluation that wants a loss, one row of its input for each label that counts; `predict`
    and `compute_metrics` get the logits of every position, and the same loss."""
    model, read = trainer.model, []
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[:-1].numel()))
    batch = next(iter(trainer.get_train_dataloader()))
    _, labels = aligned(trainer, batch)
    read.clear()
    trainer.train()
    assert read == [(labels != -100).sum()]
    read.clear()
    loss = trainer.evaluate()["eval_loss"]
    assert 0 < sum(read) < 6 * LENGTH
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.predictions.shape == (6, LENGTH, model.config.vocab_size)
    assert predicted.metrics["test_loss"] == pytest.approx(loss, abs=1e-6)
    inputs = {name: x for name, x in trainer.data_collator(list(trainer.eval_dataset)).items() if name != "labels"}
    if not isinstance(trainer, MaskedLMTrainer):  # whose evaluation draws masks of its own
        torch.testing.assert_close(torch.tensor(predicted.predictions), model(**inputs).logits, atol=1e-5, rtol=0)
    read.clear()
    assert trainer.evaluate()["eval_loss"] == loss  # asked for once, they are not handed out ever after
    assert 0 < sum(read) < 6 * LENGTH


def opt():
    """Its head, as BART's, reads the decoder within the base model, which itself is never called."""
    shape = dict(hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=4, word_embed_proj_dim=32)
    return OPTForCausalLM(OPTConfig(vocab_size=300, max_position_embeddings=32, dropout=0.0, **shape))


def without_base():
    """As Llama 4: what it names as its base model is not there."""
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    return WithoutBase(LlamaConfig(vocab_size=300, **shape))


class WithoutBase(LlamaForCausalLM):
    base_model_prefix = "language_model"


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize(("make_model", "is_cut"), [(opt, True), (without_base, False)])
def test_the_trunk_is_found_or_all_is_read(make_model, is_cut, batch_size, tmp_path):
    model, read = make_model(), []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].shape[:-1].numel()))
    args = CausalLMConfig(str(tmp_path), use_cpu=True, bf16=False, disable_tqdm=True)
    trainer = CausalLMTrainer(model, args, train_dataset=blocks(4, 300))
    for rows in (list(trainer.train_dataset)[:batch_size], list(trainer.train_dataset)[-batch_size:]):
        batch = trainer.data_collator(rows)
        logits, labels = aligned(trainer, batch)
        read.clear()
        loss = trainer.compute_loss(model, dict(batch))
        assert loss.item() == pytest.approx(language_modeling_loss(logits, labels).item(), abs=1e-6)
        assert read == [(labels != -100).sum() if is_cut else batch["labels"].numel()]


def test_rows_in_which_nothing_counts_cost_nothing(tiny_llama, tmp_path):
    """No row meets the head: a loss of 0 whose gradient is 0 everywhere, not NaN, not missing."""
    ids = torch.randint(4, 300, (2, LENGTH)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "labels": [[-100] * LENGTH] * 2})
    args = CausalLMConfig(str(tmp_path), use_cpu=True, bf16=False, disable_tqdm=True)
    trainer = CausalLMTrainer(tiny_llama(), args, train_dataset=rows)
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    assert loss.item() == 0
    assert all(not parameter.grad.any() for parameter in trainer.model.parameters())
