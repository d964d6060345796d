"""How fast are the collators, beside what people use today? One thread, paired rounds, medians of nine.

    python benchmarks/collators.py

- span corruption, 128 × 568 → 512 / 114, against the scalar algorithm (benchmarks/references), and the cost of a token
  from 8 to 1,024 rows: compiled (hfcourse[speed]), and in numpy alone;
- masked LM, 128 × 512 dict rows, by token and by whole word, against transformers' DataCollatorForLanguageModeling.

The last line is the result as JSON; benchmarks/collators.json is that of the last committed run.
"""

import json
import os
import platform
import statistics
import sys
from importlib.metadata import version
from unittest import mock

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from references import scalar_span_corruption
from references.paired import median_ratio, paired_rounds
from tokenizers import Tokenizer, models
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, T5Tokenizer

import hfcourse.collators.span_corruption
from hfcourse.collators import DataCollatorForMaskedLM, DataCollatorForSpanCorruption

ROWS, VOCAB_SIZE = 128, 32_000


def settle_allocator() -> None:
    # After its first large block is freed, glibc keeps freed memory instead of handing it back at every call: the
    # state of every process that trains. Without it some of these functions would mostly measure page faults.
    del [np.ones(2**21)][0]


def without_numba() -> None:
    """In the place of `span_corruption.compiled`."""


def span_corruption() -> dict:
    collator = DataCollatorForSpanCorruption(T5Tokenizer(), input_length=512)
    rng = np.random.default_rng(0)
    tokens = rng.integers(200, VOCAB_SIZE, (ROWS, collator.raw_length))
    rows, lists = ([{"input_ids": row} for row in form] for form in (tokens, tokens.tolist()))
    law = (collator.num_noise_tokens, collator.num_noise_spans, collator.sentinels, collator.eos_token_id)
    legacy = np.random.RandomState(0)  # what those scripts draw from
    short = tokens.astype(np.uint16)
    times = paired_rounds(
        {
            "scalar": lambda: scalar_span_corruption.collate(rows, *law, legacy),
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


def word_piece() -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))}
    vocab |= {f"##{i}" if i % 3 == 0 else str(i): i for i in range(5, VOCAB_SIZE)}
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def masked_lm() -> dict:
    tokenizer = word_piece()
    tokens = np.random.default_rng(0).integers(5, VOCAB_SIZE, (ROWS, 512))
    rows, lists = ([{"input_ids": row} for row in form] for form in (tokens, tokens.tolist()))
    # Its words are gaps between offsets: one gap before every token that is no continuation.
    ends = (np.arange(512) + (tokens % 3 != 0).cumsum(1)).tolist()
    with_offsets = [row | {"offset_mapping": [(e, e + 1) for e in end]} for row, end in zip(lists, ends, strict=True)]
    peers = {
        "hf": DataCollatorForLanguageModeling(tokenizer),
        "hf_whole_word": DataCollatorForLanguageModeling(tokenizer, whole_word_mask=True, mask_replace_prob=1.0,
                                                         random_replace_prob=0.0),
    }  # fmt: skip
    ours = {
        masking: DataCollatorForMaskedLM(tokenizer, masking, exact_count=exact)
        for masking, exact in (("token", False), ("whole_word", False), ("span", True))
    }
    times = paired_rounds(
        {
            "hf": lambda: peers["hf"](lists),
            "hf_whole_word": lambda: peers["hf_whole_word"]([dict(row) for row in with_offsets]),
            "token_lists": lambda: ours["token"](lists),
            **{name: lambda name=name: ours[name](rows) for name in ours},
        },
        calls=5,
    )
    return {
        "token_ratio_to_hf": median_ratio(times["hf"], times["token"]),
        "token_ratio_to_hf_on_lists": median_ratio(times["hf"], times["token_lists"]),
        "whole_word_ratio_to_hf": median_ratio(times["hf_whole_word"], times["whole_word"]),
        **{f"mtok_per_s_{name}": tokens.size / 1e6 / statistics.median(t) for name, t in times.items()},
    }


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(x) for name, x in value.items()}
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    torch.set_num_threads(1)
    settle_allocator()
    results = {"span_corruption": span_corruption()}
    with mock.patch.object(hfcourse.collators.span_corruption, "compiled", without_numba):
        results["span_corruption_in_numpy"] = span_corruption()
    results["masked_lm"] = masked_lm()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch"))
    versions = f"Python {platform.python_version()}, {packages}"
    results["machine"] = f"{platform.machine()}, one thread, {versions}"
    for name, values in results.items():
        print(name, json.dumps(rounded(values)), file=sys.stderr)
    print(json.dumps({"benchmark": "collators", **rounded(results)}))
