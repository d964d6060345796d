"""Token cross-entropy: by hand, against transformers' own loss, over splits, with junk in ignored rows."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from transformers.loss.loss_utils import ForCausalLMLoss

from hfcourse.losses import language_modeling_loss

LOGITS = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [math.nan, 0.0]]])
LABELS = torch.tensor([[1, 0, -100]])


def check_by_hand(loss):
    """p = (¼, ¾) with label 1 and (½, ½) with label 0; the third row is ignored.
    -(log ¾ + log ½) = log 8/3: a half of it as the mean of the two, an eighth over 8 items."""
    torch.testing.assert_close(loss(LOGITS, LABELS), torch.tensor(math.log(8 / 3) / 2))
    torch.testing.assert_close(loss(LOGITS, LABELS, 8), torch.tensor(math.log(8 / 3) / 8))


def test_by_hand():
    check_by_hand(language_modeling_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z, y, n=None: -language_modeling_loss(z, y, n),
        lambda z, y, n=None: language_modeling_loss(z, y),
        lambda z, y, n=None: language_modeling_loss(z, y, n or y.numel()),
        lambda z, y, n=None: language_modeling_loss(z.nan_to_num(), y.clamp(min=0), n),
        lambda z, y, n=None: language_modeling_loss(z[:, :-1], y[:, 1:], n),
        lambda z, y, n=None: F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="sum") / (n or 2) + 0 * z.sum(),
    ],
    ids=["sign", "num_items ignored", "padding in the mean", "padding learnt", "shifted twice", "NaN times 0"],
)
def test_wrong_version_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_by_hand(wrong)


def test_gradient_raises_the_label_only():
    """dL/dz = (p - onehot) / n: (¼, -¼)/2 and (-½, ½)/2, exactly 0 in the ignored row, NaN or not."""
    logits = LOGITS.clone().requires_grad_()
    language_modeling_loss(logits, LABELS).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.125, -0.125], [-0.25, 0.25], [0.0, 0.0]]]))


def test_agrees_with_transformers():
    """transformers shifts inside its loss, so it is given the labels of the input, ours those of the next token."""
    logits, ids = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    ids[0, 4:] = -100
    next_ids = F.pad(ids[:, 1:], (0, 1), value=-100)
    for num_items in (None, torch.tensor(40)):
        theirs = ForCausalLMLoss(logits, ids, vocab_size=11, num_items_in_batch=num_items)
        torch.testing.assert_close(language_modeling_loss(logits, next_ids, num_items), theirs)


def test_no_label_is_zero_with_a_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    for num_items in (None, 7):
        loss = language_modeling_loss(logits, torch.full((2, 3), -100), num_items)
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_in_float32(dtype):
    logits, labels = torch.randn(50, 1000).to(dtype), torch.arange(50)
    loss = language_modeling_loss(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.double(), labels).float(), atol=1e-5, rtol=0)


def test_extreme_logits():
    """The label trails by 10⁴: the loss is 10⁴, its gradient finite."""
    logits = torch.tensor([[1e4, 0.0]], requires_grad=True)
    loss = language_modeling_loss(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == 1e4
    assert logits.grad.tolist() == [[1.0, -1.0]]


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(0, 5), st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_splits_and_padding(seed, batch, cut, extra):
    """Micro-batches divided by the window's count add up to the whole batch, padded or not."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 4, 6, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 6, (batch, 4), generator=g).masked_fill(torch.rand(batch, 4, generator=g) < 0.4, -100)
    num_items = (labels != -100).sum().clamp(min=1)
    whole = language_modeling_loss(logits, labels)
    wide_logits = F.pad(logits, (0, 0, 0, extra), value=math.nan)
    wide_labels = F.pad(labels, (0, extra), value=-100)
    halves = [
        language_modeling_loss(wide_logits[s], wide_labels[s], num_items) for s in (slice(cut), slice(cut, None))
    ]
    torch.testing.assert_close(sum(halves), whole)
