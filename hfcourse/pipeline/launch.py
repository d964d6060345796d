"""The frame of every recipe: strict flags, the world that was asked for, resume, save.

def main():
    from hfcourse import SFTConfig, SFTTrainer          # heavy imports stay inside

    script_args, training_args = parse(ScriptArguments, SFTConfig, description=__doc__)
    ...
    train_and_save(trainer, training_args)

if __name__ == "__main__":
    recipe(main)
"""

import os

# Read by huggingface_hub when it is first imported. HF_HUB_DISABLE_TELEMETRY=0 in the environment asks for it back.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.memory import keep_freed_memory
from hfcourse.pipeline.script_arguments import ScriptArguments

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
    from trl import ModelConfig


def recipe(main: Callable[[], object]) -> None:
    """Run a recipe's `main`: an [`InputError`] becomes one line, `error: …`, on stderr and exit code 2."""
    keep_freed_memory()
    try:
        main()
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        _leave_process_group()


def _leave_process_group() -> None:
    if "accelerate" in sys.modules:
        from accelerate import PartialState

        if PartialState._shared_state:
            PartialState().destroy_process_group()


def parse(
    *dataclasses: type, description: str | None = None, argv: list[str] | None = None, strict: bool = True
) -> tuple:
    """Instances of `dataclasses` from the command line and the YAML file that `--config` names.

    Keys are strict in both places; with `strict=False` those of others are left to a second call. If one of the
    dataclasses is [`ScriptArguments`], the world is checked too.

    Raises:
        InputError: an unknown key (the nearest valid one is named), a value of the wrong type, or another world.
    """
    from hfcourse.pipeline.strict_parser import StrictParser

    parsed = StrictParser(dataclasses, description, strict).parse(sys.argv[1:] if argv is None else argv)
    for arguments in parsed:
        if getattr(arguments, "hub_token", None):
            raise InputError("hub_token: a token in a command or a file is read by others; set HF_TOKEN instead")
        if isinstance(arguments, ScriptArguments):
            check_world_size(arguments.expected_processes)
    return parsed


def check_world_size(expected_processes: int | None = None) -> None:
    """Raises InputError unless the processes that train together are those that were asked for.

    Three silent failures end here: `accelerate launch --cpu --num_processes 2` (or `distributed_type: MULTI_CPU`)
    starts one process; two processes started without `use_cpu` on a machine without GPUs train twice, each alone;
    and any launch in another number than the recipe's `expected_processes`.
    """
    from accelerate import PartialState

    running = PartialState().num_processes
    launched = int(os.environ.get("WORLD_SIZE", running))
    remedy = "launch with --config_file accelerate_configs/cpu_multi_process.yaml, or --multi_gpu --num_processes N"
    if launched != running:
        raise InputError(f"WORLD_SIZE={launched}, but {running} process trains alone: set --use_cpu true and {remedy}")
    # accelerate exports MASTER_ADDR only for several processes, and its simple launcher then starts one, without rank.
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ
    if running == 1 and by_accelerate and "MASTER_ADDR" in os.environ:
        raise InputError(f"accelerate launch was asked for several processes and started one: {remedy}")
    if expected_processes not in (None, running):
        raise InputError(f"expected_processes={expected_processes}, but {running} started: {remedy}")


def one_process_only() -> None:
    """Raises InputError in a recipe of which several processes would do the same work and write the same files."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("num_processes: this recipe runs in one process; launch it with python, or --num_processes 1")


def load_splits(
    script_args: ScriptArguments,
    training_args: "TrainingArguments",
    required_columns: tuple[str, ...] = (),
    endless: bool = True,
) -> tuple["Dataset | IterableDataset", "Dataset | IterableDataset | None"]:
    """(train, eval) as the flags name them; eval is None where `eval_strategy` is "no".

    A stream to train on is shuffled and starts anew where it ends ([`hfcourse.data.endless_stream`]), if `endless`.
    """
    from hfcourse.data import endless_stream, load_dataset

    def load(split: str, num_examples: int | None):
        return load_dataset(
            script_args.dataset_name,
            split=split,
            config=script_args.dataset_config,
            streaming=script_args.dataset_streaming,
            num_examples=num_examples,
            required_columns=required_columns,
        )

    if script_args.dataset_streaming and training_args.max_steps <= 0:
        raise InputError("max_steps: is required with dataset_streaming, for a stream has no length")
    if script_args.buffer_size < 0:
        raise InputError(f"buffer_size: {script_args.buffer_size} rows; take 0 or more")
    train = load(script_args.dataset_train_split, script_args.num_train_examples)
    if script_args.dataset_streaming and endless:
        seed = training_args.seed if training_args.data_seed is None else training_args.data_seed
        train = endless_stream(train, script_args.buffer_size, seed)
    if training_args.eval_strategy == "no":
        return train, None
    return train, load(script_args.dataset_test_split, script_args.num_eval_examples)


def load_tokenizer(
    model_name_or_path: str | None, revision: str = "main", trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a Hub id or a folder. Raises InputError where there is none."""
    from transformers import AutoTokenizer

    _check_source(model_name_or_path)
    try:
        return AutoTokenizer.from_pretrained(
            model_name_or_path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as e:
        raise InputError(f"no tokenizer in '{model_name_or_path}': {_first_line(e)}") from e


def load_causal_lm(
    model_args: "ModelConfig", config: "PretrainedConfig | None" = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """`--model_name_or_path`, or a new model of `config` where no model is named; in `--dtype`, quantised if asked."""
    from accelerate import PartialState
    from transformers import AutoModelForCausalLM
    from trl import get_quantization_config

    options = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    if model_args.model_name_or_path is None and config is not None:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
    _check_source(model_args.model_name_or_path)
    quantization_config = get_quantization_config(model_args)
    if quantization_config is not None:
        # bitsandbytes places the weights while it reads them: each process's on its own device.
        device_map = {"": PartialState().local_process_index}
        options |= {"quantization_config": quantization_config, "device_map": device_map}
    try:
        return AutoModelForCausalLM.from_pretrained(
            model_args.model_name_or_path,
            revision=model_args.model_revision,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except (OSError, ValueError) as e:
        raise InputError(f"no causal LM in '{model_args.model_name_or_path}': {_first_line(e)}") from e


def _check_source(model_name_or_path: str | None) -> None:
    if model_name_or_path is None:
        raise InputError("model_name_or_path: is required (a Hub id or a folder)")
    looks_local = model_name_or_path.count("/") > 1 or model_name_or_path.startswith((".", "~"))
    if looks_local and not Path(model_name_or_path).expanduser().is_dir():
        raise InputError(f"model_name_or_path: there is no folder '{model_name_or_path}'")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def train_and_save(
    trainer: "Trainer", args: "TrainingArguments", script_args: ScriptArguments | None = None
) -> dict[str, float]:
    """Train (or resume), then leave model, card, state and metrics in `output_dir`, and on the Hub if asked.

    `script_args` tells the card what a trainer cannot know: the name of its data, and its licence.

    Returns:
        The metrics, which are in all_results.json too: `train_loss`, `train_runtime` (seconds), … and `eval_*`.
    """
    if script_args is not None:
        trainer.card_dataset, trainer.card_license = script_args.dataset_name, script_args.license
    checkpoint = checkpoint_to_resume(args)
    if checkpoint is not None:
        trainer.accelerator.print(f"resuming from {checkpoint}")
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    trainer.save_metrics("train", metrics)
    if args.eval_strategy != "no":
        eval_metrics = _final_evaluation(trainer)
        trainer.save_metrics("eval", eval_metrics)
        metrics = {**metrics, **eval_metrics}
    trainer.save_model()
    trainer.save_state()
    if args.push_to_hub:
        trainer.push_to_hub()  # writes the card too
    else:
        trainer.create_model_card()
    return metrics


def _final_evaluation(trainer: "Trainer") -> dict[str, float]:
    """The evaluation of the trained model, which may be the last thing that training did."""
    last_step = trainer.state.global_step
    logs = [log for log in trainer.state.log_history if log["step"] == last_step]
    logged = {n: v for log in logs for n, v in log.items() if n.startswith("eval_") or n == "epoch"}  # callbacks' too
    if "eval_loss" not in logged or trainer.args.load_best_model_at_end:  # the best model need not be the last
        return trainer.evaluate()
    return logged


def checkpoint_to_resume(args: "TrainingArguments") -> str | None:
    """The folder that `resume_from_checkpoint` means.

    A path means itself; "true" the last checkpoint in `output_dir`, which must be there; "auto" the last one if there
    is one. A checkpoint that was being written when the run was killed does not count.
    """
    asked = args.resume_from_checkpoint
    if asked is None or str(asked).lower() in ("false", "none", "no"):
        return None
    if str(asked).lower() in ("auto", "true"):
        last = _last_complete_checkpoint(Path(args.output_dir))
        if last is None and str(asked).lower() == "true":
            raise InputError(f"resume_from_checkpoint: no checkpoint in '{args.output_dir}'; use auto to start anew")
        return last
    if not _is_complete(Path(asked)):
        raise InputError(f"resume_from_checkpoint: '{asked}' is not a checkpoint folder (no trainer_state.json)")
    return str(asked)


def _last_complete_checkpoint(output_dir: Path) -> str | None:
    steps = {int(folder.name.rpartition("-")[2]): folder for folder in output_dir.glob("checkpoint-[0-9]*")}
    return next((str(steps[step]) for step in sorted(steps, reverse=True) if _is_complete(steps[step])), None)


def _is_complete(checkpoint: Path) -> bool:
    # trainer_state.json is written last: whole, it vouches for the files before it.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return True
