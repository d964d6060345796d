"""Every YAML of every recipe: the recipe itself reads it, strictly, and its header is the command that launches it."""

from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
YAMLS = sorted((RECIPES / "configs").glob("*/*.yaml"))
WITHOUT_CONFIG = {"demo", "import_gguf", "plan"}


def test_every_recipe_has_a_config():
    recipes = {path.stem for path in RECIPES.glob("*.py")}
    assert recipes - {path.parent.name for path in YAMLS} <= WITHOUT_CONFIG


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_parses_and_says_how_to_launch_it(path, error_of):
    """With one flag more that it cannot know, that flag is all the recipe complains of."""
    assert error_of(path.parent.name, "--config", path, "--no_such_flag").startswith(
        "error: unknown key '--no_such_flag' in the command line"
    )
    text, recipe = path.read_text(encoding="utf-8"), path.parent.name
    assert text.splitlines()[0].endswith(f"recipes/{recipe}.py --config recipes/configs/{recipe}/{path.name}")
    assert yaml.safe_load(text)["output_dir"].startswith("runs/")
