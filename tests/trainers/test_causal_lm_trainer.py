"""Pretraining: the loss is the pure function on the batch, however the batch is cut up, interrupted or shared out."""

import math

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from transformers import BloomConfig, BloomForCausalLM, RwkvConfig, RwkvForCausalLM

from hfcourse import CausalLMConfig, CausalLMTrainer
from hfcourse.errors import InputError
from hfcourse.losses import language_modeling_loss
from hfcourse.trainers.causal_lm_trainer import collate_blocks

TEXTS = ["The red fox sleeps near the river.", "Mara lives in Oakton.", "What is the colour of the door?"] * 20


def blocks(num_rows, seed=0, length=16, vocab_size=300):
    ids = torch.randint(4, vocab_size, (num_rows, length), generator=torch.Generator().manual_seed(seed))
    return Dataset.from_dict({"input_ids": ids.tolist()})


def ragged_labels(dataset):
    """The first 3·i tokens of row i are not learnt: every row weighs differently."""
    return dataset.map(
        lambda row, i: {"labels": [-100] * (3 * i % 12) + row["input_ids"][3 * i % 12 :]}, with_indices=True
    )


def make(model, folder, train, **config):
    defaults = dict(
        max_steps=1, logging_steps=1, save_strategy="no", learning_rate=0.1, optim="sgd", max_grad_norm=0.0
    )
    args = CausalLMConfig(str(folder), disable_tqdm=True, **{**defaults, **config})
    return CausalLMTrainer(model, args, train_dataset=train)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loss_is_the_pure_function_on_the_batch(tiny_llama, tmp_path):
    model, rows = tiny_llama(), ragged_labels(blocks(4))
    trainer = make(model, tmp_path, rows)
    batch = collate_blocks(list(rows))
    logits = model(batch["input_ids"]).logits
    expected = language_modeling_loss(logits[:, :-1], batch["labels"][:, 1:])
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(expected.item(), abs=1e-7)
    shifted_wrongly = language_modeling_loss(logits, batch["labels"])
    assert abs(shifted_wrongly.item() - expected.item()) > 1e-2


@pytest.mark.parametrize("make_model", ["tiny_llama", "tiny_gpt2"])
def test_accumulation_equals_one_batch(make_model, request, tmp_path):
    """Rows of unequal weight: a mean of eight means would differ; so would a loss multiplied by the eight steps."""
    make_model, dropout = request.getfixturevalue(make_model), {}
    if make_model.__qualname__.startswith("tiny_gpt2"):
        dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    weights, losses = [], []
    for size, steps in ((8, 1), (2, 4), (1, 8)):
        trainer = make(
            make_model(**dropout),
            tmp_path,
            ragged_labels(blocks(8)),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
        )
        losses.append(trainer.train().training_loss)
        weights.append(parameters(trainer.model))
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=1e-5)
        torch.testing.assert_close(weights[other], weights[0], atol=1e-6, rtol=0)
    batch = collate_blocks(list(ragged_labels(blocks(8))))
    logits = make_model(**dropout).eval()(batch["input_ids"]).logits
    expected = language_modeling_loss(logits[:, :-1], batch["labels"][:, 1:]).item()
    assert losses[0] == pytest.approx(expected, abs=1e-5)


def test_resume_equals_no_kill_bit_for_bit(tiny_gpt2, tmp_path):
    """GPT-2 with dropout: the random numbers have to go on where they were, and the rows too."""

    def run(folder, **config):
        config = {"max_steps": 4, "optim": "adamw_torch", "learning_rate": 1e-3, "max_grad_norm": 1.0, **config}
        return make(tiny_gpt2(), folder, blocks(16), per_device_train_batch_size=2, **config)

    whole = run(tmp_path / "whole")
    whole.train()
    run(tmp_path / "killed", save_strategy="steps", save_steps=2).train()
    resumed = run(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-2"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]


def test_eval_loss_is_the_mean_over_tokens(tiny_llama, tmp_path):
    """5 rows in batches of 2: the mean of three batch means weighs the last row, and short rows, too much."""
    model, rows = tiny_llama(), ragged_labels(blocks(5))
    args = CausalLMConfig(str(tmp_path), per_device_eval_batch_size=2, disable_tqdm=True)
    metrics = CausalLMTrainer(model, args, train_dataset=rows, eval_dataset=rows).evaluate()
    batch = collate_blocks(list(rows))
    expected = language_modeling_loss(model(batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]).item()
    assert metrics["eval_loss"] == pytest.approx(expected, abs=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    per_batch = [collate_blocks(list(rows.select(range(i, min(i + 2, 5))))) for i in (0, 2, 4)]
    means = [
        language_modeling_loss(model(b["input_ids"]).logits[:, :-1], b["labels"][:, 1:]).item() for b in per_batch
    ]
    sizes = [2, 2, 1]
    assert abs(sum(m * s for m, s in zip(means, sizes, strict=True)) / 5 - expected) > 1e-3


def test_bits_per_byte_by_hand(tiny_llama, tiny_tokenizer, tmp_path):
    """All nats of the predicted tokens, over ln 2 and the bytes that they spell; EOS costs nats and spells none."""
    args = CausalLMConfig(str(tmp_path), block_size=16, disable_tqdm=True)
    texts = Dataset.from_dict({"text": TEXTS})
    trainer = CausalLMTrainer(
        tiny_llama(), args, train_dataset=texts, eval_dataset=texts, processing_class=tiny_tokenizer
    )
    metrics = trainer.evaluate()
    predicted = [token for row in trainer.eval_dataset for token in row["input_ids"][1:]]
    spelt = sum(len(tiny_tokenizer.decode([t])) for t in predicted if t != tiny_tokenizer.eos_token_id)
    assert spelt < sum(map(len, TEXTS))  # the first token of each block is not predicted
    bits = metrics["eval_loss"] * len(predicted) / math.log(2)
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / spelt, rel=1e-6)


def test_texts_are_packed_and_eos_is_learnt(tiny_llama, tiny_tokenizer, tmp_path):
    texts = Dataset.from_dict({"text": TEXTS})
    args = CausalLMConfig(
        str(tmp_path), block_size=16, max_steps=60, learning_rate=1e-2, save_strategy="no", disable_tqdm=True
    )
    trainer = CausalLMTrainer(tiny_llama(), args, train_dataset=texts, processing_class=tiny_tokenizer)
    assert {len(row["input_ids"]) for row in trainer.train_dataset} == {16}
    batch = next(iter(trainer.get_train_dataloader()))
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert (batch["labels"] == tiny_tokenizer.eos_token_id).any()
    trainer.train()
    ids = tiny_tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    ids = torch.cat([torch.tensor([[tiny_tokenizer.eos_token_id]]), ids], dim=1)
    assert trainer.model(ids).logits[0, -1].argmax() == tiny_tokenizer.eos_token_id


@pytest.mark.parametrize("make_model", ["tiny_llama", "tiny_gpt2"])
def test_isolated_documents_cost_what_they_cost_alone(make_model, request, tiny_tokenizer, tmp_path):
    """The loss of packed rows is that of the documents, cut as the blocks cut them, each run by itself."""
    model = request.getfixturevalue(make_model)().eval()
    args = CausalLMConfig(str(tmp_path), block_size=32, isolate_documents=True, disable_tqdm=True)
    texts = Dataset.from_dict({"text": TEXTS})
    trainer = CausalLMTrainer(model, args, train_dataset=texts, processing_class=tiny_tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    pieces = [
        piece
        for ids, positions in zip(batch["input_ids"], batch["position_ids"], strict=True)
        for piece in ids.tensor_split((positions == 0).nonzero()[1:, 0])
    ]
    losses = [
        language_modeling_loss(model(ids[None]).logits[0, :-1], ids[1:], num_items=1.0)
        for ids in pieces
        if len(ids) > 1
    ]
    expected = sum(losses) / sum(len(ids) - 1 for ids in pieces)
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(expected.item(), abs=1e-5)
    leaking = trainer.compute_loss(model, {n: x for n, x in batch.items() if n != "position_ids"})
    assert abs(leaking.item() - expected.item()) > 1e-3


SMALL = dict(vocab_size=300, hidden_size=32, num_hidden_layers=2)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: RwkvForCausalLM(RwkvConfig(**SMALL)), "packed into RwkvForCausalLM they are not what they are alone"),
        (lambda: BloomForCausalLM(BloomConfig(**SMALL, n_head=4)), "BloomForCausalLM takes no mask of documents"),
    ],
)
def test_models_that_cannot_keep_documents_apart_are_refused(model, words, tiny_tokenizer, tmp_path):
    """RWKV carries a state on, and would go on from one document to the next without a word."""
    args = CausalLMConfig(str(tmp_path), block_size=16, isolate_documents=True, max_steps=1, disable_tqdm=True)
    options = dict(train_dataset=Dataset.from_dict({"text": TEXTS}), processing_class=tiny_tokenizer)
    packed = Dataset.from_dict({"input_ids": [[5] * 4], "position_ids": [[0, 1, 0, 1]]})
    stream = options | {"train_dataset": options["train_dataset"].to_iterable_dataset()}
    for case in (options, stream):
        with pytest.raises(InputError, match=f"isolate_documents: {words}.*; leave it out"):
            CausalLMTrainer(model(), args, **case)
    args.isolate_documents = False
    with pytest.raises(InputError, match=f"isolate_documents: {words}"):
        CausalLMTrainer(model(), args, train_dataset=packed)
    model = model().train()
    CausalLMTrainer(model, args, **options)
    assert model.training


def test_a_stream_is_packed_too(tiny_llama, tiny_tokenizer, tmp_path):
    stream = Dataset.from_dict({"text": TEXTS}).to_iterable_dataset()
    args = CausalLMConfig(str(tmp_path), block_size=16, max_steps=2, save_strategy="no", disable_tqdm=True)
    trainer = CausalLMTrainer(tiny_llama(), args, train_dataset=stream, processing_class=tiny_tokenizer)
    assert isinstance(trainer.train_dataset, IterableDataset)
    assert trainer.train().global_step == 2


def test_only_the_adapter_is_trained(tiny_llama, tmp_path):
    args = CausalLMConfig(str(tmp_path), max_steps=2, learning_rate=0.1, save_strategy="no", disable_tqdm=True)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trainer = CausalLMTrainer(tiny_llama(), args, train_dataset=blocks(8), peft_config=lora)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_label_smoothing_is_the_parents(tiny_llama, tmp_path):
    model, rows = tiny_llama(), blocks(4)
    batch = collate_blocks(list(rows))
    plain = make(model, tmp_path, rows).compute_loss(model, dict(batch))
    smoothed = make(model, tmp_path, rows, label_smoothing_factor=0.5).compute_loss(model, dict(batch))
    logps = model(batch["input_ids"]).logits[:, :-1].log_softmax(-1)
    expected = 0.5 * plain - 0.5 * logps.mean()
    assert smoothed.item() == pytest.approx(expected.item(), abs=1e-5)


def test_bad_input_is_named(tiny_llama, tiny_tokenizer, tmp_path):
    args = CausalLMConfig(str(tmp_path))
    with pytest.raises(InputError, match="is empty"):
        CausalLMTrainer(tiny_llama(), args, train_dataset=Dataset.from_dict({"text": []}))
    with pytest.raises(InputError, match="no column 'text' to pack, only body"):
        CausalLMTrainer(
            tiny_llama(), args, train_dataset=Dataset.from_dict({"body": ["a"]}), processing_class=tiny_tokenizer
        )
    with pytest.raises(InputError, match="processing_class"):
        CausalLMTrainer(tiny_llama(), args, train_dataset=Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(InputError, match=r"blocks of \[2, 3\] tokens"):
        collate_blocks([{"input_ids": [1, 2]}, {"input_ids": [1, 2, 3]}])
