"""A model card that says what was done: base model, data, method, licence, figures; and nothing about the machine."""

from functools import cache
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData, is_offline_mode, model_info
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import httpx, validate_repo_id
from transformers import PreTrainedModel, Trainer

import hfcourse
from hfcourse.models.value_head import VALUE_HEAD_FILE

TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
PACKAGES = ("transformers", "trl", "peft", "torch", "datasets", "tokenizers")

# Written down if the config has them. A list of what may be told: paths, tokens and host names are not on it.
SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "num_train_epochs",
    "max_steps",
    "seed",
    "bf16",
    "max_length",
    "max_completion_length",
    "packing",
    "loss_type",
    "beta",
    "label_smoothing",
    "center_rewards_coefficient",
    "num_generations",
    "num_iterations",
    "temperature",
    "epsilon",
    "cliprange_value",
    "vf_coef",
    "gamma",
    "lam",
    "entropy_coef",
    "normalize_advantages",
    "whiten_rewards",
    "missing_eos_penalty",
)
TIMINGS = ("runtime", "per_second", "step_time", "total_flos", "epoch", "step")
AUTO_CLASS_OF = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
}
PIPELINE_OF = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForMaskedLM": "fill-mask",
}


class ModelCardMixin:
    """Gives a `Trainer` the model card of this course: `class PPOTrainer(ModelCardMixin, trl.RLOOTrainer)`.

    The trainer states its method in `_name`, `_paper` ({"title": …, "id": arXiv id} or {}) and `_tag_names`, as TRL's
    do. Whoever builds it sets `card_dataset` and `card_license`, which a trainer cannot know; both are optional.
    """

    _name: str
    _paper: dict[str, str]
    _tag_names: list[str]
    card_dataset: str | None = None
    card_license: str | None = None

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        license: str | None = None,
        *,
        language: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write README.md into `output_dir` (main process only).

        `trainer.push_to_hub(…)` hands its keywords on to here: TRL's names come first, then transformers'. Of these
        `finetuned_from`, `tasks` and `dataset_args` are taken and not used: the trainer knows what it has done.

        Args:
            model_name: the title; unset, the repository's or the folder's name.
            dataset_name: Hub id, `world/<name>` or path (of which only the last part is told). Unset: the first of
                `dataset_tags` or `dataset`, else `card_dataset`.
            tags: beside those of the method.
            license: a Hub licence id. Unset: `card_license`, else the base model's, from its card.
            language: code or codes, as the Hub has them (`en`).
        """
        if not self.is_world_process_zero():
            return
        tags = [tags] if isinstance(tags, str) else tags or []
        named = next((name for name in (dataset_name, dataset_tags, dataset, self.card_dataset) if name), None)
        dataset_name = named if isinstance(named, str | None) else named[0]
        card = model_card(self, model_name, dataset_name, tags, license or self.card_license)
        card.data.language = language
        card.save(Path(self.args.output_dir) / "README.md")


def model_card(
    trainer: Trainer, model_name: str | None, dataset_name: str | None, tags: list[str], license: str | None
) -> ModelCard:
    """The card of what `trainer` has trained so far; see [`ModelCardMixin.create_model_card`]."""
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = hasattr(model, "peft_config")
    plain_model = model.get_base_model() if is_adapter else model
    base_name, base_id, base_license = describe_base_model(getattr(plain_model.config, "_name_or_path", ""))
    license = license or base_license or _license_of_new_model(base_name, dataset_name)
    dataset_name, dataset_id = describe_dataset(dataset_name)
    model_name = model_name or (trainer.hub_model_id or args.output_dir).rstrip("/").rpartition("/")[2]
    auto_class = auto_class_of(plain_model)
    data = ModelCardData(
        base_model=base_id,
        datasets=dataset_id,
        library_name="peft" if is_adapter else "transformers",
        license=license or "unknown",
        model_name=model_name,
        pipeline_tag=PIPELINE_OF.get(auto_class),
        tags=list(dict.fromkeys(["generated_from_trainer", "hfcourse", *trainer._tag_names, *tags])),
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=model_name,
        repo_id=trainer.hub_model_id or model_name,
        base_model_name=base_name,
        base_model_id=base_id,
        dataset_name=dataset_name,
        dataset_id=dataset_id,
        license=license,
        method=trainer._name,
        paper=trainer._paper,
        reward_functions=[_public_name(name) for name in getattr(trainer, "reward_func_names", ())],
        num_parameters=model.num_parameters(),
        num_trained=model.num_parameters(only_trainable=True),
        steps=trainer.state.global_step,
        is_adapter=is_adapter,
        auto_class=auto_class,
        has_value_head=(Path(args.output_dir) / VALUE_HEAD_FILE).exists(),
        metrics=last_metrics(trainer.state.log_history),
        settings=settings(trainer, model.active_peft_config if is_adapter else None),
        versions={"hfcourse": hfcourse.__version__, **{name: version(name) for name in PACKAGES}},
    )


def describe_base_model(name_or_path: str) -> tuple[str | None, str | None, str | None]:
    """(name to print, nearest ancestor on the Hub, its licence) of what the training started from.

    A folder is told by its own name alone. The card in it, if there is one, tells where it came from in turn.
    """
    if not name_or_path:
        return None, None, None
    folder = Path(name_or_path)
    if not folder.is_dir():
        repo_id = name_or_path if _is_repo_id(name_or_path) else None
        return repo_id or _public_name(name_or_path), repo_id, _license_on_hub(repo_id)
    name = _public_name(str(folder.resolve()))
    readme = folder / "README.md"
    if not readme.is_file():
        return name, None, None
    data = ModelCard.load(readme).data
    ancestor = data.get("base_model")
    ancestor = ancestor[0] if isinstance(ancestor, list) else ancestor
    license = None if data.get("license") == "unknown" else data.get("license")
    return name, ancestor if isinstance(ancestor, str) else None, license


def describe_dataset(dataset_name: str | None) -> tuple[str | None, str | None]:
    """(name to print, Hub id or None): `world/sft` is no Hub id, and a path is told by its last part."""
    if dataset_name is None:
        return None, None
    if dataset_name.startswith("world/"):
        return f"{dataset_name} (the embedded world of hfcourse)", None
    if Path(dataset_name).exists() or not _is_repo_id(dataset_name):
        return f"{_public_name(dataset_name)} (a local file or folder)", None
    return dataset_name, dataset_name


def last_metrics(log_history: list[dict[str, float]]) -> dict[str, float]:
    """The last training figures and the last evaluation, without the timings."""
    metrics = {}
    for entry in log_history:
        for name, value in entry.items():
            if isinstance(value, int | float) and not name.endswith(TIMINGS):
                metrics[name] = value
    return metrics


def settings(trainer: Trainer, peft_config) -> dict[str, object]:
    """What would be needed to train this model again: the values in force, of the names in `SETTINGS`."""
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    found = {"batch size (all processes, accumulated)": batch}
    for name in SETTINGS:
        value = getattr(args, name, None)
        if value is not None and not (name == "max_steps" and value <= 0):
            found[name] = getattr(value, "value", value)
    if peft_config is not None:
        names = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")
        values = {name: getattr(peft_config, name, None) for name in names}
        found |= {name: getattr(value, "value", value) for name, value in values.items() if value is not None}
    return {name: ", ".join(sorted(map(str, v))) if isinstance(v, set | list) else v for name, v in found.items()}


def auto_class_of(model: PreTrainedModel) -> str:
    """The transformers class that loads `model` for what it was trained to do, such as AutoModelForCausalLM."""
    kind = type(model).__name__
    return next((auto for suffix, auto in AUTO_CLASS_OF.items() if kind.endswith(suffix)), "AutoModel")


@cache
def _license_on_hub(repo_id: str | None) -> str | None:
    if repo_id is None or is_offline_mode():
        return None
    try:
        data = model_info(repo_id).card_data
    except httpx.HTTPError:  # a card is not worth a training run: without an answer the licence stays unknown
        return None
    return None if data is None else data.get("license")


def _license_of_new_model(base_name: str | None, dataset_name: str | None) -> str | None:
    # Nothing went into it but text that this package, Apache-2.0, generates.
    is_ours = base_name is None and dataset_name is not None and dataset_name.startswith("world/")
    return "apache-2.0" if is_ours else None


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return Path(name).suffix.lower() not in (".json", ".jsonl", ".csv", ".parquet", ".txt", ".gz")


def _public_name(path: str) -> str:
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    if len(parts) > 1 and parts[-1].startswith("checkpoint-"):
        return f"{parts[-2]} ({parts[-1]})"
    return parts[-1] if parts else path
