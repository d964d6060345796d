"""Answers to one prompt as one sequence, so that the tokens they begin with go through the model once."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfcourse.models.document_mask import attention_mask_for

# Largest relative difference of last hidden states that is still rounding, where a model is tried.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8}
# A shared batch whose mask costs more than its tokens save is not worth it.
WORTHWHILE = 0.9


class SharedBatch(NamedTuple):
    """Groups of rows, each group folded into one sequence: common prefix, rest of row 1, rest of row 2, …

    input_ids: (G, L), padded with 0.
    position_ids: (G, L), where each token stood in its own row.
    allowed: (G, 1, L, L) bool; a token sees the prefix and its own row up to itself.
    place: (G, K, T), where token t of row k went: an index into G·L. Padding points at the sequence's first token.
    """

    input_ids: Tensor
    position_ids: Tensor
    allowed: Tensor
    place: Tensor

    def inputs_for(self, model: PreTrainedModel) -> dict[str, Tensor | dict[str, Tensor]]:
        """What the model's forward takes instead of the rows."""
        mask = attention_mask_for(model, self.allowed, self.position_ids)
        return {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": mask}


def share_prefix(input_ids: Tensor, attention_mask: Tensor) -> SharedBatch:
    """Fold rows with a common beginning: the prompt, and the words with which all of its answers begin.

        rows:   x₁ x₂ a₁ a₂ a₃        one sequence:  x₁ x₂ a₁ a₂ a₃ b₁
                x₁ x₂ b₁              positions:     0  1  2  3  4  2

    Every token keeps the keys and positions that it had in its own row, so hidden states are those of the rows one by
    one, and P + C + R tokens are computed instead of 2P + C + R.

    Args:
        input_ids: (G, K, T), K rows that belong together in each of G groups.
        attention_mask: (G, K, T), rows padded on the right.
    """
    groups, rows, length = input_ids.shape
    device, real = input_ids.device, attention_mask.bool()
    lengths = real.sum(-1)
    same = (input_ids == input_ids[:, :1]) & real & real[:, :1]
    prefix = same.all(1).cumprod(-1).sum(-1)  # (G,)
    rests = lengths - prefix[:, None]  # (G, K)
    begins = prefix[:, None] + rests.cumsum(-1) - rests  # (G, K): where the rest of each row goes
    total = prefix + rests.sum(-1)
    width = int(total.max())

    t = torch.arange(length, device=device)
    is_rest = t >= prefix[:, None, None]
    place = torch.where(is_rest, begins[..., None] + t - prefix[:, None, None], t)
    place = place + (torch.arange(groups, device=device) * width)[:, None, None]
    owner = torch.where(is_rest, torch.arange(1, rows + 1, device=device)[:, None], 0)
    place = place.where(real, (torch.arange(groups, device=device) * width)[:, None, None])

    def fold(values: Tensor, fill: int) -> Tensor:
        flat = torch.full((groups * width,), fill, dtype=values.dtype, device=device)
        flat[place[real]] = values.expand(real.shape)[real]
        return flat.view(groups, width)

    owners = fold(owner, -1)  # 0 the prefix, k row k, -1 padding
    query, key = owners[:, :, None], owners[:, None, :]
    # Padding sees itself, so that no softmax is empty.
    allowed = ((key == 0) | (key == query)).tril() & ((key >= 0) | (query == key))
    return SharedBatch(fold(input_ids, 0), fold(t, 0), allowed[:, None], place)


def share_pairs(input_ids: Tensor, attention_mask: Tensor) -> SharedBatch | None:
    """[`share_prefix`] of a preference batch, (2B, T), chosen rows first; `place` is (2B, T) like the batch.

    None where the pairs have so little in common that folding them saves nothing, and for rows padded on the left.
    """
    if not attention_mask[:, 0].all():
        return None
    pairs = (x.view(2, -1, x.shape[-1]).transpose(0, 1) for x in (input_ids, attention_mask))
    shared = share_prefix(*pairs)
    if shared.input_ids.numel() > WORTHWHILE * input_ids.numel():
        return None
    return shared._replace(place=shared.place.transpose(0, 1).reshape(input_ids.shape))


def share_groups(input_ids: Tensor, attention_mask: Tensor, num_rows: int, width: int) -> SharedBatch | None:
    """[`share_prefix`] of a rollout, (B, T): every `num_rows` rows after one another answer one prompt.

    Prompts may be padded on the left, as generation wants them, answers on the right; `place` is (B, T), as they are.

    Args:
        num_rows: K, which divides B.
        width: of the hidden states. It says what attention costs beside the rest of a layer: the K answers of a group
            are keys to one another, though masked ones, and of many long answers that is more than the prompt saves.

    Returns:
        None where sharing would not save a tenth of the work.
    """
    size, length = input_ids.shape
    t = torch.arange(length, device=input_ids.device)
    begin = attention_mask.argmax(1, keepdim=True)  # left padding wraps around to the right end, and back again
    rows, real = (x.gather(1, (t + begin) % length) for x in (input_ids, attention_mask))
    shared = share_prefix(rows.view(-1, num_rows, length), real.view(-1, num_rows, length))
    if _work(*shared.input_ids.shape, width) > WORTHWHILE * _work(size, length, width):
        return None
    place = shared.place.view(size, length).gather(1, (t - begin) % length)
    return shared._replace(place=place)


def _work(rows: int, length: int, width: int) -> int:
    """Of a transformer's layer, for comparison: 12 d² products a token, and 2 d a token and key."""
    return rows * length * (6 * width + length)


@torch.no_grad()
def can_share_prefix(model: PreTrainedModel) -> bool:
    """Whether this model's attention follows a mask and positions of our own, found out by trying.

    The last hidden states of five short rows, folded and one by one, must agree to rounding. What fails: flash and
    flex attention (they take no mask), ALiBi (it counts keys, not positions), state-space and linear-attention layers.

    Args:
        model: causal LM or sequence classifier, without its PEFT wrapper. Left in the mode that it was in.
    """
    if model.config._attn_implementation not in ("eager", "sdpa"):
        return False
    ids = torch.arange(5 * 2 * 9, device=model.device).view(5, 2, 9) % min(
        model.config.get_text_config().vocab_size, 89
    )
    ids[:, 1, :4] = ids[:, 0, :4]
    mask = torch.ones_like(ids)
    mask[0, 0, 6:] = mask[1, 1, 5:] = 0
    shared, trunk, was_training = share_prefix(ids, mask), model.base_model, model.training
    model.eval()
    try:
        plain = trunk(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
        folded = trunk(**shared.inputs_for(model)).last_hidden_state
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError):
        return False
    finally:
        model.train(was_training)
    real = mask.flatten(0, 1).bool()
    difference = (folded.flatten(0, 1)[shared.place.flatten(0, 1)] - plain)[real].float().norm()
    return bool(difference <= ROUNDING.get(plain.dtype, 5e-2) * plain[real].float().norm())
