"""How fast are the collators, beside what people use today? One thread, paired rounds, medians of nine.

    python benchmarks/collators.py

- span corruption, 128 × 568 → 512 / 114, against the scalar algorithm (benchmarks/references);
- the cost of a token from 8 to 1,024 rows.

The last line is the result as JSON; benchmarks/collators.json is that of the last committed run.
"""

import json
import os
import platform
import statistics
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from references import scalar_span_corruption
from references.paired import median_ratio, paired_rounds
from transformers import T5Tokenizer

from hfcourse.collators import DataCollatorForSpanCorruption

ROWS, VOCAB_SIZE = 128, 32_000


def settle_allocator() -> None:
    # After its first large block is freed, glibc keeps freed memory instead of handing it back at every call: the
    # state of every process that trains. Without it some of these functions would mostly measure page faults.
    del [np.ones(2**21)][0]


def span_corruption() -> dict:
    collator = DataCollatorForSpanCorruption(T5Tokenizer(), input_length=512)
    rng = np.random.default_rng(0)
    tokens = rng.integers(200, VOCAB_SIZE, (ROWS, collator.raw_length))
    rows, lists = ([{"input_ids": row} for row in form] for form in (tokens, tokens.tolist()))
    law = (collator.num_noise_tokens, collator.num_noise_spans, collator.sentinels, collator.eos_token_id, rng)
    short = tokens.astype(np.uint16)
    times = paired_rounds(
        {
            "scalar": lambda: scalar_span_corruption.collate(rows, *law),
            "rows": lambda: collator(rows),
            "array": lambda: collator(tokens),
            "uint16": lambda: collator(short),
            "lists": lambda: collator(lists),
        }
    )
    million_tokens = tokens.size / 1e6
    return {
        "ratio_to_scalar": median_ratio(times["scalar"], times["rows"]),
        **{f"mtok_per_s_{name}": million_tokens / statistics.median(t) for name, t in times.items()},
        "ns_per_token_by_rows": cost_by_rows(collator, tokens),
    }


def cost_by_rows(collator: DataCollatorForSpanCorruption, tokens: np.ndarray) -> dict[int, float]:
    batches = {n: np.tile(tokens, (-(-n // ROWS), 1))[:n] for n in (8, 32, 128, 512, 1024)}
    times = paired_rounds({n: lambda batch=batch: collator(batch) for n, batch in batches.items()})
    return {n: 1e9 * statistics.median(t) / batches[n].size for n, t in times.items()}


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(x) for name, x in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    settle_allocator()
    results = {"span_corruption": span_corruption()}
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    results["machine"] = f"{platform.machine()}, one thread, {versions}"
    for name, values in results.items():
        print(name, json.dumps(rounded(values)), file=sys.stderr)
    print(json.dumps({"benchmark": "collators", **rounded(results)}))
