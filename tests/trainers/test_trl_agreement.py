"""From the same rows and weights our trainers and TRL's take the same step: losses, gradients, metrics."""

import pytest

from tests.trainers.trl_agreement import CELLS, assert_agree, compare, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("agreement"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_one_process(cell, folder):
    result = compare(cell, folder)
    assert result["num_processes"] == 1
    assert_agree(result)
