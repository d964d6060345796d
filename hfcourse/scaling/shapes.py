"""The numbers of a decoder that its cost depends on, read from a config or chosen for a parameter count."""

from dataclasses import dataclass
from math import ceil

from hfcourse.errors import InputError

WIDTH_PER_LAYER = 100  # d/L of LLaMA-like models between 1 and 70 billion parameters: 64 to 128
HEAD_DIM_OF_PARAMS = ((1e9, 128), (1e7, 64), (1e6, 32))
# Tensors of the MLP's width that a non-gated MLP keeps for its backward pass; gelu_new is written out in Python.
SAVED_BY_ACTIVATION = {"gelu_new": 5, "gelu_pytorch_tanh": 2, "gelu": 2, "relu": 2, "silu": 2}


@dataclass(frozen=True)
class ModelShape:
    """A decoder.

    num_params: everything, the embeddings once if they are tied. is_gated: three MLP matrices (SwiGLU), else two.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_params: int
    is_gated: bool = True
    is_tied: bool = False
    has_qk_norm: bool = False
    activation: str = "silu"

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def layer_matrix_params(self) -> int:
        """Parameters of one layer that multiply every token: q, k, v, o and the MLP."""
        attention = 2 * self.hidden_size * (self.query_size + self.kv_size)
        return attention + (3 if self.is_gated else 2) * self.hidden_size * self.intermediate_size

    @property
    def embedding_params(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)


def shape_of_config(config) -> ModelShape:
    """The shape of a transformers config; the parameters are counted on a model without memory.

    Raises:
        InputError: not a decoder with one kind of layer (encoders, mixtures of experts, state-space models).
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = config.get_text_config()
    if config.is_encoder_decoder or getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None):
        raise InputError(
            f"model_name_or_path: {config.model_type} is no dense decoder; the planner has no formula for it"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        heads, width = config.num_attention_heads, config.hidden_size
    except (ValueError, AttributeError) as e:
        raise InputError(f"model_name_or_path: {config.model_type} is no decoder the planner knows: {e}") from e
    names = {name.rpartition(".")[0].rpartition(".")[2] for name, _ in model.named_parameters()}
    return ModelShape(
        vocab_size=config.vocab_size,
        hidden_size=width,
        intermediate_size=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * width,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or width // heads,
        num_params=model.num_parameters(),
        is_gated=bool(names & {"gate_proj", "gate_up_proj"}),
        is_tied=bool(config.tie_word_embeddings),
        has_qk_norm="q_norm" in names,
        activation=getattr(config, "hidden_act", None) or getattr(config, "activation_function", "silu"),
    )


def shape_for(num_params: float, vocab_size: int = 32_000) -> ModelShape:
    """A LLaMA-like shape of about `num_params`: d = 100 L, MLPs of 8/3 d, grouped keys above 7 billion.

    A layer has 4 d² in attention and 8 d² in its MLP, so N ≈ 12 d²·L + 2 V d. The smallest multiple of the head size
    that reaches N at that depth, or the one before it, whichever comes nearer with whole layers.
    """
    head_dim = next((size for least, size in HEAD_DIM_OF_PARAMS if num_params >= least), 16)
    width = head_dim
    while 12 * width**2 * ceil(width / WIDTH_PER_LAYER) + 2 * vocab_size * width < num_params:
        width += head_dim
    shapes = [_with_layers(num_params, w, vocab_size, head_dim) for w in (width, width - head_dim) if w]
    return min(shapes, key=lambda shape: abs(shape.num_params - num_params))


def _with_layers(num_params: float, width: int, vocab_size: int, head_dim: int) -> ModelShape:
    heads = width // head_dim
    kv_heads = 8 if num_params > 7e9 and heads % 8 == 0 else heads
    intermediate = ceil(8 * width / 3 / head_dim) * head_dim
    layer = 2 * width * (width + kv_heads * head_dim) + 3 * width * intermediate + 2 * width
    outside = 2 * vocab_size * width + width
    layers = max(1, round((num_params - outside) / layer))
    return ModelShape(vocab_size, width, intermediate, layers, heads, kv_heads, head_dim, outside + layers * layer)
