"""A model for a recipe: one that exists, or a new one of the shape that the flags give."""

from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import _check_source, _first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from trl import ModelConfig


def load_or_make(
    auto_class: type, model_args: "ModelConfig", config: "PretrainedConfig", trust_remote_code: bool = False
) -> "PreTrainedModel":
    """`--model_name_or_path`, or a new model of `config` where no model is named; in `--dtype`.

    Args:
        auto_class: `AutoModelForMaskedLM`, `AutoModelForSeq2SeqLM`, …

    Raises:
        InputError: there is no such model there.
    """
    options = {"attn_implementation": model_args.attn_implementation, "trust_remote_code": trust_remote_code}
    name = model_args.model_name_or_path
    if name is None:
        return auto_class.from_config(config, dtype=model_args.dtype, **options)
    _check_source(name)
    try:
        return auto_class.from_pretrained(name, revision=model_args.model_revision, dtype=model_args.dtype, **options)
    except (OSError, ValueError) as e:
        raise InputError(f"'{name}' is nothing that {auto_class.__name__} loads: {_first_line(e)}") from e
