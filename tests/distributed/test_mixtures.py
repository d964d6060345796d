"""Two processes see the mixture that one sees, and agree on what was measured in one of them."""

import json
from pathlib import Path

from tests.distributed.launch import run_on_processes

SCRIPT = Path(__file__).with_name("mixtures.py")


def results(tmp_path, processes):
    outputs = run_on_processes(SCRIPT, str(tmp_path), processes=processes)
    return [json.loads(out.splitlines()[-1]) for out in outputs]


def test_two_processes_are_one(tmp_path):
    (alone,), together = results(tmp_path / "one", 1), results(tmp_path / "two", 2)
    for name in ("rows", "stream"):
        assert len(alone["batches"][name]) == 6
        assert [rank["batches"][name] for rank in together] == [alone["batches"][name]] * 2
        drawn = [x for batch in alone["batches"][name] for x in batch]
        assert any(x >= 100 for x in drawn)
        assert any(x < 100 for x in drawn)
    assert alone["measured"] == [7.0]
    assert [rank["measured"] for rank in together] == [[7.0], [7.0]], "the main process's, on both"
