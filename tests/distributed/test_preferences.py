"""Reward, DPO, PPO, REINFORCE: two gloo processes with half the batch each learn what one learns from all of it."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from tests.distributed.launch import run_on_processes
from tests.distributed.preferences import ROWS, train_all


def test_two_processes_equal_one(tmp_path, monkeypatch):
    """Rewards, reference log-probs, advantages (whitened over both), losses and the parameters after an SGD step."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "of one")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "of two"))
    alone = train_all(str(tmp_path), ROWS)
    ranks = run_on_processes(Path(__file__).parent / "preferences.py", str(tmp_path), str(ROWS // 2))
    for out in ranks:
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"num_processes"')]
        for learnt, expected in zip(lines, alone, strict=True):
            assert learnt.pop("num_processes") == 2
            assert len(learnt) > 4
            torch.testing.assert_close(learnt.pop("sums"), expected["sums"], atol=1e-4, rtol=1e-5)
            for name, value in learnt.items():
                assert value == pytest.approx(expected[name], abs=2e-5, rel=1e-4), name
