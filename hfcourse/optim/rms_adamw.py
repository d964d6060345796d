"""AdamW whose step is relative to the size of what it changes: Adafactor's scaling, which T5 cannot do without."""

from collections import defaultdict

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSScaledAdamW(Optimizer):
    """AdamW with a learning rate relative to each matrix.

        m ← β₁m + (1-β₁)g        v ← β₂v + (1-β₂)g²        m̂ = m/(1-β₁ᵗ)        v̂ = v/(1-β₂ᵗ)
        θ ← θ - η·max(ε₂, RMS(θ))·m̂/(√v̂ + ε) - η·λ·θ        RMS(θ) = ‖θ‖ / √(number of elements)

    The factor max(ε₂, RMS(θ)) is Adafactor's (https://huggingface.co/papers/1804.04235, Section 8); with AdamW's
    second moments and a cosine schedule it trained T5 better than Adafactor did (nanoT5: 1.953 against 1.993 nats).
    Learning rates are relative, so they are larger than AdamW's: 2e-2 there.

    Args:
        params: parameters or groups, as for every optimizer.
        lr: η.
        betas: β₁, β₂. eps: ε. min_rms: ε₂. weight_decay: λ, not scaled by the RMS.
    """

    def __init__(
        self,
        params,
        lr: float = 2e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        min_rms: float = 1e-3,
        weight_decay: float = 0.0,
    ):
        if lr < 0 or eps < 0 or min_rms < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"lr={lr}, betas={betas}, eps={eps}, min_rms={min_rms}: must not be negative, β below 1")
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "min_rms": min_rms, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure=None):
        """One step; returns what the closure returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_steps = defaultdict(list)  # those that got their first gradient late have fewer steps behind them
            for p in group["params"]:
                if p.grad is not None:
                    by_steps[int(self._state_of(p)["step"].item())].append(p)
            for steps, parameters in by_steps.items():
                options = {name: value for name, value in group.items() if name != "params"}
                self._update(parameters, steps + 1, **options)
        return loss

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _update(self, parameters: list[Tensor], step: int, lr, betas, eps, min_rms, weight_decay, **_) -> None:
        grads = [p.grad for p in parameters]
        m, v = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(m, grads, 1 - betas[0])
        torch._foreach_mul_(v, betas[1])
        torch._foreach_addcmul_(v, grads, grads, 1 - betas[1])
        denominators = torch._foreach_sqrt(v)
        torch._foreach_div_(denominators, (1 - betas[1] ** step) ** 0.5)
        torch._foreach_add_(denominators, eps)
        updates = torch._foreach_div(m, denominators)
        scales = torch._foreach_norm(parameters)
        torch._foreach_div_(scales, [p.numel() ** 0.5 for p in parameters])
        torch._foreach_clamp_min_(scales, min_rms)
        torch._foreach_mul_(updates, scales)
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_add_(parameters, updates, alpha=-lr / (1 - betas[0] ** step))
        for p in parameters:
            self.state[p]["step"] += 1
