"""Skip-gram with negative sampling: by hand, its gradient, and against logistic regression on the same pairs."""

import math

import pytest
import torch
import torch.nn.functional as F

from hfcourse.losses import skip_gram_negative_sampling_loss

CENTER = torch.tensor([[1.0, 0.0]])
CONTEXT = torch.tensor([[math.log(3), 0.0]])
NEGATIVES = torch.tensor([[[0.0, 0.0], [math.log(3), 5.0], [math.log(3), -1.0]]])


def check_by_hand(loss):
    """c·o = log 3: σ = ¾. c·n = 0, log 3, log 3: σ(-c·n) = ½, ¼, ¼. L = -log(¾ · ½ · ¼ · ¼) = log(128/3)."""
    torch.testing.assert_close(loss(CENTER, CONTEXT, NEGATIVES), torch.tensor([math.log(128 / 3)]))


def test_by_hand():
    check_by_hand(skip_gram_negative_sampling_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, o, n: -skip_gram_negative_sampling_loss(c, o, n),
        lambda c, o, n: skip_gram_negative_sampling_loss(c, -o, n),
        lambda c, o, n: skip_gram_negative_sampling_loss(c, o, -n),
        lambda c, o, n: -F.logsigmoid((c * o).sum(-1)) - F.logsigmoid(-(n * c.unsqueeze(1)).sum(-1)).mean(-1),
        lambda c, o, n: -F.logsigmoid((c * o).sum(-1)) - F.logsigmoid(-(n * o.unsqueeze(1)).sum(-1)).sum(-1),
        lambda c, o, n: F.cross_entropy(torch.cat([o.unsqueeze(1), n], 1) @ c[0], torch.zeros(1, dtype=torch.long))[
            None
        ],
    ],
    ids=["sign", "positive sign", "negative sign", "mean over negatives", "negatives against the context", "softmax"],
)
def test_wrong_version_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_by_hand(wrong)


def test_gradients_pull_the_context_and_push_the_negatives():
    """dL/do = -(1 - σ(c·o)) c and dL/dn = σ(c·n) c."""
    context, negatives = CONTEXT.clone().requires_grad_(), NEGATIVES.clone().requires_grad_()
    skip_gram_negative_sampling_loss(CENTER, context, negatives).sum().backward()
    torch.testing.assert_close(context.grad, -0.25 * CENTER)
    torch.testing.assert_close(negatives.grad, torch.tensor([[[0.5], [0.75], [0.75]]]) * CENTER)


def test_is_logistic_regression_on_true_and_false_pairs():
    center, context, negatives = torch.randn(4, 8), torch.randn(4, 8), torch.randn(4, 5, 8)
    scores = torch.cat([context.unsqueeze(1), negatives], 1) @ center.unsqueeze(-1)
    labels = torch.tensor([1.0, 0, 0, 0, 0, 0]).expand(4, 6)
    expected = F.binary_cross_entropy_with_logits(scores.squeeze(-1), labels, reduction="none").sum(1)
    torch.testing.assert_close(skip_gram_negative_sampling_loss(center, context, negatives), expected)
    halves = [skip_gram_negative_sampling_loss(center[s], context[s], negatives[s]) for s in (slice(1), slice(1, 4))]
    torch.testing.assert_close(torch.cat(halves), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_of_ten_thousand(dtype):
    """c·o = -10⁴ costs 10⁴; c·n = 10⁴ as much again."""
    center, vector = torch.tensor([[100.0]], dtype=dtype), torch.tensor([[100.0]], dtype=dtype)
    loss = skip_gram_negative_sampling_loss(center, -vector, vector.unsqueeze(1))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [2e4]
