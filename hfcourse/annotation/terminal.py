"""A person at the terminal judges pairs, and may stop and go on another day."""

from collections.abc import Callable

from hfcourse.annotation.journal import StopLabelling
from hfcourse.data.preferences import Comparison

KEYS = {"a": "a", "b": "b", "t": "tie", "s": "skip"}
ASK = "Better: [a], [b], [t]ie, [s]kip, [q]uit? "


class TerminalAnnotator:
    """Shows prompt and answers, reads a letter. `q`, the end of input and Ctrl-C stop; what was judged is kept."""

    def __init__(self, name: str, read: Callable[[str], str] | None = None, show: Callable[[str], None] = print):
        self.name, self.read, self.show = name, read or input, show

    def __call__(self, comparisons: list[Comparison]) -> list[list[dict]]:
        return [[{"annotator": self.name, "choice": self._judge(c)}] for c in comparisons]

    def _judge(self, comparison: Comparison) -> str:
        prompt = comparison.row["prompt"]
        text = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        self.show(f"\n[{comparison.number + 1}] {text}\n\nA: {comparison.a.text}\n\nB: {comparison.b.text}\n")
        while True:
            try:
                key = self.read(ASK).strip().lower()[:1]
            except (EOFError, KeyboardInterrupt) as e:
                raise StopLabelling from e
            if key == "q":
                raise StopLabelling
            if key in KEYS:
                return KEYS[key]
