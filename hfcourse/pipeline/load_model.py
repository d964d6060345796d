"""A model for a recipe: one that exists, or a new one of the shape that the flags give."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import _check_source, _first_line, load_causal_lm

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from trl import ModelConfig


@dataclass
class WordVectorArguments:
    """Word vectors for a recipe that pretrains a model."""

    _argument_group_name = "word vectors as the embedding table"

    word_vectors: str | None = field(
        default=None,
        metadata={
            "help": "Folder of pretrain_embeddings, word2vec's or GloVe's text (also .gz), or .safetensors, of the "
            "model's width. Tokens that are none of its words begin as they would."
        },
    )
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "The embedding table is not trained, nor an output layer tied to it."}
    )


def set_word_vectors(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", arguments: WordVectorArguments
) -> "PreTrainedModel":
    """The same model, its embedding table as the flags say. Raises InputError for vectors that do not fit it."""
    if arguments.word_vectors is not None:
        from accelerate import PartialState

        from hfcourse.models.word_vectors import WordVectors, load_embedding_table

        num_set = load_embedding_table(model, tokenizer, WordVectors.load(arguments.word_vectors, tokenizer))
        PartialState().print(f"{arguments.word_vectors}: {num_set} of {len(tokenizer)} tokens have a word vector")
    if arguments.freeze_embeddings:
        model.get_input_embeddings().weight.requires_grad_(False)
    return model


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


def load_generator(model_args: "ModelConfig", trust_remote_code: bool = False) -> "PreTrainedModel":
    """Whatever writes text: a causal LM or an encoder-decoder, by its config; an adapter's folder brings its base.

    Raises:
        InputError: there is no such model there.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    name = model_args.model_name_or_path
    _check_source(name)
    try:
        config = AutoConfig.from_pretrained(
            _base_of(name), revision=model_args.model_revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as e:
        raise InputError(f"no model in '{name}': {_first_line(e)}") from e
    if config.is_encoder_decoder:
        return load_or_make(AutoModelForSeq2SeqLM, model_args, config, trust_remote_code)
    return load_causal_lm(model_args, trust_remote_code=trust_remote_code)


def _base_of(name: str) -> str:
    """The model that an adapter belongs to; any other name as it is."""
    from transformers.utils import find_adapter_config_file

    adapter = find_adapter_config_file(name)
    if adapter is None:
        return name
    return json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
