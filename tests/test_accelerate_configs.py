"""The launch files, read by accelerate's own loader, which refuses unknown top-level keys."""

import argparse
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

FOLDER = Path(__file__).parent.parent / "accelerate_configs"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def launch_args(name: str, *flags: str) -> argparse.Namespace:
    """What `accelerate launch --config_file <name>` decides, before it starts anything."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(FILES[name]), *flags, "recipe.py"])
    return _validate_launch_command(args)[0]


def test_the_seven_launch_files_are_there():
    assert set(FILES) == {"cpu_multi_process", "single_gpu", "multi_gpu", "fsdp2", "zero2", "zero3", "multi_node"}


@pytest.mark.parametrize("name", FILES)
def test_accelerate_knows_every_key(name):
    config = load_config_from_file(str(FILES[name]))
    assert config.num_processes == yaml.safe_load(FILES[name].read_text())["num_processes"]
    flags = {action.dest for action in launch_command_parser()._actions}
    # accelerate takes these from the environment of its launcher or from the plugin, under the names of its flags
    assert set(config.fsdp_config) <= flags
    assert set(config.deepspeed_config) <= flags


@pytest.mark.parametrize("name", FILES)
def test_precision_is_left_to_the_recipe(name):
    assert yaml.safe_load(FILES[name].read_text())["mixed_precision"] == "no"


@pytest.mark.parametrize("name", FILES)
def test_header_says_how_to_launch(name):
    header = [line for line in FILES[name].read_text().splitlines() if line.startswith("#")]
    assert any(f"accelerate launch --config_file accelerate_configs/{name}.yaml" in line for line in header)


def test_an_unknown_key_is_refused(tmp_path):
    """The wrong version: a key that accelerate does not know (`num_process`) must not pass in silence."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(FILES["multi_gpu"].read_text() + "num_process: 2\n")
    with pytest.raises(ValueError, match="num_process"):
        load_config_from_file(str(bad))


def test_cpu_file_asks_for_two_processes_without_gpus():
    args = launch_args("cpu_multi_process")
    assert (args.multi_gpu, args.use_cpu or args.cpu, args.num_processes) == (True, True, 2)


def test_number_of_processes_can_be_given_on_the_command_line():
    assert launch_args("multi_gpu", "--num_processes", "3").num_processes == 3
