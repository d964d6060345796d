"""The names in transformers and TRL that trainers override or call. A release that moves one fails here, naming it."""

import inspect

import pytest
import trl
from trl.trainer import dpo_trainer, reward_trainer, rloo_trainer, utils as trainer_utils

from hfcourse import trainers

METHODS = {
    trl.RLOOTrainer: {
        "_generate": ["self", "prompts"],
        "_tokenize_prompts": ["self", "prompts"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_prepare_inputs": ["self", "generation_batch"],
        "_compute_loss": ["self", "model", "inputs"],
        "_get_train_sampler": ["self", "dataset"],
    },
    trl.DPOTrainer: {
        "_compute_loss": ["self", "model", "inputs", "return_outputs"],
        "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
    },
    trl.RewardTrainer: {"_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"]},
}
ATTRIBUTES = {
    rloo_trainer: ("self._step", "self.eos_token_ids", "self.reward_weights", "self._logs", "self.num_iterations"),
    dpo_trainer: (
        *("self.loss_types", "self.loss_weights", "self.ld_alpha", "self.precompute_ref_logps", "_tp_size"),
        "(dataset._fingerprint, model_hash)",
        "model_hash = self._precompute_model_hash",
    ),
    reward_trainer: ("self._total_train_tokens", "self._metrics"),
}


@pytest.mark.parametrize("trainer", METHODS, ids=lambda t: t.__name__)
def test_methods_have_the_arguments_we_pass(trainer):
    for name, arguments in METHODS[trainer].items():
        assert list(inspect.signature(getattr(trainer, name)).parameters) == arguments, name


TRAINERS = [getattr(trainers, name) for name in trainers.__all__ if name.endswith("Trainer")]


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda t: t.__name__)
def test_what_is_overridden_takes_what_the_parents_takes(trainer):
    """`trainer.predict(dataset)`, say, may not become something else under the same name."""
    classes, checked = trainer.__mro__, []
    for name in {name for c in classes if c.__module__.startswith("hfcourse") for name in vars(c)}:
        first = next(i for i, c in enumerate(classes) if name in vars(c))
        parent = next(
            (c for c in classes[first + 1 :] if name in vars(c) and not c.__module__.startswith("hfcourse")), None
        )
        if parent is None or name.startswith("__") or not inspect.isfunction(vars(classes[first])[name]):
            continue
        taken = inspect.signature(vars(parent)[name]).parameters.values()
        named = {p.name: None for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        inspect.signature(vars(classes[first])[name]).bind(**named)
        checked.append(name)
    assert "create_model_card" in checked


@pytest.mark.parametrize("module", ATTRIBUTES, ids=lambda m: m.__name__)
def test_attributes_are_still_set(module):
    source = inspect.getsource(module)
    assert [name for name in ATTRIBUTES[module] if name not in source] == []


def test_functions_are_where_they_were():
    names = ("use_adapter", "RepeatSampler", "get_callable_name", "is_async_callable")
    assert [name for name in names if not hasattr(trainer_utils, name)] == []
    assert hasattr(reward_trainer, "suppress_seqcls_warning")


def test_rloo_checks_the_number_of_generations_last():
    """`RolloutConfig` leaves `RLOOConfig.__post_init__` out for that check alone; it repeats the ones before it."""
    source = inspect.getsource(trl.RLOOConfig.__post_init__)
    assert source.rpartition("if ")[2].startswith("self.num_generations < 2:")
    assert source.count("raise ValueError") == 7
