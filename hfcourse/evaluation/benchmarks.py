"""Benchmarks by lm-eval (extra `eval`): a model and a task in, metrics with standard errors out."""

import contextlib
import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation.benchmark_tasks import quiet_harness
from hfcourse.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM

BOOTSTRAPS = 1000  # of metrics that are no means
NOT_CONTENT = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")  # says where, not what


class BenchmarkSettings(NamedTuple):
    """How tasks are asked.

    limit: the first so many questions of each task; None asks all.
    num_fewshot: examples before each question; None leaves it to the task.
    apply_chat_template: the question is a user's message, the examples are earlier turns.
    max_gen_toks: the longest answer; None leaves it to the task (256 tokens, where it says nothing).
    batch_size: questions at once.
    seed: of the examples' choice and of sampling.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    max_gen_toks: int | None = None
    batch_size: int = 16
    seed: int = 0


class TaskResult(NamedTuple):
    """What a task came to.

    metrics: {"acc": (value, standard error), "exact_match,strict-match": …}, under lm-eval's names.
    num_items: questions asked.
    num_fewshot: examples that stood before each.
    num_cut: questions that lost their beginning, for they exceed the model's positions.
    items: one record a question (and a filter): its number, the hash of its text, its metrics.
    seconds: of the clock.
    """

    metrics: dict[str, Estimate]
    num_items: int
    num_fewshot: int
    num_cut: int
    items: list[dict]
    seconds: float


def harness_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 16) -> "HFLM":
    """lm-eval's view of a model in memory: a decoder, an encoder-decoder, or either with an adapter.

    Raises:
        InputError: lm-eval is not installed, or the tokenizer has neither pad token nor EOS.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as e:
        raise InputError("tasks: benchmarks need lm-eval; pip install 'hfcourse[eval]'") from e
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise InputError("pad_token: the tokenizer has no pad token and no EOS; set tokenizer.pad_token and save it")
    kind, was_training = "seq2seq" if model.config.is_encoder_decoder else "causal", model.training
    with quiet_harness():
        lm = HFLM(pretrained=model, tokenizer=tokenizer, backend=kind, batch_size=batch_size)
    model.train(was_training)
    return lm


def run_task(lm: "HFLM", task: "Task", settings: BenchmarkSettings | None = None) -> TaskResult:
    """Ask one task. The global random state and the model's mode are left as they were.

    Raises:
        InputError: `num_fewshot` where the task fixes 0, or a chat template that the tokenizer does not have.
    """
    from lm_eval.evaluator import evaluate

    settings = settings or BenchmarkSettings()
    _check(lm, task, settings)
    start, was_training = time.monotonic(), lm.model.training
    lm.model.eval()
    # What lm_eval.simple_evaluate does around it, without its five seconds of asking for versions.
    with quiet_harness(), seeded(settings.seed), _asked_as(task, settings):
        results = evaluate(
            lm,
            {"tasks": {task.config.task: task}, "groups": {}, "group_map": {}},
            limit=settings.limit,
            apply_chat_template=settings.apply_chat_template,
            fewshot_as_multiturn=settings.apply_chat_template,
            bootstrap_iters=BOOTSTRAPS,
        )
    lm.model.train(was_training)
    name = task.config.task
    return TaskResult(
        _metrics(results["results"][name]),
        results["n-samples"][name]["effective"],
        int(results["n-shot"][name]),
        _num_cut(lm, task),
        [_item(sample) for sample in results["samples"][name]],
        time.monotonic() - start,
    )


def benchmark(
    tasks: list[tuple[str, "Task"]], settings: BenchmarkSettings | None = None
) -> Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict[str, float]]:
    """A measure for [`hfcourse.callbacks.EvaluateCallback`]: {"<task>/<metric>": value} of a model and tokenizer."""
    settings = settings or BenchmarkSettings()

    def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        lm = harness_model(model, tokenizer, settings.batch_size)
        results = {task.config.task: run_task(lm, task, settings) for _, task in tasks}
        return {f"{name}/{m}": value.mean for name, r in results.items() for m, value in r.metrics.items()}

    return measure


def pooled(results: list[TaskResult], metric: str) -> Estimate:
    """A metric over all questions of several tasks, which are strata of fixed size.

    x̄ = Σ n_k x̄_k / n        se² = Σ (n_k / n)² se_k²        n = Σ n_k
    """
    n = sum(r.num_items for r in results)
    mean = sum(r.num_items * r.metrics[metric].mean for r in results) / n
    return Estimate(mean, math.sqrt(sum((r.num_items / n * r.metrics[metric].se) ** 2 for r in results)))


def model_hash(model: PreTrainedModel) -> str:
    """Of every weight, an adapter's among them: names, shapes, types and bytes. The file format plays no part."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def data_hash(task: "Task", limit: int | None = None) -> str:
    """Of the questions that are asked and of all that examples may be drawn from."""
    asked, shots = task.eval_docs, task.fewshot_docs() or []
    rows = [*(asked[i] for i in range(min(limit or len(asked), len(asked)))), *shots]
    return _hash_of([{**row} for row in rows])


def task_hash(task: "Task") -> str:
    """Of how the task asks and counts: prompts, choices, filters, metrics; wherever its data are."""
    return _hash_of({name: value for name, value in task.dump_config().items() if name not in NOT_CONTENT})


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators from a seed, and afterwards as before: a training run around it draws on undisturbed."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    random.setstate(python)
    np.random.set_state(numpy)


@contextlib.contextmanager
def _asked_as(task: "Task", settings: BenchmarkSettings) -> Iterator[None]:
    """The task with these settings, and afterwards as it was defined."""
    num_fewshot, generation = task.config.num_fewshot, dict(task.config.generation_kwargs or {})
    task.config.num_fewshot = settings.num_fewshot or num_fewshot or 0
    if settings.max_gen_toks and task.OUTPUT_TYPE == "generate_until":
        task.config.generation_kwargs = {**generation, "max_gen_toks": settings.max_gen_toks}
    task.set_fewshot_seed(seed=settings.seed)
    try:
        yield
    finally:
        task.config.num_fewshot, task.config.generation_kwargs = num_fewshot, generation or None


def _check(lm: "HFLM", task: "Task", settings: BenchmarkSettings) -> None:
    name, asked = task.config.task, settings.num_fewshot
    if asked and task.config.num_fewshot == 0:  # lm-eval would go on with none, and say so in a log only
        raise InputError(f"num_fewshot={asked}: the task '{name}' is defined without examples; leave it unset")
    if asked and task.fewshot_docs() is None:
        raise InputError(f"num_fewshot={asked}: the task '{name}' has no rows to take examples from")
    longest = settings.max_gen_toks or (task.config.generation_kwargs or {}).get("max_gen_toks", lm.max_gen_toks)
    if task.OUTPUT_TYPE == "generate_until" and longest >= lm.max_length:
        raise InputError(
            f"max_gen_toks: '{name}' may write {longest} tokens, and the model has {lm.max_length} positions; "
            "set a smaller one"
        )
    if settings.apply_chat_template and lm.tokenizer.chat_template is None:
        raise InputError("apply_chat_template: the tokenizer has no chat template")


def _metrics(result: dict) -> dict[str, Estimate]:
    metrics = {}
    for key, value in result.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
            se = result.get(f"{metric}_stderr,{kind}")
            name = metric if kind == "none" else key
            metrics[name] = Estimate(float(value), float(se) if isinstance(se, int | float) else math.nan)
    return metrics


def _num_cut(lm: "HFLM", task: "Task") -> int:
    """lm-eval cuts a prompt on the left and says so in its log, which is off here."""
    cut = set()
    for request in task.instances:
        context, rest = request.args[:2]
        room = len(lm.tok_encode(rest)) if isinstance(rest, str) else rest.get("max_gen_toks", lm.max_gen_toks)
        if len(lm.tok_encode(context)) + room > lm.max_length:
            cut.add(request.doc_id)
    return len(cut)


def _item(sample: dict) -> dict:
    measured = {name: sample[name] for name in sample["metrics"]}
    return {"item": sample["doc_id"], "hash": sample["doc_hash"][:16], "filter": sample["filter"], **measured}


def _hash_of(content) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
