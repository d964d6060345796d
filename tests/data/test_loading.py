"""Every source of rows by one name, and every way of getting the name wrong in one line."""

import json

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hfcourse import world
from hfcourse.data import load_dataset
from hfcourse.errors import InputError

ROWS = [
    {"text": "Mara lives in Oakton.", "n": 1},
    {"text": "Leo has a cat.", "n": 2},
    {"text": "Tea, please.", "n": 3},
]


def write(folder, name):
    dataset, path = Dataset.from_list(ROWS), folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    elif path.suffix == ".jsonl":
        dataset.to_json(path)
    elif path.suffix == ".csv":
        dataset.to_csv(path)
    elif path.suffix == ".tsv":
        dataset.to_csv(path, sep="\t")
    elif path.suffix == ".parquet":
        dataset.to_parquet(path)
    return str(path)


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_file(tmp_path, ending, streaming):
    dataset = load_dataset(write(tmp_path, f"rows.{ending}"), streaming=streaming, required_columns=("text", "n"))
    assert isinstance(dataset, IterableDataset if streaming else Dataset)
    assert list(dataset) == ROWS


def test_a_text_file_is_a_document_a_line(tmp_path):
    (tmp_path / "notes.txt").write_text("One.\n\nTwo.\n   \nThree.")
    assert load_dataset(str(tmp_path / "notes.txt"))["text"][:] == ["One.", "Two.", "Three."]


def test_a_folder_has_the_splits_of_its_files(tmp_path):
    for name in ("train.jsonl", "test.jsonl"):
        write(tmp_path, name)
    assert len(load_dataset(str(tmp_path), split="test")) == 3
    with pytest.raises(InputError, match="split 'validation'"):
        load_dataset(str(tmp_path), split="validation")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_save_to_disk_folder(tmp_path, streaming):
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "both")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert list(load_dataset(str(tmp_path / "both"), split="test", streaming=streaming)) == ROWS[:1]
    assert list(load_dataset(str(tmp_path / "one"), streaming=streaming)) == ROWS
    with pytest.raises(InputError, match=r"no split 'dev', only \['test', 'train'\]"):
        load_dataset(str(tmp_path / "both"), split="dev")


def test_the_world():
    dataset = load_dataset("world/corpus", split="validation", num_examples=3)
    assert list(dataset) == list(world.load("corpus", "validation", num_examples=3))
    stream = load_dataset("world/corpus", split="validation", streaming=True)
    assert [row for row, _ in zip(stream, range(3), strict=False)] == list(dataset)
    with pytest.raises(InputError, match="say how many rows"):
        load_dataset("world/corpus")
    with pytest.raises(InputError, match="no such dataset"):
        load_dataset("world/corpse", num_examples=1)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_first_rows(tmp_path, streaming):
    path = write(tmp_path, "rows.jsonl")
    assert list(load_dataset(path, streaming=streaming, num_examples=2)) == ROWS[:2]
    assert list(load_dataset(path, streaming=streaming, num_examples=9)) == ROWS


def test_a_file_is_never_its_own_test_set(tmp_path):
    path = write(tmp_path, "rows.jsonl")
    with pytest.raises(InputError, match="holds the split 'train' alone"):
        load_dataset(path, split="test")
    assert len(load_dataset(path, split="train[:1]")) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jsonl", None, "there is no file or folder"),
        ("folder/of/nothing", None, "there is no file or folder"),
        ("empty.jsonl", "", "is empty"),
        ("blank.txt", "\n \n", "the split 'train' is empty"),
        ("torn.jsonl", '{"text": "a"}\n{"text": ', "cannot load"),
        ("rows.docx", "x", "is none of .json"),
        ("other.csv", "body\nx\n", "no column 'text', only body; rename"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(str(tmp_path / name), required_columns=("text",))
    assert "\n" not in str(raised.value)


def test_no_name_and_no_hub():
    with pytest.raises(InputError, match="dataset_name: is required"):
        load_dataset(None)
    with pytest.raises(InputError, match="cannot load 'nobody/nothing'") as raised:
        load_dataset("nobody/nothing")
    assert "\n" not in str(raised.value)
