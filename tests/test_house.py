"""The rules of the house (CONTRIBUTING.md), read from the source: floors, budgets, names."""

import ast
import io
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hfcourse"
FLOOR = {
    **dict.fromkeys(("errors", "precision", "logprobs", "masking", "losses", "rl"), 0),
    **dict.fromkeys(("world", "tokenization", "scaling", "data", "collators"), 1),
    **dict.fromkeys(("models", "optim"), 2),
    **dict.fromkeys(("trainers", "hub"), 3),
    **dict.fromkeys(("evaluation", "metrics", "callbacks"), 4),
    **dict.fromkeys(("annotation", "pipeline", "report"), 5),
}
# (above, below) on one floor: data renders the embedded world, a trainer writes its card, a callback evaluates, the
# report reads the stages, a metric has a standard error, the pipeline runs annotators.
NEIGHBOURS = {
    ("data", "world"),
    ("trainers", "hub"),
    ("callbacks", "evaluation"),
    ("metrics", "evaluation"),
    ("report", "pipeline"),
    ("pipeline", "annotation"),
}
MAX_LINES_OF_A_ROOM = 300
MAX_LINES_OF_A_RECIPE = 100
MAX_CODE_LINES_OF_A_LOSS = 80
NAMELESS = {"utils.py", "helpers.py", "common.py", "misc.py"}

LIBRARY = sorted(PACKAGE.rglob("*.py"))
ROOMS = [path for path in LIBRARY if path != PACKAGE / "__init__.py"]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
LOSSES = sorted((PACKAGE / "losses").glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(source: str) -> set[str]:
    """Every module that a file imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a file can be read and copied alone"
            modules.add(node.module)
            if node.module == "hfcourse":
                modules |= {f"hfcourse.{alias.name}" for alias in node.names}
    return modules


def climbs(room: str, source: str) -> set[str]:
    """The rooms that a file of `room` imports although they are not below it."""
    imported = {module.split(".")[1] for module in imported_modules(source) if module.startswith("hfcourse.")}
    above = set()
    for other in imported - {room}:
        beside = FLOOR[other] == FLOOR[room] and (FLOOR[room] == 0 or (room, other) in NEIGHBOURS)
        if FLOOR[other] >= FLOOR[room] and not beside:
            above.add(other)
    return above


def code_lines(source: str) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_imports_point_downwards(path):
    assert climbs(room_of(path), path.read_text(encoding="utf-8")) == set()


def test_a_climbing_import_is_seen():
    assert climbs("losses", "def f():\n    from hfcourse.trainers import PPOTrainer\n") == {"trainers"}
    assert climbs("trainers", "import hfcourse.losses\n") == set()
    assert climbs("world", "from hfcourse.data import load_dataset\n") == {"data"}


@pytest.mark.parametrize("path", [path for path in ROOMS if FLOOR[room_of(path)] == 0], ids=name_of)
def test_floor_0_imports_torch_alone(path):
    tops = {module.split(".")[0] for module in imported_modules(path.read_text(encoding="utf-8"))}
    assert tops - set(sys.stdlib_module_names) <= {"torch", "hfcourse"}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_a_room_keeps_its_budget(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES_OF_A_ROOM
    assert path.name not in NAMELESS
    assert ast.get_docstring(ast.parse(source)), "every file says in one sentence what it is for"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_keeps_its_budget(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES_OF_A_RECIPE
    assert ast.get_docstring(ast.parse(source)), "its docstring is the recipe's --help"


@pytest.mark.parametrize("path", LOSSES, ids=name_of)
def test_a_loss_keeps_its_budget(path):
    assert code_lines(path.read_text(encoding="utf-8")) <= MAX_CODE_LINES_OF_A_LOSS


def test_code_lines_counts_code_alone():
    source = '"""Doc.\n\nMore.\n"""\n\n# comment\ndef f(x):\n    """Doc."""\n    return (\n        x\n    )\n'
    assert code_lines(source) == 4


def test_recipes_do_not_import_each_other():
    names = {path.stem for path in RECIPES}
    for path in RECIPES:
        modules = {module.split(".")[0] for module in imported_modules(path.read_text(encoding="utf-8"))}
        assert not modules & (names | {"recipes"}), path.name
