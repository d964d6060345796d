"""On two processes, each step accumulated, our trainers and TRL's learn the same from the same."""

import json
from pathlib import Path

import pytest

from tests.distributed.launch import run_on_processes
from tests.distributed.preferences import model


def test_two_steps_on_two_processes_are_trls(tmp_path):
    """DPO, reward model, SFT, REINFORCE with leave-one-out: losses, gradient norms, metrics and every parameter's norm
    to float32 rounding. (REINFORCE's loss is of log-probs, RLOO's of ratios: only the gradients are equal.)"""
    model().save_pretrained(tmp_path / "reference")
    for out in run_on_processes(Path(__file__).parent / "agreement.py", str(tmp_path), timeout=300):
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"method"')]
        assert [line["method"] for line in lines] == ["dpo", "reward", "sft", "reinforce"]
        for line in lines:
            ours, theirs = line["ours"], line["theirs"]
            assert ours["num_processes"] == theirs["num_processes"] == 2
            assert ours["norms"] == pytest.approx(theirs["norms"], rel=1e-5), line["method"]
            for a, b in zip(ours["logged"], theirs["logged"], strict=True):
                names = set(a) & set(b) - ({"loss"} if line["method"] == "reinforce" else set())
                assert len(names) >= 4
                assert {n: a[n] for n in names} == pytest.approx({n: b[n] for n in names}, rel=1e-4, abs=1e-5)
