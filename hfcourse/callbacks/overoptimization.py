"""Watches a run of PPO, REINFORCE or DPO for reward hacking: proxy, gold, KL and style of fresh answers; a budget."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Literal

import numpy as np
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from hfcourse.errors import InputError
from hfcourse.evaluation.generation import generate
from hfcourse.evaluation.kl import sequence_kl
from hfcourse.evaluation.overoptimization import distinct_n, repetition, turning_point
from hfcourse.models.adapters import active_adapter

logger = logging.get_logger(__name__)

RewardFunction = Callable[..., list[float]]


class OveroptimizationCallback(TrainerCallback, ExportableState):
    """Every `every` steps it lets the policy answer held-out prompts and logs `overoptimization/…`.

        proxy, gold               mean rewards: the one that is optimised, and the one that is meant
        kl                        nats a completion from the reference, Rao-Blackwellised
        length, repetition, distinct_2       tokens; share of trigrams said before; distinct bigrams over all
        <name>                    mean of each further measure

    Where the gold has turned ([`hfcourse.evaluation.overoptimization.turning_point`]) it warns, once. It draws its
    samples without touching the random state of the run. `history` holds all measurements, resumed ones included.

    Args:
        trainer: the one to watch. Call `trainer.add_callback(OveroptimizationCallback(trainer, …))`.
        rows: held-out prompts: dicts with `prompt` and the columns that the reward functions read.
        gold: `f(prompts, completions, **columns)`: the truth where it is known, or a stronger reward model held out.
        proxy: the same of the reward that is optimised. By default the trainer's own reward functions.
        measures: further functions of the same form, by name, e.g. `{"falsely_confident": false_confidence}`.
        every: optimizer steps between measurements.
        max_completion_length, temperature: of the samples; by default the trainer's own.
        ref_model: by default the trainer's.
        kl_budget: nats. Beyond it the run stops, or, with `on_budget="raise_beta"`, β grows by half at every
            measurement.

    Raises:
        InputError: no rows, no proxy, or a trainer whose β cannot be raised.
    """

    def __init__(
        self,
        trainer: Trainer,
        rows: list[dict],
        gold: RewardFunction,
        proxy: RewardFunction | None = None,
        measures: dict[str, RewardFunction] | None = None,
        every: int = 10,
        max_completion_length: int | None = None,
        temperature: float | None = None,
        ref_model=None,
        kl_budget: float | None = None,
        on_budget: Literal["stop", "raise_beta"] = "stop",
    ):
        if not rows:
            raise InputError("overoptimization: no held-out prompts to measure on; give rows")
        if proxy is None and not hasattr(trainer, "reward_funcs"):
            raise InputError("overoptimization: this trainer has no reward function; give proxy")
        if on_budget == "raise_beta" and not hasattr(trainer, "memory"):
            raise InputError("kl_budget: only PPO and REINFORCE can raise beta while they run; stop instead")
        self.trainer, self.rows, self.every = trainer, rows, every
        self.functions = {"proxy": proxy or self._trainers_reward, "gold": gold, **(measures or {})}
        args = trainer.args
        self.max_new_tokens = max_completion_length or getattr(args, "max_completion_length", None) or 64
        self.temperature = temperature or getattr(args, "temperature", 1.0)
        self.ref_model, self.kl_budget, self.on_budget = ref_model, kl_budget, on_budget
        self.history: list[dict] = []
        self.has_warned = False

    # -- when --------------------------------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(type(self).__name__, self.state())["attributes"]
        self.history, self.has_warned = saved["history"], saved["has_warned"]
        if not self.history:
            self._measure(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every:
            return
        self._measure(state.global_step)
        self._warn_of_a_turn()
        if self.kl_budget is not None and self.history[-1]["kl"] > self.kl_budget:
            if self.on_budget == "stop":
                logger.warning(f"kl {self.history[-1]['kl']:.2f} exceeds kl_budget={self.kl_budget}: the run stops")
                control.should_training_stop = True
            else:
                self.trainer.beta *= 1.5

    def state(self) -> dict:
        return {"args": {}, "attributes": {"history": self.history, "has_warned": self.has_warned}}

    # -- what --------------------------------------------------------------------------------------------------------

    def _measure(self, step: int) -> None:
        trainer, prompts = self.trainer, [row["prompt"] for row in self.rows]
        model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
        written = generate(model, tokenizer, prompts, self.max_new_tokens, self.temperature, seed=trainer.args.seed)
        with self._reference(model) as reference:
            kl = sequence_kl(model, reference, written, temperature=self.temperature)
        texts = [completion.text for completion in written]
        chat = isinstance(prompts[0], list)
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0] if name != "prompt"}
        asked = {
            "prompts": prompts,
            "completions": [[{"role": "assistant", "content": text}] for text in texts] if chat else texts,
            "completion_ids": [completion.ids for completion in written],
            **columns,
        }
        values = {name: list(map(float, function(**asked))) for name, function in self.functions.items()}
        measured = {
            **{name: float(np.mean(column)) for name, column in values.items()},
            "kl": float(np.mean(kl)),
            "length": float(np.mean([len(completion.ids) for completion in written])),
            "repetition": float(np.mean([repetition(text) for text in texts])),
            "distinct_2": distinct_n(texts),
        }
        self.history.append({"step": step, **measured, "golds": values["gold"]})
        for name, value in measured.items():
            trainer._metrics["train"][f"overoptimization/{name}"].append(value)

    @contextmanager
    def _reference(self, model):
        reference = self.ref_model or getattr(self.trainer, "ref_model", None)
        if reference is not None:
            yield self.trainer.accelerator.unwrap_model(reference)
        elif hasattr(model, "peft_config"):
            yield _WithoutAdapter(model, "ref" if "ref" in model.peft_config else None)
        else:
            raise InputError("overoptimization: there is no reference to measure the KL from; give ref_model")

    def _trainers_reward(self, **asked) -> list[float]:
        """The trainer's own rewards, weighted. One that has no opinion counts as nothing."""
        total = np.zeros(len(self.rows))
        for function, weight in zip(self.trainer.reward_funcs, self.trainer.reward_weights.tolist(), strict=True):
            total += weight * np.array([0.0 if reward is None else reward for reward in function(**asked)])
        return total.tolist()

    def _warn_of_a_turn(self) -> None:
        turn = turning_point([m["kl"] for m in self.history], [m["golds"] for m in self.history])
        if turn is None or self.has_warned:
            return
        self.has_warned = True
        logger.warning(
            f"The gold reward has turned: since step {self.history[turn.best]['step']} (KL {turn.kl:.2f}) it lost "
            f"{turn.loss:.2f} ± {turn.loss_se:.2f} while the proxy is at {self.history[-1]['proxy']:.2f}. Take that "
            "step's checkpoint, raise beta, or set kl_budget."
        )


class _WithoutAdapter:
    """The policy as its own reference: the same model, its adapter off while it runs."""

    def __init__(self, model, name: str | None):
        self.model, self.name = model, name

    def __getattr__(self, attribute):
        return getattr(self.model, attribute)

    def __call__(self, **inputs):
        with active_adapter(self.model, self.name):
            return self.model(**inputs)
