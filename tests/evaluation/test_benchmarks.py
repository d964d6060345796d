"""lm-eval's numbers against a count of our own, question by question; hashes; what a measurement must leave alone."""

import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from hfcourse.errors import InputError
from hfcourse.evaluation.benchmark_tasks import load_tasks
from hfcourse.evaluation.benchmarks import (
    BenchmarkSettings,
    TaskResult,
    benchmark,
    data_hash,
    harness_model,
    model_hash,
    pooled,
    run_task,
    task_hash,
)
from hfcourse.evaluation.statistics import Estimate, estimate

OF_EACH_SUBJECT = 20  # of five: a hundred questions


@pytest.fixture(scope="module")
def world():
    return load_tasks(["world"], limit=OF_EACH_SUBJECT)


@pytest.fixture
def decoder(tiny_llama):
    return tiny_llama(0).eval()


@pytest.fixture
def encoder_decoder(tiny_tokenizer):
    torch.manual_seed(0)
    shape = dict(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4, dropout_rate=0.3)
    ids = dict(pad_token_id=tiny_tokenizer.pad_token_id, decoder_start_token_id=tiny_tokenizer.pad_token_id)
    return T5ForConditionalGeneration(T5Config(vocab_size=len(tiny_tokenizer), **shape, **ids)).eval()


@torch.no_grad()
def logp_by_hand(model, tokenizer, context, choice):
    """Σ_t log p(y_t | x, y_<t) in one forward pass of one row, without padding or caches."""
    if model.config.is_encoder_decoder:
        ids, target = tokenizer(context)["input_ids"], tokenizer(choice)["input_ids"]
        begun = [model.config.decoder_start_token_id, *target[:-1]]
        logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([begun])).logits[0]
    else:
        whole, start = tokenizer(context + choice)["input_ids"], len(tokenizer(context)["input_ids"])
        target = whole[start:]
        logits = model(torch.tensor([whole])).logits[0, start - 1 : -1]
    return sum(logits.log_softmax(-1)[t, token].item() for t, token in enumerate(target))


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("num_fewshot", [0, 1])
def test_a_hundred_questions_counted_by_hand(kind, num_fewshot, request, tiny_tokenizer, world):
    model = request.getfixturevalue(kind)
    lm, settings = harness_model(model, tiny_tokenizer), BenchmarkSettings(OF_EACH_SUBJECT, num_fewshot, batch_size=7)
    num_items = 0
    for _, task in world if num_fewshot == 0 else world[:1]:
        result = run_task(lm, task, settings)
        logps, hits, hits_norm = {}, [], []
        for asked in task.instances:
            context, choice = asked.args
            by_hand = logp_by_hand(model, tiny_tokenizer, context, choice)
            assert asked.resps[0][0] == pytest.approx(by_hand, abs=2e-4)
            logps.setdefault(asked.doc_id, []).append((by_hand, by_hand / len(choice.strip())))
        for i, values in logps.items():
            row = task.eval_docs[i]
            likeliest, per_character = (max(range(4), key=lambda j, k=k: values[j][k]) for k in (0, 1))
            hits.append(float(likeliest == row["answer"]))
            hits_norm.append(float(per_character == row["answer"]))
        assert [item["acc"] for item in result.items] == hits
        assert [item["acc_norm"] for item in result.items] == hits_norm
        assert result.metrics["acc"] == pytest.approx(estimate(hits))
        assert result.metrics["acc_norm"] == pytest.approx(estimate(hits_norm))
        assert (result.num_fewshot, result.num_items) == (num_fewshot, OF_EACH_SUBJECT)
        num_items += result.num_items
    assert num_items == (100 if num_fewshot == 0 else OF_EACH_SUBJECT)


def test_an_adapter_counts(decoder, tiny_tokenizer, world):
    """The same weights under a LoRA whose B is no longer 0: other log-probabilities, another hash."""
    from peft import LoraConfig, get_peft_model

    (_, task), *_ = world
    lm, settings = harness_model(decoder, tiny_tokenizer), BenchmarkSettings(limit=2)
    before = model_hash(decoder)
    run_task(lm, task, settings)
    plain = [asked.resps[0][0] for asked in task.instances]
    adapted = get_peft_model(decoder, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    run_task(harness_model(adapted, tiny_tokenizer), task, settings)
    assert all(a.resps[0][0] != b for a, b in zip(task.instances, plain, strict=True))
    assert model_hash(adapted) != before


def test_the_measurement_leaves_the_world_as_it_was(tiny_llama, tiny_tokenizer, world):
    """Training draws on as if nothing had been asked, and dropout is on again."""
    model = tiny_llama(0).train()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    expected = random.random(), np.random.random(), torch.rand(()).item()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    values = benchmark(world[:1], BenchmarkSettings(limit=2, num_fewshot=1))(model, tiny_tokenizer)
    assert (random.random(), np.random.random(), torch.rand(()).item()) == expected
    assert model.training
    assert values.keys() == {"world_arithmetic/acc", "world_arithmetic/acc_norm"}


def test_the_seed_decides_the_examples(decoder, tiny_tokenizer, world):
    def contexts(seed):
        run_task(harness_model(decoder, tiny_tokenizer), world[0][1], BenchmarkSettings(4, num_fewshot=2, seed=seed))
        return [asked.args[0] for asked in world[0][1].instances]

    first = contexts(1)
    assert all(context.count("Question: ") == 3 and context.endswith("Answer:") for context in first)
    assert contexts(1) == first
    assert contexts(2) != first


def test_the_models_hash_is_of_its_weights(tiny_llama, tmp_path):
    model = tiny_llama(0)
    model.save_pretrained(tmp_path)
    assert model_hash(AutoModelForCausalLM.from_pretrained(tmp_path)) == model_hash(model)
    hashes = {model_hash(model), model_hash(tiny_llama(1))}
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-3
    assert len({*hashes, model_hash(model)}) == 3


def test_the_datas_hash_is_of_what_is_asked(world):
    (_, task), (_, other), *_ = world
    assert data_hash(task, OF_EACH_SUBJECT) == data_hash(task) == data_hash(task, 1000)
    assert len({data_hash(task), data_hash(task, 19), data_hash(other)}) == 3
    assert task_hash(task) != task_hash(other)  # their names differ
    ((_, again), *_) = load_tasks(["world"], limit=OF_EACH_SUBJECT)
    assert (task_hash(again), data_hash(again)) == (task_hash(task), data_hash(task))


def test_pooled_by_hand():
    """(30·0.5 + 10·0.9)/40 = 0.6; se² = (¾·0.1)² + (¼·0.2)² = 0.005625 + 0.0025."""
    results = [TaskResult({"acc": Estimate(m, se)}, n, 0, 0, [], 0.0) for n, m, se in ((30, 0.5, 0.1), (10, 0.9, 0.2))]
    assert pooled(results, "acc") == pytest.approx((0.6, math.sqrt(0.008125)))


def test_what_a_task_does_not_take_is_said(decoder, tiny_tokenizer, tmp_path, world):
    lm = harness_model(decoder, tiny_tokenizer)
    Dataset.from_dict({"q": ["a", "b"], "a": ["c", "d"]}).to_json(tmp_path / "rows.jsonl")
    (tmp_path / "fixed.yaml").write_text(
        "task: fixed\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\nnum_fewshot: 0\ngeneration_kwargs: {until: ['x']}\n"
    )
    ((_, fixed),) = load_tasks([str(tmp_path / "fixed.yaml")])
    with pytest.raises(InputError, match="num_fewshot=3: the task 'fixed' is defined without examples"):
        run_task(lm, fixed, BenchmarkSettings(num_fewshot=3))
    bare = tiny_tokenizer.__class__(tokenizer_object=tiny_tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    with pytest.raises(InputError, match="no chat template"):
        run_task(harness_model(decoder, bare), world[0][1], BenchmarkSettings(apply_chat_template=True))


def test_questions_longer_than_the_model_are_counted(tiny_llama, tiny_tokenizer, world):
    lm = harness_model(tiny_llama(0, max_position_embeddings=48), tiny_tokenizer)
    result = run_task(lm, world[3][1], BenchmarkSettings(limit=3, num_fewshot=2))
    assert result.num_cut == 3
    assert run_task(lm, world[4][1], BenchmarkSettings(limit=3)).num_cut == 0
