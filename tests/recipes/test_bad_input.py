"""What a user can get wrong, recipe by recipe: one line, `error: …` and exit code 2, before the first step."""

import json
import re
from pathlib import Path

import pytest
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfcourse.models.reward_model import load_reward_model

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "recipes").glob("*.py"))
TEXTS = ("train_tokenizer", "pretrain_causal_lm")
ROLLOUTS = ("reinforce", "ppo")
ANSWERS = ("evaluate", "prompt")
ON_DATA = (*TEXTS, "finetune", "sft", "label_preferences", "reward", *ROLLOUTS, "dpo", *ANSWERS)
ONE_PROCESS = ("train_tokenizer", "label_preferences", *ANSWERS, "import_gguf", "demo")
TRAINED = ("pretrain_causal_lm", "finetune", "sft", "reward", *ROLLOUTS, "dpo")


@pytest.fixture(autouse=True)
def no_step(monkeypatch):
    def backward(self, loss, **kwargs):
        raise AssertionError("the recipe took a step")

    monkeypatch.setattr(Accelerator, "backward", backward)


@pytest.fixture
def flags(tiny_llama_dir, tmp_path, request):
    """`flags(recipe)`: all that it needs but its data."""

    def make(recipe, model=tiny_llama_dir):
        flags = ["--output_dir", tmp_path / "out"]
        if recipe != "train_tokenizer":
            flags += ["--model_name_or_path", model]
        if recipe in TRAINED:
            flags += ["--max_steps=1", "--per_device_train_batch_size=2", "--disable_tqdm=true"]
        if recipe in ROLLOUTS:
            flags += ["--max_completion_length=4", *request.getfixturevalue("rewards")]
        if recipe in ("label_preferences", *ANSWERS):
            flags += ["--max_completion_length=4"]
        if recipe == "prompt":
            flags += ["--num_shots=0"]
        return [*flags, "--block_size=8"] if recipe == "pretrain_causal_lm" else flags

    return make


@pytest.fixture
def data(tmp_path):
    """Flags that name a file of these rows as the data of a recipe."""

    def make(recipe, *rows):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        split = ["--dataset_test_split=train"] if recipe in ("label_preferences", *ANSWERS) else []
        return ["--dataset_name", tmp_path / "rows.jsonl", *split]

    return make


def row_of(recipe, prompt="Where is Mara?"):
    if recipe in TEXTS:
        return {"text": prompt}
    if recipe == "label_preferences":
        gold = {"answer": "here", "tone": "plain", "length": "short", "candidates": ["here"], "task": "fact"}
        return {"prompt": prompt, **gold}
    return {"prompt": prompt, "completion": " Here.", "chosen": " Here.", "rejected": " Gone."}


@pytest.mark.parametrize("recipe", RECIPES)
def test_unknown_key(recipe, error_of, tmp_path):
    (tmp_path / "config.yaml").write_text("no_such_key: 1\n")
    required = ["--output_dir=x"] if recipe == "import_gguf" else []
    error = error_of(recipe, *required, "--config", tmp_path / "config.yaml")
    assert error.startswith(f"error: unknown key 'no_such_key' in {tmp_path / 'config.yaml'}: ")
    assert error_of(recipe, *required, "--no_such_flag=1").startswith("error: unknown key '--no_such_flag' in the com")


@pytest.mark.parametrize("recipe", ON_DATA)
def test_no_column(recipe, error_of, flags, data):
    error = error_of(recipe, *flags(recipe), *data(recipe, {"colour": "green"}))
    assert error.startswith("error: ")
    assert "colour" in error, "it names the columns that there are"


@pytest.mark.parametrize("recipe", ON_DATA)
def test_empty_file(recipe, error_of, flags, data):
    error = error_of(recipe, *flags(recipe), *data(recipe))
    assert re.fullmatch(r"error: dataset_name: .*rows\.jsonl' is empty", error)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("sft", "row 1 .* exceed the model's 256 positions"),
        ("reward", "row 1 .* exceed the model's 256 positions"),
        ("dpo", "row 1 .* exceed the model's 256 positions"),
        ("reinforce", "row 1 has .* exceed the model's 256 positions"),
        ("ppo", "row 1 has .* exceed the model's 256 positions"),
        ("label_preferences", "row 2 has .* exceed the model's 256 positions"),  # two answers to each prompt
        ("evaluate", "row 1 has .* exceed the model's 256 positions"),
        ("prompt", "row 1 has .* exceed the model's 256 positions"),
    ],
)
def test_over_long_prompt(recipe, message, error_of, flags, data):
    error = error_of(recipe, *flags(recipe), *data(recipe, row_of(recipe), row_of(recipe, "tea " * 300)))
    assert re.match(f"error: .*{message}", error)


SAID = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
BAD_PAIRS = {
    "identical": ({"chosen": " Here.", "rejected": " Here."}, "row 1: 'chosen' and 'rejected' are the same"),
    "empty": ({"rejected": ""}, "row 1: 'rejected' is empty; leave such pairs out"),
    "not a prefix": (
        {"prompt": None, "chosen": "Here.", "rejected": "Gone."},
        "row 1: 'chosen' and 'rejected' do not",
    ),
    "doubled": (
        {"prompt": "Where is Mara, and with whom?"}
        | {side: f"Where is Mara, and with whom? {side}" for side in ("chosen", "rejected")},
        "row 1: 'chosen' and 'rejected' begin with the prompt",
    ),
}


@pytest.mark.parametrize("recipe", ["reward", "dpo"])
@pytest.mark.parametrize(("bad", "message"), BAD_PAIRS.values(), ids=BAD_PAIRS)
def test_bad_pairs(recipe, bad, message, error_of, flags, data):
    row = {name: value for name, value in row_of(recipe).items() if name != "completion"}
    if "prompt" in bad and bad["prompt"] is None:
        good = {"chosen": "Where? Here.", "rejected": "Where? Gone."}
        rows, needs_a_prompt = [good, {n: v for n, v in bad.items() if v is not None}], recipe == "dpo"
        message = "no column 'prompt'" if needs_a_prompt else message
    else:
        rows = [row, {**row, **bad}]
    assert re.match(f"error: .*{message}", error_of(recipe, *flags(recipe), *data(recipe, *rows)))


@pytest.mark.parametrize("recipe", ["reward", "dpo"])
@pytest.mark.parametrize(("column", "role"), [("chosen", "user"), ("prompt", "assistant")])
def test_wrong_roles(recipe, column, role, error_of, flags, data):
    roles = {**SAID, column: role}
    row = {name: [{"role": of_name, "content": name}] for name, of_name in roles.items()}
    error = error_of(recipe, *flags(recipe), *data(recipe, row))
    assert re.match(f"error: train_dataset: row 0: '{column}' ends with .*columns", error)


@pytest.mark.parametrize("recipe", ["sft", "reward", "dpo"])
def test_prompts_that_max_length_leaves_no_room_for(recipe, error_of, flags, data):
    error = error_of(recipe, *flags(recipe), *data(recipe, row_of(recipe, "tea " * 40)), "--max_length=16")
    assert re.match(r"error: .*max_length=16", error)


def test_blocks_longer_than_the_model(error_of, flags, data):
    rows = [{"text": "tea " * 300}] * 9
    flags = [*flags("pretrain_causal_lm"), *data("pretrain_causal_lm", *rows), "--block_size=512"]
    assert re.match("error: block_size=512: .* 256 positions", error_of("pretrain_causal_lm", *flags))


@pytest.fixture(scope="module")
def nothing_to_pad_with(tiny_llama, tmp_path_factory):
    """A model whose tokenizer has neither a pad token nor EOS."""
    folder = tmp_path_factory.mktemp("no-pad")
    tiny_llama(0, pad_token_id=None, eos_token_id=None, bos_token_id=None).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"tea": 0, "unknown": 1}, unk_token="unknown"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recipe", [name for name in ON_DATA if name != "train_tokenizer"])
def test_no_pad_token(recipe, error_of, flags, data, nothing_to_pad_with):
    error = error_of(recipe, *flags(recipe, nothing_to_pad_with), *data(recipe, row_of(recipe), row_of(recipe)))
    assert re.match(r"error: (pad|eos)_token: ", error)


@pytest.mark.parametrize("recipe", ROLLOUTS)
def test_nan_from_a_function(recipe, error_of, flags, data):
    flags = [*flags(recipe), *data(recipe, row_of(recipe), row_of(recipe)), "--reward_funcs", "rewards.nan"]
    assert error_of(recipe, *flags) == "error: reward function 'nan': row 0 of the batch got nan; it must be finite"


@pytest.mark.parametrize("recipe", [*ROLLOUTS, "evaluate"])
def test_nan_from_a_reward_model(recipe, error_of, flags, data, tiny_llama_dir, tiny_tokenizer, tmp_path):
    """Beside a function that is finite: the sum of the two must not pass for a reward."""
    broken = load_reward_model(tiny_llama_dir)
    broken.score.weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    tiny_tokenizer.save_pretrained(tmp_path / "broken")
    named = ["--reward_model_path", tmp_path / "broken"]
    error = error_of(recipe, *flags(recipe), *data(recipe, row_of(recipe), row_of(recipe)), *named)
    assert error == "error: reward model 'broken': row 0 of the batch got nan; it must be finite"


@pytest.mark.parametrize("recipe", ON_DATA)
def test_fewer_processes_than_asked_for(recipe, error_of, flags, data):
    error = error_of(recipe, *flags(recipe), *data(recipe, row_of(recipe)), "--expected_processes=2")
    assert error.startswith("error: expected_processes=2, but 1 started: launch with")


@pytest.mark.parametrize("recipe", ONE_PROCESS)
def test_several_processes_where_one_is_enough(recipe, error_of, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert error_of(recipe, f"--output_dir={tmp_path}").startswith(
        "error: num_processes: this recipe runs in one process"
    )
