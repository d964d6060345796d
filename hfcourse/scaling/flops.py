"""Floating-point operations of training and generation, counted matrix by matrix."""

from hfcourse.scaling.methods import Batch
from hfcourse.scaling.shapes import ModelShape

BACKWARD = 2  # the gradient of the input and of the weight, a product each
BACKWARD_FROZEN = 1  # under LoRA the weights have none


def forward_flops(shape: ModelShape, num_tokens: int, num_scored: int, num_keys: int | None = None) -> float:
    """One sequence through the model: 2 a parameter and token, and what attention adds.

        2·T·P_layer·L  +  4·T·K·d_q·L  +  2·S·d·V

    Args:
        num_tokens: T.
        num_scored: S, positions that meet the LM head.
        num_keys: K, what each position attends to; T by default. Causal kernels skip up to half of T·T: an upper
            bound, and what `torch.utils.flop_counter` counts.
    """
    num_keys = num_tokens if num_keys is None else num_keys
    layers = shape.num_layers * (
        2 * num_tokens * shape.layer_matrix_params + 4 * num_tokens * num_keys * shape.query_size
    )
    return layers + 2 * num_scored * shape.hidden_size * shape.vocab_size


def training_flops(shape: ModelShape, num_tokens: int, num_scored: int, is_lora: bool = False) -> float:
    """Forward and backward of one sequence: three times the forward; without weight gradients twice.

    Recomputing activations (gradient checkpointing) adds one more forward of the layers. It is not counted, for MFU
    is the share of the peak that the model's own arithmetic gets.
    """
    forward = forward_flops(shape, num_tokens, num_scored)
    if not is_lora:
        return forward * (1 + BACKWARD)
    attention = 4 * num_tokens**2 * shape.query_size * shape.num_layers  # has two inputs, both with a gradient
    return forward * (1 + BACKWARD_FROZEN) + attention


def generation_flops(shape: ModelShape, prompt_length: int, completion_length: int) -> float:
    """One completion with a KV cache: the prompt at once, its last position scored, then a token at a time."""
    prefill = forward_flops(shape, prompt_length, 1)
    steps = completion_length - 1  # the first token comes from the prompt
    mean_keys = prompt_length + (steps + 1) / 2
    one = forward_flops(shape, 1, 1, num_keys=0) + 4 * mean_keys * shape.query_size * shape.num_layers
    return prefill + steps * one


def method_flops(shape: ModelShape, method: str, batch: Batch, is_lora: bool = False) -> float:
    """One optimizer step, or for PPO one rollout with all its updates.

    | method | what runs                                                                                           |
    |--------|-----------------------------------------------------------------------------------------------------|
    | clm    | B sequences trained, every position scored                                                          |
    | sft    | B sequences trained, completions scored                                                             |
    | rm     | 2B sequences trained, nothing scored                                                                |
    | dpo    | 2B sequences trained and 2B read by the reference, completions scored                               |
    | ppo    | B completions written, read by policy and reference, μ times trained (the reward model is not in it)|
    """
    length, scored = batch.prompt_length + batch.completion_length, batch.completion_length
    match method:
        case "clm":
            return batch.size * training_flops(shape, length, length, is_lora)
        case "sft":
            return batch.size * training_flops(shape, length, scored, is_lora)
        case "rm":
            return 2 * batch.size * training_flops(shape, length, 0, is_lora)
        case "dpo":
            trained = training_flops(shape, length, scored, is_lora)
            return 2 * batch.size * (trained + forward_flops(shape, length, scored))
        case "ppo":
            written = generation_flops(shape, batch.prompt_length, batch.completion_length)
            read = 2 * forward_flops(shape, length, scored)
            return batch.size * (
                written + read + batch.num_iterations * training_flops(shape, length, scored, is_lora)
            )
    raise ValueError(method)
