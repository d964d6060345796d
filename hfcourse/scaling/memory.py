"""Peak memory of one device, in bytes: weights, gradients, optimizer, activations, logits, KV cache."""

from dataclasses import dataclass, replace

from hfcourse.scaling.methods import Batch
from hfcourse.scaling.shapes import SAVED_BY_ACTIVATION, ModelShape

FLOAT32, BFLOAT16 = 4, 2
ADAM_MOMENTS = 2
GATHERED_LAYERS = 2  # FSDP and ZeRO-3 fetch the next layer while one computes
MAX_LOGITS_PER_CHUNK = 2**25  # of hfcourse.logprobs
# Copies of the logits alive at once, float32. The language model's loss holds logits, their selected rows and
# the log-softmax; token statistics hold logits, log-probs, their clamp, their exponential and a product, and keep
# three of them for the backward pass.
LOGITS_OF_LOSS, LOGITS_OF_STATS, LOGITS_KEPT_BY_STATS = 3, 5, 3


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. The peak is `states` and the larger of the phases that the other fields belong to."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    logits: float
    kv_cache: float
    gathered: float

    @property
    def peak(self) -> float:
        """Gradients grow while activations go: the larger of the two counts; a rollout has neither."""
        states = self.weights + self.optimizer + self.reference + self.gathered
        return states + max(self.activations + self.logits, self.gradients, self.kv_cache)


def saved_by_layer(shape: ModelShape, precision: int = FLOAT32) -> float:
    """Bytes a token that one layer keeps for the backward pass: what its matrices and norms were given.

    float32, RMSNorm, gated (LLaMA):    twice the norm's input, its normalised value and its output: 6 d; q, k, v as
    attention read them and its output: 2 d_q + 2 d_kv, and a log-sum a head; gate, up, silu(gate) and their product:
    4 f. bf16 autocast: the residual stream and the norms stay float32, what a matrix reads is bf16, and each of q, k
    and v, of gate and up, has a copy of its own. LayerNorm (GPT-2) keeps no normalised value, and has one matrix for
    q, k and v and one before the activation.
    """
    d, q, kv, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    copies = 5 if shape.is_gated and precision < FLOAT32 else 2
    norms = 2 * (2 if shape.is_gated else 1) * d * FLOAT32 + copies * d * precision
    if shape.has_qk_norm:
        norms += (q + kv) * (FLOAT32 + precision)
    attention = (2 * q + 2 * kv) * precision + shape.num_heads * FLOAT32
    hidden = (4 if shape.is_gated else SAVED_BY_ACTIVATION.get(shape.activation, 2)) * f * precision
    return norms + attention + hidden


def activation_bytes(
    shape: ModelShape, num_tokens: float, precision: int = FLOAT32, gradient_checkpointing: bool = False
) -> float:
    """Kept for the backward pass by embeddings, layers and the last norm; with checkpointing one layer at a time."""
    layer, d = saved_by_layer(shape, precision), shape.hidden_size
    last_norm = (2 if shape.is_gated else 1) * d * FLOAT32 + d * precision
    if gradient_checkpointing:
        return num_tokens * (shape.num_layers * d * FLOAT32 + layer + last_norm)
    return num_tokens * (shape.num_layers * layer + last_norm)


def training_memory(
    shape: ModelShape,
    method: str,
    strategy: str,
    batch: Batch,
    num_devices: int = 1,
    precision: int = FLOAT32,
    gradient_checkpointing: bool = False,
    lora_params: int = 0,
    accumulates: bool = False,
) -> Memory:
    """Peak memory of a device that trains with AdamW.

    | strategy | weights        | gradients | moments | and                                                        |
    |----------|----------------|-----------|---------|------------------------------------------------------------|
    | none     | 4 N            | 4 N       | 8 N     | bf16: autocast's copies of the weights, 2 N                |
    | lora     | N·dtype        | 4 P       | 8 P     | P parameters of the adapter; the reference costs nothing   |
    | ddp      | 4 N            | 8 N       | 8 N     | gradients twice: DDP's buckets                             |
    | zero2    | 2 N (bf16)     | 2 N/g     | 12 N/g  | float32 master weights beside the moments                  |
    | zero3    | 2 N/g          | 2 N/g     | 12 N/g  | two layers and the embeddings gathered                     |
    | fsdp2    | 4 N/g          | 4 N/g     | 8 N/g   | two layers and the embeddings gathered, in bf16            |

    `rm` and `dpo` see two sequences a pair; `dpo` and `ppo` hold a reference (sharded where the weights are).

    Args:
        batch: of one device and micro-batch.
        num_devices: g.
        precision: bytes of what matrices read: 4, or 2 under bf16.
        lora_params: P.
        accumulates: gradients stay between micro-batches, beside the activations of the next one.
    """
    weights, gradients, optimizer = _states(shape.num_params, strategy, num_devices, precision, lora_params)
    has_reference = method in ("dpo", "ppo") and strategy != "lora"
    is_sharded = strategy in ("zero3", "fsdp2")
    reference_bytes = shape.num_params * (precision if is_sharded else FLOAT32)
    reference = reference_bytes / (num_devices if is_sharded else 1) if has_reference else 0.0
    sequences = batch.size * (2 if method in ("rm", "dpo") else 1)
    activations = activation_bytes(shape, sequences * batch.length, precision, gradient_checkpointing)
    if accumulates:
        activations += gradients
    elif shape.is_tied and not lora_params:
        gradients += shape.vocab_size * shape.hidden_size * FLOAT32  # the head's and the embedding's, then added
    rollout = batch.rollout_size or batch.size
    kv_cache = kv_cache_bytes(shape, rollout, batch.length, precision) if method == "ppo" else 0.0
    gathered = 0.0
    if is_sharded:
        gathered = (GATHERED_LAYERS * shape.layer_matrix_params + shape.embedding_params) * precision
    logits = logit_bytes(shape, method, sequences, batch, lora_params > 0)
    return Memory(weights, gradients, optimizer, reference, activations, logits, kv_cache, gathered)


def _states(num_params: int, strategy: str, num_devices: int, precision: int, lora_params: int) -> tuple:
    """(weights, gradients, optimizer) of one device."""
    n, g, moments = num_params, num_devices, ADAM_MOMENTS * FLOAT32
    copies = precision * n if precision < FLOAT32 else 0
    match strategy:
        case "none":
            return FLOAT32 * n + copies, FLOAT32 * n, moments * n
        case "lora":
            return precision * n + FLOAT32 * lora_params, FLOAT32 * lora_params, moments * lora_params
        case "ddp":
            return FLOAT32 * n + copies, 2 * FLOAT32 * n, moments * n
        case "zero2":
            return precision * n, precision * n / g, (moments + FLOAT32) * n / g
        case "zero3":
            return precision * n / g, precision * n / g, (moments + FLOAT32) * n / g
        case "fsdp2":
            return FLOAT32 * n / g, FLOAT32 * n / g, moments * n / g
    raise ValueError(strategy)


def logit_bytes(shape: ModelShape, method: str, sequences: int, batch: Batch, is_lora: bool = False) -> float:
    """Logits and what the loss makes of them, at its peak. In float32 whatever the precision."""
    one_row = shape.vocab_size * FLOAT32
    if method == "rm":
        return 0.0
    if method == "clm":
        return LOGITS_OF_LOSS * sequences * batch.length * one_row
    rows = sequences * batch.completion_length
    chunk = min(rows, max(1, MAX_LOGITS_PER_CHUNK // shape.vocab_size))
    kept = LOGITS_KEPT_BY_STATS * rows if chunk == rows else 0  # chunks are computed again in the backward pass
    if method == "dpo":  # the reference reads while the policy's statistics are kept
        return (LOGITS_OF_STATS * chunk + kept) * one_row
    return LOGITS_OF_STATS * chunk * one_row + (one_row * chunk if method == "ppo" else 0)


def kv_cache_bytes(shape: ModelShape, num_sequences: int, length: int, precision: int = FLOAT32) -> float:
    """Keys and values of every layer and position: 2 L d_kv a token."""
    return 2 * shape.num_layers * shape.kv_size * num_sequences * length * precision


def fits(memory: Memory, device_bytes: float, share: float = 0.92) -> bool:
    """Whether the peak leaves the rest of the device to CUDA's context and to fragmentation."""
    return memory.peak <= share * device_bytes


def largest_batch(device_bytes: float, shape: ModelShape, method: str, strategy: str, batch: Batch, **options) -> int:
    """The largest `batch.size` (a power of two) that fits, or 0."""
    size = 0
    while fits(
        training_memory(shape, method, strategy, replace(batch, size=max(1, 2 * size)), **options), device_bytes
    ):
        size = max(1, 2 * size)
        if size >= 1024:
            break
    return size
