"""Files are whole or not there; a folder belongs to one set of settings."""

import pytest

from hfcourse.errors import InputError
from hfcourse.pipeline.files import claim_folder, read_jsonl, write_json, write_jsonl


def test_rows_come_back(tmp_path):
    rows = [{"text": "grün ⏎\n"}, {"n": 1.5, "list": [1]}]
    write_jsonl(tmp_path / "new folder" / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "new folder" / "rows.jsonl") == rows
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["rows.jsonl"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert '"old": 1' in (tmp_path / "a.json").read_text()


def test_a_folder_is_claimed_once(tmp_path):
    claim_folder(tmp_path, {"seed": 0, "pair": (1, 2)})
    claim_folder(tmp_path, {"seed": 0, "pair": (1, 2)})
    with pytest.raises(InputError, match=r"other settings \(more, seed\)"):
        claim_folder(tmp_path, {"seed": 1, "pair": (1, 2), "more": True})
