"""A second forward for causal LMs: log-probabilities and entropies of the labels, without logits that nobody reads."""

import functools
import types

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.trainer.utils import maybe_gather_lm_head_ctx

from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX, TokenStats, token_logps, token_stats_from_hidden
from hfcourse.models.adapters import active_adapter
from hfcourse.models.selected_positions import head_reads_only

# Families whose logits are more than `hidden @ weight + bias` (a cap, a scale): they go through their own forward.
LOGIT_TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def causal_lm_of(model: torch.nn.Module) -> PreTrainedModel:
    """The causal LM itself, inside its PEFT wrapper where it has one."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def add_token_stats_head(model: torch.nn.Module, temperature: float = 1.0) -> None:
    """Teach `model` a second forward: `model(**inputs, labels=labels, token_stats=True)`.

    It runs the trunk once and lets only the positions whose next label counts meet the LM head. It lives in `forward`
    because DDP, FSDP and DeepSpeed follow a model through its `forward` alone. Without the keyword nothing changes.

        labels: (B, T), aligned with input_ids and shifted inside; -100 is not scored.
        place: (B, T), where the inputs do not lie as the labels do ([`hfcourse.models.shared_prefix`]): the token of
            each label, as an index into the flattened inputs.
        returns: dict of (B, T-1) tensors, the fields of [`hfcourse.logprobs.TokenStats`], position t telling of
            labels[:, t+1]; and `values`, V of the state before that token, if the model has a `value_head` and
            `values=False` is not said. V is read from the policy's own hidden states, from those of a
            `value_trunk`, or of the policy's trunk with the adapter that `value_adapter` names.

    `model(**inputs, hidden_states=True)` returns the last hidden states (B, T, d) alone.

    Args:
        model: causal LM, or its PEFT wrapper. Changed in place.
        temperature: the one that completions are sampled with.

    Raises:
        InputError: an adapter sits on the LM head, whose weight is read directly here: it would never be trained.
    """
    model = causal_lm_of(model)
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise InputError("lora_target_modules: an adapter on the LM head is not supported; leave the head out")
    model_forward, own_logits = model.forward, _transforms_logits(model.config.get_text_config())

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, token_stats=False, values=True, hidden_states=False, labels=None, place=None, **kwargs):
        if hidden_states:
            return self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        if not token_stats:
            return model_forward(*args, **kwargs) if labels is None else model_forward(*args, labels=labels, **kwargs)
        place = torch.arange(labels.numel(), device=labels.device).view_as(labels) if place is None else place
        place, labels = place[:, :-1], labels[:, 1:]
        mask = labels != IGNORE_INDEX
        value_head = getattr(self, "value_head", None) if values else None
        beside = None if _has_own_trunk(self) else value_head
        if own_logits:
            with head_reads_only(self, place[mask], beside) as values:
                logits = model_forward(*args, use_cache=False, **kwargs).logits.squeeze(0)
            stats = _stats_from_logits(logits, labels[mask], temperature)
        else:
            hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
            values = [beside(hidden)] if beside is not None else []
            stats = _stats_from_head(
                hidden.flatten(0, 1)[place[mask]], self.get_output_embeddings(), labels[mask], temperature
            )
        if value_head is not beside:
            values = [value_head(_own_trunk(self, args, kwargs))]
        columns = {n: x.new_zeros(mask.shape).masked_scatter(mask, x) for n, x in stats._asdict().items()}
        if values:
            columns["values"] = values[0].flatten()[place].where(mask, 0.0)
        return columns

    model.forward = types.MethodType(forward, model)


def _has_own_trunk(model: PreTrainedModel) -> bool:
    """Whether the critic reads other hidden states than the policy's."""
    return hasattr(model, "value_trunk") or hasattr(model, "value_adapter")


def _own_trunk(model: PreTrainedModel, args: tuple, kwargs: dict) -> Tensor:
    """(B, T, d), the hidden states that such a critic reads."""
    if hasattr(model, "value_trunk"):
        return model.value_trunk(*args, use_cache=False, **kwargs).last_hidden_state
    with active_adapter(model, model.value_adapter):
        return model.base_model(*args, use_cache=False, **kwargs).last_hidden_state


def _transforms_logits(config) -> bool:
    return any(getattr(config, name, None) not in (None, 1.0) for name in LOGIT_TRANSFORMS)


def _stats_from_head(rows: Tensor, head: torch.nn.Linear, labels: Tensor, temperature: float) -> TokenStats:
    weight, bias = (p.full_tensor() if isinstance(p, DTensor) else p for p in (head.weight, head.bias))  # FSDP2
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    with maybe_gather_lm_head_ctx(weight, bias):  # ZeRO-3
        return token_stats_from_hidden(
            rows.to(weight.device), weight, labels, everywhere, temperature, lm_head_bias=bias
        )


def _stats_from_logits(logits: Tensor, labels: Tensor, temperature: float) -> TokenStats:
    logps, entropy = token_logps(logits, labels, temperature)
    with torch.no_grad():
        is_top1, mean_logits = logits.argmax(-1) == labels, logits.float().mean(-1)
    return TokenStats(logps, entropy, is_top1, mean_logits)
