"""A second forward for causal LMs: log-probabilities and entropies of the labels, without logits that nobody reads."""

import functools
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from hfcourse.logprobs import IGNORE_INDEX, TokenStats, token_logps, token_stats_from_hidden
from hfcourse.models.adapters import active_adapter
from hfcourse.models.selected_positions import head_reads_only, hook_hidden_states

# What a model may say that is asked for hidden states it does not have, or in a way it does not know.
UNANSWERED = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError)


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
    """
    model = causal_lm_of(model)
    model_forward, is_linear = model.forward, None

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, token_stats=False, values=True, hidden_states=False, labels=None, place=None, **kwargs):
        if hidden_states:
            return self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        if not token_stats:
            return model_forward(*args, **kwargs) if labels is None else model_forward(*args, labels=labels, **kwargs)
        nonlocal is_linear
        if is_linear is None:  # asked now: under FSDP the weights are whole within a forward alone
            is_linear = has_linear_head(self, model_forward)
        place = torch.arange(labels.numel(), device=labels.device).view_as(labels) if place is None else place
        place, labels = place[:, :-1], labels[:, 1:]
        mask = labels != IGNORE_INDEX
        value_head = getattr(self, "value_head", None) if values else None
        beside = None if _has_own_trunk(self) else value_head
        if is_linear:
            hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
            values = [beside(hidden)] if beside is not None else []
            stats = _stats_from_head(
                hidden.flatten(0, 1)[place[mask]], self.get_output_embeddings(), labels[mask], temperature
            )
        else:
            with head_reads_only(self, place[mask], beside) as selection:
                logits = selection.rows(model_forward(*args, use_cache=False, **kwargs).logits)
            values = selection.beside
            stats = _stats_from_logits(logits, labels[mask], temperature)
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


@torch.compiler.disable
@torch.no_grad()
def has_linear_head(model: PreTrainedModel, forward: Callable) -> bool:
    """Whether logits are `hidden @ weight + bias` of the base model's hidden states, found out by trying.

    Then they need never be held all at once. Any other model goes through its own forward: caps, scales, layers and
    adapters before or in a head have other names in each family. It is tried with hidden states whose logits are in
    the thousands: of a new model's own, 30 tanh(z / 30) is z. False where weights come and go in an order (ZeRO-3).

    Args:
        model: causal LM, without its PEFT wrapper. Left in the mode that it was in.
        forward: its own, which returns logits.
    """
    head, was_training = model.get_output_embeddings(), model.training
    if not isinstance(head, torch.nn.Linear) or is_deepspeed_zero3_enabled():
        return False
    weight, bias = _weights(head)
    ids, generator = torch.arange(4, device=model.device)[None], torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, head.in_features, generator=generator).to(weight)
    hook = hook_hidden_states(model.eval(), lambda _: 1e3 * noise / weight.norm(dim=1).mean())
    try:
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = forward(input_ids=ids, use_cache=False).logits
        return bool((F.linear(hidden, weight, bias) - logits).norm() < 0.01 * logits.norm())
    except UNANSWERED:
        return False
    finally:
        hook.remove()
        model.train(was_training)


def _weights(head: torch.nn.Linear) -> list[Tensor | None]:
    return [p.full_tensor() if isinstance(p, DTensor) else p for p in (head.weight, head.bias)]  # FSDP2


def _stats_from_head(rows: Tensor, head: torch.nn.Linear, labels: Tensor, temperature: float) -> TokenStats:
    weight, bias = _weights(head)
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    return token_stats_from_hidden(rows.to(weight.device), weight, labels, everywhere, temperature, lm_head_bias=bias)


def _stats_from_logits(logits: Tensor, labels: Tensor, temperature: float) -> TokenStats:
    logps, entropy = token_logps(logits, labels, temperature)
    with torch.no_grad():
        is_top1, mean_logits = logits.argmax(-1) == labels, logits.float().mean(-1)
    return TokenStats(logps, entropy, is_top1, mean_logits)
