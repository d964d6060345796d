"""Instruction tuning: only completions are learnt, with the EOS that ends them; the loss is TRL's to the digit."""

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from transformers import PreTrainedTokenizerFast
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.data import apply_template
from hfcourse.errors import InputError

INSTRUCTIONS = [
    {"instruction": "Be short.", "context": "", "question": "Where does Mara live?", "output": "In Oakton."},
    {"instruction": "Be kind.", "context": "The door is blue.", "question": "What colour is it?", "output": "Blue."},
    {"instruction": "Be kind.", "context": "", "question": "Two and three?", "output": "Five, my friend, five."},
    {"instruction": "Answer.", "context": "The fox is red.", "question": "What is red?", "output": "The fox."},
]


@pytest.fixture
def rows():
    return apply_template(Dataset.from_list(INSTRUCTIONS)).select_columns(["prompt", "completion"])


@pytest.fixture
def make(tiny_llama, tiny_tokenizer, tmp_path, rows):
    def make(
        train=None,
        model=None,
        trainer_class=SFTTrainer,
        tokenizer=tiny_tokenizer,
        peft_config=None,
        data_collator=None,
        **config,
    ):
        defaults = dict(
            per_device_train_batch_size=4,
            max_steps=1,
            logging_steps=1,
            save_strategy="no",
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        )
        config = {"output_dir": str(tmp_path), **defaults, **config}
        return trainer_class(
            tiny_llama() if model is None else model,
            args=(SFTConfig if trainer_class is SFTTrainer else trl.SFTConfig)(**config),
            train_dataset=rows if train is None else train,
            processing_class=tokenizer,
            peft_config=peft_config,
            data_collator=data_collator,
        )

    return make


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def batch_of(trainer):
    return trainer.data_collator(list(trainer.train_dataset))


def test_the_learnt_labels_decode_to_the_completions(make, rows, tiny_tokenizer):
    batch = batch_of(make())
    for ids, labels, row in zip(batch["input_ids"], batch["labels"], rows, strict=True):
        assert tiny_tokenizer.decode(labels[labels != -100]) == row["completion"] + "<|endoftext|>"
        assert tiny_tokenizer.decode(ids).startswith(row["prompt"] + row["completion"])


def test_the_loss_by_hand(make, tiny_llama):
    """-Σ log π(y_t) over the labels that count, divided by their number, from the model's plain logits."""
    trainer = make()
    batch = batch_of(trainer)
    logps = tiny_llama()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    total, count = 0.0, 0
    for b, t in (batch["labels"] != -100).nonzero().tolist():
        total, count = total - logps[b, t - 1, batch["labels"][b, t]].item(), count + 1
    loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.item() == pytest.approx(total / count, abs=1e-5)
    halved = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(2 * count))
    assert halved.item() == pytest.approx(total / count / 2, abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [{"loss_type": "dft"}, {"label_smoothing_factor": 0.3}],
    ids=["dft", "label_smoothing"],
)
def test_the_parents_other_losses_stay_the_parents(make, config):
    ours, theirs = make(**config), make(trainer_class=trl.SFTTrainer, **config)
    batch = batch_of(ours)
    expected = theirs.compute_loss(theirs.model, dict(batch))
    assert ours.compute_loss(ours.model, dict(batch)).item() == pytest.approx(expected.item(), abs=1e-6)
    plain = make()
    assert abs(plain.compute_loss(plain.model, dict(batch)).item() - expected.item()) > 1e-3


def test_virtual_tokens_stay_the_parents(make):
    prompt_tuning = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    torch.manual_seed(0)
    ours = make(peft_config=prompt_tuning)
    torch.manual_seed(0)
    theirs = make(peft_config=prompt_tuning, trainer_class=trl.SFTTrainer)
    batch = batch_of(ours)
    losses = [trainer.compute_loss(trainer.model, dict(batch)).item() for trainer in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_packed_rows_do_not_see_each_other(make, tiny_llama):
    """Two rows packed into one sequence cost what the two cost apart."""
    packed = make(packing=True, max_length=128)
    apart = make()
    apart_loss = apart.compute_loss(apart.model, dict(batch_of(apart))).item()
    batch = batch_of(packed)
    assert batch["input_ids"].shape[0] == 1
    assert "attention_mask" not in batch
    assert packed.compute_loss(packed.model, dict(batch)).item() == pytest.approx(apart_loss, abs=1e-5)
    assert packed._metrics["train"]["num_tokens"] == [batch["input_ids"].numel()]


def test_accumulation_equals_one_batch(make):
    whole, cut = make(), make(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    losses = [trainer.train().training_loss for trainer in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    torch.testing.assert_close(parameters(cut.model), parameters(whole.model), atol=1e-6, rtol=0)


def test_resume_equals_no_kill_bit_for_bit(make, tiny_gpt2, tmp_path):
    """GPT-2 with dropout: the random numbers have to go on where they were, and the rows too."""
    config = dict(max_steps=4, per_device_train_batch_size=2, optim="adamw_torch", learning_rate=1e-3)
    whole = make(model=tiny_gpt2(), output_dir=str(tmp_path / "whole"), **config)
    whole.train()
    killed = {**config, "output_dir": str(tmp_path / "killed"), "save_strategy": "steps", "save_steps": 2}
    make(model=tiny_gpt2(), **killed).train()
    resumed = make(model=tiny_gpt2(), **killed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-2"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))


def test_only_the_adapter_is_trained(make):
    trainer = make(peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)


def test_it_learns_to_answer_and_to_stop(make, rows, tiny_tokenizer):
    trainer = make(max_steps=60, learning_rate=1e-2, optim="adamw_torch")
    trainer.train()
    prompt = tiny_tokenizer(rows[0]["prompt"], return_tensors="pt")
    answer = trainer.model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tiny_tokenizer.decode(answer) == " In Oakton.<|endoftext|>"


def test_a_row_with_nothing_left_to_learn_is_named(make, rows, tiny_tokenizer):
    prompts = [len(tiny_tokenizer(prompt)["input_ids"]) for prompt in rows["prompt"]]
    longest = max(range(4), key=prompts.__getitem__)
    make(max_length=max(prompts) + 1)
    with pytest.raises(InputError, match=rf"train_dataset: row {longest}: max_length={max(prompts)} leaves nothing"):
        make(max_length=max(prompts))
    with pytest.raises(InputError, match=rf"row {longest}"):
        make(train=rows.to_iterable_dataset(), max_length=max(prompts))


def test_truncation_keeps_the_labels_in_step(make, rows, tiny_tokenizer):
    longest = max(len(tiny_tokenizer(prompt)["input_ids"]) for prompt in rows["prompt"])
    for row in make(max_length=longest + 2).train_dataset:
        assert len(row["input_ids"]) == len(row["labels"]) <= longest + 2
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))


def test_bad_datasets_are_named(make, rows):
    with pytest.raises(InputError, match="train_dataset: is empty"):
        make(train=Dataset.from_dict({"prompt": [], "completion": []}))
    with pytest.raises(InputError, match=r"no column 'completion', only \['prompt'\]"):
        make(train=rows.select_columns(["prompt"]))
    with pytest.raises(InputError, match="no column 'prompt'"):
        make(train=Dataset.from_dict({"body": ["a"]}))


def test_a_tokenizer_without_pad_or_eos(make, tiny_tokenizer, rows):
    def tokenizer(**special):
        return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, **special)

    with pytest.raises(InputError, match="pad_token: the tokenizer has no pad token and no EOS"):
        make(tokenizer=tokenizer())
    with pytest.raises(InputError, match="eos_token: the tokenizer has none"):
        make(tokenizer=tokenizer(pad_token="<|pad|>"))
    eos_only = make(tokenizer=tokenizer(eos_token="<|endoftext|>"))
    labels = batch_of(eos_only)["labels"]  # padded with EOS, and the real EOS is learnt all the same
    assert [(row == tiny_tokenizer.eos_token_id).sum().item() for row in labels] == [1, 1, 1, 1]


def test_a_collator_of_ones_own_is_kept(make):
    collator = DataCollatorForLanguageModeling(pad_token_id=0, pad_to_multiple_of=64)
    assert make(data_collator=collator).data_collator is collator
