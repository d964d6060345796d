"""Answers that are asked for once: batched, kept in a file as they come, gone on with after a kill, and counted."""

import hashlib
import json
import time
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.evaluation.benchmarks import model_hash
from hfcourse.evaluation.generation import Completion, generate


class Cost(NamedTuple):
    """What the answers cost, whenever they were written.

    prompt_tokens: read; a prompt with several samples is read once for each.
    completion_tokens: written.
    seconds: of generation.
    """

    prompt_tokens: int
    completion_tokens: int
    seconds: float


def answer_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list,
    cache: Path,
    num_samples: int = 1,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    stop: str | None = None,
) -> tuple[list[list[Completion]], Cost]:
    """`num_samples` completions of each prompt, and what they cost.

    A batch is written to `cache` (a file of one JSON object a line) as soon as it is done. A later call with the same
    model (by its weights), prompts and settings goes on where an earlier one stopped, and ends with the same answers
    as one that never did; with others it shares nothing, and both may use one file.

    Args:
        prompts: texts or conversations, as [`hfcourse.evaluation.generate`] takes them, as are the other arguments.
    """
    settings = [model_hash(model), max_new_tokens, temperature, batch_size, seed, stop, num_samples]
    key = hashlib.sha256(json.dumps([settings, prompts], ensure_ascii=False).encode()).hexdigest()[:16]
    kept = _read(cache, key)
    asked = [(i, j) for i in range(len(prompts)) for j in range(num_samples)]
    # Prompts of like length share a batch; the batches do not depend on what is in the file.
    asked.sort(key=lambda pair: (-len(str(prompts[pair[0]])), pair))
    written: dict[tuple[int, int], Completion] = {}
    seconds = 0.0
    for number, start in enumerate(range(0, len(asked), batch_size)):
        pairs = asked[start : start + batch_size]
        if number not in kept:
            began = time.monotonic()
            texts = [prompts[i] for i, _ in pairs]
            completions = generate(
                model, tokenizer, texts, max_new_tokens, temperature, batch_size, _seed_of(seed, number), stop
            )
            kept[number] = {"batch": number, "seconds": time.monotonic() - began, "completions": completions}
            _append(cache, {"key": key, **kept[number]})
        seconds += kept[number]["seconds"]
        written |= {pair: Completion(*c) for pair, c in zip(pairs, kept[number]["completions"], strict=True)}
    answers = [[written[i, j] for j in range(num_samples)] for i in range(len(prompts))]
    every = list(written.values())
    return answers, Cost(sum(len(c.prompt_ids) for c in every), sum(len(c.ids) for c in every), seconds)


def _seed_of(seed: int, batch: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{batch}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def _read(cache: Path, key: str) -> dict[int, dict]:
    """Whole lines of this key; the last line of a killed run may be half a line."""
    kept = {}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.is_file() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["key"] == key:
            kept[record["batch"]] = record
    return kept


def _append(cache: Path, record: dict) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    torn = cache.is_file() and cache.stat().st_size > 0 and not cache.read_bytes().endswith(b"\n")
    with cache.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(record, ensure_ascii=False) + "\n")
