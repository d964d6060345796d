"""What an encoder-decoder reads while it writes."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """(B, T): the labels one place later, after the start token; those of -100 are read as padding.

        y₁ y₂ y₃ EOS        is written while        start y₁ y₂ y₃        is read

    The model's own way where it has one: mBART, for one, starts with the language that its labels end with.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    read = labels[:, :-1]
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([start, read.masked_fill(read == IGNORE_INDEX, model.config.pad_token_id)], dim=1)


def require_start_token(model: PreTrainedModel) -> None:
    """Raises InputError for a model whose decoder does not know what to begin with."""
    if getattr(model.config, "decoder_start_token_id", None) is None:
        raise InputError("decoder_start_token_id: the model's config has none; T5's is its pad_token_id")
