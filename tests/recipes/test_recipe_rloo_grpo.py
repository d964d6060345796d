"""rloo_grpo: TRL's trainers on the prompts and rewards of our own; what they refuse is one line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from hfcourse.models.reward_model import score
from hfcourse.pipeline.rewards import RewardArguments

FLAGS = ["--max_steps=2", "--per_device_train_batch_size=4", "--num_generations=2", "--max_completion_length=4"]
FLAGS += ["--logging_steps=1", "--disable_tqdm=true", "--learning_rate=1e-2", "--beta=0.1"]


@pytest.fixture
def reward_model(tiny_llama, tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)
    model.save_pretrained(tmp_path / "rm")
    tiny_tokenizer.save_pretrained(tmp_path / "rm")
    return str(tmp_path / "rm")


def logs_in(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_two_steps_of_each(method, run, pairs, rewards, reward_model, tiny_llama_dir, tmp_path):
    """A function and a model reward them; what moved is measured from the reference, and the gold is watched."""
    out = tmp_path / method
    run(
        *("rloo_grpo", "--method", method, "--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, *FLAGS),
        *(*rewards, "--reward_model_path", reward_model, "--gold_func=rewards.spaces", "--watch_steps=1"),
        *("--eval_strategy=epoch", "--dataset_test_split=train", "--output_dir", out),
    )
    steps = [log for log in logs_in(out) if "rewards/rm/mean" in log]
    assert len(steps) == 2
    assert steps[0]["reward"] == pytest.approx(steps[0]["rewards/rm/mean"] + steps[0]["rewards/spaces/mean"], abs=1e-5)
    assert steps[1]["kl"] > 1e-3
    assert [log["overoptimization/kl"] > 0 for log in logs_in(out) if "overoptimization/gold" in log][-1]
    assert AutoModelForCausalLM.from_pretrained(out).config.hidden_size == 32


def test_a_reward_model_reads_the_end_of_an_answer(reward_model, tiny_llama_dir):
    """As `score` does; TRL would leave the EOS out, which is another reward."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_llama_dir),
        AutoTokenizer.from_pretrained(reward_model),
    )
    (function,) = RewardArguments(reward_model_path=[reward_model]).load_functions(
        model, tokenizer, torch.device("cpu")
    )
    asked, said, ends = ["Where is Mara?"] * 2, [" Near.", " Near."], [[9, tokenizer.eos_token_id], [9, 10]]
    read = function(prompts=asked, completions=said, completion_ids=ends)
    assert read == score(function.model, tokenizer, asked, said, [True, False])
    assert abs(read[0] - read[1]) > 1e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_generations=1"], "2 generations per prompt"),
        (["--method=ppo"], "invalid choice: 'ppo'"),
        (["--scale_rewards=none"], "unknown key '--scale_rewards'"),
        (["--method=grpo", "--normalize_advantages=true"], "unknown key '--normalize_advantages'"),
        (["--reward_funcs=rewards.nan"], "row 0 of the batch got nan"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error_of, pairs, rewards, tiny_llama_dir, tmp_path, flags, message):
    of_run = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", pairs, *rewards, *FLAGS]
    assert message in error_of("rloo_grpo", *of_run, "--output_dir", tmp_path / "out", *flags)
