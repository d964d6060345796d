"""SpanBERT's span boundary objective: a hidden span told from the two tokens at its edges and a place within it."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX

SPAN_BOUNDARY_FILE = "span_boundary_head.safetensors"
PREFIX = "span_boundary_head."


class SpanBoundaryHead(nn.Module):
    """Scores of the token at offset i of a masked span, from the hidden states beside the span.

        h = LN(GeLU(W₂ · LN(GeLU(W₁ [x_{s-1}; x_{e+1}; p_i]))))        scores = E h + b

    Eq. 3 and 4 of https://huggingface.co/papers/1907.10529; E is the model's input embedding, p_i a learnt embedding
    of 200 numbers, as in the paper's code. Any encoder will do.

    Args:
        model: whose width and embedding it takes. The embedding is read from the model at each call, not held here,
            so that it is saved and resized once.
        max_span_length: offsets that have an embedding; tokens farther into a span are not predicted (code: 20).
        position_size: width of p_i.
    """

    def __init__(self, model: PreTrainedModel, max_span_length: int = 20, position_size: int = 200):
        super().__init__()
        embedding = model.get_input_embeddings()
        vocab_size, width = embedding.weight.shape
        hidden_size = model.config.get_text_config().hidden_size
        self.max_span_length = max_span_length
        self.position_embeddings = nn.Embedding(max_span_length, position_size)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden_size + position_size, hidden_size),
            nn.GELU(),
            nn.LayerNorm(hidden_size, eps=1e-12),
            nn.Linear(hidden_size, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        scale = getattr(model.config.get_text_config(), "initializer_range", 0.02)
        for parameter in (self.position_embeddings.weight, self.mlp[0].weight, self.mlp[3].weight):
            nn.init.normal_(parameter, std=scale)
        for layer in (self.mlp[0], self.mlp[3]):
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, embedding: Tensor, left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
        """(N, V) scores.

        Args:
            hidden: (B, T, d), the encoder's last hidden states.
            embedding: (V, e), its input embedding.
            left, right: (N,), places of the tokens beside each span in `hidden` flattened to (B·T, d).
            offsets: (N,), how far into its span each token lies, from 0.
        """
        flat = hidden.flatten(0, 1)
        joined = torch.cat([flat[left], flat[right], self.position_embeddings(offsets)], dim=-1)
        return self.mlp(joined) @ embedding.T.to(joined.dtype) + self.bias


def save_span_boundary_head(state_dict: dict[str, Tensor], folder: str | Path) -> dict[str, Tensor]:
    """Write the head's part of a model's state dict beside the model; returns the rest, which is the plain model's."""
    head = {name.rpartition(PREFIX)[2]: tensor.contiguous() for name, tensor in state_dict.items() if PREFIX in name}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(head, Path(folder, SPAN_BOUNDARY_FILE))
    return {name: tensor for name, tensor in state_dict.items() if PREFIX not in name}


def load_span_boundary_head(head: SpanBoundaryHead, folder: str | Path) -> None:
    """Read it back. Raises InputError where the folder holds none."""
    path = Path(folder, SPAN_BOUNDARY_FILE)
    if not path.is_file():
        raise InputError(f"resume_from_checkpoint: {folder} holds no {SPAN_BOUNDARY_FILE}; was it trained with it?")
    head.load_state_dict(load_file(path))


def span_boundary_pairs(labels: Tensor, is_special: Tensor, max_span_length: int) -> tuple[Tensor, ...]:
    """What the span boundary objective predicts in a batch, read from its labels alone.

    A span is a run of labels that count (spans that touch are one). It is told only if both of its neighbours are
    ordinary tokens of the same row, and only its first `max_span_length` tokens.

    Args:
        labels: (B, T), -100 where a token is not hidden.
        is_special: (B, T) bool, tokens that are no part of the sentence: special ones and padding.

    Returns:
        left (N,), right (N,): places in a (B·T) row of the span's neighbours; offsets (N,); targets (N,), token ids.
    """
    hidden = labels != IGNORE_INDEX
    width = labels.shape[1]
    places = torch.arange(width, device=labels.device).expand_as(labels)
    # The last place before, and the first behind, that is not hidden; -1 and T where there is none.
    left = places.masked_fill(hidden, -1).cummax(1).values
    right = places.masked_fill(hidden, width).flip(1).cummin(1).values.flip(1)
    offsets = places - left - 1
    counts = hidden & (left >= 0) & (right < width) & (offsets < max_span_length)
    rows, at = counts.nonzero(as_tuple=True)
    left, right, offsets = left[rows, at], right[rows, at], offsets[rows, at]
    inside = ~is_special[rows, left] & ~is_special[rows, right]
    rows, at, left, right, offsets = (x[inside] for x in (rows, at, left, right, offsets))
    return rows * width + left, rows * width + right, offsets, labels[rows, at]
