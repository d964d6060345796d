"""A lesson: why a fit that *averages* the Huber loss stops early, and what that did to a famous law."""

import torch
from numpy.typing import ArrayLike

from hfcourse.scaling.laws import HUBER_DELTA, ScalingLaw, checked_runs

# log A, log B, log E, α, β. One point of a grid like the paper's.
START = (5.0, 5.0, 0.5, 0.3, 0.3)


def fit_with_stock_optimizer(
    num_params: ArrayLike,
    num_tokens: ArrayLike,
    losses: ArrayLike,
    reduction: str = "sum",
    start: tuple[float, ...] = START,
) -> ScalingLaw:
    """The same fit by `torch.optim.LBFGS` as it comes, from one start, with the loss summed or averaged.

    The optimizer stops when no gradient exceeds 1e-7 or the loss changes by less than 1e-9. Those are absolute. At the
    optimum of Chinchilla's runs the sum is 8e-4 and the mean 234 times smaller, so that averaged, a change of 3 parts
    in 10,000 already counts as none: it stops on the slope, with log A and log B about where it was told to start, and
    reports that as the law (https://huggingface.co/papers/2404.10102). Of 64 starts of a grid none arrives, of the
    sum's every fifth does. Sum, and make tolerances relative, as `fit_scaling_law` does.

    Args:
        reduction: "sum" or "mean".
        start: (log A, log B, log E, α, β).
    """
    runs = [torch.from_numpy(column) for column in checked_runs(num_params, num_tokens, losses)]
    log_n, log_d, log_loss = (column.log() for column in runs)
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=2000, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        a, b, e, alpha, beta = theta
        terms = torch.stack([a - alpha * log_n, b - beta * log_d, e.expand_as(log_n)])
        prediction = torch.logsumexp(terms, 0)
        loss = torch.nn.functional.huber_loss(prediction, log_loss, reduction=reduction, delta=HUBER_DELTA)
        loss.backward()
        return loss

    optimizer.step(closure)
    a, b, e, alpha, beta = theta.tolist()
    return ScalingLaw(*torch.tensor([e, a, b], dtype=torch.float64).exp().tolist(), alpha, beta)
