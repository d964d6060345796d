"""PPOTrainer against TRL's last PPO (trl 1.12.0) on the same rollout: golden/trl_ppo.py ran it, its numbers are kept.

TRL whitens advantages with the unbiased variance and we with the biased one: √((n - 1)/n) apart. TRL puts the score
into the slot after EOS, we on EOS: nothing at λ = 1, a factor λ on it otherwise. All else is equal up to rounding.
"""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hfcourse.rl import generalized_advantage_estimation
from hfcourse.trainers.ppo_trainer import PPOConfig, PPOTrainer
from tests.trainers.golden import trl_ppo

GOLDEN = json.loads(Path(trl_ppo.__file__).with_suffix(".json").read_text(encoding="utf-8"))
CLOSE = dict(atol=2e-5, rtol=2e-5)


@pytest.fixture
def make(tmp_path):
    def make(case: str, **overrides):
        args = PPOConfig(
            str(tmp_path), use_cpu=True, per_device_train_batch_size=4, max_completion_length=4, disable_tqdm=True,
            beta=trl_ppo.BETA, epsilon=trl_ppo.EPSILON, cliprange_value=trl_ppo.CLIPRANGE_VALUE,
            vf_coef=trl_ppo.VF_COEF, temperature=trl_ppo.TEMPERATURE, lam=trl_ppo.CASES[case]["lam"], **overrides,
        )  # fmt: skip
        trainer = PPOTrainer(
            trl_ppo.policy(),
            lambda **columns: trl_ppo.SCORES,
            args,
            Dataset.from_dict({"prompt": ["w2"]}),
            processing_class=trl_ppo._tokenizer(PreTrainedTokenizerFast),
            ref_model=trl_ppo.reference(),
        )
        with torch.no_grad():
            trainer.model.value_head.weight.copy_(torch.cos(torch.arange(8.0)))
        return trainer, {name: golden_tensor(x) for name, x in GOLDEN[case].items()}

    return make


def golden_tensor(x):
    return torch.tensor(x) if isinstance(x, list) else x


def rollout_of(case: str) -> dict[str, torch.Tensor]:
    queries, responses = torch.tensor(trl_ppo.QUERIES), torch.tensor(trl_ppo.CASES[case]["responses"])
    mask = (responses != trl_ppo.PAD).long()
    return {
        "prompt_ids": queries,
        "prompt_mask": (queries != trl_ppo.PAD).long(),
        "completion_ids": responses,
        "completion_mask": mask,
        "attention_to_completion": mask,
    }


def credit_of(trainer, case: str, golden) -> tuple[dict, dict]:
    """The rollout as if the old policy had sampled it, and what our trainer makes of it."""
    rollout = rollout_of(case)
    with torch.no_grad():
        stats, ref_logps = trainer._score_rollout(rollout)
    mask = rollout["completion_mask"].bool()
    for ours, theirs in ((stats["logps"], "logps"), (ref_logps, "ref_logps"), (stats["values"], "values")):
        torch.testing.assert_close(ours[mask], golden[theirs][mask], **CLOSE)
    stats["logps"] = golden["old_logps"].where(mask, 0.0)
    scores = torch.tensor(trl_ppo.SCORES)
    return rollout, trainer._assign_credit(rollout, scores, stats, ref_logps) | {"old_per_token_logps": stats["logps"]}


@pytest.mark.parametrize("case", ["cut", "ended"])
def test_advantages_and_returns(make, case):
    trainer, golden = make(case, normalize_advantages=False)
    rollout, credit = credit_of(trainer, case, golden)
    mask = rollout["completion_mask"].bool()
    torch.testing.assert_close(credit["advantages"][mask], golden["advantages"][mask], **CLOSE)
    torch.testing.assert_close(credit["returns"][mask], (golden["advantages"] + golden["values"])[mask], **CLOSE)
    assert golden["advantages"].abs().max() > 1


@pytest.mark.parametrize("case", ["cut", "ended"])
def test_whitened_advantages_but_for_the_deviation(make, case):
    trainer, golden = make(case)
    rollout, credit = credit_of(trainer, case, golden)
    mask = rollout["completion_mask"].bool()
    n = mask.sum()
    assert torch.equal(mask, golden["mask"].bool())
    torch.testing.assert_close(
        credit["advantages"][mask] * ((n - 1) / n).sqrt(), golden["whitened_advantages"][mask], **CLOSE
    )


@pytest.mark.parametrize("case", ["cut", "ended"])
def test_losses_ratios_and_clips(make, case):
    """One micro-batch, their whitened advantages: the losses are means over tokens in both. TRL's value loss counts
    the slot after EOS too, so it is compared where there is none."""
    trainer, golden = make(case)
    rollout, credit = credit_of(trainer, case, golden)
    trainer.model.train()
    trainer._metrics["train"].clear()
    loss = trainer._compute_loss(trainer.model, {**rollout, **credit, "advantages": golden["whitened_advantages"]})
    ours, theirs = {name: x[-1] for name, x in trainer._metrics["train"].items()}, golden["metrics"]
    mask = rollout["completion_mask"].bool()
    assert ours["loss/policy"] == pytest.approx(theirs["loss/policy_avg"], rel=1e-4)
    assert ours["clip_ratio/region_mean"] == pytest.approx(theirs["policy/clipfrac_avg"], abs=1e-6)
    assert 0.2 < ours["clip_ratio/region_mean"] < 0.8
    ratio = (golden["logps"] - golden["old_logps"])[mask].exp().mean().item()
    assert ours["ratio_at_step0"] == pytest.approx(ratio, rel=1e-4)
    if case == "cut":
        assert ours["loss/value"] == pytest.approx(theirs["loss/value_avg"], rel=1e-4)
        assert loss.item() == pytest.approx(
            theirs["loss/policy_avg"] + trl_ppo.VF_COEF * theirs["loss/value_avg"], rel=1e-4
        )


def test_gradients(make):
    """TRL's critic has a trunk of its own with our trunk's weights: the gradients of the two trunks add up to ours."""
    trainer, golden = make("cut")
    rollout, credit = credit_of(trainer, "cut", golden)
    batch = {**rollout, **credit, "advantages": golden["whitened_advantages"]}
    trainer._compute_loss(trainer.model, batch).backward()
    trunk = [p.grad.norm().item() for p in trainer.model.model.parameters()]
    assert trunk == pytest.approx(golden["gradient"]["trunk_norms"], rel=2e-4)
    head = trainer.model.value_head.weight.grad.flatten().tolist()
    assert head == pytest.approx(golden["gradient"]["value_head"], rel=2e-4)


def test_the_score_one_slot_after_eos_is_a_factor_lambda(make):
    """TRL's advantages are our GAE over a row that is one slot longer; on EOS they hold λ · score, ours the score.
    r = -β k1 of EOS; ours: A = r + s - V(EOS); TRL's: A = r + V' - V(EOS) + λ (s - V'), V' of the slot after."""
    case, lam = "ended, lambda 0.95", 0.95
    trainer, golden = make(case, normalize_advantages=False)
    rollout, credit = credit_of(trainer, case, golden)
    mask, scores = rollout["completion_mask"], torch.tensor(trl_ppo.SCORES)
    assert not torch.allclose(credit["advantages"], golden["advantages"] * mask, atol=0.01)
    one_longer = (mask.roll(1, 1) | mask) * (torch.arange(4) <= mask.sum(1, keepdim=True))
    one_longer[:, 0] = 1
    k1 = (golden["old_logps"] - golden["ref_logps"]) * mask
    rewards = -trl_ppo.BETA * k1
    slot = mask.sum(1).clamp(max=3)
    rewards[torch.arange(4), slot] += scores
    theirs, _ = generalized_advantage_estimation(rewards, golden["values"], one_longer, 1.0, lam)
    torch.testing.assert_close(theirs * mask, golden["advantages"] * mask, **CLOSE)
    last = mask.sum(1) - 1
    for i in (0, 1):  # the rows with a slot after EOS
        after = golden["values"][i, last[i] + 1]
        expected = (1 - lam) * (scores[i] - after)
        torch.testing.assert_close(
            credit["advantages"][i, last[i]] - golden["advantages"][i, last[i]], expected, **CLOSE
        )
