"""Documents packed into one row, each of which sees itself alone."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


def document_mask(position_ids: Tensor, causal: bool = True) -> Tensor:
    """Which token may look at which: (B, T) positions that start at 0 with each document -> (B, 1, T, T) bool.

    Every model that adds a mask to its attention scores takes it, and then the logits of a packed row are those of its
    documents run one by one. (transformers isolates packed documents only where no mask is given and no cache is kept,
    and not in encoders.)

    Args:
        causal: a token sees no later token (decoders); else the whole document (encoders).
    """
    document = (position_ids == 0).cumsum(-1)
    allowed = document.unsqueeze(-1) == document.unsqueeze(-2)
    return (allowed.tril() if causal else allowed).unsqueeze(1)


def attention_mask_for(
    model: PreTrainedModel, allowed: Tensor, position_ids: Tensor | None = None
) -> Tensor | dict[str, Tensor]:
    """The mask as this model's attention reads it: bool for sdpa, added to the scores elsewhere.

    A model whose layers have a sliding window gets it drawn into the mask; one with such layers beside others gets a
    mask for either kind, by its name.

    Args:
        allowed: (B, 1, T, T) bool.
        position_ids: (B, T), by which the window counts. Places in the row, when not given.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ("sliding_attention" if window else "full_attention",))
    if kinds == {"full_attention"}:
        return _as_added(model, allowed)
    places = torch.arange(allowed.shape[-1], device=allowed.device) if position_ids is None else position_ids
    # A decoder's window counts the token itself; an encoder's reaches as far to either side.
    is_causal = not allowed.triu(1).any()
    near = (places.unsqueeze(-1) - places.unsqueeze(-2)).abs() <= window - (1 if is_causal else 0)
    masks = {
        "full_attention": _as_added(model, allowed),
        "sliding_attention": _as_added(model, allowed & (near if near.dim() == 2 else near.unsqueeze(1))),
    }
    return masks if len(kinds) > 1 else masks[kinds.pop()]


def _as_added(model: PreTrainedModel, allowed: Tensor) -> Tensor:
    if model.config._attn_implementation == "sdpa":
        return allowed
    dtype = model.get_input_embeddings().weight.dtype
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
