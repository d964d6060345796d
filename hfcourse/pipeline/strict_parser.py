"""Flags and YAML keys read by one strict parser: what is not understood is an error that names the nearest key."""

import json
import os
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from difflib import get_close_matches
from pathlib import Path

import yaml
from trl import TrlParser

from hfcourse.errors import InputError


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows the defaults and leaves the recipe's description as it was written."""


class StrictParser(TrlParser):
    """`trl.TrlParser` that overlooks nothing.

    It changes this in its parent:
    1. An unknown flag or YAML key is an [`InputError`] that names the nearest valid one; no flag may be abbreviated.
    2. YAML values take the road of flags, so that their type is checked too (`max_steps: 2.5` is an error), `1e-3`
       is a number, an unquoted `no` means "no" where that is a choice, and `null` unsets a default.
    3. Every error is one line, without the three hundred lines of usage.

    With `strict=False` it takes what it knows and leaves the rest, `--help` included, to a parser that knows more.
    """

    def __init__(self, dataclass_types, description: str | None = None, strict: bool = True):
        self.strict = strict
        super().__init__(
            dataclass_types,
            usage="%(prog)s [--config FILE.yaml] [--flag value …]",
            description=description,
            allow_abbrev=False,
            add_help=strict,
            formatter_class=_HelpFormatter,
        )
        self.add_argument(
            "--config",
            metavar="FILE.yaml",
            help="YAML file of flags; those on the command line win. `env:` sets environment variables.",
        )

    def parse(self, argv: list[str]) -> tuple:
        """Dataclass instances, in the order of their types, from the flags and the file that `--config` names."""
        config = self.parse_known_args(argv)[0].config
        argv = [*self._flags_of_file(config), *argv] if config else argv
        namespace, unknown = self.parse_known_args(argv)
        if unknown and self.strict:
            raise InputError(self._unknown(unknown[0].split("=")[0], "the command line"))
        del namespace.config
        return self._build(vars(namespace))

    def _build(self, values: dict) -> tuple:
        try:
            return tuple(
                dtype(**{name: values[name] for name, f in dtype.__dataclass_fields__.items() if f.init})
                for dtype in self.dataclass_types
            )
        except ValueError as e:  # a config's own checks: flags that exclude one another
            raise InputError(" ".join(str(e).split())) from e

    def _flags_of_file(self, path: str) -> list[str]:
        actions = {action.dest: action for action in self._actions if action.dest not in ("help", "config")}
        flags = []
        for key, value in _read_mapping(path).items():
            if key == "env":
                os.environ.update({name: str(setting) for name, setting in (value or {}).items()})
            elif key not in actions:
                if self.strict:
                    raise InputError(self._unknown(str(key), path))
            elif value is None:
                self.set_defaults(**{key: None})
                actions[key].required = False
            else:
                flags += _as_flags(key, value, actions[key])
        return flags

    def _unknown(self, key: str, where: str) -> str:
        valid = sorted({action.dest for action in self._actions} - {"help"})
        nearest = get_close_matches(key.lstrip("-").replace("-", "_"), valid, n=1, cutoff=0.5)
        remedy = f"did you mean '{nearest[0]}'?" if nearest else "see --help for those that there are"
        return f"unknown key '{key}' in {where}: {remedy}"

    def error(self, message: str):
        raise InputError(message)


def _read_mapping(path: str) -> dict:
    if not Path(path).is_file():
        raise InputError(f"--config: there is no file '{path}'")
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as e:
        raise InputError(f"--config {path}: not valid YAML: {' '.join(str(e).split())}") from e
    if not isinstance(config, dict):
        raise InputError(f"--config {path}: must hold `key: value` lines")
    return config


def _as_flags(key: str, value, action) -> list[str]:
    """One YAML entry as command-line words. `--key=value` keeps values that begin with a dash whole."""
    if isinstance(value, list):
        return [f"--{key}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in value)]
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if value is False and "no" in (action.choices or ()):
        value = "no"  # YAML 1.1 reads an unquoted `no` as false
    return [f"--{key}={value}"]
