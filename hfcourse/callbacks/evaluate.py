"""Measure the model during training with more than its loss: benchmarks, prompts, anything that gives numbers."""

from collections.abc import Callable

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from hfcourse.errors import InputError


class EvaluateCallback(TrainerCallback):
    """After each evaluation, logs `measure(model, tokenizer)` as `eval_<name>` too.

        trainer.add_callback(EvaluateCallback(trainer, benchmark(load_tasks(["world"], limit=50))))

    The numbers join the evaluation's own, so that `metric_for_best_model` may name one. The main process measures the
    model without its wrapping; the others wait, and learn the numbers. Modes and random states stay as they were.

    Args:
        trainer: whose log it writes to.
        measure: of a model and its tokenizer, numbers by name.

    Raises:
        InputError: the weights are spread over processes (FSDP, ZeRO 3), so that no process can measure alone.
    """

    def __init__(self, trainer: Trainer, measure: Callable[[PreTrainedModel, PreTrainedTokenizerBase], dict]):
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise InputError("eval_tasks: the weights are spread over processes; run recipes/evaluate.py afterwards")
        self.trainer, self.measure = trainer, measure

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        was_training = model.training
        found = [None]
        if self.trainer.is_world_process_zero():
            found = [self.measure(model, self.trainer.processing_class)]
        if self.trainer.accelerator.num_processes > 1:
            broadcast_object_list(found)
        model.train(was_training)
        measured = {f"eval_{name}": value for name, value in found[0].items()}
        self.trainer.log(measured)
        metrics.update(measured)
