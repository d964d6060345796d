"""DPO and its relatives: by hand, against TRL's formulas, their optima, gradients, extremes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from hfcourse.errors import InputError
from hfcourse.losses import dpo_loss, hinge_preference_loss, ipo_loss, ipo_mean_loss, robust_dpo_loss

LOSSES = [dpo_loss, ipo_loss, hinge_preference_loss, robust_dpo_loss]

# log π_w, log π_l, log π_ref_w, log π_ref_l of three pairs. Log-ratios: (4, -2), (-1, 5), (0, 0).
PAIRS = torch.tensor([[-6.0, -11.0, -3.0], [-12.0, -5.0, -8.0], [-10.0, -10.0, -3.0], [-10.0, -10.0, -8.0]])
LOG3 = math.log(3)
LOG3_PAIR = torch.tensor([[LOG3 * 10], [0.0], [0.0], [0.0]])


def by_margin(loss, margins, beta, **kwargs):
    """The loss of pairs whose log-ratio of the chosen answer is margins / β, all else 0."""
    zero = torch.zeros_like(margins)
    return loss(margins / beta, zero, zero, zero, beta=beta, **kwargs)[0]


def check_dpo(loss):
    """β = ½: rewards (2, -1), (-½, 2.5), (0, 0); margins 3, -3, 0. L = log(1 + e⁻³), log(1 + e³), log 2.
    β = 0.1 and a log-ratio of 10 log 3: σ(log 3) = ¾; with ε = 0.1 L = -0.9 log ¾ - 0.1 log ¼."""
    losses, chosen, rejected = loss(*PAIRS, beta=0.5)
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-3)), math.log1p(math.exp(3)), math.log(2)]))
    assert chosen.tolist() == [2.0, -0.5, 0.0]
    assert rejected.tolist() == [-1.0, 2.5, 0.0]
    smooth = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    torch.testing.assert_close(loss(*LOG3_PAIR, beta=0.1, label_smoothing=0.1)[0], torch.tensor([smooth]))


def check_ipo(loss):
    """β = ½: target 1/(2β) = 1. Log-ratio differences 6, -6, 0: 25, 49, 1. ε = ¼, difference 6: ¾ 25 + ¼ 49 = 31."""
    losses, chosen, rejected = loss(*PAIRS, beta=0.5)
    torch.testing.assert_close(losses, torch.tensor([25.0, 49.0, 1.0]))
    assert chosen.tolist() == [2.0, -0.5, 0.0]
    assert rejected.tolist() == [-1.0, 2.5, 0.0]
    torch.testing.assert_close(loss(*PAIRS, beta=0.5, label_smoothing=0.25)[0], torch.tensor([31.0, 43.0, 1.0]))


def check_hinge(loss):
    """β = ½: margins 3, -3, 0: 0, 4, 1. ε = ¼: ¼ · 4 = 1, ¾ · 4 = 3, 1."""
    losses, chosen, rejected = loss(*PAIRS, beta=0.5)
    assert losses.tolist() == [0.0, 4.0, 1.0]
    assert chosen.tolist() == [2.0, -0.5, 0.0]
    assert rejected.tolist() == [-1.0, 2.5, 0.0]
    assert loss(*PAIRS, beta=0.5, label_smoothing=0.25)[0].tolist() == [1.0, 3.0, 1.0]


def check_robust(loss):
    """σ(h) = ¾, ε = 0.1: L = (-0.9 log ¾ + 0.1 log ¼) / 0.8. At h = 0: (0.9 - 0.1) log 2 / 0.8 = log 2."""
    expected = (-0.9 * math.log(0.75) + 0.1 * math.log(0.25)) / 0.8
    torch.testing.assert_close(loss(*LOG3_PAIR, beta=0.1, label_smoothing=0.1)[0], torch.tensor([expected]))
    losses, chosen, rejected = loss(*PAIRS, beta=0.5, label_smoothing=0.1)
    assert losses[2].item() == pytest.approx(math.log(2))
    assert chosen.tolist() == [2.0, -0.5, 0.0]
    assert rejected.tolist() == [-1.0, 2.5, 0.0]


CHECKS = {dpo_loss: check_dpo, ipo_loss: check_ipo, hinge_preference_loss: check_hinge, robust_dpo_loss: check_robust}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_by_hand(loss):
    CHECKS[loss](loss)


def swapped(loss):
    return lambda w, r, ref_w, ref_r, **k: loss(r, w, ref_r, ref_w, **k)


def reference_swapped(loss):
    return lambda w, r, ref_w, ref_r, **k: loss(w, r, ref_r, ref_w, **k)


def no_reference(loss):
    return lambda w, r, ref_w, ref_r, **k: loss(w, r, 0 * ref_w, 0 * ref_r, **k)


def no_beta(loss):
    return lambda *x, beta=0.1, **k: loss(*x, beta=1.0, **k)


def no_smoothing(loss):
    return lambda *x, label_smoothing=0.0, **k: loss(*x, **k)


def smoothing_reversed(loss):
    def wrong(*x, label_smoothing=0.0, **k):
        straight, chosen, rejected = loss(*x, **k)
        flipped = loss(x[1], x[0], x[3], x[2], **k)[0]
        return label_smoothing * straight + (1 - label_smoothing) * flipped, chosen, rejected

    return wrong


def negated(loss):
    return lambda *x, **k: tuple(-y for y in loss(*x, **k))


def reduced(loss):
    return lambda *x, **k: (loss(*x, **k)[0].mean(), *loss(*x, **k)[1:])


def rewards_without_beta(loss):
    return lambda *x, beta=0.1, **k: (loss(*x, beta=beta, **k)[0], x[0] - x[2], x[1] - x[3])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "mutate",
    [swapped, reference_swapped, no_reference, no_beta, no_smoothing, smoothing_reversed, negated, reduced,
     rewards_without_beta],
)  # fmt: skip
def test_wrong_version_is_caught(loss, mutate):
    with pytest.raises(AssertionError):
        CHECKS[loss](mutate(loss))


def test_ipo_mean_by_hand():
    """Log-ratios (4, -2) over 2 and 1 tokens: 2 + 2 = 4, (4 - 1)² = 9. (-1, 5) over 1 and 5: -2, 9. (0, 0): 1.
    The rewards stay those of the whole answer."""
    tokens = torch.tensor([2, 1, 3]), torch.tensor([1, 5, 3])
    losses, chosen, rejected = ipo_mean_loss(*PAIRS, *tokens, beta=0.5)
    torch.testing.assert_close(losses, torch.tensor([9.0, 9.0, 1.0]))
    torch.testing.assert_close(chosen, torch.tensor([2.0, -0.5, 0.0]))
    torch.testing.assert_close(rejected, torch.tensor([-1.0, 2.5, 0.0]))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ipo_loss(*PAIRS, beta=0.5)[0], losses)


@given(st.integers(0, 2**31), st.floats(0.01, 2), st.floats(0, 0.45))
@settings(max_examples=40, deadline=None)
def test_agrees_with_trl_formulas(seed, beta, eps):
    """The formulas of TRL 1.16's `DPOTrainer`, written from its source: sigmoid, hinge, ipo and robust; conservative
    DPO, which that version drops, is its `aot` without the sort."""
    g = torch.Generator().manual_seed(seed)
    pairs = -20 * torch.rand(4, 6, generator=g, dtype=torch.float64)
    chosen_n, rejected_n = torch.randint(1, 9, (2, 6), generator=g)
    chosen_scores, rejected_scores = pairs[0] - pairs[2], pairs[1] - pairs[3]
    delta = chosen_scores - rejected_scores
    log_w, log_l = F.logsigmoid(beta * delta), F.logsigmoid(-beta * delta)
    close = torch.testing.assert_close
    close(dpo_loss(*pairs, beta)[0], -log_w)
    close(dpo_loss(*pairs, beta, eps)[0], -log_w * (1 - eps) - log_l * eps)
    close(hinge_preference_loss(*pairs, beta)[0], torch.relu(1 - beta * delta))
    close(robust_dpo_loss(*pairs, beta, eps)[0], (-(1 - eps) * log_w + eps * log_l) / (1 - 2 * eps))
    mean_delta = chosen_scores / chosen_n - rejected_scores / rejected_n
    close(ipo_mean_loss(*pairs, chosen_n, rejected_n, beta)[0], (mean_delta - 1 / (2 * beta)) ** 2)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_first_step(loss):
    """π = π_ref: no rewards, whatever the log-probs; log 2 for DPO, (1/2β)² = 25 for IPO, 1 for hinge."""
    w, r = torch.tensor([-3.3, -77.0]), torch.tensor([-9.1, -0.4])
    losses, chosen, rejected = loss(w, r, w, r, beta=0.1)
    expected = {ipo_loss: 25.0, hinge_preference_loss: 1.0}.get(loss, math.log(2))
    torch.testing.assert_close(losses, torch.full((2,), expected))
    assert chosen.tolist() == rejected.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_gradient_raises_chosen_and_lowers_rejected(loss):
    """Equal and opposite, on the policy's log-probs; the rewards carry none. DPO: β σ(-h) = 0.1 · ½ at h = 0."""
    pairs = [torch.full((2,), -5.0, requires_grad=True) for _ in range(4)]
    losses, chosen, rejected = loss(*pairs, beta=0.1)
    losses.sum().backward()
    assert (pairs[0].grad < 0).all()
    assert torch.equal(pairs[0].grad, -pairs[1].grad)
    assert not chosen.requires_grad
    assert not rejected.requires_grad
    if loss is dpo_loss:
        torch.testing.assert_close(pairs[0].grad, torch.full((2,), -0.05))


def test_where_each_loss_is_least():
    """Over the margin h, with ε = 0.1: cDPO at σ(h) = 0.9; IPO (β = ½) at the mean of ±1, 0.8, times β; hinge at 1;
    robust DPO falls without end."""
    h = torch.linspace(-4, 4, 80_001, dtype=torch.float64)

    def least(loss):
        return h[by_margin(loss, h, 0.5, label_smoothing=0.1).argmin()].item()

    assert least(dpo_loss) == pytest.approx(math.log(9), abs=1e-4)
    assert least(ipo_loss) == pytest.approx(0.4, abs=1e-4)
    assert least(hinge_preference_loss) == pytest.approx(1.0, abs=1e-4)
    assert least(robust_dpo_loss) > 2


def test_robust_dpo_is_unbiased_under_flips():
    """(1 - ε) L(w, l) + ε L(l, w) = DPO's loss of the clean labels, for every pair; DPO itself is not."""
    pairs, eps = torch.randn(4, 9, dtype=torch.float64) * 10, 0.3
    flipped = pairs[[1, 0, 3, 2]]
    clean = dpo_loss(*pairs, 0.5)[0]

    def expected(loss, **kwargs):
        return (1 - eps) * loss(*pairs, 0.5, **kwargs)[0] + eps * loss(*flipped, 0.5, **kwargs)[0]

    torch.testing.assert_close(expected(robust_dpo_loss, label_smoothing=eps), clean)
    assert (expected(dpo_loss) - clean).abs().max() > 0.1


@pytest.mark.parametrize("eps", [-0.1, 0.5, 0.9])
def test_robust_dpo_refuses_labels_that_say_nothing(eps):
    with pytest.raises(InputError, match="label_smoothing"):
        robust_dpo_loss(*PAIRS, label_smoothing=eps)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("difference", [-1e4, 1e4])
def test_differences_of_ten_thousand(loss, difference):
    """Losses and gradients finite; β = 0.1 makes margins of ∓1000, where log(1 + exp 1000) would overflow."""
    pairs = [torch.tensor([x], requires_grad=True) for x in (difference, 0.0, 0.0, 0.0)]
    losses, chosen, _ = loss(*pairs, beta=0.1, label_smoothing=0.1)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert pairs[0].grad.isfinite().all()
    assert chosen.item() == pytest.approx(difference * 0.1)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, dtype):
    pairs = (-300 * torch.rand(4, 20)).to(dtype)
    for half, full in zip(
        loss(*pairs, beta=0.3, label_smoothing=0.1), loss(*pairs.float(), beta=0.3, label_smoothing=0.1), strict=True
    ):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)
    tokens = torch.randint(1, 9, (2, 20))
    assert torch.equal(ipo_mean_loss(*pairs, *tokens)[0], ipo_mean_loss(*pairs.float(), *tokens)[0])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_splits(loss):
    pairs = torch.randn(4, 7)
    halves = zip(loss(*pairs[:, :3]), loss(*pairs[:, 3:]), strict=True)
    for split, whole in zip(halves, loss(*pairs), strict=True):
        torch.testing.assert_close(torch.cat(split), whole)
