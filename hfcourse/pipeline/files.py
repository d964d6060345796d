"""Files that are whole or not there: a kill leaves the old one or the new one, never half of one."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from hfcourse.errors import InputError

SETTINGS = "settings.json"


def write_json(path: Path, content: dict) -> None:
    """One JSON object, indented."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """The object in a file of [`write_json`]."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_text(path: Path, text: str) -> None:
    """UTF-8, on every machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def claim_folder(folder: Path, settings: dict) -> None:
    """Note what the files of a folder are made with, so that work of other settings is never taken for finished.

    Raises:
        InputError: the folder was claimed with other settings.
    """
    path = folder / SETTINGS
    if not path.is_file():
        write_json(path, settings)
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    other = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if other:
        raise InputError(
            f"output_dir: '{folder}' holds a run of other settings ({', '.join(other)}); delete it or name another"
        )
