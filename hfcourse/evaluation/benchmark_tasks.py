"""Names of benchmarks in, lm-eval's tasks out: from the Hub, from local files, from YAML, from the embedded world."""

import contextlib
import csv
import json
import logging
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import yaml
from datasets import Dataset

from hfcourse import world
from hfcourse.errors import InputError

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    Rows = list[dict]
    Splits = dict[str, Rows]

WORLD = "world"
WORLD_QUESTIONS, WORLD_SHOTS = 200, 32  # of each subject
LETTERS = "ABCD"


def load_tasks(specs: list[str], limit: int | None = None) -> list[tuple[str, "Task"]]:
    """(group, task) of every task that the specs name; the group is the name that was asked for.

    | spec                   | what it is                                                                       |
    |------------------------|----------------------------------------------------------------------------------|
    | `world`                | the embedded world's multiple choice, a task a subject                           |
    | `my_task.yaml`         | a task of yours; its `data_files` are relative to it                             |
    | `mmlu=folder`          | lm-eval's MMLU on test/<subject>_test.csv, examples from dev/<subject>_dev.csv   |
    | `bbh_zeroshot=folder`  | BIG-bench hard on <task>.json; also bbh_fewshot, bbh_cot_zeroshot, …_cot_fewshot |
    | `gsm8k_cot=file.jsonl` | GSM8K; also gsm8k_cot_zeroshot, and gsm8k=folder, with train.jsonl for examples  |
    | `hellaswag`            | any task or group of lm-eval, its data from the Hub                              |

    Args:
        limit: questions a task that will be asked; the world draws as many.

    Raises:
        InputError: no such task or file, or files of another form.
    """
    found = []
    for spec in specs:
        name, _, path = spec.partition("=")
        if path:
            tasks = _from_files(name, Path(path).expanduser())
        elif spec == WORLD:
            tasks = _build(list(_world_configs(limit or WORLD_QUESTIONS)), WORLD)
        elif spec.endswith((".yaml", ".yml")):
            tasks = _from_yaml(Path(spec).expanduser())
        else:
            tasks = _build([spec], spec, include_defaults=True)
        found += [(Path(name).stem, task) for task in tasks]
    names = [task.config.task for _, task in found]
    if len(set(names)) < len(names):
        raise InputError(f"tasks: '{max(names, key=names.count)}' is asked for twice")
    return found


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """lm-eval logs every default that it takes as a warning."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _build(specs: list, name: str, folder: Path | None = None, include_defaults: bool = False) -> list["Task"]:
    """Tasks of inline configs, files or names; `folder` holds the configs that they refer to."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=include_defaults, include_path=str(folder) if folder else None)
    if include_defaults and name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, n=3)
        raise InputError(f"tasks: lm-eval has no '{name}'" + (f"; did you mean {', '.join(near)}?" if near else ""))
    try:
        with quiet_harness():
            return list(manager.load(specs)["tasks"].values())
    except KeyError as e:
        raise InputError(f"tasks: '{name}' needs {e}, which its data do not have (a split or a column)") from e
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        said = " ".join(str(e).split())
        raise InputError(f"tasks: no data for '{name}': {said}; local files: {name}=path") from e


def _from_yaml(path: Path) -> list["Task"]:
    if not path.is_file():
        raise InputError(f"tasks: there is no file '{path}'")
    try:
        with contextlib.chdir(path.parent):  # lm-eval takes relative data_files to be relative to where it runs
            return _build([path.name], path.stem)
    except yaml.YAMLError as e:
        raise InputError(f"tasks: '{path}' is not valid YAML: {' '.join(str(e).split())}") from e


def _from_files(name: str, path: Path) -> list["Task"]:
    """lm-eval's own tasks, their prompts and metrics, with rows that are read here."""
    import lm_eval

    if name not in LOCAL:
        raise InputError(f"tasks: '{name}={path}': local files are read for {', '.join(LOCAL)}; else write a YAML")
    if not path.exists():
        raise InputError(f"tasks: there is no file or folder '{path}'")
    folder, prefix, read = LOCAL[name]
    configs = [
        {"task": prefix + subject, "custom_dataset": _giver(splits), **NO_DATASET, **OVERRIDES.get(name, {})}
        for subject, splits in read(path).items()
    ]
    if not configs:
        raise InputError(f"tasks: '{path}' has no files of {name}")
    known = {
        stem for file in (Path(lm_eval.__file__).parent / "tasks" / folder).glob("*.yaml") for stem in _names(file)
    }
    for config in configs:
        if config["task"] not in known:
            raise InputError(f"tasks: '{path}' holds '{config['task']}', which is no task of lm-eval's {name}")
    group = {"group": name, "task": configs}  # a group's members are taken from the folder, with these changes
    return _build([group], name, Path(lm_eval.__file__).parent / "tasks" / folder)


def _names(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    named = (line.partition(":")[2].strip().strip("\"'") for line in lines if line.strip("\"'").startswith("task"))
    return [name for name in named if name]


def _giver(splits: "Splits") -> Callable[..., dict[str, Dataset]]:
    # lm-eval calls it with the task's metadata, which say nothing about rows that are read already.
    held = {split: Dataset.from_list(rows) for split, rows in splits.items()}
    return lambda **metadata: held


def read_mmlu(folder: Path) -> dict[str, "Splits"]:
    """{subject: {"dev", "test"}} from the files of the authors, or the same with a header and numbers for letters."""
    subjects: dict[str, Splits] = {}
    for file in sorted(folder.glob("test/*_test.csv")):
        subject = file.stem.removesuffix("_test")
        files = {"test": file, "dev": folder / "dev" / f"{subject}_dev.csv"}
        subjects[subject] = {split: _mmlu_rows(path, subject) for split, path in files.items() if path.is_file()}
    return subjects


def _mmlu_rows(file: Path, subject: str) -> "Rows":
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if row]
    if rows and rows[0][0] == "question" and rows[0][-1] == "answer":
        rows = rows[1:]
    for i, row in enumerate(rows):
        if len(row) != 6 or row[5].strip() not in (*LETTERS, *"0123"):
            raise InputError(f"tasks: '{file}', row {i}: MMLU has a question, four choices and A, B, C, D or 0 to 3")
    answers = [row[5].strip() for row in rows]
    return [
        {"question": row[0], "choices": row[1:5], "answer": "0123ABCD".index(answer) % 4, "subject": subject}
        for row, answer in zip(rows, answers, strict=True)
    ]


def read_bbh(folder: Path) -> dict[str, "Splits"]:
    """{task: {"test"}} from {"examples": [{"input", "target"}]}."""
    tasks = {}
    for file in sorted([*folder.glob("*.json"), *folder.glob("bbh/*.json")]):
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = content.get("examples") if isinstance(content, dict) else None
        if not rows or not all({"input", "target"} <= row.keys() for row in rows):
            raise InputError(f"tasks: '{file}': BIG-bench hard has {{'examples': [{{'input', 'target'}}]}}")
        tasks[file.stem] = {"test": [{"input": row["input"], "target": row["target"]} for row in rows]}
    return tasks


def _read_gsm8k(path: Path) -> dict[str, "Splits"]:
    """A file is what is asked; a folder has test.jsonl, and train.jsonl to take examples from."""
    files = {"test": path} if path.is_file() else {s: path / f"{s}.jsonl" for s in ("test", "train")}
    splits = {}
    for split, file in files.items():
        if file.is_file():
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            if not rows or not all({"question", "answer"} <= row.keys() for row in rows):
                raise InputError(f"tasks: '{file}': GSM8K has the columns 'question' and 'answer'")
            splits[split] = rows
    return {"": splits} if "test" in splits else {}


def _world_configs(num_questions: int) -> Iterator[dict]:
    """A task a subject. Choices are told apart by their likelihood as text, as [`measure_multiple_choice`] does."""
    asked, shots = _world_rows("test", num_questions), _world_rows("train", WORLD_SHOTS)
    for subject in sorted(asked):
        yield {
            "task": f"{WORLD}_{subject}",
            "custom_dataset": _giver({"test": asked[subject], "train": shots[subject]}),
            "output_type": "multiple_choice",
            "test_split": "test",
            "fewshot_split": "train",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
        }


METRICS = ("acc", "acc_norm")


def _world_rows(split: str, num_questions: int) -> dict[str, "Rows"]:
    """The first `num_questions` rows of each subject."""
    rows: dict[str, Rows] = {}
    stream = world.load("multiple_choice", split, streaming=True)
    for row in islice(stream, 50 * num_questions):
        of_subject = rows.setdefault(row["subject"], [])
        if len(of_subject) < num_questions:
            of_subject.append(row)
        if len(rows) == len(world.datasets.SUBJECTS) and all(len(r) == num_questions for r in rows.values()):
            break
    return rows


NO_DATASET = {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None}
STRIPPED = [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
OVERRIDES = {
    "gsm8k_cot_zeroshot": {"training_split": None, "fewshot_split": None},  # it shows no examples
    "bbh_fewshot": {"filter_list": STRIPPED},  # lm-eval compares " True", what a model writes after "A:", to "True"
}

# lm-eval's folder, what its tasks' names begin with, and who reads the files
LOCAL: dict[str, tuple[str, str, Callable[[Path], dict[str, "Splits"]]]] = {
    "mmlu": ("mmlu/default", "mmlu_", read_mmlu),
    **{f"bbh_{kind}": (f"bbh/{kind}", f"bbh_{kind}_", read_bbh) for kind in ("zeroshot", "fewshot")},
    **{f"bbh_cot_{kind}": (f"bbh/cot_{kind}", f"bbh_cot_{kind}_", read_bbh) for kind in ("zeroshot", "fewshot")},
    **{name: ("gsm8k", name, _read_gsm8k) for name in ("gsm8k", "gsm8k_cot", "gsm8k_cot_zeroshot")},
}
