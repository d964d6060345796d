"""The details on which PPO stands or falls, one test each; with `broken` each sees the detail broken, and must say so.

Others are proved, and broken, against the exact gradient: tests/trainers/test_exact_gradients.py.
"""

import copy

import pytest
import torch

from hfcourse.errors import InputError
from hfcourse.models import token_stats
from hfcourse.rl import kl_penalized_rewards
from hfcourse.trainers import ppo_trainer, rollout_trainer
from hfcourse.trainers.rollout import pad_rollout
from hfcourse.trainers.rollout_config import OF_VLLM, SAID_BY_THE_CONFIG, WARPERS, RolloutConfig
from tests.trainers.rollouts import PROMPTS, given, history, rollout_of

broken = pytest.mark.parametrize("broken", [False, True], ids=["right", "broken"])


@pytest.fixture
def first_ratio(make_ppo):
    """`ratio_at_step0` of a first update, and whether the trainer warned of it."""

    def measure(caplog, **overrides):
        trainer = make_ppo(max_steps=1, **overrides)
        trainer.train()
        return history(trainer, "ratio_at_step0")[0], any("ratio_at_step0 is" in m for m in caplog.messages)

    return measure


@broken
def test_the_first_ratio_is_one_and_a_warning_says_when_not(first_ratio, caplog, monkeypatch, broken):
    """Broken: old log-probs at temperature 1 beside a loss at 0.7, as when generation's own scores are kept."""
    if broken:
        scored = token_stats.token_stats_from_hidden

        def at_temperature_one(hidden, weight, labels, mask, temperature, **options):
            temperature = temperature if torch.is_grad_enabled() else 1.0
            return scored(hidden, weight, labels, mask, temperature, **options)

        monkeypatch.setattr(token_stats, "token_stats_from_hidden", at_temperature_one)
    ratio, warned = first_ratio(caplog, temperature=0.7)
    assert (abs(ratio - 1) > 2e-5, warned) == (broken, broken)


def test_the_first_ratio_in_bf16(first_ratio, caplog):
    """Old log-probs come from the training forward: in bf16 those of `generate` would be up to 5 % off."""
    ratio, warned = first_ratio(caplog, bf16=True)
    assert abs(ratio - 1) < 5e-3
    assert not warned


@broken
def test_dropout_is_off_in_rollouts_and_updates(first_ratio, caplog, tiny_gpt2, broken):
    model = tiny_gpt2(0, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    ratio, warned = first_ratio(caplog, model=model, disable_dropout=not broken)
    assert (abs(ratio - 1) > 2e-5, warned) == (broken, broken)


@broken
def test_positions_are_right_under_left_padding(make_ppo, tiny_gpt2, monkeypatch, broken):
    """A model with absolute positions gives a short prompt the same log-probs alone and beside a long one."""
    trainer = make_ppo(model=tiny_gpt2(3))
    if broken:
        inputs = rollout_trainer.model_inputs

        def without_positions(batch):
            return {name: x for name, x in inputs(batch).items() if name != "position_ids"}

        monkeypatch.setattr(rollout_trainer, "model_inputs", without_positions)
    _, rollout = rollout_of(trainer)
    row = {name: x[1:2] for name, x in rollout.items()}
    with torch.no_grad():
        beside = trainer._forward(trainer.model, row)["logps"]
        alone = trainer._forward(trainer.model, rollout_trainer.trim(row))["logps"]
    assert ((beside[:, : alone.shape[1]] - alone).abs().max() > 2e-5) == broken


@broken
def test_the_score_falls_on_the_last_real_token(make_ppo, monkeypatch, broken):
    """λ = 0, V = 0, β = 0: the only token with a return is the last, EOS or not. Broken: one slot later, as in TRL."""
    if broken:

        def one_late(scores, logps, ref_logps, mask, beta):
            longer = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)[:, :-1]
            return kl_penalized_rewards(scores, logps, ref_logps, longer, 0.0)

        monkeypatch.setattr(ppo_trainer, "kl_penalized_rewards", one_late)
    trainer = make_ppo(beta=0.0, lam=0.0, normalize_advantages=False, reward_funcs=lambda **_: [1.0, 2.0])
    eos = trainer.processing_class.eos_token_id
    rollout = given(trainer, [[9, eos], [9, 10, 11, 12]])
    assert (rollout["returns"].tolist() != [[0, 1, 0, 0], [0, 0, 0, 2]]) == broken


@broken
def test_masks_are_data_where_eos_pads(make_ppo, tiny_tokenizer, monkeypatch, broken):
    """The EOS that the policy chose is an action. Broken: the mask is made from the ids."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    trainer, eos = make_ppo(), tokenizer.eos_token_id
    trainer.processing_class = trainer._tokenizer = tokenizer
    if broken:
        pad = rollout_trainer.pad_rollout

        def from_ids(prompt_ids, completion_ids, pad_id):
            rollout = pad(prompt_ids, completion_ids, pad_id)
            return {**rollout, "completion_mask": (rollout["completion_ids"] != pad_id).long()}

        monkeypatch.setattr(rollout_trainer, "pad_rollout", from_ids)
    rollout = given(trainer, [[8, eos], [9, 10, 11]])
    assert (rollout["completion_mask"].tolist() != [[1, 1, 0], [1, 1, 1]]) == broken


@broken
def test_the_sampled_ids_are_never_tokenised_again(make_ppo, monkeypatch, broken):
    """T, h, e were sampled; the tokenizer would read them back as one token."""
    trainer = make_ppo()
    tokenizer = trainer.processing_class
    sampled = tokenizer.convert_tokens_to_ids(["T", "h", "e"])
    assert tokenizer("The")["input_ids"] != sampled
    if broken:
        pad = rollout_trainer.pad_rollout

        def read_back(prompt_ids, completion_ids, pad_id):
            return pad(prompt_ids, tokenizer(tokenizer.batch_decode(completion_ids))["input_ids"], pad_id)

        monkeypatch.setattr(rollout_trainer, "pad_rollout", read_back)
    ids = given(trainer, [sampled] * 2, ["The"] * 2)["completion_ids"].tolist()
    assert (ids != [sampled] * 2) == broken


@broken
def test_eos_in_the_very_last_slot_is_an_end(make_ppo, broken):
    """Of [9, EOS], [9, 10, EOS], [9, 10, 11] the last alone is fined. Broken: who needs no padding was cut."""
    trainer = make_ppo(
        beta=0.0, lam=1.0, normalize_advantages=False, missing_eos_penalty=2.0, reward_funcs=lambda **_: [1.0] * 3
    )
    eos = trainer.processing_class.eos_token_id
    if broken:
        trainer.eos_token_ids = []
    returns = given(trainer, [[9, eos], [9, 10, eos], [9, 10, 11]])["returns"][:, 0].tolist()
    assert (returns != [1, 1, -1]) == broken


# Each changes what an untrained model with 300 tokens draws. As flags of the config, and as `generation_kwargs`.
FLAGS = {"top_k": 3, "top_p": 0.5, "min_p": 0.5, "repetition_penalty": 3.0}
KWARGS = {
    "min_p": 0.5,
    "top_h": 0.3,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.02,
    "eta_cutoff": 0.5,
    "min_new_tokens": 6,
    "min_length": 99,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[i] for i in range(9, 150)],
    "suppress_tokens": list(range(9, 150)),
    "begin_suppress_tokens": list(range(9, 150)),
    "sequence_bias": [[[9], 5.0]],
    "forced_eos_token_id": 9,
    "exponential_decay_length_penalty": (1, 5.0),
    "guidance_scale": 2.0,
    "watermarking_config": {"bias": 4.0},
}
WARPED = [*((name, {name: x}) for name, x in FLAGS.items())]
WARPED += [(name, {"generation_kwargs": {name: x}}) for name, x in KWARGS.items()]


def drawn_and_scored(trainer):
    """Largest difference between the log-probs that the sampler draws by and those that the loss sees."""
    torch.manual_seed(0)
    prompt_ids = trainer._tokenize_prompts(PROMPTS)[0]
    prompts = pad_rollout(prompt_ids, [[0]] * len(PROMPTS), 0)
    output = trainer.model.generate(
        input_ids=prompts["prompt_ids"],
        attention_mask=prompts["prompt_mask"],
        generation_config=trainer.generation_config,
        output_scores=True,
        return_dict_in_generate=True,
    )
    chosen = output.sequences[:, prompts["prompt_ids"].shape[1] :]
    drawn = torch.stack(output.scores, 1).log_softmax(-1).gather(-1, chosen[..., None]).squeeze(-1)
    ends = [row.index(e) + 1 if (e := trainer.eos_token_ids[0]) in row else len(row) for row in chosen.tolist()]
    rows = [row[:n] for row, n in zip(chosen.tolist(), ends, strict=True)]
    rollout = pad_rollout(prompt_ids, rows, 0)
    rollout["attention_to_completion"] = mask = rollout["completion_mask"]
    scored = trainer._forward(trainer.model.eval(), rollout)["logps"]
    return (drawn[:, : mask.shape[1]] - scored)[mask.bool()].abs().max().item()


@broken
@pytest.mark.parametrize(("name", "settings"), WARPED, ids=[name for name, _ in WARPED])
def test_warpers_other_than_temperature_are_refused(make_ppo, monkeypatch, name, settings, broken):
    """Broken: not refused. Then completions are drawn from another distribution than the one that is scored."""
    if not broken:
        with pytest.raises(InputError, match=name):
            make_ppo(**settings)
        return
    monkeypatch.setattr(RolloutConfig, "_refuse_what_is_not_supported", lambda self: None)
    assert drawn_and_scored(make_ppo(**settings)) > 1e-3


@pytest.mark.parametrize("name", sorted({*WARPERS, *SAID_BY_THE_CONFIG, *OF_VLLM}))
def test_generation_kwargs_leave_the_distribution_alone(make_ppo, name):
    with pytest.raises(InputError, match=name):
        make_ppo(generation_kwargs={name: 2})


def test_at_a_temperature_what_is_drawn_is_what_is_scored(make_ppo):
    assert drawn_and_scored(make_ppo(temperature=0.7)) < 2e-5


@broken
def test_a_model_brings_no_warper_along(make_ppo, tiny_llama, monkeypatch, broken):
    """`generate` reads what it is not told from the model's own generation_config. Broken: nobody looks there."""
    model = tiny_llama(0)
    model.generation_config.update(min_p=0.5, top_k=3, top_p=0.5, repetition_penalty=2.0, typical_p=1.0)
    if broken:
        monkeypatch.setattr(rollout_trainer, "check_generation_config", lambda generation_config: None)
        assert drawn_and_scored(make_ppo(model)) > 1e-3
        return
    with pytest.raises(InputError, match=r"the model's own min_p=0.5"):
        make_ppo(model)
    model.generation_config.min_p = None  # the rest is said anew by the trainer
    assert drawn_and_scored(make_ppo(model)) < 2e-5


@broken
def test_each_epoch_is_a_new_permutation_of_all_rows(make_ppo, monkeypatch, broken):
    """2 epochs × 4 micro-batches / 2 accumulated = 4 updates a rollout. Broken: the same order again."""
    if broken:
        monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))
    trainer = make_ppo()
    assert trainer.args.updates_per_rollout == 4
    orders = []
    trainer.model.train()
    for step in range(8):
        trainer._step = step
        batch = trainer._prepare_inputs([{"prompt": p} for p in PROMPTS])
        rows = zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
        orders.append([tuple(ids[mask.bool()].tolist()) for ids, mask in rows])
    first, second = [row for o in orders[:4] for row in o], [row for o in orders[4:] for row in o]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == len(PROMPTS)
    assert (first == second) == broken


@broken
def test_no_gradient_flows_through_reference_or_advantages(make_ppo, tiny_llama, monkeypatch, broken):
    """Everything in a rollout is data. Broken: the advantages are made of values with their gradient."""
    trainer = make_ppo(ref_model=tiny_llama(1))
    if broken:
        gae = ppo_trainer.generalized_advantage_estimation
        weight = trainer.model.value_head.weight

        def attached(*arguments):
            with torch.enable_grad():
                return tuple(x + weight.sum() for x in gae(*arguments))

        monkeypatch.setattr(ppo_trainer, "generalized_advantage_estimation", attached)
    batch, rollout = rollout_of(trainer)
    assert any(x.requires_grad for x in rollout.values()) == broken
    trainer._compute_loss(trainer.model, batch).backward()
    assert all(p.grad is None and not p.requires_grad for p in trainer.ref_model.parameters())


@broken
def test_loss_and_metrics_do_not_depend_on_padding(make_ppo, monkeypatch, broken):
    """Three more columns of padding. Broken: the loss is divided by the slots, not by the tokens."""
    trainer = make_ppo()
    if broken:
        monkeypatch.setattr(ppo_trainer, "masked_sum", lambda x, mask, _: (x * mask).sum() / mask.numel())
    batch, _ = rollout_of(trainer)
    wider = {n: x if x.dim() < 2 or n.startswith("prompt") else pad_columns(x, 3) for n, x in batch.items()}
    measured = []
    for inputs in (batch, wider):
        trainer._metrics["train"].clear()
        loss = trainer._compute_loss(trainer.model, inputs).item()
        metrics = {n: v[-1] for n, v in trainer._metrics["train"].items() if n != "ratio_at_step0"}
        measured.append({"loss": loss, **metrics})
    assert (measured[0] != pytest.approx(measured[1], abs=1e-6, rel=1e-5)) == broken


def pad_columns(x, n):
    return (
        torch.cat([x, torch.ones_like(x[:, :n])], 1)
        if x.shape[1] >= n and x.dtype.is_floating_point
        else (torch.cat([x, x.new_zeros(len(x), n)], 1))
    )


@broken
def test_metrics_do_not_depend_on_the_split(make_ppo, monkeypatch, broken):
    """An update in one micro-batch of 4 rows or in four of 1. Broken: a mean of unequal micro-batches' means."""
    logged = []
    for size in (4, 1):
        trainer = make_ppo(
            per_device_train_batch_size=size, steps_per_generation=8 // size, gradient_accumulation_steps=4 // size
        )
        rollout = given(trainer, [[9] * (1 + i % 5) for i in range(8)], ["aeiou"[: i % 5] for i in range(8)])
        monkeypatch.setattr(torch, "randperm", torch.arange)
        for batch in trainer._split_into_updates(rollout):
            if broken:
                batch["num_items"] = batch["completion_mask"].sum() * (4 // size)
            trainer._compute_loss(trainer.model, batch)
        metrics = {n: sum(v) / len(v) for n, v in trainer._metrics["train"].items()}
        logged.append({n: metrics[n] for n in ("loss/policy", "loss/value", "entropy")})
    assert (logged[0] != pytest.approx(logged[1], abs=1e-6, rel=1e-5)) == broken


@broken
def test_the_learning_rate_counts_updates(make_ppo, broken):
    """8 updates from 2 rollouts, linearly to 0: in step k of 8 it is 1 - (k-1)/8. Broken: one step a rollout."""
    trainer = make_ppo(max_steps=8, learning_rate=1.0, lr_scheduler_type="linear", optim="sgd")
    if broken:
        trainer.create_scheduler = lambda num_training_steps, optimizer=None: stepped(trainer)
    trainer.train()
    expected = [1 - k / 8 for k in range(8)]
    assert (history(trainer, "learning_rate") != pytest.approx(expected)) == broken


def stepped(trainer):
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: 1 - (step // 4) * 4 / 8)
    return trainer.lr_scheduler
