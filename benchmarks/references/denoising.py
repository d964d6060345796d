"""An encoder-decoder pretrained on the agreement language, and what text-to-text tasks with few labels gain by it."""

import copy

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, TrainerCallback

from hfcourse import SpanCorruptionConfig, SpanCorruptionTrainer
from hfcourse.collators.noise import corrupted_lengths, raw_length_for
from hfcourse.losses import language_modeling_loss

from .agreement_language import AgreementLanguage

WIDTH, ROW_LENGTH, TOKENS_A_STEP = 64, 36, 2304
SENTINELS = 32


def tokenizer(language: AgreementLanguage) -> PreTrainedTokenizerFast:
    """The language's words (its [PAD] pads), EOS, a word for each answer of a task, sentinels."""
    words = ["<pad>", *(f"w{i}" for i in range(1, language.vocab_size)), "</s>"]
    words += [f"answer{i}" for i in range(language.classes)] + [f"<extra_id_{i}>" for i in range(SENTINELS)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


def new_model(words: PreTrainedTokenizerFast, seed: int) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(words),
        d_model=WIDTH,
        d_kv=WIDTH // 4,
        d_ff=4 * WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


class Checkpoints(TrainerCallback):
    """Copies of the model after some of its steps, and (step, training loss) of each log."""

    def __init__(self, steps: tuple[int, ...]):
        self.steps, self.models, self.losses = steps, {}, []

    def on_step_end(self, args, state, control, model=None, **_):
        if state.global_step in self.steps:
            self.models[state.global_step] = copy.deepcopy(model)

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses.append((state.global_step, round(float(logs["loss"]), 3)))


def text(language: AgreementLanguage, num_tokens: int, seed: int) -> np.ndarray:
    """(num_tokens,): sentence after sentence, [SEP] behind each."""
    count = -(-num_tokens // (language.length + 1))
    sentences, _ = language.sentences(count, np.random.default_rng(seed))
    return sentences[:, 1:].ravel()[:num_tokens].numpy()


def pretrain(
    noise: tuple[float, float] | None, language: AgreementLanguage, seed: int, steps: tuple[int, ...], folder: str
) -> tuple[dict[int, T5ForConditionalGeneration], list[tuple[int, float]]]:
    """({step: model}, [(step, training loss)]) on rows of some 36 tokens of text.

    Args:
        noise: density and mean length of the spans that are corrupted; None: a prefix language model.
        steps: after which the model is kept; the last is where pretraining ends.
    """
    words = tokenizer(language)
    input_length = corrupted_lengths(ROW_LENGTH, *noise)[0] if noise else ROW_LENGTH
    raw_length = raw_length_for(input_length, *noise) if noise else ROW_LENGTH  # the longest of that input_length
    batch_size = TOKENS_A_STEP // raw_length
    ids = text(language, steps[-1] * batch_size * raw_length, seed).reshape(-1, raw_length)
    args = SpanCorruptionConfig(
        folder,
        objective="span_corruption" if noise else "prefix_lm",
        input_length=input_length,
        per_device_train_batch_size=batch_size,
        max_steps=steps[-1],
        rms_scaled=True,
        learning_rate=2e-2,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        logging_steps=max(steps[-1] // 20, 1),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=True,
        bf16=False,
    )
    if noise:
        args.noise_density, args.mean_noise_span_length = noise
    checkpoints = Checkpoints(steps)
    SpanCorruptionTrainer(
        new_model(words, seed),
        args,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        processing_class=words,
        callbacks=[checkpoints],
    ).train()
    return checkpoints.models, checkpoints.losses


def accuracy(
    language: AgreementLanguage, task: str, labels: int, seed: int, model: T5ForConditionalGeneration
) -> float:
    """Of a copy of the model, finetuned with so many labels to write the answer's word, on 2,000 other sentences."""
    words, rng = tokenizer(language), np.random.default_rng(10_000 + seed)
    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = (_texts(language.task(task, n, rng), words) for n in (labels, 2000))
    model, steps = copy.deepcopy(model).train(), 1000
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 20, 1) * (1 - i / steps))
    for _ in range(steps):
        rows = torch.randint(labels, (32,))
        logits = model(input_ids=x[rows], labels=y[rows], use_cache=False).logits
        language_modeling_loss(logits, y[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        start = torch.full((len(x_test), 1), words.pad_token_id)
        written = model(input_ids=x_test, decoder_input_ids=start, use_cache=False).logits[:, 0].argmax(1)
    return (written == y_test[:, 0]).float().mean().item()


def _texts(task: tuple, words: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """((n, T) sentences, (n, 2) answers), EOS at the end of either."""
    sentences, answers, num_answers = task
    names = torch.tensor(words.convert_tokens_to_ids([f"answer{i}" for i in range(num_answers)]))
    eos = torch.full((len(answers), 1), words.eos_token_id)
    return torch.cat([sentences[:, 1:], eos], 1), torch.cat([names[answers][:, None], eos], 1)
