"""The table and the figure of benchmark results, from numbers made up."""

from hfcourse.report.benchmarks import benchmarks_figure, benchmarks_markdown


def task(group, value, **more):
    metrics = {"acc": {"value": value, "se": 0.05}}
    return dict(group=group, metrics=metrics, num_items=40, num_cut=0, num_fewshot=5, data_hash="d4", **more)


RESULTS = {
    "model": "runs/my_model/",
    "model_hash": "abcd",
    "num_parameters": 1_000_000,
    "settings": {"limit": 40, "num_fewshot": 5, "apply_chat_template": False, "batch_size": 16, "seed": 3},
    "tasks": {"mmlu_anatomy": task("mmlu", 0.25), "mmlu_virology": task("mmlu", 0.5), "mine": task("mine", 0.75)},
    "groups": {
        "mmlu": {"metrics": {"acc": {"value": 0.375, "se": 0.0354}}, "num_items": 80, "num_tasks": 2},
        "mine": {"metrics": {"acc": {"value": 0.75, "se": 0.05}}, "num_items": 40, "num_tasks": 1},
    },
    "minutes": 1.25,
    "versions": {"torch": "2.13.0"},
}


def test_markdown():
    lines = benchmarks_markdown(RESULTS).splitlines()
    assert lines[0] == "# my_model"
    assert lines[2] == (
        "1,000,000 parameters, weights abcd; the first 40 questions of each task; seed 3; 1.2 minutes."
    )
    assert lines[6] == "| mmlu_anatomy | acc | 0.250 ± 0.050 | 40 | 0 | 5 | d4 |"
    assert lines[9] == "| **mmlu**, 2 tasks | acc | 0.375 ± 0.035 | 80 | | | |"
    assert len([line for line in lines if line.startswith("| ")]) == 5  # header, three tasks, one group of several


def test_the_figure_by_subject():
    (axes,) = benchmarks_figure(RESULTS).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mine", "mmlu_virology", "mmlu_anatomy"]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.5, 0.25]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mmlu: acc 0.375 ± 0.071"]
