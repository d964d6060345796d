"""Training on a stream: a resumed run reads on where it was killed, beyond the end of the text too."""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset

from hfcourse import CausalLMConfig, CausalLMTrainer
from hfcourse.data import endless_stream, load_dataset, pack_documents
from hfcourse.trainers.language_model_trainer import with_arrays

TEXTS = [f"The red fox {i} sleeps near the river." for i in range(30)]


def trainer_of(model, tokenizer, folder, **config):
    stream = endless_stream(Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(3), buffer_size=8, seed=3)
    args = CausalLMConfig(
        str(folder),
        block_size=32,
        max_steps=16,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        logging_steps=16,
        disable_tqdm=True,
        **{"save_strategy": "no", **config},
    )
    return CausalLMTrainer(model, args, train_dataset=stream, processing_class=tokenizer)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_resume_equals_no_kill_bit_for_bit(tiny_llama, tiny_tokenizer, tmp_path):
    """16 steps of 2 blocks of 32 tokens read 1,024 tokens, the text has about 600: killed at 12 it is in its second
    pass. (Of a stream that ends, the trainer resumes elsewhere: it counts as if there had been one pass.)"""
    passes = 12 * 2 * 32 / sum(len(tiny_tokenizer(text)["input_ids"]) + 1 for text in TEXTS)
    assert 1 < passes < 1.5
    whole = trainer_of(tiny_llama(), tiny_tokenizer, tmp_path / "whole")
    whole.train()
    trainer_of(tiny_llama(), tiny_tokenizer, tmp_path / "killed", save_strategy="steps", save_steps=12).train()
    resumed = trainer_of(tiny_llama(), tiny_tokenizer, tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-12"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_are_arrays_from_the_packing_on(tiny_tokenizer, streaming):
    dataset = Dataset.from_dict({"text": TEXTS})
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    row = next(iter(with_arrays(pack_documents(dataset, tiny_tokenizer, 32, with_positions=True))))
    assert set(row) == {"input_ids", "position_ids"}
    for x in row.values():
        assert (type(x), x.dtype.kind, x.shape) == (np.ndarray, "i", (32,))


def test_text_is_tokenised_once(tiny_tokenizer, tmp_path):
    """A second start on the same file finds the blocks of the first, untouched; another text is another cache."""
    path = tmp_path / "notes.txt"

    def blocks():
        packed = pack_documents(load_dataset(str(path)), tiny_tokenizer, 16)
        (file,) = packed.cache_files
        return packed, file["filename"]

    path.write_text("\n".join(TEXTS))
    first, file = blocks()
    second, same = blocks()
    assert same == file
    assert second[:] == first[:]
    path.write_text("\n".join(TEXTS[::-1]))
    other, different = blocks()
    assert different != file
    assert other[:] != first[:]


def test_eos_is_learnt_where_it_is_the_pad_token(tiny_llama, tiny_tokenizer, tmp_path):
    """The usual collator takes every pad token out of the labels, and with pad = EOS no model learns to stop."""
    tokenizer = copy.deepcopy(tiny_tokenizer)  # the session's own is read by others
    tokenizer.pad_token = tokenizer.eos_token
    args = CausalLMConfig(str(tmp_path), block_size=16, save_strategy="no", disable_tqdm=True)
    texts = Dataset.from_dict({"text": TEXTS})
    trainer = CausalLMTrainer(tiny_llama(), args, train_dataset=texts, processing_class=tokenizer)
    is_eos = num_learnt = 0
    for batch in trainer.get_train_dataloader():
        is_eos += (batch["input_ids"] == tokenizer.eos_token_id).sum().item()
        num_learnt += (batch["labels"] == tiny_tokenizer.eos_token_id).sum().item()
    assert is_eos == num_learnt > 20
