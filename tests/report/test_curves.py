"""Curves: self-contained SVG in the page's own ink; the same life gives the same bytes."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from hfcourse.report.curves import INK, PANELS, curves_svg, rewards_svg, write_figure
from hfcourse.report.table import TITLES

RESULTS = {
    "methods": {name: {"gold_reward": i - 1.0, "gold_reward_se": 0.1} for i, name in enumerate(TITLES)},
    "reward_model": {"bayes_accuracy": 0.75},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("life")
    for stage in {panel[0] for panel in PANELS}:
        names = {name for panel in PANELS if panel[0] == stage for name in panel[3]}
        history = [{"step": step, **dict.fromkeys(names, 1.0 / step)} for step in (1, 2, 4)]
        (root / stage).mkdir()
        (root / stage / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return root


def test_every_panel_is_one_svg(root):
    drawings = [*curves_svg(root, RESULTS), rewards_svg(RESULTS)]
    assert len(drawings) == len(PANELS) + 1
    for svg in drawings:
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert INK not in svg
        assert "currentColor" in svg


def test_text_stays_text(root):
    svg = curves_svg(root, RESULTS)[4]
    assert "PPO: reward of the reward model" in svg
    assert all(title in rewards_svg(RESULTS) for title in TITLES.values())


def test_the_same_life_gives_the_same_bytes(root):
    assert curves_svg(root, RESULTS) == curves_svg(root, RESULTS)


def test_ids_differ_from_figure_to_figure(root):
    """Inline in one page, a clip path of one figure must not be taken for another's."""
    clips = [set(_ids_of(svg, "clipPath")) for svg in curves_svg(root, RESULTS)]
    assert all(clips)
    assert len(set().union(*clips)) == sum(map(len, clips))


def _ids_of(svg, tag):
    return [e.attrib["id"] for e in ElementTree.fromstring(svg).iter() if e.tag.endswith(tag)]


def test_the_figure_is_a_png(root, tmp_path):
    write_figure(root, RESULTS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
