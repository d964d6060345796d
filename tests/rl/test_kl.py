"""KL estimators, the full KL, and the penalty in the reward: by hand, against enumeration, extremes, padding."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.rl import kl_full, kl_k1, kl_k2, kl_k3, kl_penalized_rewards, rao_blackwellized_kl_loss

P, Q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
KL_PQ = 0.2 * math.log(1 / 3) + 0.5 * math.log(5)
KL_QP = 0.6 * math.log(3) + 0.1 * math.log(1 / 5)


def check_estimators(k1, k2, k3):
    """π/π_ref = ⅓, 1, 5. k1 = log of it, k2 = half its square, k3 = π_ref/π - 1 + k1 = 2 - log 3, 0, -0.8 + log 5."""
    logs = [-math.log(3), 0.0, math.log(5)]
    for estimate, expected in [
        (k1, logs),
        (k2, [x * x / 2 for x in logs]),
        (k3, [2 - math.log(3), 0.0, -0.8 + math.log(5)]),
    ]:
        torch.testing.assert_close(estimate(P.log(), Q.log()), torch.tensor(expected, dtype=torch.float64))


def test_estimators_by_hand():
    check_estimators(kl_k1, kl_k2, kl_k3)


@pytest.mark.parametrize(
    "wrong",
    [
        (lambda p, q: q - p, kl_k2, kl_k3),
        (lambda p, q: (p - q).abs(), kl_k2, kl_k3),
        (lambda p, q: (p - q) * p.exp(), kl_k2, kl_k3),
        (kl_k1, lambda p, q: (p - q) ** 2, kl_k3),
        (kl_k1, kl_k2, lambda p, q: kl_k3(q, p)),
        (kl_k1, kl_k2, lambda p, q: (p - q).exp() - 1 + (p - q)),
    ],
    ids=["k1's sign", "absolute value", "k1 weighted by p", "k2 without ½", "k3 reversed", "k3's exponent"],
)
def test_wrong_estimator_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_estimators(*wrong)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    """E_π[k] by enumeration: KL(π ‖ π_ref) for k1 and k3; k3 is never negative; k2 is off."""
    assert (P * kl_k1(P.log(), Q.log())).sum().item() == pytest.approx(KL_PQ)
    assert (P * kl_k3(P.log(), Q.log())).sum().item() == pytest.approx(KL_PQ)
    assert (kl_k3(P.log(), Q.log()) >= 0).all()
    assert abs((P * kl_k2(P.log(), Q.log())).sum().item() - KL_PQ) > 0.1


def test_full_kl_by_hand_and_against_torch():
    """KL(P ‖ Q) = 0.2 log ⅓ + 0.5 log 5, of logits shifted by any constant; not KL(Q ‖ P)."""
    full = kl_full(torch.stack([P.log() + 7, Q.log()]), torch.stack([Q.log() - 3, P.log()]))
    torch.testing.assert_close(full, torch.tensor([KL_PQ, KL_QP], dtype=torch.float64))
    logits, ref_logits = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=ref_logits)
    )
    torch.testing.assert_close(kl_full(logits, ref_logits), expected)


@pytest.mark.parametrize("wrong", [lambda p, q: kl_full(q, p), lambda p, q: -kl_full(p, q),
                                   lambda p, q: kl_full(p, q) / 3], ids=["reversed", "sign", "mean"])  # fmt: skip
def test_wrong_full_kl_is_caught(wrong):
    assert wrong(P.log(), Q.log()).item() != pytest.approx(KL_PQ)


def test_full_kl_with_forbidden_tokens():
    """π on two of three tokens, half each; π_ref a third each: log 3/2, with clean gradients."""
    logits = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    ref_logits = torch.zeros(3)
    kl = kl_full(logits, ref_logits)
    kl.backward()
    assert kl.item() == pytest.approx(math.log(1.5))
    assert logits.grad.isfinite().all()
    assert kl_full(logits.detach(), logits.detach()).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_full_kl_of_logits_ten_thousand_apart(dtype):
    """π is certain of what π_ref gives exp(-10⁴) = 0: the KL is 10⁴ (9984 in bfloat16). Finite gradients."""
    logits = torch.tensor([1e4, 0.0], dtype=dtype, requires_grad=True)
    kl = kl_full(logits, logits.detach().flip(0))
    kl.backward()
    assert kl.dtype == torch.float32
    assert kl.item() == logits[0].item()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rao_blackwell_sums_in_float32(dtype):
    """Forty KLs of 10⁴ sum to 4 · 10⁵, past float16; Σ_t (39 - t) · 10⁴ · -1 takes 7.8 · 10⁶ off again."""
    kl = torch.full((1, 40), 1e4, dtype=dtype)
    loss = rao_blackwellized_kl_loss(kl, torch.full((1, 40), -1.0, dtype=dtype), torch.ones(1, 40))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((40 - 780) * kl[0, 0].item())


@pytest.mark.parametrize("difference", [-1e4, 1e4])
def test_log_ratios_of_ten_thousand(difference):
    """k1 and k2 exactly, never clamped; k3 finite where exp(10⁴) is not; gradients finite."""
    logps = torch.tensor([difference], requires_grad=True)
    zero = torch.zeros(1)
    assert kl_k1(logps, zero).item() == difference
    assert kl_k2(logps, zero).item() == 5e7
    k3 = kl_k3(logps, zero)
    k3.sum().backward()
    assert k3.isfinite().all()
    assert logps.grad.isfinite().all()
    assert difference < 0 or k3.item() == 1e4 - 1


def test_k3_is_accurate_near_zero():
    """k3 ≈ ½ d² for d = 10⁻³: a naive exp(d) - 1 in float32 has an error of its own size."""
    assert kl_k3(torch.tensor([1e-3]), torch.zeros(1)).item() == pytest.approx(0.5e-6, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_differences_are_taken_in_float32(dtype):
    a, b = torch.tensor([-100.5], dtype=dtype), torch.tensor([-0.125], dtype=dtype)
    for k in (kl_k1, kl_k2, kl_k3):
        assert k(a, b).dtype == torch.float32
        assert torch.equal(k(a, b), k(a.float(), b.float()))
    rewards = kl_penalized_rewards(torch.tensor([0.1], dtype=dtype), a[None], b[None], torch.ones(1, 1), 0.3)
    assert rewards.dtype == torch.float32


# A token after a gap, a row that ends early, a full row, an empty row; NaN wherever the mask is 0.
MASK = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
LOGPS = torch.where(MASK == 1, -1.0, math.nan)
REF_LOGPS = torch.where(MASK == 1, -3.0, math.nan)
SCORES = torch.tensor([10.0, 20.0, 30.0, math.nan])


def check_rewards(function):
    """k1 = 2 everywhere and β = 0.1: -0.2 a token, the score on the last one of each row, nothing on an empty row."""
    expected = [[-0.2, 0, 9.8, 0], [19.8, 0, 0, 0], [-0.2, -0.2, -0.2, 29.8], [0, 0, 0, 0]]
    torch.testing.assert_close(function(SCORES, LOGPS, REF_LOGPS, MASK, 0.1), torch.tensor(expected))


def clean(x):
    return x.nan_to_num(0.0)


def test_penalized_rewards_by_hand():
    check_rewards(kl_penalized_rewards)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s, p, q, m, b: kl_penalized_rewards(s, q, p, m, b),
        lambda s, p, q, m, b: kl_penalized_rewards(-s, p, q, m, b),
        lambda s, p, q, m, b: kl_penalized_rewards(s, p, q, m, 1.0),
        lambda s, p, q, m, b: -b * kl_k3(clean(p), clean(q)) + kl_penalized_rewards(s, p, q, m, 0.0),
        lambda s, p, q, m, b: kl_penalized_rewards(s, p, q, m, b).roll(1, 1),
        lambda s, p, q, m, b: kl_penalized_rewards(s, clean(p), clean(q), torch.ones_like(m), b),
        lambda s, p, q, m, b: kl_penalized_rewards(0 * s, p, q, m, b) + clean(s)[:, None] * m,
        lambda s, p, q, m, b: kl_penalized_rewards(s, p, q, m, b) - b * clean(p - q),
        lambda s, p, q, m, b: kl_penalized_rewards(s / m.sum(1), p, q, m, b),
        lambda s, p, q, m, b: (-b * (p - q)) * m + kl_penalized_rewards(s, p, p, m, b),
        lambda s, p, q, m, b: kl_penalized_rewards(s, p, q, m.cumsum(1).eq(1) * m, b),
    ],
    ids=["KL's sign", "score's sign", "beta ignored", "k3 in the reward", "one slot late", "score on the last column",
         "score on every token", "KL counted twice", "score divided by length", "NaN times 0", "first token only"],
)  # fmt: skip
def test_wrong_rewards_are_caught(wrong):
    with pytest.raises(AssertionError):
        check_rewards(wrong)


def test_rewards_sum_to_the_course_reward():
    """Σ_t r_t = RM(s) - β log(π(s) / π_ref(s)), the notes' (2.1), whatever the mask."""
    g = torch.Generator().manual_seed(0)
    logps, ref_logps = torch.randn(2, 50, 6, generator=g, dtype=torch.float64)
    scores = torch.randn(50, generator=g, dtype=torch.float64)
    mask = torch.rand(50, 6, generator=g) < 0.6
    mask[:, 2] = True
    total = kl_penalized_rewards(scores, logps, ref_logps, mask, 0.3).sum(1)
    torch.testing.assert_close(total, scores - 0.3 * ((logps - ref_logps) * mask).sum(1))


def test_rewards_are_data():
    logps = torch.randn(2, 3, requires_grad=True)
    assert not kl_penalized_rewards(torch.ones(2), logps, torch.randn(2, 3), torch.ones(2, 3), 0.1).requires_grad


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_padding_and_splits(seed, batch, cut, extra):
    g = torch.Generator().manual_seed(seed)
    logps, ref_logps = torch.randn(2, batch, 4, generator=g)
    mask, scores = torch.rand(batch, 4, generator=g) < 0.6, torch.randn(batch, generator=g)
    pad = torch.nn.functional.pad
    wide_logps, wide_ref = (pad(x, (extra, 1), value=math.nan) for x in (logps, ref_logps))
    wide_mask = pad(mask, (extra, 1))
    for function, row_argument in ((kl_penalized_rewards, True), (rao_blackwellized_kl_loss, False)):
        arguments = (scores, logps, ref_logps, mask, 0.1) if row_argument else (ref_logps, logps, mask)
        wide = (scores, wide_logps, wide_ref, wide_mask, 0.1) if row_argument else (wide_ref, wide_logps, wide_mask)
        halves = [function(*(x[s] if torch.is_tensor(x) else x for x in wide)) for s in (slice(cut), slice(cut, None))]
        joined = torch.cat(halves)
        joined = joined[:, extra : extra + 4] if row_argument else joined
        torch.testing.assert_close(joined, function(*arguments))


def check_rao_blackwell(function):
    """KL_t = 1, 2, (masked), 4. Future KL: 6, 4, -, 0. With log-probs -1, -2, -, -3: L = 7 + 6·-1 + 4·-2 = -7;
    gradients 1 on each KL_t that counts, 6, 4, 0 on the log-probs."""
    kl = torch.tensor([[1.0, 2.0, math.nan, 4.0]], requires_grad=True)
    logps = torch.tensor([[-1.0, -2.0, math.nan, -3.0]], requires_grad=True)
    loss = function(kl, logps, torch.tensor([[1, 1, 0, 1]]))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([-7.0]))
    assert kl.grad.tolist() == [[1.0, 1.0, 0.0, 1.0]]
    assert logps.grad.tolist() == [[6.0, 4.0, 0.0, 0.0]]


def test_rao_blackwell_by_hand():
    check_rao_blackwell(rao_blackwellized_kl_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda k, p, m: k.where(m == 1, 0.0).sum(1),
        lambda k, p, m: rao_blackwellized_kl_loss(k, -p, m),
        lambda k, p, m: rao_blackwellized_kl_loss(k, p, m) + (k.detach() * p).where(m == 1, 0.0).sum(1),
        lambda k, p, m: rao_blackwellized_kl_loss(k.detach(), p, m) + 0 * k.nan_to_num().sum(),
        lambda k, p, m: rao_blackwellized_kl_loss(k.nan_to_num(9.0), p.nan_to_num(0.0), torch.ones_like(m)),
    ],
    ids=["no score term", "score's sign", "present KL in the score", "no pathwise term", "mask ignored"],
)
def test_wrong_rao_blackwell_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_rao_blackwell(wrong)
