"""Token log-probs, entropies and their chunked form: by hand, against torch, against brute force."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse import logprobs
from hfcourse.logprobs import TokenStats, token_logps, token_logps_from_hidden, token_stats_from_hidden

HAND_LOGITS = torch.tensor([[0.0, math.log(2), math.log(5)], [math.log(3), 0.0, 0.0]])
HAND_LABELS = torch.tensor([1, 0])


def check_by_hand(function):
    """p = (1, 2, 5)/8 and (3, 1, 1)/5, labels 1 and 0: log ¼ and log ⅗. At T = ½ the odds are squared:
    (1, 4, 25)/30 and (9, 1, 1)/11, so log 2/15 and log 9/11, with H = -Σ p log p."""

    def entropy(*p):
        return -sum(x * math.log(x) for x in p)

    logps, entropies = function(HAND_LOGITS, HAND_LABELS)
    torch.testing.assert_close(logps, torch.tensor([1 / 4, 3 / 5]).log())
    torch.testing.assert_close(entropies, torch.tensor([entropy(1 / 8, 2 / 8, 5 / 8), entropy(0.6, 0.2, 0.2)]))
    logps, entropies = function(HAND_LOGITS, HAND_LABELS, 0.5)
    torch.testing.assert_close(logps, torch.tensor([4 / 30, 9 / 11]).log())
    squared = [entropy(1 / 30, 4 / 30, 25 / 30), entropy(9 / 11, 1 / 11, 1 / 11)]
    torch.testing.assert_close(entropies, torch.tensor(squared))


def make_batch(dtype=torch.float64, seed=0, vocab=11, dim=6):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(3, 5, dim, generator=g, dtype=dtype).requires_grad_()
    weight = torch.randn(vocab, dim, generator=g, dtype=dtype).requires_grad_()
    labels = torch.randint(0, vocab, (3, 5), generator=g)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    return hidden, weight, labels, mask


def test_by_hand():
    check_by_hand(token_logps)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z, y, t=1.0: token_logps(z, y),
        lambda z, y, t=1.0: token_logps(z, y, 1 / t),
        lambda z, y, t=1.0: (token_logps(z, y, t)[0] / t, token_logps(z, y, t)[1]),
        lambda z, y, t=1.0: (token_logps(z, y, t)[0], -token_logps(z, y, t)[1]),
        lambda z, y, t=1.0: (token_logps(z, y, t)[0], token_logps(z, y)[1]),
        lambda z, y, t=1.0: token_logps(z, y.roll(1), t),
    ],
    ids=["T ignored", "times T", "log-prob divided by T", "entropy's sign", "entropy at T = 1", "labels shifted"],
)
def test_wrong_version_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_by_hand(wrong)


def test_agrees_with_torch_distributions_and_their_gradients():
    logits = torch.randn(4, 7, 13, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 13, (4, 7))
    reference = torch.distributions.Categorical(logits=logits / 0.7)
    expected = (reference.log_prob(labels), reference.entropy())
    actual = token_logps(logits, labels, 0.7)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        (ours_grad,) = torch.autograd.grad(ours.sum(), logits, retain_graph=True)
        (theirs_grad,) = torch.autograd.grad(theirs.sum(), logits, retain_graph=True)
        torch.testing.assert_close(ours_grad, theirs_grad)


def test_derivatives_are_those_of_finite_differences():
    """Each alone and both together (the written-out backward has a branch for each), a forbidden token included.

    Weights above 1: the smallest number in log p's place would overflow, and 0 · inf is NaN.
    """
    logits, labels = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.tensor([0, 5, -100, 2])
    forbidden = torch.zeros(6, dtype=torch.float64)
    forbidden[1] = -math.inf
    weights = torch.tensor([2.0, -3.0, 1.5, -2.5], dtype=torch.float64)
    for of_logps, of_entropy in ((1, 0), (0, 1), (1, 1)):

        def scalar(z, of_logps=of_logps, of_entropy=of_entropy):
            logps, entropy = token_logps(z + forbidden, labels, 0.7)
            kept = [part for part, is_kept in ((logps, of_logps), (entropy, of_entropy)) if is_kept]
            return sum((weights * part).sum() for part in kept)

        assert torch.autograd.gradcheck(scalar, logits)


def test_one_tensor_of_the_logits_size_is_kept():
    """Autograd would keep three."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        token_logps(torch.randn(3, 50, requires_grad=True), torch.tensor([1, 2, 3]))
    assert sizes.count(150) == 1


def test_ignored_label_is_zero_and_has_no_gradient():
    logits = torch.randn(2, 5, requires_grad=True)
    logps, entropy = token_logps(logits, torch.tensor([-100, 3]))
    (logps.sum() + entropy.sum()).backward()
    assert logps[0] == 0
    assert entropy[0] == 0
    assert logits.grad[0].abs().sum() == 0
    assert logits.grad[1].abs().sum() > 0


def test_forbidden_tokens_have_no_entropy_and_clean_gradients():
    """Logits (0, 0, -inf): two equal tokens, H = log 2."""
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    logps, entropy = token_logps(logits, torch.tensor([0]))
    (logps + entropy).sum().backward()
    assert entropy.item() == pytest.approx(math.log(2))
    assert logits.grad.isfinite().all()


def test_extreme_logits():
    """A lead of 10⁴: log-probs 0 and -10⁴, entropy 0, nothing infinite."""
    logits = torch.tensor([[1e4, 0.0], [1e4, 0.0]], requires_grad=True)
    logps, entropy = token_logps(logits, torch.tensor([0, 1]))
    (logps + entropy).sum().backward()
    assert logps.tolist() == [0.0, -1e4]
    assert entropy.tolist() == [0.0, 0.0]
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_softmax_runs_in_float32(dtype):
    logits = torch.randn(5, 1000).to(dtype)
    labels = torch.arange(5)
    logps, entropy = token_logps(logits, labels)
    expected = torch.distributions.Categorical(logits=logits.double())
    assert logps.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logps.double(), expected.log_prob(labels), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy.double(), expected.entropy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 8, 9])
@pytest.mark.parametrize("with_bias", [False, True])
def test_from_hidden_equals_all_logits_at_once(chunk_size, with_bias):
    """Same log-probs, entropies, ranks, means and gradients (hidden, head, bias) as the whole logits."""
    hidden, weight, labels, mask = make_batch()
    bias = torch.randn(len(weight), dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    logits = hidden @ weight.T + (bias if with_bias else 0)
    logps, entropy = token_logps(logits, labels, 0.7)
    expected = TokenStats(
        logps * mask, entropy * mask, (logits.argmax(-1) == labels) & mask.bool(), logits.mean(-1) * mask
    )

    stats = token_stats_from_hidden(hidden, weight, labels, mask, 0.7, chunk_size, bias)
    for ours, theirs in zip(stats, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(2, 3, 5, dtype=torch.float64)
    actual_grads = torch.autograd.grad((torch.stack(stats[:2]) * upstream).sum(), inputs)
    expected_grads = torch.autograd.grad((torch.stack(expected[:2]) * upstream).sum(), inputs)
    for ours, theirs in zip(actual_grads, expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not stats.mean_logits.requires_grad
    assert stats.is_top1.dtype == torch.bool


def test_logps_from_hidden_are_the_first_two_stats():
    batch = make_batch()
    stats = token_stats_from_hidden(*batch, 0.7)
    for pair, stat in zip(token_logps_from_hidden(*batch, 0.7), stats[:2], strict=True):
        assert torch.equal(pair, stat)


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_junk_in_masked_slots_changes_nothing(chunk_size):
    hidden, weight, labels, mask = make_batch()
    clean = token_stats_from_hidden(hidden, weight, labels, mask, chunk_size=chunk_size)
    dirty_hidden = hidden.detach().masked_fill(~mask.bool().unsqueeze(-1), math.nan).requires_grad_()
    dirty_labels = labels.masked_fill(~mask.bool(), -100)
    dirty = token_stats_from_hidden(dirty_hidden, weight, dirty_labels, mask, chunk_size=chunk_size)
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a, b)
        assert (b[mask == 0] == 0).all()
    grads = torch.autograd.grad(dirty.logps.sum() + dirty.entropy.sum(), (dirty_hidden, weight))
    assert all(g.isfinite().all() for g in grads)
    assert grads[0][mask == 0].abs().sum() == 0


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_all_masked_is_zero_and_still_reaches_every_parameter(chunk_size):
    hidden, weight, labels, mask = make_batch()
    stats = token_stats_from_hidden(hidden, weight, labels, torch.zeros_like(mask), chunk_size=chunk_size)
    (stats.logps.sum() + stats.entropy.sum()).backward()
    assert all(s.abs().sum() == 0 for s in (stats.logps, stats.entropy, stats.mean_logits))
    assert not stats.is_top1.any()
    assert hidden.grad.abs().sum() == 0
    assert weight.grad.abs().sum() == 0


def test_never_more_than_a_chunk_of_logits_is_saved(monkeypatch):
    """8 rows, 11 tokens, 2 rows a chunk: nothing kept for the backward pass has a vocabulary dimension; at most 22
    logits at once means 2 rows a chunk."""
    hidden, weight, labels, mask = make_batch()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x):
        token_stats_from_hidden(hidden, weight, labels, mask, chunk_size=2)
    assert not [shape for shape in saved if len(shape) == 2 and shape[1] == 11]

    monkeypatch.setattr(logprobs, "MAX_LOGITS_PER_CHUNK", 22)
    calls = []
    monkeypatch.setattr(
        logprobs, "_row_stats", lambda rows, *a, f=logprobs._row_stats: calls.append(len(rows)) or f(rows, *a)
    )
    token_stats_from_hidden(hidden, weight, labels, mask)
    assert calls == [2, 2, 2, 2]


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(chunk_size):
    hidden, weight, labels, mask = make_batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        stats = token_stats_from_hidden(hidden, weight, labels, mask, chunk_size=chunk_size)
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    logps, entropy = token_logps(logits, labels)
    torch.testing.assert_close(stats.logps, logps * mask)
    torch.testing.assert_close(stats.entropy, entropy * mask)
    stats.logps.sum().backward()
    assert hidden.grad.dtype == torch.float32
    assert weight.grad.isfinite().all()


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_independent_of_padding_and_batch(seed, batch, length, chunk_size, extra):
    """A row's statistics do not depend on padding columns, on the other rows, or on the chunk it falls in."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, 4, generator=g, dtype=torch.float64)
    weight = torch.randn(7, 4, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 7, (batch, length), generator=g)
    mask = torch.rand(batch, length, generator=g) < 0.6
    pad = torch.nn.functional.pad
    wide = token_stats_from_hidden(
        pad(hidden, (0, 0, extra, 1), value=math.nan),
        weight,
        pad(labels, (extra, 1), value=-100),
        pad(mask, (extra, 1)),
        chunk_size=chunk_size,
    )
    for row in range(batch):
        alone = token_stats_from_hidden(hidden[row : row + 1], weight, labels[row : row + 1], mask[row : row + 1])
        for a, b in zip(alone, wide, strict=True):
            torch.testing.assert_close(a[0], b[row, extra : extra + length])
