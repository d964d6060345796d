"""An LM head that reads only the positions whose label counts, whatever head the model has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def head_reads_only(
    model: PreTrainedModel, positions: Tensor, beside: Callable[[Tensor], Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Within the block `model(...)` hands only the hidden states at `positions` to its head: logits are (1, N, V).

    In a masked LM six of seven positions are not predicted, and with a large vocabulary the head costs more than the
    trunk. The trunk's own output is cut down by a hook, so that the model's head, with its layers, norms, biases and
    caps, runs as it is. DDP, FSDP and autocast see an ordinary forward.

    Args:
        model: with a head that treats each position alone (all masked LMs and causal LMs), unwrapped.
        positions: (B, T) bool, N of them, which come in row-major order, as in `labels[mask]`; or (N,) long, indices
            into B·T, each as often as it is given.
        beside: called with all hidden states (B, T, d), within the model's forward, for a second head. Then
            `model(...)` is (outputs, what it returned): DDP takes a parameter that outputs do not lead to for unused.

    Yields:
        What `beside` returned, one entry a call: for a model's own forward, where `model(...)` is still to come.
    """
    results = []

    def select(_module, _inputs, output):
        hidden = output[0]
        if beside is not None:
            results.append(beside(hidden))
        selected = hidden.flatten(0, 1)[positions.flatten().to(hidden.device)].unsqueeze(0)
        if isinstance(output, tuple):
            return selected, *output[1:]
        output["last_hidden_state"] = selected
        return output

    def hand_over(_module, _inputs, outputs):
        return outputs, results[-1]

    base = model.get_base_model().base_model if hasattr(model, "peft_config") else model.base_model
    hooks = [base.get_decoder().register_forward_hook(select)]  # OPT's head and BART's pass their base by
    if beside is not None:
        hooks.append(model.register_forward_hook(hand_over))
    try:
        yield results
    finally:
        for hook in hooks:
            hook.remove()
