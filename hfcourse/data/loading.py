"""One name for every source of rows: the Hub, a folder, a file, standard input, or the embedded world."""

import os
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset

from hfcourse.data.text_stream import standard_input, text_stream
from hfcourse.errors import InputError

BUILDER_OF = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


def load_dataset(
    dataset_name: str | None,
    split: str = "train",
    config: str | None = None,
    streaming: bool = False,
    num_examples: int | None = None,
    required_columns: tuple[str, ...] = (),
) -> Dataset | IterableDataset:
    """One split of a dataset, found by what its name looks like.

    | `dataset_name`                          | what it is                                                       |
    |-----------------------------------------|------------------------------------------------------------------|
    | `world/instructions`                    | the embedded world (needs `num_examples` unless streamed)        |
    | `pairs.jsonl` (.json .csv .tsv .parquet)| one file, which is the split "train"                             |
    | `notes.txt`                             | one document a line, in the column `text`; empty lines left out  |
    | `folder/`                               | such files, named after their split (train-00000.parquet, …; all |
    |                                         | are "train" where no name says); or a `save_to_disk` folder      |
    | `-`                                     | standard input: JSON lines, or a document a line; streamed       |
    | `org/name`                              | a dataset on the Hub                                             |

    Args:
        split: its name; datasets' slices ("train[:5%]") work wherever rows are not generated or streamed.
        config: configuration of a Hub dataset.
        streaming: an IterableDataset, whose rows are read when they are needed; text in pieces, where a document is
            long ([`hfcourse.data.text_stream`]).
        num_examples: the first so many rows (or all, where there are fewer).
        required_columns: columns that must be there.

    Raises:
        InputError: there is no such dataset, split or column, or no row.
    """
    if not dataset_name:
        raise InputError("dataset_name: is required (Hub id, folder, json/csv/parquet/txt file, -, or world/<name>)")
    if dataset_name.startswith("world/"):
        dataset = _from_world(dataset_name, split, streaming, num_examples)
    else:
        dataset = _from_source(dataset_name, split, config, streaming)
        if num_examples is not None:
            first = num_examples if streaming else min(num_examples, len(dataset))
            dataset = dataset.take(first)
    _check(dataset, dataset_name, split, required_columns)
    return dataset


def _from_world(dataset_name: str, split: str, streaming: bool, num_examples: int | None):
    from hfcourse import world

    if num_examples is None and not streaming:
        raise InputError(
            f"{dataset_name}: the world is unlimited; say how many rows (num_train_examples, num_eval_examples)"
        )
    dataset = world.load(dataset_name.removeprefix("world/"), split, num_examples=num_examples, streaming=streaming)
    return dataset


def _from_source(dataset_name: str, split: str, config: str | None, streaming: bool):
    path = Path(dataset_name).expanduser()
    if dataset_name == "-":
        return _from_standard_input(split, streaming)
    try:
        if path.is_file():
            return _from_file(path, split, streaming)
        if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
            return _from_saved(path, split, streaming)
        if not path.is_dir() and _looks_local(dataset_name):
            raise InputError(f"dataset_name: there is no file or folder '{dataset_name}'")
        if path.is_dir():
            return _from_folder(path, split, config, streaming)
        return datasets.load_dataset(dataset_name, config, split=split, streaming=streaming)
    except InputError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        # DatasetNotFoundError and an unreachable Hub are OSErrors; an unknown split or config is a ValueError.
        raise InputError(f"dataset_name: cannot load '{dataset_name}', split '{split}': {_one_line(e)}") from e


def _from_file(path: Path, split: str, streaming: bool):
    suffix = Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()
    builder = BUILDER_OF.get(suffix)
    if builder is None:
        raise InputError(f"dataset_name: '{path}' is none of {', '.join(BUILDER_OF)} (or one of them gzipped, .gz)")
    _only_train(path, split)
    if path.stat().st_size == 0:
        raise InputError(f"dataset_name: '{path}' is empty")
    if builder == "text" and streaming:
        return text_stream([str(path)])
    options = {"sep": "\t"} if suffix == ".tsv" else {}
    dataset = datasets.load_dataset(builder, data_files=str(path), split=split, streaming=streaming, **options)
    return dataset.filter(_has_text) if builder == "text" else dataset


def _from_folder(path: Path, split: str, config: str | None, streaming: bool):
    builder = datasets.load_dataset_builder(str(path), config)
    if builder.info.builder_name != "text":
        return datasets.load_dataset(str(path), config, split=split, streaming=streaming)
    if not streaming:
        return datasets.load_dataset(str(path), config, split=split).filter(_has_text)
    files = builder.config.data_files
    if split not in files:
        raise InputError(f"dataset_name: '{path}' has no split '{split}', only {sorted(files)}")
    return text_stream(list(files[split]))


def _from_standard_input(split: str, streaming: bool):
    if split.partition("[")[0] != "train":
        raise InputError(f"split '{split}': standard input is the split 'train'; evaluate on a file")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise InputError("dataset_name: standard input reaches one process only; write it to a file first")
    if not streaming:
        raise InputError("dataset_name: standard input is a stream; set dataset_streaming and max_steps")
    return standard_input()


def _has_text(row: dict) -> bool:
    return bool(row["text"].strip())


def _from_saved(path: Path, split: str, streaming: bool):
    dataset = datasets.load_from_disk(str(path))
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise InputError(f"dataset_name: '{path}' has no split '{split}', only {sorted(dataset)}")
        dataset = dataset[split]
    else:
        _only_train(path, split)
    return dataset.to_iterable_dataset() if streaming else dataset


def _only_train(path: Path, split: str) -> None:
    # Evaluating on the rows just trained on, because a file has one split only, would be a silent lie.
    if split.partition("[")[0] != "train":
        raise InputError(
            f"split '{split}': '{path}' holds the split 'train' alone; give a folder with a {split} file too"
        )


def _check(dataset, dataset_name: str, split: str, required_columns: tuple[str, ...]) -> None:
    try:
        first = next(iter(dataset), None)
    except (OSError, ValueError, pa.ArrowInvalid, datasets.exceptions.DatasetsError) as e:  # a stream's first reading
        raise InputError(f"dataset_name: cannot read '{dataset_name}', split '{split}': {_one_line(e)}") from e
    if first is None:
        raise InputError(f"{dataset_name}: the split '{split}' is empty")
    for column in required_columns:
        if column not in first:
            raise InputError(
                f"{dataset_name}: has no column '{column}', only {', '.join(sorted(first))}; rename or map one to it"
            )


def _looks_local(dataset_name: str) -> bool:
    return (
        Path(dataset_name).suffix.lower() in {*BUILDER_OF, ".gz"}
        or dataset_name.count("/") > 1
        or dataset_name.startswith((".", "~"))
    )


def _one_line(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else None
    return " ".join(str(cause or error).split())
