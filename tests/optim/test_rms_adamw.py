"""RMS-scaled AdamW is AdamW with a learning rate of its own for each matrix."""

import copy

import pytest
import torch

from hfcourse.optim import RMSScaledAdamW


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()


def backward(net, seed):
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    net.zero_grad()
    net(x).square().sum().backward()


def rms(p):
    return max(p.detach().square().mean().sqrt().item(), 1e-3)


def test_it_is_torchs_adamw_with_a_rate_for_each_matrix():
    """Ten steps of torch's AdamW, each parameter a group whose rate is η·RMS(θ) and whose decay is λ/RMS(θ)."""
    ours, theirs = model(), model()
    ours[2].bias.data.zero_()  # RMS 0: the floor ε₂ = 1e-3
    theirs[2].bias.data.zero_()
    optimizer = RMSScaledAdamW(ours.parameters(), lr=0.02, betas=(0.9, 0.98), weight_decay=0.1)
    reference = torch.optim.AdamW([{"params": [p]} for p in theirs.parameters()], betas=(0.9, 0.98), eps=1e-6)
    for step in range(10):
        for group in reference.param_groups:
            scale = rms(group["params"][0])
            group["lr"], group["weight_decay"] = 0.02 * scale, 0.1 / scale
        for net, opt in ((ours, optimizer), (theirs, reference)):
            backward(net, step)
            opt.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-12, rtol=0)


def test_the_first_step_by_hand():
    """θ = (3, 4), g = (1, -2): m̂/√v̂ = (1, -1), RMS(θ) = √12.5, so θ ← θ - 0.1·√12.5·(1, -1)."""
    theta = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = RMSScaledAdamW([theta], lr=0.1, eps=0.0)
    theta.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
    optimizer.step()
    expected = [3 - 0.1 * 12.5**0.5, 4 + 0.1 * 12.5**0.5]
    assert theta.tolist() == pytest.approx(expected, abs=1e-12)


def test_steps_are_relative():
    """A parameter a hundred times as large moves a hundred times as far; plain AdamW moves both alike."""
    moved = []
    for size in (1.0, 100.0):
        theta = torch.nn.Parameter(torch.full((4,), size, dtype=torch.float64))
        optimizer = RMSScaledAdamW([theta], lr=0.01, eps=0.0)
        theta.grad = torch.ones(4, dtype=torch.float64)
        optimizer.step()
        moved.append(size - theta[0].item())
    assert moved[1] / moved[0] == pytest.approx(100, rel=1e-9)


def test_state_is_saved_and_a_late_parameter_starts_anew():
    whole, halved = model(), model()
    optimizer = RMSScaledAdamW(whole.parameters())
    first = RMSScaledAdamW(halved.parameters())
    for step in range(2):
        for net, opt in ((whole, optimizer), (halved, first)):
            backward(net, step)
            opt.step()
    second = RMSScaledAdamW(halved.parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for net, opt in ((whole, optimizer), (halved, second)):
        backward(net, 2)
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), halved.parameters(), strict=True))

    early, late = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = RMSScaledAdamW([early, late], lr=0.1, eps=0.0)
    early.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    late.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert late[0].item() == pytest.approx(0.9, abs=1e-12)  # its own first step, with its own bias correction
    assert optimizer.state[early]["step"] == 2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        RMSScaledAdamW([torch.nn.Parameter(torch.ones(1))], lr=-1.0)
