"""An LM head that reads only the positions whose label counts, whatever head the model has."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


class Selection:
    """What [`head_reads_only`] did to the calls within its block.

    beside: what the second head returned, one entry a call.
    """

    def __init__(self, positions: Tensor):
        self.positions, self.beside, self._is_cut = positions.flatten(), [], False

    def cut(self, states: Tensor) -> Tensor:
        """(B, T, d) -> (1, N, d)."""
        self._is_cut = True
        return states.flatten(0, 1)[self.positions.to(states.device)].unsqueeze(0)

    def rows(self, logits: Tensor) -> Tensor:
        """(N, V): the logits at the positions, from those that the model returned."""
        if self._is_cut:
            return logits.squeeze(0)
        # The model's head does not read what it names as its base model (Llama 4), so that it has read everything.
        return logits.flatten(0, 1)[self.positions.to(logits.device)]


@contextmanager
def head_reads_only(
    model: PreTrainedModel, positions: Tensor, beside: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Selection]:
    """Within the block `model(...)` hands only the hidden states at `positions` to its head.

        with head_reads_only(model, labels != -100) as selection:
            logits = selection.rows(model(**inputs).logits)  # (N, V)

    In a masked LM six of seven positions are not predicted, and with a large vocabulary the head costs more than the
    trunk. The trunk's own output is cut down by a hook, so that the model's head, with its layers, norms, biases and
    caps, runs as it is. DDP, FSDP and autocast see an ordinary forward.

    Args:
        model: with a head that treats each position alone (all masked LMs and causal LMs), unwrapped.
        positions: (B, T) bool, N of them, which come in row-major order, as in `labels[mask]`; or (N,) long, indices
            into B·T, each as often as it is given.
        beside: called with all hidden states (B, T, d), within the model's forward, for a second head. Then
            `model(...)` is (outputs, what it returned): DDP takes a parameter that outputs do not lead to for unused.
    """
    selection = Selection(positions)

    def cut(hidden: Tensor) -> Tensor:
        if beside is not None:
            selection.beside.append(beside(hidden))
        return selection.cut(hidden)

    def hand_over(_module, _inputs, outputs):
        return outputs, selection.beside[-1]

    hooks = [hook_hidden_states(model, cut)]
    if beside is not None:
        hooks.append(model.register_forward_hook(hand_over))
    try:
        yield selection
    finally:
        for hook in hooks:
            hook.remove()


def hook_hidden_states(model: PreTrainedModel, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """From now on the head gets `change(h)` for the last hidden states h (B, T, d), if the model names its trunk."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk = model.base_model.get_decoder()  # OPT's head and BART's pass their base by
    if trunk is model:
        return trunk.register_forward_hook(lambda *_: None)

    def hook(_module, _inputs, output):
        changed = change(output[0])
        if isinstance(output, tuple):
            return changed, *output[1:]
        output["last_hidden_state"] = changed
        return output

    return trunk.register_forward_hook(hook)
