"""What the tests of PPO and REINFORCE share: prompts, a reward, a tiny PPO trainer, its rollout and its history."""

from datasets import Dataset

from hfcourse.trainers.ppo_trainer import PPOConfig, PPOTrainer

PROMPTS = [
    "The red fox",
    "Mara",
    "What is the colour of the door?",
    "Two apples and",
    "near the river",
    "Oakton",
    "a",
    "five",
]


def vowels(prompts, completions, **columns):
    """A reward that any policy can move: the share of vowels."""
    return [sum(c in "aeiou" for c in text) / (1 + len(text)) for text in completions]


def ppo_trainer(model, tokenizer, reward_funcs=vowels, rows=None, eval_rows=None, options=None, **overrides):
    """Eight completions of six tokens a rollout, two epochs of two updates; `options` go to the trainer."""
    settings = dict(
        per_device_train_batch_size=2,
        steps_per_generation=4,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_completion_length=6,
        max_steps=4,
        learning_rate=1e-3,
        beta=0.1,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        per_device_eval_batch_size=4,
    )
    return PPOTrainer(
        model,
        reward_funcs,
        PPOConfig(**{**settings, **overrides}),
        Dataset.from_list(rows or [{"prompt": p} for p in PROMPTS]),
        eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
        processing_class=tokenizer,
        **(options or {}),
    )


def rollout_of(trainer):
    """(the first micro-batch, the whole rollout)."""
    trainer.model.train()
    return trainer._prepare_inputs([{"prompt": p} for p in PROMPTS]), trainer._rollout


def given(trainer, completion_ids, texts=None):
    """The rollout of these completions, sampled by nobody."""
    n = len(completion_ids)
    trainer._generate = lambda prompts: ([[5]] * n, completion_ids, texts or ["w"] * n)
    trainer.model.train()
    return trainer._generate_and_score_completions([{"prompt": "a"}] * n)


def history(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]
