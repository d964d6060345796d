"""What depends on the hardware follows it when unset, and only then. The accelerator is played by monkeypatching."""

from dataclasses import dataclass

import pytest
import torch
import trl
from datasets import Dataset
from transformers import HfArgumentParser, TrainingArguments

from hfcourse import CausalLMConfig, SFTConfig, SFTTrainer
from hfcourse.trainers import hardware
from hfcourse.trainers.hardware import HardwareDefaults

UNSET = ("use_cpu", "bf16", "gradient_checkpointing")


@dataclass
class Parent:
    """A parent that starts nothing: transformers' would ask the machine for its GPU."""

    fp16: bool = False
    activation_checkpointing: bool | None = None
    gradient_checkpointing: bool = True

    def __post_init__(self):
        self.seen_by_parent = (self.use_cpu, self.bf16, self.activation_checkpointing)


@dataclass
class Config(HardwareDefaults, Parent):
    pass


@dataclass
class ThriftlessParent(Parent):
    gradient_checkpointing: bool = False


@dataclass
class ThriftlessConfig(HardwareDefaults, ThriftlessParent):
    pass


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: True)


@pytest.mark.parametrize("config_class", [SFTConfig, CausalLMConfig])
def test_on_a_cpu(config_class, tmp_path):
    args = config_class(str(tmp_path))
    assert [getattr(args, name) for name in UNSET] == [True, False, False]
    assert args.report_to == []
    assert args.device.type == "cpu"


@pytest.mark.parametrize(
    ("config_class", "given", "expected"),
    [
        (Config, {}, (False, True, True)),
        (ThriftlessConfig, {}, (False, True, False)),
        (Config, {"use_cpu": True}, (True, False, False)),
        (Config, {"fp16": True}, (False, False, True)),
        (Config, {"bf16": False}, (False, False, True)),
        (Config, {"gradient_checkpointing": False}, (False, True, False)),
        (Config, {"activation_checkpointing": False}, (False, True, False)),
        (ThriftlessConfig, {"gradient_checkpointing": True}, (False, True, True)),
        (Config, {"use_cpu": True, "bf16": True, "gradient_checkpointing": True}, (True, True, True)),
    ],
)
def test_on_a_gpu_what_is_given_wins(gpu, config_class, given, expected):
    assert config_class(**given).seen_by_parent == expected


def test_an_old_gpu_has_no_bf16(gpu, monkeypatch):
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: False)
    assert Config().seen_by_parent == (False, False, True)


def test_launched_for_the_cpu_on_a_machine_with_gpus(gpu, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert Config().seen_by_parent == (True, False, False)


def test_fsdp_checkpoints_by_itself(gpu, monkeypatch):
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    assert Config().seen_by_parent == (False, True, False)


@pytest.mark.parametrize("parser", [HfArgumentParser, trl.TrlParser])
@pytest.mark.parametrize("config_class", [SFTConfig, CausalLMConfig])
def test_flags(parser, config_class, tmp_path):
    def bf16(*flags):
        argv = ["--output_dir", str(tmp_path), *flags]
        return parser([config_class]).parse_args_into_dataclasses(argv, look_for_args_file=False)[0].bf16

    assert bf16() is False
    assert bf16("--bf16", "true") is True
    assert bf16("--bf16", "false") is False


@pytest.mark.parametrize("config_class", [SFTConfig, CausalLMConfig])
def test_there_and_back(config_class, tmp_path):
    args = config_class(str(tmp_path), bf16=True, gradient_checkpointing=True, learning_rate=1e-4)
    # transformers hides everything named *_token in to_dict
    dictionary = {name: value for name, value in args.to_dict().items() if not name.endswith("_token")}
    assert {k: v for k, v in config_class(**dictionary).to_dict().items() if k in dictionary} == dictionary


def test_the_token_is_not_pickled(tmp_path):
    """training_args.bin is a pickle of the arguments, and a push uploads it."""
    args = SFTConfig(str(tmp_path), hub_token="hf_secret")
    torch.save(args, tmp_path / "training_args.bin")
    assert b"hf_secret" not in (tmp_path / "training_args.bin").read_bytes()
    assert torch.load(tmp_path / "training_args.bin", weights_only=False).output_dir == str(tmp_path)
    assert args.hub_token == "hf_secret"


@pytest.mark.parametrize("config_class", [trl.SFTConfig, SFTConfig])
def test_no_file_of_a_model_holds_the_token(config_class, tiny_llama, tiny_tokenizer, tmp_path):
    """Also of those who bring TRL's own configuration."""
    args = config_class(str(tmp_path), hub_token="hf_secret", use_cpu=True, bf16=False, report_to="none", max_steps=1)
    rows = Dataset.from_dict({"prompt": ["a"], "completion": ["b"]})
    trainer = SFTTrainer(tiny_llama(0), args, train_dataset=rows, processing_class=tiny_tokenizer)
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"training_args.bin", "optimizer.pt", "trainer_state.json"}
    assert not [path for path in files if b"hf_secret" in path.read_bytes()]
    saved = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert (saved.hub_token, saved.max_steps) == (None, 1)
    torch.save(saved, tmp_path / "again.bin")
    assert trainer.args.hub_token == "hf_secret"


def test_a_checkpointing_flag_warns_of_nothing(tmp_path, recwarn):
    SFTConfig(str(tmp_path), gradient_checkpointing=True)
    assert not [w for w in recwarn if "gradient_checkpointing" in str(w.message)]
    assert issubclass(SFTConfig, TrainingArguments)
