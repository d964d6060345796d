"""What an import costs, counted in modules, not in seconds: each case in a fresh interpreter."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hfcourse
import hfcourse.trainers

ROOT = Path(__file__).parent.parent


def newly_imported(statement: str, after: str = "pass") -> set[str]:
    """Top-level packages outside the standard library that `statement` brings in, once `after` has run."""
    program = (
        f"import sys; {after}; before = set(sys.modules); {statement}; new = set(sys.modules) - before; "
        "print(*{name.split('.')[0] for name in new} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else():
    assert newly_imported("import hfcourse, hfcourse.trainers") == {"hfcourse"}


def test_floor_0_brings_torch_alone():
    rooms = "import hfcourse.errors, hfcourse.logprobs, hfcourse.losses, hfcourse.masking, hfcourse.rl"
    assert newly_imported(rooms, after="import torch") == {"hfcourse"}


def test_a_loss_from_the_front_door_does_not_bring_transformers():
    assert newly_imported("from hfcourse import dpo_loss", after="import torch") == {"hfcourse"}


@pytest.mark.parametrize("package", [hfcourse, hfcourse.trainers], ids=lambda package: package.__name__)
def test_every_lazy_name_is_what_its_module_defines(package):
    for name in package.__all__:
        assert getattr(package, name) is getattr(import_module(package._MODULE_OF[name]), name), name
        assert name in dir(package)


@pytest.mark.parametrize("package", [hfcourse, hfcourse.trainers], ids=lambda package: package.__name__)
def test_type_checkers_see_the_same_names(package):
    """Editors read the `if TYPE_CHECKING:` block; it and the lazy map must not part."""
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "importlib"]
    seen = {
        alias.asname: node.module for node in imports for alias in node.names if node.module.startswith("hfcourse")
    }
    assert seen == package._MODULE_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'PPOTrianer'"):
        hfcourse.PPOTrianer  # noqa: B018
    with pytest.raises(ImportError, match="PPOTrianer"):
        exec("from hfcourse import PPOTrianer")
