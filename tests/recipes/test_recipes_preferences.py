"""reward, dpo, ppo: two steps run and leave what the next recipe reads; chats, adapters, resuming."""

import gzip
import json

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hfcourse.models.reward_model import score

TWO_STEPS = ["--max_steps=2", "--per_device_train_batch_size=2", "--logging_steps=1", "--disable_tqdm=true"]
LORA = ["--use_peft=true", "--lora_r=2", "--lora_target_modules", "q_proj", "v_proj"]


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """HH-RLHF's form: a whole dialogue in each column, gzipped lines of JSON."""
    path = tmp_path_factory.mktemp("dialogues") / "pairs.jsonl.gz"
    asked = "\n\nHuman: Where is the {0}?\n\nAssistant:"
    rows = [{"chosen": asked.format(i) + " Near here.", "rejected": asked.format(i) + " No."} for i in "abcdefgh"]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return ["--dataset_name", path, "--template=hh_rlhf"]


def logs_in(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def steps_of(folder, name):
    return [log["step"] for log in logs_in(folder) if name in log]


@pytest.mark.parametrize("adapter", [[], LORA], ids=["full", "lora"])
def test_from_comparisons_to_a_policy(adapter, run, pairs, tiny_llama_dir, tmp_path):
    """The reward model is an ordinary one, its adapter merged; PPO reads it."""
    flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, *TWO_STEPS, *adapter]
    run("reward", *flags, "--output_dir", tmp_path / "reward")
    assert steps_of(tmp_path / "reward", "accuracy") == [1, 2]
    reward_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    assert reward_model.config.num_labels == 1
    assert len(set(score(reward_model, tokenizer, ["Where is Mara?"] * 2, [" Near.", " No."]))) == 2

    rollouts = ["--reward_model_path", tmp_path / "reward", "--max_completion_length=4", "--num_iterations=2"]
    run("ppo", *flags, *rollouts, "--output_dir", tmp_path / "ppo")
    assert steps_of(tmp_path / "ppo", "rewards/reward/mean") == [1], "two epochs over one rollout"
    assert logs_in(tmp_path / "ppo")[0]["ratio_at_step0"] == pytest.approx(1, abs=2e-5)
    assert (tmp_path / "ppo" / "value_head.safetensors").is_file()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ppo").config.hidden_size == 32


@pytest.mark.parametrize("adapter", [[], LORA], ids=["full", "lora"])
def test_dpo(adapter, run, pairs, tiny_llama_dir, tmp_path):
    flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, *TWO_STEPS, *adapter]
    run("dpo", *flags, "--learning_rate=1e-2", "--output_dir", tmp_path)
    first, second = (log["rewards/margins"] for log in logs_in(tmp_path) if "rewards/margins" in log)
    assert first == 0, "policy and reference are one"
    assert second != 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.hidden_size == 32


@pytest.mark.parametrize(
    ("recipe", "measured"), [("reward", "eval_accuracy"), ("dpo", "eval_rewards/margins"), ("ppo", "eval_reward")]
)
def test_chats_and_a_held_out_slice(recipe, measured, run, dialogues, rewards, tiny_llama_dir, tmp_path):
    held_out = ["--dataset_train_split=train[:4]", "--dataset_test_split=train[4:]", "--eval_strategy=epoch"]
    flags = ["--model_name_or_path", tiny_llama_dir, *dialogues, *TWO_STEPS, *held_out]
    flags += [*rewards, "--max_completion_length=4"] if recipe == "ppo" else []
    run(recipe, *flags, "--output_dir", tmp_path / "out")
    assert measured in json.loads((tmp_path / "out" / "all_results.json").read_text())


@pytest.mark.parametrize("recipe", ["sft", "reward", "dpo", "ppo", "reinforce"])
def test_resuming(recipe, run, pairs, rewards, tiny_llama_dir, tmp_path, capsys):
    flags = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, *TWO_STEPS, "--save_steps=1"]
    flags += [*rewards, "--max_completion_length=4", "--num_iterations=1"] if recipe in ("ppo", "reinforce") else []
    flags += ["--output_dir", tmp_path / "out", "--resume_from_checkpoint=auto"]
    run(recipe, *flags)
    assert "resuming" not in capsys.readouterr().out
    run(recipe, *flags, "--max_steps=3")
    assert f"resuming from {tmp_path / 'out' / 'checkpoint-2'}" in capsys.readouterr().out
    assert steps_of(tmp_path / "out", "loss") == [1, 2, 3]
