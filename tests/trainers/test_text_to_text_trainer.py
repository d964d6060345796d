"""Text to text: what is read and learnt, the loss by hand, accumulation; encoder-decoder and decoder."""

import pytest
import torch
from datasets import Dataset
from transformers import T5Config, T5ForConditionalGeneration

from hfcourse import TextToTextConfig, TextToTextTrainer
from hfcourse.errors import InputError
from hfcourse.evaluation import generate
from tests.trainers.resume import assert_resume_equals_no_kill

ROWS = [
    {"input": "colour of the door:", "target": " blue"},
    {"input": "where does Mara live, and with whom?", "target": " in Oakton"},
    {"input": "two and three:", "target": " five apples make five"},
    {"input": "fox:", "target": " red"},
]


@pytest.fixture(params=["encoder-decoder", "decoder"])
def model(request, tiny_llama, tiny_tokenizer):
    def make():
        if request.param == "decoder":
            return tiny_llama(0)
        torch.manual_seed(0)
        shape = dict(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4, dropout_rate=0.0)
        return T5ForConditionalGeneration(T5Config(vocab_size=len(tiny_tokenizer), decoder_start_token_id=0, **shape))

    return make


@pytest.fixture
def make(model, tiny_tokenizer, tmp_path):
    def make(rows=ROWS, **config):
        settings = dict(max_steps=1, per_device_train_batch_size=4, learning_rate=0.1, optim="sgd", max_grad_norm=0.0)
        settings |= dict(save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, logging_steps=1)
        args = TextToTextConfig(**{"output_dir": str(tmp_path), **settings, **config})
        data = Dataset.from_list(rows)
        return TextToTextTrainer(model(), args, train_dataset=data, eval_dataset=data, processing_class=tiny_tokenizer)

    return make


def parameters(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_target_and_its_eos_are_learnt(make, tiny_tokenizer):
    trainer = make()
    is_seq2seq = trainer.model.config.is_encoder_decoder
    for row, ids in zip(ROWS, trainer.train_dataset, strict=True):
        learnt = tiny_tokenizer.decode([label for label in ids["labels"] if label != -100])
        target = row["target"].strip() if is_seq2seq else row["target"]
        assert learnt == f"{target}<|endoftext|>"
        read = "<|endoftext|>" if is_seq2seq else f"{row['target']}<|endoftext|>"
        assert tiny_tokenizer.decode(ids["input_ids"]) == row["input"] + read


def test_long_texts_are_cut_and_eos_stays(make, tiny_tokenizer):
    trainer = make(input_length=4, target_length=3)
    row, eos = trainer.train_dataset[2], tiny_tokenizer.eos_token_id
    assert [label for label in row["labels"] if label != -100][-1] == eos
    assert sum(label != -100 for label in row["labels"]) == 3
    ids = tiny_tokenizer(ROWS[2]["input"])["input_ids"]
    expected = [*ids[:3], eos] if trainer.model.config.is_encoder_decoder else ids[-4:]
    assert list(row["input_ids"][:4]) == expected


def test_the_loss_by_hand(make):
    """Row by row, without padding: -Σ log p / n; a row's forward pass sees that row alone."""
    trainer = make()
    trainer.model.eval()
    total, count = 0.0, 0
    for row in trainer.train_dataset:
        ids, labels = torch.tensor(row["input_ids"])[None], torch.tensor(row["labels"])[None]
        if trainer.model.config.is_encoder_decoder:
            begun = torch.cat([torch.zeros(1, 1, dtype=torch.long), labels[:, :-1]], 1)
            logps = trainer.model(input_ids=ids, decoder_input_ids=begun).logits.log_softmax(-1)
        else:
            logps, labels = trainer.model(ids).logits.log_softmax(-1)[:, :-1], labels[:, 1:]
        for t, label in enumerate(labels[0].tolist()):
            if label != -100:
                total, count = total - logps[0, t, label].item(), count + 1
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(total / count, abs=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, abs=1e-5)


def test_accumulation_equals_one_batch(make):
    """The rows are of unlike length, so a mean of means would differ."""
    whole, cut = make(), make(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    losses = [trainer.train().training_loss for trainer in (whole, cut)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    torch.testing.assert_close(parameters(cut), parameters(whole), atol=1e-6, rtol=0)


def test_resume_equals_no_kill_bit_for_bit(make, tmp_path):
    """Epochs of 4 steps, killed within the second."""
    assert_resume_equals_no_kill(make, tmp_path, max_steps=8, killed_after=6)


def test_what_it_learnt_it_answers(make, tiny_tokenizer):
    """Trained on four rows, greedy answers are their targets; so the prompts are read as in training."""
    trainer = make(max_steps=150, learning_rate=1e-2, optim="adamw_torch")
    trainer.train()
    answers = generate(trainer.model, tiny_tokenizer, [row["input"] for row in ROWS], 20, temperature=0)
    assert [answer.text.strip() for answer in answers] == [row["target"].strip() for row in ROWS]
    assert all(answer.finished for answer in answers)


def test_bad_input_is_named(make, tiny_tokenizer, model, tmp_path):
    with pytest.raises(
        InputError, match=r"neither 'prompt' and 'completion' nor 'input' and 'target', only \['body'\]"
    ):
        make(rows=[{"body": "x"}])
    bare = tiny_tokenizer.__class__(tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<|pad|>")
    with pytest.raises(InputError, match="eos_token: the tokenizer has none"):
        TextToTextTrainer(model(), TextToTextConfig(str(tmp_path)), processing_class=bare)
    with pytest.raises(InputError, match="train_dataset: is required"):
        TextToTextTrainer(model(), TextToTextConfig(str(tmp_path)), processing_class=tiny_tokenizer)
