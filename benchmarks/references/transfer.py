"""An encoder pretrained on the agreement language, and what of it a classifier with few labels profits from."""

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, BertModel

from hfcourse import CausalLMConfig, CausalLMTrainer, MaskedLMConfig, MaskedLMTrainer

from .agreement_language import AgreementLanguage

WIDTH, BATCH_SIZE = 64, 128
# With BERT's own 0.02 words differ no more than places do, and the model stays for a thousand steps where it knows
# what kind of word comes, but nothing of the words' classes.
WORD_INIT = 0.2


def config(language: AgreementLanguage, is_decoder: bool = False) -> BertConfig:
    return BertConfig(
        vocab_size=language.vocab_size,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=language.length + 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=is_decoder,
    )


def with_words_apart(model):
    nn.init.normal_(model.get_input_embeddings().weight, std=WORD_INIT)
    return model


def pretrain(objective: str, language: AgreementLanguage, seed: int, steps: int, folder: str) -> BertModel:
    """The trunk of a BERT after so many steps of "masked" language modelling, or "causal"."""
    torch.manual_seed(seed)
    ids, _ = language.sentences(steps * BATCH_SIZE, np.random.default_rng(seed))
    dataset = Dataset.from_dict({"input_ids": ids.numpy()})
    masked = objective == "masked"
    config_class, trainer_class = (MaskedLMConfig, MaskedLMTrainer) if masked else (CausalLMConfig, CausalLMTrainer)
    args = config_class(
        folder,
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=steps,
        learning_rate=1e-2,
        warmup_steps=40,
        adam_beta2=0.98,
        weight_decay=0.01,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=True,
        bf16=False,
        **({"mlm_probability": 0.3} if masked else {}),
    )
    model_class = BertForMaskedLM if masked else BertLMHeadModel
    model = with_words_apart(model_class(config(language, is_decoder=not masked)))
    trainer_class(model, args, train_dataset=dataset, processing_class=language.tokenizer()).train()
    return model.bert


class Classifier(nn.Module):
    """A linear layer on the mean of an encoder's hidden states."""

    def __init__(self, language: AgreementLanguage, num_classes: int):
        super().__init__()
        self.encoder = with_words_apart(BertModel(config(language), add_pooling_layer=False))
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(input_ids=ids).last_hidden_state.mean(1))


def accuracy(
    language: AgreementLanguage, task: str, labels: int, seed: int, trunk: BertModel | None = None, whole: bool = False
) -> float:
    """Of a classifier finetuned with so many labels, on 2,000 others.

    Args:
        trunk: whose embedding table the classifier begins with, or with `whole` all of it; None: with nothing.
    """
    rng = np.random.default_rng(10_000 + seed)
    torch.manual_seed(seed)
    (x, y, num_classes), (x_test, y_test, _) = (language.task(task, n, rng) for n in (labels, 2000))
    model = Classifier(language, num_classes)
    if trunk is not None:
        source, target = (
            (trunk, model.encoder) if whole else (m.get_input_embeddings() for m in (trunk, model.encoder))
        )
        target.load_state_dict(source.state_dict())
    optimizer, steps = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01), 200
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 20, 1) * (1 - i / steps))
    for _ in range(steps):
        rows = torch.randint(labels, (32,))
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        return (model(x_test).argmax(1) == y_test).float().mean().item()
