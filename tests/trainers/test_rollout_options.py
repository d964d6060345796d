"""What the method needs, by the field's names: each option of a rollout does what its help says."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForSequenceClassification

from hfcourse.errors import InputError
from hfcourse.rl import adapted_beta
from hfcourse.trainers import ppo_trainer
from tests.trainers.rollouts import PROMPTS, given, history, rollout_of, vowels

FLAT = dict(beta=0.0, lam=1.0, normalize_advantages=False)  # then the returns of a row are its score


def test_several_generations_a_prompt(make_ppo):
    trainer = make_ppo(num_generations=4, max_steps=1)
    seen = []
    trainer.reward_funcs[0] = lambda *, prompts, **_: seen.extend(prompts) or [0.0] * len(prompts)
    trainer.train()
    assert len(seen) == 8
    assert seen[0] == seen[1] == seen[2] == seen[3] != seen[4]


def test_weighted_functions_sync_and_async_a_model_and_columns(make_ppo, tiny_llama, tiny_tokenizer, tmp_path):
    """2 · length - 1 · bonus + 0.5 · RM, each seeing what it needs; the second has no opinion on row 1."""
    torch.manual_seed(0)
    LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config).save_pretrained(tmp_path / "rm")
    tiny_tokenizer.save_pretrained(tmp_path / "rm")

    def length(completions, **columns):
        return [float(len(text)) for text in completions]

    async def bonus(completions, bonus, **columns):
        return [None if i == 1 else b for i, b in enumerate(bonus)]

    trainer = make_ppo(
        reward_funcs=[length, bonus, str(tmp_path / "rm")],
        reward_weights=[2.0, -1.0, 0.5],
        rows=[{"prompt": p, "bonus": 10.0 * i} for i, p in enumerate(PROMPTS)],
        max_steps=1,
        **FLAT,
    )
    inputs = [{"prompt": "a", "bonus": 3.0}, {"prompt": "b", "bonus": 5.0}]
    eos = tiny_tokenizer.eos_token_id
    rewards = trainer._calculate_rewards(inputs, ["a", "b"], ["x", "yz"], [[9, eos], [9, 10, eos]])
    of_model = rewards[:, 2].tolist()
    assert rewards[:, 0].tolist() == [1, 2]
    assert rewards[0, 1].item() == 3
    assert rewards[1, 1].isnan()
    scores = trainer._scores(inputs, ["a", "b"], ["x", "yz"], [[9, eos], [9, 10, eos]]).tolist()
    assert scores == pytest.approx([2 - 3 + 0.5 * of_model[0], 4 + 0.5 * of_model[1]])
    assert of_model[0] != of_model[1]
    trainer.train()  # the column comes with the dataset's rows too
    assert history(trainer, "rewards/bonus/mean")[0] > 0


def test_functions_may_log_metrics_and_columns_of_their_own(make_ppo):
    def reward(completions, log_metric, log_extra, **columns):
        log_metric("mean_answer_length", 7.0)
        log_extra("first_letter", [text[:1] for text in completions])
        return vowels(None, completions)

    trainer = make_ppo(reward_funcs=reward, max_steps=1)
    trainer.train()
    assert history(trainer, "mean_answer_length") == [7.0]
    assert len(trainer._logs["extra"]["first_letter"]) == len(PROMPTS)


def test_a_chat_is_answered_by_the_assistant(make_ppo):
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    trainer = make_ppo(reward_funcs=reward, rows=[{"prompt": [{"role": "user", "content": p}]} for p in PROMPTS])
    trainer.train()
    prompt, completion = seen[0]
    assert prompt[0]["role"] == "user"
    assert [message["role"] for message in completion] == ["assistant"]
    ids = trainer._tokenize_prompts([prompt])[0][0]
    assert trainer.processing_class.decode(ids).endswith("<|im_start|>assistant\n")


def test_stop_tokens_end_a_completion(make_ppo):
    """Every byte is a stop token: what ends with one has ended, at one token, and is not fined."""
    tokens = [t for t in make_ppo().processing_class.get_vocab() if len(t) == 1]
    trainer = make_ppo(
        stop_tokens=tokens,
        missing_eos_penalty=9.0,
        reward_funcs=lambda *, completions, **_: [1.0] * len(completions),
        **FLAT,
    )
    _, rollout = rollout_of(trainer)
    stops = torch.tensor(trainer.eos_token_ids)
    for ids, mask, returns in zip(
        rollout["completion_ids"], rollout["completion_mask"], rollout["returns"], strict=True
    ):
        chosen = ids[mask.bool()]
        ends = torch.isin(chosen, stops)
        assert not ends[:-1].any()
        assert returns[0].item() == (1.0 if ends[-1] else -8.0)
    assert rollout["completion_mask"].sum(1).min() < 6
    with pytest.raises(InputError, match="'no such' is no token"):
        make_ppo(stop_tokens=["no such"])


def test_long_prompts_are_refused_or_lose_their_beginning(make_ppo):
    rows = [{"prompt": "The red fox " * 80 + "near Oakton"}] * 8
    with pytest.raises(InputError, match=r"row 0 has .* tokens"):
        make_ppo(rows=rows)
    trainer = make_ppo(rows=rows, max_prompt_length=5)
    ids = trainer._tokenize_prompts([rows[0]["prompt"]])[0][0]
    assert ids == trainer.processing_class(rows[0]["prompt"])["input_ids"][-5:]


def test_generation_kwargs_that_leave_the_distribution_alone_are_passed(make_ppo):
    assert make_ppo(generation_kwargs={"max_time": 5.0}).generation_config.max_time == 5.0


def test_adapted_beta_by_hand():
    """KL twice the target: clipped to +0.2, times 256 / 10,000: 1.00512. At half: -0.2. Near: in proportion."""
    assert adapted_beta(0.5, 12.0, 6.0, 256, 10_000) == pytest.approx(0.5 * 1.00512)
    assert adapted_beta(0.5, 1.0, 6.0, 256, 10_000) == pytest.approx(0.5 * 0.99488)
    assert adapted_beta(0.5, 6.6, 6.0, 5_000, 10_000) == pytest.approx(0.5 * 1.05)


def test_beta_follows_the_kl_of_whole_completions_and_is_resumed(make_ppo, tiny_llama, tmp_path):
    """β of each rollout is the last one's, moved by the KL that was logged; a resumed run goes on from it."""
    settings = dict(
        target_kl=0.5, kl_horizon=40, max_steps=12, save_strategy="steps", save_steps=4, learning_rate=5e-3
    )
    trainer = make_ppo(ref_model=tiny_llama(1), output_dir=str(tmp_path / "a"), **settings)
    trainer.train()
    betas, kls = history(trainer, "beta"), history(trainer, "kl_sequence")
    assert betas[0] == 0.1
    for i in range(len(betas) - 1):
        assert betas[i + 1] == pytest.approx(adapted_beta(betas[i], kls[i], 0.5, 8, 40))
    resumed = make_ppo(ref_model=tiny_llama(1), output_dir=str(tmp_path / "b"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-8"))
    assert history(resumed, "beta") == betas
    with pytest.raises(InputError, match=r"target_kl=1.0, beta=0.0"):
        make_ppo(target_kl=1.0, beta=0.0)


def test_rewards_are_centred_on_the_untrained_policy(make_ppo, tmp_path):
    """Means of 16 completions are subtracted; the arbitrary zero of a reward then changes nothing that is learnt."""

    def shifted(prompts, completions, **columns):
        return [x + 8.0 for x in vowels(prompts, completions)]

    settings = dict(num_centering_samples=16, max_steps=4, save_strategy="steps", save_steps=4)
    trainers = []
    for i, reward in enumerate((vowels, shifted)):
        trainers.append(make_ppo(reward_funcs=reward, output_dir=str(tmp_path / str(i)), **settings))
        trainers[-1].train()
    plain, moved = (history(t, "reward") for t in trainers)
    assert moved == pytest.approx(plain, abs=1e-5)
    assert abs(plain[0]) < 0.2
    saved = json.loads(Path(tmp_path, "1", "checkpoint-4", "trainer_state.json").read_text())
    means = saved["stateful_callbacks"]["RolloutMemory"]["attributes"]["reward_means"]
    assert means == pytest.approx([trainers[0].memory.reward_means[0] + 8.0], abs=1e-5)
    raw = given(make_ppo(reward_funcs=lambda **_: [1.0, 2.0], **FLAT), [[9], [10]])["returns"]
    assert raw[:, 0].tolist() == [1, 2]


def test_evaluation_during_training_with_a_table_of_completions(make_ppo, capsys):
    trainer = make_ppo(
        eval_strategy="steps", eval_steps=2, eval_rows=[{"prompt": p} for p in PROMPTS[:4]], log_completions=True
    )
    trainer.train()
    for name in ("eval_reward", "eval_kl_sequence", "eval_completions/mean_length"):
        assert len(history(trainer, name)) == 2, name
    assert history(trainer, "eval_kl_sequence")[0] != 0
    table = capsys.readouterr().out
    assert "Completion" in table
    assert "Oakton" in table


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, init_lora_weights=False)], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(make_ppo, peft_config):
    trained = []
    for checkpointing in (False, True):
        trainer = make_ppo(
            peft_config=peft_config, gradient_checkpointing=checkpointing, max_steps=1, optim="sgd", learning_rate=0.1
        )
        trainer.train()
        assert trainer.accelerator.unwrap_model(trainer.model).is_gradient_checkpointing == checkpointing
        trained.append([p.detach() for p in trainer.model.parameters() if p.requires_grad])
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_every_logged_metric_is_explained(make_ppo):
    """The table in hfcourse/trainers/METRICS.md names all that a run logs, and nothing that it does not."""
    trainer = make_ppo(max_steps=1)
    trainer.train()
    page = (Path(ppo_trainer.__file__).parent / "METRICS.md").read_text(encoding="utf-8")
    logged = {name for name in trainer.state.log_history[0] if not name.startswith("rewards/")}
    of_every_trainer = {"loss", "grad_norm", "learning_rate", "epoch", "step"}
    of_trl = {f"completions/{m}_terminated_length" for m in ("mean", "min", "max")}
    shown = set(re.findall(r"`([\w/…]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", page, flags=re.M))))
    shown = {name.replace("…", "completions") for name in shown} - {"rewards/", "name"}
    assert logged - of_every_trainer - of_trl == shown
