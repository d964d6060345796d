"""Does pretraining wait for its data, and are our trainers as fast as transformers'? One thread, nine paired rounds.

    python benchmarks/pretraining.py                  # three minutes on a quiet core

BERT, T5 and Llama, 2 layers of width 128, 16 rows of 128 tokens a step (the smaller the model, the dearer its data):

    end_to_end / ready    rows from an Arrow dataset, masked or corrupted anew, against one batch of ready-made tensors
    stock / ready         transformers' Trainer, with the model's own loss, against our trainer, on that same batch

CPU seconds of this thread a step, from the second step of a round on, so that another job's share of the core does not
count. Each method has a process of its own, whose C library keeps the memory that it was given: by default it hands
16 MB of logits back and asks for them again at each step, or does not, as luck has it from one trainer to the next,
and the 12,000 page faults are 10 % of a step. The last line is the result as JSON; benchmarks/pretraining.json is that
of the last committed run.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from datasets import Dataset
from references.paired import median_ratio
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

from hfcourse import (
    CausalLMConfig,
    CausalLMTrainer,
    MaskedLMConfig,
    MaskedLMTrainer,
    SpanCorruptionConfig,
    SpanCorruptionTrainer,
)
from hfcourse.tokenization import train_tokenizer

# glibc's, which reads them when a process starts.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
ROUNDS, STEPS, ROWS, LENGTH, VOCAB_SIZE, SENTINELS = 9, 9, 16, 128, 2000, 30
SHAPE = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
T5_SHAPE = dict(d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4)


class Stopwatch(TrainerCallback):
    """CPU seconds a step, without the first, in which memory is first asked for."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.begin = time.thread_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = (time.thread_time() - self.begin) / (STEPS - 1) if state.global_step == STEPS else None


class Ready(torch.utils.data.Dataset):
    """As many rows as a round needs, all empty: what is trained on is the collator's one batch."""

    def __len__(self):
        return ROWS * STEPS

    def __getitem__(self, index):
        return {}


def bert():
    return BertForMaskedLM(BertConfig(vocab_size=VOCAB_SIZE, **SHAPE))


def t5():
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCAB_SIZE, decoder_start_token_id=0, **T5_SHAPE))


def llama():
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, **SHAPE))


METHODS = {
    "masked_lm": (bert, MaskedLMTrainer, MaskedLMConfig, {}),
    "span_corruption": (t5, SpanCorruptionTrainer, SpanCorruptionConfig, {"input_length": LENGTH}),
    "causal_lm": (llama, CausalLMTrainer, CausalLMConfig, {}),
}


def settings(folder: str, **options) -> dict:
    quiet = dict(save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=STEPS, use_cpu=True)
    return dict(output_dir=folder, max_steps=STEPS, per_device_train_batch_size=ROWS, bf16=False, **quiet, **options)


def seconds(make) -> float:
    """Of one step of a new trainer."""
    torch.manual_seed(0)
    trainer, watch = make(), Stopwatch()
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return watch.seconds


def measure(method: str, folder: str) -> dict[str, float]:
    make_model, trainer_class, config_class, options = METHODS[method]
    tokenizer = train_tokenizer(["a b"], 260, ("<mask>",), sentinels=SENTINELS)
    tokenizer.mask_token = "<mask>"
    args = config_class(**settings(folder, **options))

    def ours(dataset):
        return trainer_class(make_model(), args, train_dataset=dataset, processing_class=tokenizer)

    # Span corruption asks for rows of the length that its input is made of.
    length = 141 if method == "span_corruption" else LENGTH
    ids = np.random.default_rng(0).integers(3, 250, (ROWS * STEPS, length), dtype=np.int32)
    dataset = Dataset.from_dict({"input_ids": ids}).with_format("numpy")
    batch = next(iter(ours(dataset).get_train_dataloader()))

    def on_ready(trainer):
        trainer.train_dataset, trainer.data_collator = Ready(), lambda rows: dict(batch)
        return trainer

    def stock():
        return Trainer(make_model(), TrainingArguments(**settings(folder)), train_dataset=dataset)

    variants = {
        "stock": lambda: on_ready(stock()),
        "ready": lambda: on_ready(ours(dataset)),
        "end_to_end": partial(ours, dataset),
    }
    times = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, make in variants.items():
            times[name].append(seconds(make))
    return {
        "end_to_end_over_ready": median_ratio(times["end_to_end"], times["ready"]),
        "throughput_over_stock": median_ratio(times["stock"], times["ready"]),
        **{f"ms_a_step_{name}": 1e3 * statistics.median(values) for name, values in times.items()},
    }


def measure_alone(method: str) -> dict[str, float]:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        return {name: float(f"{value:.4g}") for name, value in measure(method, folder).items()}


if __name__ == "__main__":
    os.environ.update(KEEP_MEMORY)
    results, spawn = {}, multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        for method, result in zip(METHODS, pool.map(measure_alone, METHODS), strict=True):
            results[method] = result
            print(method, json.dumps(result), file=sys.stderr, flush=True)
    versions = f"Python {platform.python_version()}, {torch.__version__}"
    results["machine"] = f"{platform.machine()}, one thread, one process a method, {versions}"
    print(json.dumps({"benchmark": "pretraining", **results}))
