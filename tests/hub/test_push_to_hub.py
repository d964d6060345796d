"""`recipes/ppo.py --push_to_hub` to a Hub on 127.0.0.1, and back, over the real client and the real HTTP requests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load

from tests.hub.loopback import loopback_hub

ROOT = Path(__file__).parents[2]
REWARD = (
    "def many_letters(completions, **c):\n    return [float(sum(map(str.isalpha, text))) for text in completions]\n"
)
PROMPTS = ("The red fox", "Mara lives", "Two apples", "What is")
ONE_UPDATE = [
    *("--max_steps=1", "--per_device_train_batch_size=4", "--num_generations=2", "--num_iterations=1"),
    *("--max_completion_length=4", "--learning_rate=3e-4", "--logging_steps=1", "--save_strategy=no"),
]
TOKEN = "hf_notARealTokenButAsSecretAsOne"
REPO = "student/ppo-on-the-world"
LOAD_BACK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
torch.save(model.state_dict(), sys.argv[2])
print(tokenizer.decode(tokenizer("The red fox sleeps.")["input_ids"]))
"""


@pytest.fixture(scope="module")
def pushed(tiny_llama_dir, tmp_path_factory):
    """(hub, output folder, tensors loaded back, text that the tokenizer loaded back round-trips)"""
    folder = tmp_path_factory.mktemp("push")
    with loopback_hub() as hub:
        # huggingface_hub reads these once, when it is imported: hence processes of their own.
        env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HOME": str(folder)}
        env |= {"PYTHONPATH": f"{ROOT}:{folder}", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        (folder / "rewards.py").write_text(REWARD)
        (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
        files = ["--model_name_or_path", tiny_llama_dir, "--dataset_name", str(folder / "prompts.jsonl")]
        files += ["--output_dir", str(folder / "out"), "--reward_funcs=rewards.many_letters"]
        run(env, str(ROOT / "recipes/ppo.py"), *files, *ONE_UPDATE, "--push_to_hub=true", f"--hub_model_id={REPO}")
        text = run(env, "-c", LOAD_BACK, REPO, str(folder / "loaded.pt"))
        yield hub, folder / "out", torch.load(folder / "loaded.pt"), text


def run(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_model_comes_back_as_it_was_trained(pushed):
    _hub, out, loaded, text = pushed
    saved = load((out / "model.safetensors").read_bytes())
    assert saved.keys() <= loaded.keys()  # tied weights are stored once
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    assert text == "The red fox sleeps."


def test_the_value_head_lies_beside_the_model(pushed):
    files = pushed[0].repos[REPO]
    assert load(files["value_head.safetensors"])["weight"].shape[-1] == 32
    assert not any("value_head" in name for name in load(files["model.safetensors"]))


def test_the_card_tells_what_was_done(pushed, tiny_llama_dir):
    card = ModelCard(pushed[0].repos[REPO]["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {"generated_from_trainer", "hfcourse", "ppo"} <= set(card.data.tags)
    assert "trl" not in card.data.tags
    assert "rloo" not in card.data.tags
    assert card.data.base_model is None, "a local folder is no Hub id"
    for row in (
        "| Method | PPO, [Fine-Tuning Language Models from Human Preferences](https://huggingface.co/papers/1909.",
        f"| Base model | {Path(tiny_llama_dir).name} |",
        "| Data | prompts.jsonl (a local file or folder) |",
        "| Rewards | many_letters |",
        "| Licence | unknown: ",
        "| Steps | 1 |",
        "| `learning_rate` | 0.0003 |",
        "| `batch size (all processes, accumulated)` | 4 |",
    ):
        assert row in card.content
    assert f'AutoModelForCausalLM.from_pretrained("{REPO}")' in card.content
    assert "value_head.safetensors" in card.content
    assert "None" not in card.content


def test_no_secret_and_no_path_is_pushed(pushed, tiny_llama_dir):
    hub, out = pushed[:2]
    card = hub.repos[REPO]["README.md"]
    for local in (tiny_llama_dir, str(out.parent), str(Path.home())):
        assert local.encode() not in card
    for name, content in hub.repos[REPO].items():
        assert TOKEN.encode() not in content, name


def test_the_token_travels_in_headers_only(pushed):
    assert any(line.startswith(f"POST /api/models/{REPO}/commit/main") for line in pushed[0].log)
    assert not any(TOKEN in line for line in pushed[0].log)
