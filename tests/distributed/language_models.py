"""One optimizer step of the language models' trainers; prints what each learnt as a line of JSON.

As a script: `language_models.py output_dir batch_size [fsdp2]`, once a rank.
"""

import json
import sys

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hfcourse import (
    CausalLMConfig,
    CausalLMTrainer,
    MaskedLMConfig,
    MaskedLMTrainer,
    SFTConfig,
    SFTTrainer,
    SpanCorruptionConfig,
    SpanCorruptionTrainer,
)
from hfcourse.tokenization import train_tokenizer
from tests.distributed.fsdp2 import shard_with_fsdp2

ROWS, RAW_LENGTH = 8, 34
SHAPE = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.2)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def rows() -> Dataset:
    """Every row weighs differently: its first i tokens are not learnt."""
    ids = torch.randint(4, 64, (ROWS, 12), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": [[-100] * i + row[i:] for i, row in enumerate(ids)]})


def causal() -> dict:
    return dict(
        model=LlamaForCausalLM(LlamaConfig(vocab_size=300, **SHAPE)),
        train_dataset=rows(),
        eval_dataset=rows().select(range(7)),
        processing_class=train_tokenizer(["a b"], 260),
    )


def masked() -> dict:
    """Rows of 10 to 31 tokens, of which as different numbers are hidden."""
    tokenizer = train_tokenizer(["a b"], 260, ("<mask>",))
    tokenizer.mask_token = "<mask>"
    ids = [[(7 * i + 3 * j) % 200 + 5 for j in range(10 + 3 * i)] for i in range(ROWS)]
    dataset = Dataset.from_dict({"input_ids": ids})
    return dict(
        model=BertForMaskedLM(BertConfig(vocab_size=300, **SHAPE, **NO_DROPOUT)),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(7)),
        processing_class=tokenizer,
    )


def corrupted() -> dict:
    """Rows of 9 targets, and tasks of 2 to 6."""
    ids = torch.randint(3, 200, (4, RAW_LENGTH), generator=torch.Generator().manual_seed(1)).tolist()
    dataset = Dataset.from_dict({"input_ids": ids})
    shape = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    texts = ["a" * (i + 1) for i in range(5)]
    return dict(
        model=T5ForConditionalGeneration(T5Config(vocab_size=300, decoder_start_token_id=0, **shape)),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(3)),
        processing_class=train_tokenizer(["a b"], 260, sentinels=10),
        tasks=Dataset.from_dict({"input": texts, "target": texts}),
    )


def train(
    make,
    trainer_class,
    config_class,
    output_dir: str,
    batch_size: int,
    evaluates_first: bool = False,
    bf16: bool = False,
    **options,
) -> dict:
    torch.manual_seed(0)
    args = config_class(
        output_dir,
        use_cpu=True,
        bf16=bf16,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=3,  # 7 rows: the last batches are filled up, and the filling must not count
        max_steps=1,
        logging_steps=1,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = trainer_class(args=args, **make())
    if evaluates_first:
        trainer.evaluate()
    trainer.train()
    eval_loss = trainer.evaluate()["eval_loss"]
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    return {
        "num_processes": trainer.accelerator.num_processes,
        "eval_loss": eval_loss,
        "sums": [(p.full_tensor() if isinstance(p, DTensor) else p).sum().item() for p in trainer.model.parameters()],
        **{name: value for name, value in logged.items() if name in ("loss", "entropy", "mean_token_accuracy")},
    }


def train_decoders(output_dir: str, batch_size: int) -> list[dict]:
    place = (output_dir, batch_size)
    return [train(causal, CausalLMTrainer, CausalLMConfig, *place), train(causal, SFTTrainer, SFTConfig, *place)]


def train_all(output_dir: str, batch_size: int) -> list[dict]:
    causal_lm, sft = (causal, CausalLMTrainer, CausalLMConfig), (causal, SFTTrainer, SFTConfig)
    masked_lm, spans = (
        (masked, MaskedLMTrainer, MaskedLMConfig),
        (corrupted, SpanCorruptionTrainer, SpanCorruptionConfig),
    )
    spanbert = dict(masking="span", mlm_probability=0.3, span_boundary=True)
    place = (output_dir, batch_size)
    return [
        train(*causal_lm, *place),
        train(*sft, *place),
        train(*masked_lm, *place, mlm_probability=0.3),
        train(*masked_lm, *place, **spanbert),
        train(*spans, *place, input_length=32),
        train(*sft, *place, evaluates_first=True),
        train(*sft, *place, evaluates_first=True, bf16=True),
    ]


if __name__ == "__main__":
    run = train_all
    if sys.argv[3:] == ["fsdp2"]:
        shard_with_fsdp2()
        run = train_decoders
    for learnt in run(sys.argv[1], int(sys.argv[2])):
        print(json.dumps(learnt))
    torch.distributed.destroy_process_group()
