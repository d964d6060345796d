"""What goes wrong in a run: a kill costs a rollout at most, a bad reward stops it, odd completions are handled."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import checkpoint_to_resume
from tests.trainers.rollouts import PROMPTS, given, history, rollout_of

ROWS = [{"prompt": f"{p} {i}"} for i in range(2) for p in PROMPTS]
# Three rollouts of 4 updates, the middle one saved: the kill falls into the third, or into its save.
SETTINGS = dict(rows=ROWS, max_steps=12, save_strategy="steps", save_steps=4, target_kl=0.5, kl_horizon=40)


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def in_generation(trainer):
    generate = trainer._generate

    def until_the_third(prompts):
        return die() if trainer.state.global_step == 8 else generate(prompts)

    trainer._generate = until_the_third


def in_an_update(trainer):
    compute = trainer._compute_loss

    def until_the_tenth(model, inputs):
        return die() if trainer.state.global_step == 9 and trainer._step % 2 else compute(model, inputs)

    trainer._compute_loss = until_the_tenth


def in_a_save(trainer):
    """After the model and before the optimizer of checkpoint-12."""
    save = trainer._save_optimizer_and_scheduler
    trainer._save_optimizer_and_scheduler = lambda path: die() if trainer.state.global_step == 12 else save(path)


@pytest.fixture(scope="module")
def straight_run():
    return {}


@pytest.mark.parametrize("plant", [in_generation, in_an_update, in_a_save])
def test_a_killed_run_goes_on_bit_for_bit(make_ppo, tmp_path, straight_run, plant):
    """`kill -9`, then `--resume_from_checkpoint auto`: parameters, critic, optimizer, controller and logs are those of
    the run that was not killed, and no more than one rollout is done again."""
    if not straight_run:
        straight = make_ppo(output_dir=str(tmp_path / "straight"), **{**SETTINGS, "save_strategy": "no"})
        straight.train()
        straight_run["trainer"] = straight
    straight, folder = straight_run["trainer"], str(tmp_path / "killed")
    child = os.fork()
    if child == 0:  # pragma: no cover
        trainer = make_ppo(output_dir=folder, **SETTINGS)
        plant(trainer)
        trainer.train()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    checkpoint = checkpoint_to_resume(SimpleNamespace(resume_from_checkpoint="auto", output_dir=folder))
    assert checkpoint.endswith("checkpoint-8")
    resumed = make_ppo(output_dir=folder, **SETTINGS)
    resumed.train(resume_from_checkpoint=checkpoint)
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        for name, moment in straight.optimizer.state.get(p, {}).items():
            assert torch.equal(moment, resumed.optimizer.state[q][name]), name
    assert resumed.memory.beta == straight.memory.beta != 0.1
    for name in ("reward", "beta", "kl", "loss/policy", "loss/value", "learning_rate"):
        assert history(straight, name) == history(resumed, name), name


async def later(completions, **columns):
    return [0.0] * (len(completions) - 1)


def broke(completions, **columns):
    raise KeyError("no such answer")


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        (lambda completions, **_: [float("nan")] * len(completions), InputError, "row 0 of the batch got nan"),
        (lambda completions, **_: [0.0, -float("inf")] * 4, InputError, "row 1 of the batch got -inf"),
        (lambda completions, **_: ["good"] * len(completions), InputError, "row 0 of the batch got good"),
        (lambda completions, **_: [0.0], InputError, "returned 1 rewards for 8 completions"),
        (lambda completions, **_: None, InputError, "returned None for 8 completions"),
        (lambda completions, **_: [0.0] * 7 + [None], InputError, "all gave None for a completion"),
        (later, InputError, "'later': returned 7 rewards for 8 completions"),
        (broke, KeyError, "no such answer"),
    ],
)
def test_a_bad_reward_stops_the_run_before_it_reaches_the_policy(make_ppo, reward, error, message):
    trainer = make_ppo(reward_funcs=reward)
    before = [p.clone() for p in trainer.model.parameters()]
    with pytest.raises(error, match=message) as raised:
        trainer.train()
    assert all(map(torch.equal, before, trainer.model.parameters()))
    if error is KeyError:
        assert raised.value.__notes__ == ["raised by reward function 'broke'"]


def test_one_function_may_have_no_opinion(make_ppo):
    """The documented skip: None of one function counts as nothing, the other's reward stands."""
    trainer = make_ppo(
        reward_funcs=[lambda **_: [1.0, 2.0], lambda **_: [None, 4.0]], beta=0.0, lam=1.0, normalize_advantages=False
    )
    assert given(trainer, [[9], [10]])["returns"][:, 0].tolist() == [1, 6]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("completion", [["EOS"], [9], [9, 10, 11]], ids=["EOS alone", "one token", "none complete"])
def test_odd_rollouts_leave_finite_updates(make_ppo, completion, masked):
    """All are the EOS alone, one token, or cut; with the cut ones left out of the loss, two of these leave none."""
    trainer = make_ppo(mask_truncated_completions=masked, missing_eos_penalty=1.0, whiten_rewards=True)
    ids = [trainer.processing_class.eos_token_id if i == "EOS" else i for i in completion]
    trainer._generate = lambda prompts: ([[5]] * 8, [ids] * 8, ["w", "a"] * 4)
    before = [p.clone() for p in trainer.model.parameters()]
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    learns = not (masked and completion != ["EOS"])
    assert any(not torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True)) == learns
    assert all(abs(loss) < 100 for loss in history(trainer, "loss"))


def test_an_empty_prompt_is_named(make_ppo):
    with pytest.raises(InputError, match="row 1 of the batch has no tokens; start prompts with the BOS"):
        make_ppo(rows=[{"prompt": "a"}, {"prompt": ""}] * 4)
    trainer = make_ppo()
    with pytest.raises(InputError, match="row 0 of the batch has no tokens"):
        trainer._prepare_inputs([{"prompt": ""}] * 8)
    assert rollout_of(trainer)[0]["completion_mask"].sum() > 0
