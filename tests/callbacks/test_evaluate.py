"""Measurements during training: logged with the evaluation, and training goes on as if nobody had asked."""

import pytest
import torch
from datasets import Dataset

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.callbacks import EvaluateCallback
from hfcourse.errors import InputError
from hfcourse.evaluation.benchmark_tasks import load_tasks
from hfcourse.evaluation.benchmarks import BenchmarkSettings, benchmark

ROWS = Dataset.from_list(
    [{"prompt": f"Where is {n}?", "completion": " Near."} for n in ("Mara", "the tea", "Oak")] * 2
)


@pytest.fixture
def trainer(tiny_gpt2, tiny_tokenizer, tmp_path):
    """GPT-2 with dropout: a measurement that drew from the global generator would change what is learnt."""

    def make(**config):
        defaults = dict(
            max_steps=4, per_device_train_batch_size=2, eval_strategy="steps", eval_steps=2, logging_steps=1
        )
        defaults |= dict(save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=1e-2, max_length=32)
        args = SFTConfig(str(tmp_path), **{**defaults, **config})
        model = tiny_gpt2(0, n_positions=512)
        return SFTTrainer(model, args, train_dataset=ROWS, eval_dataset=ROWS, processing_class=tiny_tokenizer)

    return make


def test_benchmarks_are_logged_and_change_nothing(trainer):
    plain, measured = trainer(), trainer()
    settings = BenchmarkSettings(limit=3, num_fewshot=1)
    measured.add_callback(EvaluateCallback(measured, benchmark(load_tasks(["world"], limit=3)[:1], settings)))
    for each in (plain, measured):
        torch.manual_seed(0)
        each.train()
    losses = [[log["loss"] for log in each.state.log_history if "loss" in log] for each in (plain, measured)]
    assert losses[0] == losses[1]
    for a, b in zip(plain.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(a, b)
    logged = [(log["step"], log["eval_world_arithmetic/acc"]) for log in measured.state.log_history if len(log) == 4]
    assert [step for step, _ in logged] == [2, 4]
    again = benchmark(load_tasks(["world"], limit=3)[:1], settings)(measured.model, measured.processing_class)
    assert logged[-1][1] == again["world_arithmetic/acc"]


def test_the_best_model_may_be_chosen_by_it(trainer):
    """Measured 0.3, then 0.1: the checkpoint of step 2 is the best one."""
    values = iter([0.3, 0.1])
    config = dict(save_strategy="steps", save_steps=2, load_best_model_at_end=True, metric_for_best_model="score")
    chosen = trainer(**config, greater_is_better=True)
    chosen.add_callback(EvaluateCallback(chosen, lambda model, tokenizer: {"score": next(values)}))
    chosen.train()
    assert chosen.state.best_metric == 0.3
    assert chosen.state.best_model_checkpoint.endswith("checkpoint-2")


def test_spread_weights_are_refused(trainer):
    spread = trainer()
    spread.is_fsdp_enabled = True
    with pytest.raises(InputError, match="spread over processes"):
        EvaluateCallback(spread, lambda model, tokenizer: {})
