"""Benchmarks from files and names: lm-eval's own prompts, letter for letter, over rows that are read here."""

import json

import pytest
from datasets import Dataset

from hfcourse.errors import InputError
from hfcourse.evaluation.benchmark_tasks import load_tasks

PROMPT = "Two and two?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"


@pytest.fixture
def mmlu(tmp_path):
    """One subject as the authors' files are (no header, letters), one with a header and numbers."""
    for split, question in (("dev", "One and one?"), ("test", "Two and two?")):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"anatomy_{split}.csv").write_text(f"{question},3,4,5,6,B\n")
        header = "question,choice0,choice1,choice2,choice3,answer\n"
        (tmp_path / split / f"virology_{split}.csv").write_text(f'{header}"{question}",3,4,5,6,1\n')
    return tmp_path


def test_mmlu_from_the_authors_files(mmlu):
    tasks = load_tasks([f"mmlu={mmlu}"])
    assert [(group, task.config.task) for group, task in tasks] == [
        ("mmlu", "mmlu_anatomy"),
        ("mmlu", "mmlu_virology"),
    ]
    for _, task in tasks:
        (row,) = task.eval_docs
        assert (task.doc_to_text(row), task.doc_to_choice(row), task.doc_to_target(row)) == (PROMPT, list("ABCD"), 1)
        assert [shot["question"] for shot in task.fewshot_docs()] == ["One and one?"]
    assert tasks[0][1].config.description == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
    )


@pytest.mark.parametrize("kind", ["zeroshot", "fewshot", "cot_zeroshot", "cot_fewshot"])
def test_big_bench_hard(tmp_path, kind):
    (tmp_path / "navigate.json").write_text(json.dumps({"examples": [{"input": "Go. Back?", "target": "Yes"}]}))
    ((_, task),) = load_tasks([f"bbh_{kind}={tmp_path}"])
    assert task.config.task == f"bbh_{kind}_navigate"
    assert task.config.num_fewshot == (3 if kind.endswith("fewshot") else 0)
    assert "Go. Back?" in task.doc_to_text(task.eval_docs[0])
    assert task.doc_to_target(task.eval_docs[0]) == "Yes"


def test_an_answer_after_a_space_is_right(tmp_path):
    """The examples end in "A: Yes", so that a model writes " Yes"; as lm-eval has the task, that is wrong."""
    rows = [{"input": f"Go {i}. Back?", "target": "Yes"} for i in range(4)]
    (tmp_path / "navigate.json").write_text(json.dumps({"examples": rows}))
    ((_, task),) = load_tasks([f"bbh_fewshot={tmp_path}"])
    task.build_all_requests()
    assert task.instances[0].args[0].endswith("\nA: Yes\n\nQ: Go 0. Back?\nA:")
    for request, written in zip(task.instances, (" Yes", "Yes", " No", " Yes No"), strict=True):
        request.resps = [written]
    task.apply_filters()
    counted = [task.process_results(i.doc, [i.filtered_resps["none"]])["exact_match"] for i in task.instances]
    assert counted == [1.0, 1.0, 0.0, 0.0]


def test_gsm8k(tmp_path):
    rows = [{"question": "Two and two?", "answer": "2+2 is 4.\n#### 4"}]
    for split in ("test", "train"):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.jsonl")
    specs = [
        f"gsm8k={tmp_path}",
        *(f"{name}={tmp_path / 'test.jsonl'}" for name in ("gsm8k_cot", "gsm8k_cot_zeroshot")),
    ]
    tasks = {task.config.task: task for _, task in load_tasks(specs)}
    assert [task.config.num_fewshot for task in tasks.values()] == [5, 8, 0]
    assert tasks["gsm8k_cot"].doc_to_text(rows[0]) == "Q: Two and two?\nA:"
    assert tasks["gsm8k_cot"].doc_to_target(rows[0]) == "4"
    with pytest.raises(InputError, match="'gsm8k' needs 'train', which its data do not have"):
        load_tasks([f"gsm8k={tmp_path / 'test.jsonl'}"])


def test_a_yaml_finds_its_files_wherever_it_is_run(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    Dataset.from_dict({"q": ["Red or blue?"], "answer": [0]}).to_json(folder / "rows.jsonl")
    (folder / "colours.yaml").write_text(
        "task: colours\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: [red, blue]\ndoc_to_target: answer\n"
    )
    monkeypatch.chdir(tmp_path)
    ((group, task),) = load_tasks(["mine/colours.yaml"])
    assert (group, task.config.task, len(task.eval_docs)) == ("colours", "colours", 1)


def test_the_worlds_subjects():
    tasks = load_tasks(["world"], limit=3)
    assert [task.config.task.removeprefix("world_") for _, task in tasks] == [
        *("arithmetic", "feelings", "people", "reading", "tavi")
    ]
    for _, task in tasks:
        assert [row["subject"] for row in task.eval_docs] == [task.config.task.removeprefix("world_")] * 3
        row = task.eval_docs[0]
        assert task.doc_to_text(row) == f"Question: {row['question']}\nAnswer:"
        assert task.doc_to_choice(row) == row["choices"]
        assert not {r["question"] for r in task.eval_docs} & {r["question"] for r in task.fewshot_docs()}
    more = load_tasks(["world"], limit=5)
    assert [*more[0][1].eval_docs][:3] == [*tasks[0][1].eval_docs], "more questions begin with the fewer"


def test_errors_name_the_remedy(tmp_path, mmlu):
    def error_of(*specs):
        with pytest.raises(InputError) as raised:
            load_tasks(list(specs))
        return str(raised.value)

    assert error_of(f"arc={mmlu}").endswith("else write a YAML")
    assert "no file or folder" in error_of("mmlu=nowhere")
    assert "has no files of bbh_zeroshot" in error_of(f"bbh_zeroshot={mmlu}")
    assert "no file 'mine.yaml'" in error_of("mine.yaml")
    assert "asked for twice" in error_of("world", "world")
    (mmlu / "test" / "anatomy_test.csv").write_text("Two and two?,3,4,5,6,E\n")
    assert "anatomy_test.csv', row 0: MMLU has" in error_of(f"mmlu={mmlu}")
    (mmlu / "test" / "anatomy_test.csv").rename(mmlu / "test" / "alchemy_test.csv")
    (mmlu / "test" / "alchemy_test.csv").write_text("Two and two?,3,4,5,6,B\n")
    assert "'mmlu_alchemy', which is no task of lm-eval's mmlu" in error_of(f"mmlu={mmlu}")
    (tmp_path / "navigate.json").write_text("[]")
    assert "BIG-bench hard has" in error_of(f"bbh_fewshot={tmp_path}")
    (tmp_path / "bad.yaml").write_text("task: [x\n")
    assert "not valid YAML" in error_of(str(tmp_path / "bad.yaml"))
