"""The frame of the recipes: strict keys, the world that was asked for, resume, the one-line error."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import LlamaConfig
from trl import ModelConfig

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.errors import InputError
from hfcourse.pipeline.launch import (
    ScriptArguments,
    check_world_size,
    checkpoint_to_resume,
    load_causal_lm,
    load_splits,
    load_tokenizer,
    parse,
    recipe,
    train_and_save,
)


@pytest.fixture
def parse_yaml(tmp_path):
    def parse_text(text, *argv):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return parse(ScriptArguments, SFTConfig, ModelConfig, argv=["--config", str(path), *argv])

    return parse_text


def test_flags_win_over_the_file(parse_yaml, tmp_path):
    script_args, training_args, model_args = parse_yaml(
        f"output_dir: {tmp_path}\nlearning_rate: 1e-3\nmax_steps: -1\neval_strategy: no\nmax_length: null\n"
        "use_peft: true\nlora_target_modules: [q_proj, v_proj]\nlr_scheduler_kwargs: {num_cycles: 2}\n"
        "dataset_name: world/chat\n",
        "--max_steps=7",
        "--dataset_name",
        "x.jsonl",
    )
    assert (training_args.learning_rate, training_args.max_steps, training_args.max_length) == (1e-3, 7, None)
    assert training_args.eval_strategy == "no"
    assert training_args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert model_args.use_peft is True
    assert model_args.lora_target_modules == ["q_proj", "v_proj"]
    assert script_args.dataset_name == "x.jsonl"


def test_the_environment_of_a_file(parse_yaml, tmp_path, monkeypatch):
    monkeypatch.setenv("HFCOURSE_COLOUR", "red")
    parse_yaml(f"output_dir: {tmp_path}\nenv:\n  HFCOURSE_COLOUR: 3\n")
    assert os.environ["HFCOURSE_COLOUR"] == "3"


@pytest.mark.parametrize(
    ("text", "argv", "message"),
    [
        ("learning_rat: 1e-3", [], "unknown key 'learning_rat' in .*config.yaml: did you mean 'learning_rate'?"),
        ("max_steps: 1", ["--lerning_rate", "1"], "unknown key '--lerning_rate' in the command line: did you mean"),
        ("max_steps: 1", ["--learning_rat=1"], "unknown key '--learning_rat' in the command line"),
        ("max_steps: 1", ["--zzzzzz"], "see --help"),
        ("max_steps: 2.5", [], "max_steps.*invalid int value: '2.5'"),
        ("bf16: perhaps", [], "bf16"),
        ("eval_strategy: sometimes", [], "eval_strategy.*invalid choice: 'sometimes'"),
        ("- a\n- b", [], "must hold `key: value` lines"),
        ("a: [", [], "not valid YAML"),
        ("load_in_8bit: true\nload_in_4bit: true", [], "can't use 8 bit and 4 bit"),
        ("max_steps: 1", ["--learning", "1"], "unknown key '--learning'"),
    ],
)
def test_what_is_not_understood_is_one_line(parse_yaml, text, argv, message):
    with pytest.raises(InputError, match=message) as raised:
        parse_yaml(text, *argv)
    assert "\n" not in str(raised.value)


def test_a_config_that_is_not_there():
    with pytest.raises(InputError, match=r"--config: there is no file 'gone\.yaml'"):
        parse(ScriptArguments, argv=["--config", "gone.yaml"])


def test_recipe_prints_one_line_and_leaves_with_2(capsys):
    def main():
        raise InputError("dataset_name: is required")

    with pytest.raises(SystemExit) as left:
        recipe(main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: dataset_name: is required\n"


def test_recipe_hides_no_other_error():
    with pytest.raises(KeyError):
        recipe(lambda: {}["a"])


@pytest.mark.parametrize(
    ("environment", "expected", "message"),
    [
        ({}, None, None),
        ({}, 1, None),
        ({}, 2, "expected_processes=2, but 1 started"),
        ({"WORLD_SIZE": "2"}, None, "WORLD_SIZE=2, but 1 process trains alone"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, None, None),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, None, "asked for several .* started one"),
    ],
)
def test_the_world_that_was_asked_for(monkeypatch, environment, expected, message):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    check_world_size(None)  # one process runs
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        check_world_size(expected)
    else:
        with pytest.raises(InputError, match=message):
            check_world_size(expected)


def test_accelerates_silent_single_process_is_found_out(tmp_path):
    """`accelerate launch --cpu --num_processes 2` starts one process without a word."""
    script = tmp_path / "script.py"
    script.write_text(
        "from hfcourse.pipeline.launch import ScriptArguments, parse, recipe\nrecipe(lambda: parse(ScriptArguments))\n"
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "error: accelerate launch was asked for several processes and started one" in done.stderr


def test_help_starts_with_the_recipes_own_words(capsys):
    with pytest.raises(SystemExit):
        parse(ScriptArguments, argv=["--help"], description="First line.\n\n    python recipes/x.py")
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert "First line.\n\n    python recipes/x.py\n" in text
    assert "Hub id, local folder" in text


def test_telemetry_is_off_unless_asked_for():
    code = "import os, hfcourse.pipeline.launch; print(os.environ['HF_HUB_DISABLE_TELEMETRY'])"

    def setting(**given):
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_DISABLE_TELEMETRY"} | given
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert setting() == "1\n"
    assert setting(HF_HUB_DISABLE_TELEMETRY="0") == "0\n"


def checkpoint(folder, step, state='{"global_step": 1}'):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if state is not None:
        (path / "trainer_state.json").write_text(state)
    return str(path)


def test_which_checkpoint_is_resumed(tmp_path):
    def resumed(asked):
        return checkpoint_to_resume(SimpleNamespace(resume_from_checkpoint=asked, output_dir=str(tmp_path)))

    assert resumed(None) is resumed("false") is resumed("auto") is None
    with pytest.raises(InputError, match="no checkpoint in"):
        resumed("true")
    nine, ten = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, state='{"global_st')  # killed while it was written
    checkpoint(tmp_path, 12, state=None)
    assert resumed("auto") == resumed("true") == resumed("True") == ten
    assert resumed(nine) == nine
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        resumed(str(tmp_path / "checkpoint-12"))


def test_train_and_save(tiny_llama, tiny_tokenizer, tmp_path, capsys):
    rows = Dataset.from_list([{"prompt": "Mara lives", "completion": " in Oakton."}] * 8)

    def run(**config):
        args = SFTConfig(
            str(tmp_path),
            max_steps=4,
            save_steps=2,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=2,
            disable_tqdm=True,
            **config,
        )
        trainer = SFTTrainer(
            tiny_llama(), args, train_dataset=rows, eval_dataset=rows, processing_class=tiny_tokenizer
        )
        return train_and_save(trainer, args)

    metrics = run()
    assert {"train_loss", "train_runtime", "eval_loss"} <= metrics.keys()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"] if "loss" in log] == [1, 2, 3, 4]
    assert [log["step"] for log in state["log_history"] if "eval_loss" in log] == [2, 4]  # none twice
    assert json.loads((tmp_path / "all_results.json").read_text())["eval_loss"] == metrics["eval_loss"]
    model = load_causal_lm(ModelConfig(model_name_or_path=str(tmp_path)))
    tokenizer = load_tokenizer(str(tmp_path))
    assert model.config.vocab_size == len(tokenizer)
    capsys.readouterr()
    run(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert f"resuming from {tmp_path / 'checkpoint-2'}" in capsys.readouterr().out


def test_models_and_tokenizers_that_are_not_there(tmp_path):
    for load in (load_tokenizer, lambda name: load_causal_lm(ModelConfig(model_name_or_path=name))):
        with pytest.raises(InputError, match="model_name_or_path: is required"):
            load(None)
        for name in ("runs/no/such", str(tmp_path), "nobody/nothing"):
            with pytest.raises(InputError, match=name) as raised:
                load(name)
            assert "\n" not in str(raised.value)


def test_a_new_model_of_a_config():
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = load_causal_lm(ModelConfig(dtype="bfloat16"), config)
    assert str(model.dtype) == "torch.bfloat16"


def test_splits(tmp_path):
    for split, rows in (("train", 5), ("test", 2)):
        Dataset.from_dict({"text": [split] * rows}).to_json(tmp_path / f"{split}.jsonl")
    script_args = ScriptArguments(dataset_name=str(tmp_path), num_train_examples=3)

    def splits(script_args=script_args, **config):
        return load_splits(script_args, SFTConfig(str(tmp_path), **config), required_columns=("text",))

    train, none = splits()
    assert (len(train), none) == (3, None)
    train, evaluation = splits(eval_strategy="epoch")
    assert (train["text"][0], evaluation["text"][:]) == ("train", ["test", "test"])
    with pytest.raises(InputError, match="max_steps: is required with dataset_streaming"):
        splits(ScriptArguments(dataset_name=str(tmp_path), dataset_streaming=True))


def test_a_hub_token_on_the_command_line_is_refused(tmp_path):
    with pytest.raises(InputError, match="set HF_TOKEN instead"):
        parse(SFTConfig, argv=["--output_dir", str(tmp_path), "--hub_token", "hf_secret"])
