"""L(N, D) = E + A/N^α + B/D^β: the law, its fit to runs (Chinchilla's approach 3), and what it says about a budget."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.errors import InputError
from hfcourse.scaling.bfgs import minimize

FLOPS_PER_PARAM_TOKEN = 6  # C = 6 N D: 2 forward, 4 backward, a multiply and an add a parameter and token
HUBER_DELTA = 1e-3
GRID = np.array([0.05, 0.15, 0.3, 0.45, 0.6, 0.8, 1.1, 1.5])  # of α and of β; E, A and B follow from them
MIN_SIZES = 3


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A/N^α + B/D^β, in nats a token (https://huggingface.co/papers/2203.15556, Eq. 2).

    E: what no model can predict, the entropy of the text. A/N^α: what a model of N parameters cannot hold, were it
    trained forever. B/D^β: what D tokens do not teach. Fields may be arrays, one entry a law (see `bootstrap`).
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, num_params: ArrayLike, num_tokens: ArrayLike) -> NDArray:
        """L(N, D), elementwise."""
        return self.E + _term(self.A, self.alpha, num_params) + _term(self.B, self.beta, num_tokens)

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of N* ∝ C^a and D* ∝ C^b: a = β/(α+β), b = α/(α+β)."""
        return self.beta / (self.alpha + self.beta), self.alpha / (self.alpha + self.beta)

    def compute_optimal(self, flops: ArrayLike) -> tuple[NDArray, NDArray]:
        """(N*, D*) with the smallest loss among those with 6 N D = C (Eq. 4 of the paper).

        N* = G (C/6)^a     D* = (C/6)^b / G     G = (αA / βB)^(1/(α+β))
        """
        a, b = self.exponents
        # In logarithms: A and B of a poorly determined law overflow where their ratio does not.
        log_g = (np.log(self.alpha / self.beta) + np.log(self.A) - np.log(self.B)) / (self.alpha + self.beta)
        log_c = np.log(np.asarray(flops, dtype=np.float64) / FLOPS_PER_PARAM_TOKEN)
        return np.exp(log_g + a * log_c), np.exp(b * log_c - log_g)

    def optimal_loss(self, flops: ArrayLike) -> NDArray:
        """The smallest loss that a budget buys: L(N*, D*)."""
        return self.loss(*self.compute_optimal(flops))

    def exchange_rate(self, num_params: ArrayLike, num_tokens: ArrayLike) -> NDArray:
        """Per cent of tokens that one per cent of parameters stands for at equal loss: (αA/N^α) / (βB/D^β).

        It is -d log D / d log N along L = const, and 1 where the model is compute-optimal. Below 1 the model is too
        large for its tokens.
        """
        of_params = self.alpha * _term(self.A, self.alpha, num_params)
        return of_params / (self.beta * _term(self.B, self.beta, num_tokens))

    def tokens_for(self, loss: ArrayLike, num_params: ArrayLike) -> NDArray:
        """D with L(N, D) = loss: what a smaller model, cheaper to run, costs in tokens. Infinite where it cannot."""
        gap = np.asarray(loss - self.E - _term(self.A, self.alpha, num_params), dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(gap > 0, np.power(self.B / np.where(gap > 0, gap, 1), 1 / self.beta), np.inf)


def _term(height: ArrayLike, exponent: ArrayLike, x: ArrayLike) -> NDArray:
    """height / x^exponent, in logarithms: of a bootstrapped law both may be too large or small for a float."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.exp(np.log(height) - exponent * np.log(x))


def fit_scaling_law(
    num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike, delta: float = HUBER_DELTA
) -> ScalingLaw:
    """Fit the law to finished runs: Chinchilla's approach 3, from 64 starts at once, in well under a second.

        min Σ_i Huber_δ( log L̂(N_i, D_i) - log L_i )     log L̂ = logsumexp(a - α log N, b - β log D, e)

    with a = log A, b = log B, e = log E. It is a *sum*: averaged, the objective is so small that an optimizer with
    absolute tolerances stops early (`hfcourse.scaling.early_stopping`, https://huggingface.co/papers/2404.10102).

    Args:
        num_params: (n,), N of each run. Whether it counts embeddings is yours to say and to keep to.
        num_tokens: (n,), D, the tokens that a run read before its learning rate had decayed.
        losses: (n,), in nats a token.
        delta: residuals of log-loss beyond it count by their size, not their square.

    Raises:
        InputError: columns of different lengths, values that are not positive, fewer than 3 sizes or token counts, or
            losses that do not fall with one of them.
    """
    runs = checked_runs(num_params, num_tokens, losses)
    points, values = minimize(huber_objective(*runs, delta), _starts(*runs))
    law = law_of(points[np.nanargmin(values)], *runs[:2])
    for name, exponent, height in (("num_params", law.alpha, law.A), ("num_tokens", law.beta, law.B)):
        if exponent <= 0 or not np.isfinite(height):
            raise InputError(
                f"losses: do not fall with {name} as a power (exponent {exponent:.2g}); look for runs that diverged "
                "or had not begun to learn"
            )
    return law


def checked_runs(num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """The three columns as float64. Raises InputError where a law cannot be told from them."""
    columns = {"num_params": num_params, "num_tokens": num_tokens, "losses": losses}
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    if len({column.shape for column in columns.values()}) > 1 or columns["losses"].ndim != 1:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise InputError(f"{shapes}: must be three columns of one length")
    for name, column in columns.items():
        bad = ~(np.isfinite(column) & (column > 0))
        if bad.any():
            raise InputError(f"{name}: row {bad.argmax()} is {column[bad.argmax()]:g}; it must be positive and finite")
    for name in ("num_params", "num_tokens"):
        distinct = len(np.unique(columns[name]))
        if distinct < MIN_SIZES:
            raise InputError(f"{name}: {distinct} distinct values; E, A, B, α and β need at least {MIN_SIZES}")
    if len(columns["losses"]) < 5:
        raise InputError(f"{len(columns['losses'])} runs cannot tell five constants; make at least 5")
    return tuple(columns.values())


def objective_of(
    law: ScalingLaw, num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike, delta: float = HUBER_DELTA
) -> float:
    """Σ Huber_δ(log L̂ - log L), what [`fit_scaling_law`] minimises, at a given law."""
    residuals = np.log(law.loss(num_params, num_tokens)) - np.log(losses)
    return float(_huber(residuals, delta)[0].sum())


def huber_objective(num_params: NDArray, num_tokens: NDArray, losses: NDArray, delta: float):
    """The objective and its gradient for a batch of θ = (e, a', b', α, β), (S, 5).

    a' = a - α·mean(log N) and b' likewise: the height of a term in the middle of the runs hardly depends on its slope,
    where a and α, far from the runs, are all but one parameter. That is most of the speed.

    Args:
        losses: (n,), or (S, n) where each row of the batch has losses of its own.
    """
    (x, y), targets = _centred(num_params, num_tokens), np.log(losses)

    def objective(theta: NDArray, rows: NDArray) -> tuple[NDArray, NDArray]:
        e, a, b, alpha, beta = theta.T[:, :, None]
        with np.errstate(over="ignore", invalid="ignore"):  # a step too far is found out by its value
            of_params, of_tokens = np.exp(a - alpha * x), np.exp(b - beta * y)
            total = np.exp(e) + of_params + of_tokens
            values, slopes = _huber(np.log(total) - (targets if targets.ndim == 1 else targets[rows]), delta)
            slopes = slopes / total
            by_params, by_tokens = slopes * of_params, slopes * of_tokens
            columns = (slopes * np.exp(e), by_params, by_tokens, -by_params * x, -by_tokens * y)
        return values.sum(1), np.stack([column.sum(1) for column in columns], 1)

    return objective


def _huber(residuals: NDArray, delta: float) -> tuple[NDArray, NDArray]:
    """Values and derivatives: r²/2 up to δ, δ(|r| - δ/2) beyond."""
    clipped = np.clip(residuals, -delta, delta)
    return clipped * (residuals - clipped / 2), clipped


def _starts(num_params: NDArray, num_tokens: NDArray, losses: NDArray) -> NDArray:
    """(64, 5): for each α and β of the grid, the E, A and B that least squares give, kept positive."""
    x, y = _centred(num_params, num_tokens)
    alpha, beta = (grid.reshape(-1, 1) for grid in np.meshgrid(GRID, GRID))
    terms = np.stack([np.ones((len(alpha), len(x))), np.exp(-alpha * x), np.exp(-beta * y)], 2)
    relative = terms / losses[None, :, None]  # residuals relative to the loss are those of its logarithm
    solution = np.linalg.pinv(relative) @ np.ones(len(x))
    heights = np.log(np.maximum(solution, 1e-2 * losses.min()))
    return np.concatenate([heights, alpha, beta], 1)


def _centred(num_params: NDArray, num_tokens: NDArray) -> tuple[NDArray, NDArray]:
    x, y = np.log(num_params), np.log(num_tokens)
    return x - x.mean(), y - y.mean()


def law_of(theta: NDArray, num_params: NDArray, num_tokens: NDArray) -> ScalingLaw:
    """The law of θ (5,), or of each row of θ (S, 5)."""
    e, a, b, alpha, beta = np.moveaxis(theta, -1, 0)
    with np.errstate(over="ignore"):
        A = np.exp(a + alpha * np.log(num_params).mean())
        B = np.exp(b + beta * np.log(num_tokens).mean())
    fields = (np.exp(e), A, B, alpha, beta)
    return ScalingLaw(*(float(field) if theta.ndim == 1 else field for field in fields))


def theta_of(law: ScalingLaw, num_params: NDArray, num_tokens: NDArray) -> NDArray:
    """θ (5,) of a law: the inverse of [`law_of`]."""
    a = np.log(law.A) - law.alpha * np.log(num_params).mean()
    b = np.log(law.B) - law.beta * np.log(num_tokens).mean()
    return np.array([np.log(max(law.E, 1e-12)), a, b, law.alpha, law.beta])
