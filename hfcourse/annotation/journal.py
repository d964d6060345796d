"""A journal of verdicts, so that nothing is labelled twice and nothing is lost when labelling is stopped."""

import json
from collections.abc import Callable
from pathlib import Path

from hfcourse.data.preferences import Comparison

Annotator = Callable[[list[Comparison]], list[list[dict]]]


class StopLabelling(Exception):
    """An annotator has had enough for now; what was judged before it is kept."""


class Journal:
    """A JSON line a comparison: its id and the verdicts on it. A half-written last line is dropped and done again."""

    def __init__(self, path: str | Path):
        self.path, self.verdicts = Path(path), {}
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            record = json.loads(line)
            self.verdicts[record["id"]] = record["verdicts"]

    def write(self, comparison: Comparison, verdicts: list[dict]) -> None:
        """Keep the verdicts on one comparison; on disk before the next is asked for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.verdicts[comparison.id] = verdicts
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": comparison.id, "verdicts": verdicts}, ensure_ascii=False) + "\n")


def label(comparisons: list[Comparison], annotator: Annotator, journal: Journal, batch_size: int = 64) -> bool:
    """Ask the annotator for what the journal does not hold, a batch at a time; False if it stopped before the end."""
    open_ones = [comparison for comparison in comparisons if comparison.id not in journal.verdicts]
    for start in range(0, len(open_ones), batch_size):
        batch = open_ones[start : start + batch_size]
        try:
            verdicts = annotator(batch)
        except StopLabelling:
            return False
        for comparison, of_one in zip(batch, verdicts, strict=True):
            journal.write(comparison, of_one)
    return True
