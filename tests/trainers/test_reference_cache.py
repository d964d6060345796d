"""Reference log-probs are computed once for a model and a pair, whatever run, order or β comes after."""

import copy

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig, get_peft_model

from hfcourse.errors import InputError
from hfcourse.trainers.dpo_trainer import DPOConfig, DPOTrainer
from hfcourse.trainers.reference_cache import ReferenceCache, model_key, pair_keys

ROWS = [
    {"prompt": f"Mara lives in {a}", "chosen": f" and likes {a}." * (1 + i % 3), "rejected": f" or {a}" * (1 + i % 2)}
    for i, a in enumerate(("Oakton", "the tea", "a door", "the river", "six", "the fox"))
]


@pytest.fixture
def asked(monkeypatch):
    """How many pairs the reference was asked for, in all."""
    asked, compute = [], DPOTrainer.compute_ref_log_probs

    def counted(self, model, inputs):
        asked.append(len(inputs["input_ids"]) // 2)
        return compute(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    return asked


@pytest.fixture
def make(tiny_llama, tiny_tokenizer, tmp_path):
    def make(rows=ROWS, seed=0, model=None, stream=False, template=None, **overrides):
        settings = dict(output_dir=str(tmp_path / "out"), precompute_ref_log_probs=True, max_steps=4, logging_steps=1)
        settings |= dict(per_device_train_batch_size=2, learning_rate=1e-2, save_strategy="no", disable_tqdm=True)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template or tokenizer.chat_template
        data = Dataset.from_list(rows) if not stream else IterableDataset.from_generator(lambda: iter(rows))
        peft_config = overrides.pop("peft_config", None)
        return DPOTrainer(
            model or tiny_llama(seed),
            args=DPOConfig(**settings | overrides),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return make


def columns_of(trainer):
    rows = trainer.train_dataset
    return {tuple(r["prompt_ids"]): (r["ref_chosen_logps"], r["ref_rejected_logps"]) for r in rows}


def losses_of(trainer):
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_the_next_run_and_a_sweep_over_beta_compute_nothing(make, asked):
    first = columns_of(make())
    assert sum(asked) == 6
    asked.clear()
    for beta in (0.05, 0.1, 0.5):
        assert columns_of(make(beta=beta, seed=0)) == first
    assert columns_of(make(loss_type="ipo")) == first
    assert asked == []


def test_only_what_is_new_is_computed(make, asked):
    """More pairs, the same pairs in another order, a pair twice."""
    make(ROWS[:4])
    asked.clear()
    shuffled = make([ROWS[i] for i in (5, 0, 3, 4, 0, 2, 1, 5)])
    assert sum(asked) == 2
    assert columns_of(shuffled) == columns_of(make())
    prompts = [tuple(row["prompt_ids"]) for row in shuffled.train_dataset]
    assert prompts[0] == prompts[-1], "rows stay where they were"


def test_the_log_probs_are_the_references_own(make):
    trainer = make(per_device_train_batch_size=4)
    for row in trainer.train_dataset:
        for side in ("chosen", "rejected"):
            ids = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]])
            log_probs = trainer.model(ids).logits[0, :-1].log_softmax(-1)
            logps = log_probs.gather(-1, ids[0, 1:, None])[len(row["prompt_ids"]) - 1 :].sum()
            assert row[f"ref_{side}_logps"] == pytest.approx(logps.item(), abs=2e-4)


@pytest.mark.parametrize(
    "change",
    [dict(seed=1), dict(max_length=12), dict(rows=[{**row, "chosen": row["chosen"] + "!"} for row in ROWS])],
    ids=["model", "truncation", "data"],
)
def test_another_model_or_other_tokens_are_computed_anew(make, asked, change):
    make()
    asked.clear()
    kept = len(make(**change).train_dataset)
    assert sum(asked) == kept > 4


def test_another_template_is_computed_anew(make, asked):
    chat = [
        {k: [{"role": "user" if k == "prompt" else "assistant", "content": v}] for k, v in r.items()} for r in ROWS
    ]
    make(chat)
    asked.clear()
    make(chat)
    assert asked == []
    make(chat, template="{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    assert sum(asked) == 6


def test_a_killed_run_loses_one_batch(make, asked, monkeypatch):
    """Killed in the third batch of two pairs, with half a record written: the next run computes the last batch."""
    add = ReferenceCache.add

    def killed(self, *args, **kwargs):
        if len(self.known) == 4:
            with self._file.open("ab") as file:
                file.write(b"half a record")
            raise KeyboardInterrupt
        add(self, *args, **kwargs)

    monkeypatch.setattr(ReferenceCache, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        make()
    monkeypatch.setattr(ReferenceCache, "add", add)
    asked.clear()
    after = columns_of(make())
    assert sum(asked) == 2
    asked.clear()
    assert columns_of(make()) == after
    assert asked == []


def test_the_rank_and_the_seed_of_an_adapter_do_not_count(make, asked, tiny_llama):
    """Without its adapter the model is the reference; a trained adapter is its own, and counts."""
    first = columns_of(make(peft_config=LoraConfig(r=2, task_type="CAUSAL_LM")))
    asked.clear()
    assert columns_of(make(peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"), seed=0)) == first
    assert columns_of(make()) == first, "the same model without an adapter"
    assert asked == []
    torch.manual_seed(0)
    trained = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)
    assert columns_of(make(model=get_peft_model(tiny_llama(0), trained))) != first
    assert sum(asked) == 6


@pytest.mark.parametrize("stream", [False, True], ids=["dataset", "stream"])
def test_training_is_that_of_a_reference_asked_at_every_step(make, stream):
    """Two epochs, shuffled where that can be: the losses of every step, in the first run and in the next."""
    online = losses_of(make(precompute_ref_log_probs=False, stream=stream, max_steps=6))
    assert losses_of(make(stream=stream, max_steps=6)) == pytest.approx(online, abs=1e-5)
    assert losses_of(make(stream=stream, max_steps=6)) == pytest.approx(online, abs=1e-5)
    assert online[0] != online[3]


def test_a_stream_asks_once_a_pair(make, asked):
    make(stream=True, max_steps=9).train()
    assert sum(asked) == 6, "three epochs"
    asked.clear()
    make(stream=True, max_steps=9, beta=0.3).train()
    assert asked == []
    with pytest.raises(InputError, match="on a stream it needs one of loss_type="):
        make(stream=True, loss_type="apo_zero")


@pytest.mark.parametrize("stream", [False, True], ids=["dataset", "stream"])
def test_resume_equals_no_kill(make, tmp_path, asked, stream):
    # transformers cannot resume in a stream's second epoch.
    settings = dict(max_steps=3 if stream else 6, save_strategy="steps", save_steps=2, stream=stream)
    straight = make(output_dir=str(tmp_path / "a"), **settings)
    straight.train()
    asked.clear()
    resumed = make(output_dir=str(tmp_path / "b"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert asked == []
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_keys_see_tokens_and_what_is_scored_and_no_padding():
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 9]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    scored = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 1]])
    batch = dict(input_ids=ids, attention_mask=real, completion_mask=scored)
    (key,) = pair_keys(batch)
    padded = {name: torch.nn.functional.pad(x, (0, 3)) for name, x in batch.items()}
    padded["input_ids"][0, 3] = 77
    assert pair_keys(padded) == [key]
    others = [
        {**batch, "input_ids": ids + 1},
        {**batch, "completion_mask": scored.roll(-1, 1) & real},
        {name: x.flip(0) for name, x in batch.items()},
    ]
    assert len({key, *(pair_keys(other)[0] for other in others)}) == 4


def test_model_key_sees_weights_config_and_settings(tiny_llama):
    keys = [
        model_key(tiny_llama(0), "no"),
        model_key(tiny_llama(1), "no"),
        model_key(tiny_llama(0), "bf16"),
        model_key(tiny_llama(0, rms_norm_eps=1e-3), "no"),
        model_key(tiny_llama(0).to(torch.bfloat16), "no"),
    ]
    assert len(set(keys)) == 5
    assert model_key(tiny_llama(0, use_cache=False), "no") == keys[0]


def test_records_are_what_they_were():
    cache = ReferenceCache("a model")
    values = torch.tensor([-1.25, -3e-7, -1234.5])
    keys = [bytes([i]) * 16 for i in range(3)]
    cache.add(keys, values, values - 1)
    cache.add(keys[:1], torch.tensor([5.0]), torch.tensor([5.0]))  # known already
    again = ReferenceCache("a model")
    assert torch.equal(again.read(keys[::-1])[0], values.flip(0))
    assert torch.equal(again.read(keys)[1], values - 1)
    assert sum(path.stat().st_size for path in again.folder.iterdir()) == 3 * 32
    assert again.folder.is_relative_to(datasets.config.HF_DATASETS_CACHE)
    assert np.fromfile(next(again.folder.iterdir()), np.uint8).size == 96
