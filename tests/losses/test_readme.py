"""The map of equations is complete, and every proof it names exists."""

import re
from pathlib import Path

import hfcourse.losses
import hfcourse.rl

ROOT = Path(__file__).parents[2]
README = (ROOT / "hfcourse/losses/README.md").read_text(encoding="utf-8")


def test_every_public_function_is_on_the_map():
    public = {*hfcourse.losses.__all__, *hfcourse.rl.__all__}
    assert not {name for name in public if f"`{name}`" not in README}


def test_every_named_proof_exists():
    proofs = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", README)
    assert len(proofs) > 25
    for path, name in proofs:
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")
