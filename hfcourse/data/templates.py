"""Prompt templates: columns in, `prompt` and `completion` out. The texts themselves are the files in templates/."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from datasets import Dataset, IterableDataset
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hfcourse.data.dialogues import comparisons_from_dialogues
from hfcourse.errors import InputError

FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja file of two blocks, `prompt` and `completion`, over the columns of an instruction row.

    The columns are `instruction`, `context`, `question`, `output`. Others' names are understood: Dolly's `response`
    and text-to-text's `target` are the output; Alpaca's `input` is the question, or the context of a row that has a
    question of its own. What is missing is empty, except that something must be asked.

    Args:
        name: a file in `hfcourse/data/templates` without its ending, or a path to a .jinja file of yours.
        eos_token: written after each completion. The SFT trainer writes it too, so that it is needed only elsewhere.
    """

    name: str = "four_part_en"
    eos_token: str | None = None

    def __post_init__(self):
        missing = {"prompt", "completion"} - _compiled(self.name).blocks.keys()
        if missing:
            raise InputError(f"template: '{self.name}' has no {{% block {sorted(missing)[0]} %}}")

    def prompt(self, row: dict) -> str:
        """The text that the model reads, up to where it is to go on."""
        return self._render("prompt", row)

    def completion(self, row: dict) -> str:
        """The text that the model is to write, with the white space that parts it from the prompt."""
        return self._render("completion", row) + (self.eos_token or "")

    def __call__(self, row: dict) -> dict[str, str]:
        """`prompt`, and `completion` where the row has an output."""
        texts = {"prompt": self.prompt(row)}
        return texts if _output(row) is None else {**texts, "completion": self.completion(row)}

    def _render(self, block: str, row: dict) -> str:
        template = _compiled(self.name)
        return "".join(template.blocks[block](template.new_context(_fields(row))))


def apply_template(
    dataset: Dataset | IterableDataset, template: str = "four_part_en", eos_token: str | None = None
) -> Dataset | IterableDataset:
    """Add `prompt`, and `completion` where there is an output. Every other column stays.

    Args:
        dataset: with the columns that [`PromptTemplate`] understands.
        template: four_part_en, four_part_zh, alpaca, plain, or a path to a .jinja file; or hh_rlhf, which makes chat
            messages of Anthropic's pairs ([`comparisons_from_dialogues`]).

    Raises:
        InputError: no such template, or no column to ask from.
    """
    if template == "hh_rlhf":
        return comparisons_from_dialogues(dataset)
    template = PromptTemplate(template, eos_token)
    first = next(iter(dataset), None)
    if first is None:
        raise InputError("the dataset is empty: there is nothing to apply a template to")
    if not {"instruction", "question", "input"} & first.keys():
        raise InputError(
            f"template '{template.name}': no column 'instruction', 'question' or 'input', only "
            f"{', '.join(sorted(first))}; rename one, or leave the template out"
        )
    return dataset.map(template)


def _fields(row: dict) -> dict[str, str]:
    row = {name: value.strip() for name, value in row.items() if isinstance(value, str)}
    question, context = row.get("question", ""), row.get("context", "")
    if "input" in row:
        question, context = (question, context or row["input"]) if question else (row["input"], context)
    output = _output(row)
    return {
        "instruction": row.get("instruction", ""),
        "context": context,
        "question": question,
        "output": "" if output is None else output,
    }


def _output(row: dict) -> str | None:
    return next((row[name] for name in ("output", "response", "target") if row.get(name) is not None), None)


@lru_cache
def _compiled(name: str) -> Template:
    path = Path(name) if name.endswith(".jinja") else FOLDER / f"{name}.jinja"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.jinja")))
        raise InputError(f"template: there is no '{name}'; choose {known}, or give a path to a .jinja file")
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(path.read_text(encoding="utf-8"))
