"""What a rollout trainer logs: masked means over all processes. hfcourse/trainers/METRICS.md says what each means."""

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from hfcourse.masking import masked_mean, masked_moments, masked_sum, mean_and_variance
from hfcourse.rl import kl_k1, kl_k3

logger = logging.get_logger(__name__)

# float32 rounding between two passes of different shapes stays below 2e-5; a real bug does not.
RATIO_TOLERANCE = {False: 1e-3, True: 5e-2}  # bf16?


class RolloutMetrics:
    """Mixin of [`hfcourse.trainers.rollout_trainer.RolloutTrainer`]."""

    @property
    def _mode_metrics(self) -> dict[str, list[float]]:
        return self._metrics["train" if self.model.training else "eval"]

    def _mean_and_variance(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Over the real tokens of all processes."""
        return mean_and_variance(*self.accelerator.reduce(torch.stack(masked_moments(x, mask)), "sum"))

    def _log_rewards(self, rewards_per_func: Tensor, scores: Tensor):
        for i, name in enumerate(self.reward_func_names):
            column = rewards_per_func[:, i]
            self._mode_metrics[f"rewards/{name}/mean"].append(column.nanmean().item())
            self._logs["rewards"][name].extend(column.tolist())
        self._mode_metrics["reward"].append(scores.mean().item())
        self._mode_metrics["reward_std"].append(scores.std(unbiased=False).item())

    @torch.no_grad()
    def _log_kl(self, scores, logps, ref_logps, mask) -> float:
        """Logs the KL, and returns that of a whole completion, in nats."""
        k1 = kl_k1(logps, ref_logps).where(mask.bool(), 0.0)
        kl_sequence, score = self.accelerator.gather(k1.sum(1)).mean(), self.accelerator.gather(scores).mean()
        self._mode_metrics["kl"].append(self._mean_and_variance(k1, mask)[0].item())
        self._mode_metrics["kl_k3"].append(self._mean_and_variance(kl_k3(logps, ref_logps), mask)[0].item())
        self._mode_metrics["kl_sequence"].append(kl_sequence.item())
        self._mode_metrics["rlhf_reward"].append((score - self.beta * kl_sequence).item())
        self._mode_metrics["beta"].append(self.beta)
        return kl_sequence.item()

    def _log_completions(self, prompts, completions, advantages, mask):
        self._logs["prompt"].extend(gather_object(prompts))
        self._logs["completion"].extend(gather_object(completions))
        per_row = [masked_mean(*row).item() for row in zip(advantages, mask, strict=True)]
        self._logs["advantages"].extend(gather_object(per_row))
        for name, values in self._pending_extra_logs.items():
            self._logs["extra"][name].extend(gather_object(values))
        for name, values in self._pending_metrics.items():
            self._mode_metrics[name].extend(values)
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()

    @torch.no_grad()
    def _log_update(self, inputs, per_token: dict[str, Tensor]):
        """Means over the tokens of an optimizer step: a micro-batch logs its share, and `log` averages the shares."""
        mask = inputs["completion_mask"]
        sums = torch.stack([masked_sum(x, mask, 1) for x in per_token.values()])
        *sums, count = self.accelerator.reduce(torch.cat([sums, mask.sum()[None]]), "sum").tolist()
        totals = dict(zip(per_token, sums, strict=True))
        ratio = totals.pop("ratio") / max(count, 1)
        num_shares = self.args.gradient_accumulation_steps if self.model.training else 1
        num_items = float(inputs.get("num_items", count))
        for name, total in totals.items():
            self._mode_metrics[name].append(total * num_shares / max(num_items, 1))
        if self.model.training and self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            self._mode_metrics["ratio_at_step0"].append(ratio)
            if abs(ratio - 1) > RATIO_TOLERANCE[self.args.bf16]:
                logger.warning(f"ratio_at_step0 is {ratio:.4f}, not 1: the policy is not the one that was sampled")
