"""What does pretraining give? Random weights < pretrained embeddings < the whole pretrained model, three seeds.

    python benchmarks/transfer.py [--seeds 3] [--steps 1200]

The language: eight classes of 20 nouns and 10 verbs each, and 60 fillers. A sentence has 14 words, among them noun …
verb … noun … verb; each verb is of its noun's class. An encoder (2 layers of width 64) learns it by masked LM, or from
left to right; then it is finetuned on few labelled sentences

- with the class of the first noun (8 classes): words alone tell it;
- with whether the first verb agrees (yes or no): no word alone tells it, only how two go together.

Three ways to begin: random weights; random but for the pretrained embeddings; the whole pretrained model. Accuracy on
2,000 sentences. The claims: at 128 labels whole - embeddings and embeddings - random are at least 0.2 on classes;
agreement is learnt by the whole model alone; a causal model, used in both directions, passes on less.

The last line is the result as JSON; benchmarks/transfer.json is that of the last committed run.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    PreTrainedTokenizerFast,
)

from hfcourse import CausalLMConfig, CausalLMTrainer, MaskedLMConfig, MaskedLMTrainer

CLASSES, NOUNS, VERBS, FILLERS, WORDS = 8, 20, 10, 60, 14
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
FIRST_NOUN = len(SPECIAL)
FIRST_VERB = FIRST_NOUN + CLASSES * NOUNS
FIRST_FILLER = FIRST_VERB + CLASSES * VERBS
VOCAB_SIZE = FIRST_FILLER + FILLERS
BEGINNINGS = ("random", "embeddings", "whole")


def sentences(count: int, rng: np.random.Generator, agreeing: float = 1.0) -> dict[str, np.ndarray]:
    """`input_ids` (count, 16), `noun_class` of the first noun, and whether the first verb `agrees` (count,)."""
    classes = rng.integers(0, CLASSES, (count, 2))
    agrees = rng.random(count) < agreeing
    verb_classes = classes.copy()
    verb_classes[~agrees, 0] = (classes[~agrees, 0] + rng.integers(1, CLASSES, (~agrees).sum())) % CLASSES
    nouns = FIRST_NOUN + classes * NOUNS + rng.integers(0, NOUNS, (count, 2))
    verbs = FIRST_VERB + verb_classes * VERBS + rng.integers(0, VERBS, (count, 2))
    words = rng.integers(FIRST_FILLER, VOCAB_SIZE, (count, WORDS))
    places = np.sort(rng.random((count, WORDS)).argsort(1)[:, :4], axis=1)
    content = np.stack([nouns[:, 0], verbs[:, 0], nouns[:, 1], verbs[:, 1]], axis=1)
    np.put_along_axis(words, places, content, axis=1)
    ends = np.full((2, count, 1), CLS), np.full((1, count, 1), SEP)
    ids = np.concatenate([ends[0][0], words, ends[1][0]], axis=1)
    return {"input_ids": ids, "noun_class": classes[:, 0], "agrees": agrees.astype(np.int64)}


def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate((*SPECIAL, *map(str, range(len(SPECIAL), VOCAB_SIZE))))}
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="[UNK]")), **names)


def shape(**more) -> BertConfig:
    sizes = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
    drop = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=WORDS + 2, **sizes, **drop, **more)


def pretrain(objective: str, steps: int, seed: int, batch_size: int = 256) -> BertForMaskedLM | BertLMHeadModel:
    """A masked LM ("mlm") or a causal one ("clm"), trained by this project's trainers."""
    ids = sentences(min(steps * batch_size, 100_000), np.random.default_rng(seed))["input_ids"]
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        common = dict(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=batch_size, learning_rate=3e-3,
            warmup_steps=50, lr_scheduler_type="cosine", weight_decay=0.01, seed=seed, save_strategy="no",
            logging_steps=steps, disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        dataset = Dataset.from_dict({"input_ids": ids})
        if objective == "mlm":
            model = BertForMaskedLM(shape())
            args = MaskedLMConfig(mlm_probability=0.2, **common)
            MaskedLMTrainer(model, args, train_dataset=dataset, processing_class=tokenizer()).train()
        else:
            model = BertLMHeadModel(shape(is_decoder=True))
            CausalLMTrainer(model, CausalLMConfig(**common), train_dataset=dataset).train()
    return model


def finetune(pretrained, beginning: str, task: str, labels: int, seed: int, steps: int = 200) -> float:
    """Accuracy on 2,000 sentences of a classifier finetuned on `labels` of them."""
    rng = np.random.default_rng(1000 + seed)
    agreeing = 0.5 if task == "agrees" else 1.0
    train, test = sentences(labels, rng, agreeing), sentences(2000, rng, agreeing)
    torch.manual_seed(seed)
    model = BertForSequenceClassification(shape(num_labels=CLASSES if task == "noun_class" else 2))
    source, target = pretrained.bert.state_dict(), model.bert.state_dict()
    for name in target:
        is_embedding = name == "embeddings.word_embeddings.weight"
        if name in source and (beginning == "whole" or (beginning == "embeddings" and is_embedding)):
            target[name].copy_(source[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    ids, y = torch.from_numpy(train["input_ids"]), torch.from_numpy(train[task])
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(labels, (64,), generator=batches)
        torch.nn.functional.cross_entropy(model(input_ids=ids[batch]).logits, y[batch]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        guesses = model.eval()(input_ids=torch.from_numpy(test["input_ids"])).logits.argmax(-1)
    return (guesses.numpy() == test[task]).mean().item()


def one_seed(seed: int, steps: int, cases: tuple[tuple[str, int], ...], objectives: tuple[str, ...]) -> dict:
    """{"mlm/noun_class/128/whole": accuracy, …}; random weights are the same for every objective."""
    results = {}
    for objective in objectives:
        model = pretrain(objective, steps, seed)
        for task, labels in cases:
            for beginning in BEGINNINGS if objective == objectives[0] else BEGINNINGS[1:]:
                name = (
                    f"{objective}/{task}/{labels}/{beginning}" if beginning != "random" else f"{task}/{labels}/random"
                )
                results[name] = finetune(model, beginning, task, labels, seed)
                print(f"seed {seed} {name} {results[name]:.3f}", file=sys.stderr)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = (("noun_class", 128), ("noun_class", 512), ("agrees", 512), ("agrees", 2048))
    begin = time.process_time()
    runs = [one_seed(seed, args.steps, cases, ("mlm", "clm")) for seed in range(args.seeds)]
    accuracy = {
        name: {
            "mean": round(statistics.fmean(run[name] for run in runs), 3),
            "seeds": [round(r[name], 3) for r in runs],
        }
        for name in runs[0]
    }
    seconds = round(time.process_time() - begin)
    print(json.dumps({"benchmark": "transfer", "steps": args.steps, "cpu_seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
