"""Prompt templates: columns in, `prompt` and `completion` or a chat's messages out. The texts are in templates/."""

import random
import re
from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset

from hfcourse.data.dialogues import comparisons_from_dialogues
from hfcourse.data.phrasings import named_templates, phrasings_of
from hfcourse.errors import InputError

GSM8K_SEPARATOR = "####"


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja file of two blocks, `prompt` and `completion`, over the columns of an instruction row.

    The columns are `instruction`, `context`, `question`, `output`, and `options` where there are answers to choose
    from. Others' names are understood: Dolly's `response` and text-to-text's `target` are the output; Alpaca's `input`
    is the question, or the context of a row that has a question of its own; MMLU's `choices` are the options, and
    `answer` their number; GSM8K's `answer` is a `rationale`, #### and the output. What is missing is empty, but
    something must be asked.

    A file may hold several phrasings: blocks `prompt_1`, `prompt_2`, …, or the entries of a promptsource YAML
    (`input ||| target`). Row i takes one of them, drawn from (seed, i) alone. One with a `completion_i` of its own is
    inverted: it asks for something else than the output. Blocks `system`, `context` and `user` say who says what in
    a chat; without them the prompt is the user's.

    Args:
        name: a file in `hfcourse/data/templates` without its ending, the name of a chat style (chatml, llama3,
            plain_chat), or a path to a .jinja or .yaml file of yours.
        eos_token: written after each completion. The SFT trainer writes it too, so that it is needed only elsewhere.
        seed: of the phrasings.
        inverted: use inverted phrasings too; False to ask for answers alone. Rows without an output never are.
    """

    name: str = "four_part_en"
    eos_token: str | None = None
    seed: int = 0
    inverted: bool = True
    variants: tuple = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "variants", phrasings_of(self.name))

    def __reduce__(self):  # compiled templates do not travel between processes; names do
        return PromptTemplate, (self.name, self.eos_token, self.seed, self.inverted)

    def prompt(self, row: dict, index: int = 0) -> str:
        """The text that the model reads, up to where it is to go on."""
        return self._variant(row, index).prompt(_fields(row))

    def completion(self, row: dict, index: int = 0) -> str:
        """The text that the model is to write, with the white space that parts it from the prompt."""
        return self._variant(row, index).completion(_fields(row)) + (self.eos_token or "")

    def messages(self, row: dict, index: int = 0) -> list[dict[str, str]]:
        """The row as a chat: perhaps a system's message, the user's (perhaps with a `context`), and the answer."""
        variant, fields = self._variant(row, index), _fields(row)
        turns = variant.turns(fields)
        if _output(row) is not None:
            turns.append({"role": "assistant", "content": variant.answer(fields)})
        return turns

    def __call__(self, row: dict, index: int = 0) -> dict[str, str]:
        """`prompt`, and `completion` where the row has an output."""
        texts = {"prompt": self.prompt(row, index)}
        return texts if _output(row) is None else {**texts, "completion": self.completion(row, index)}

    def _variant(self, row: dict, index: int):
        every = self.inverted and _output(row) is not None
        usable = [variant for variant in self.variants if every or not variant.is_inverted]
        return random.Random(f"phrasing/{self.seed}/{index}").choice(usable)


def apply_template(
    dataset: Dataset | IterableDataset,
    template: str = "four_part_en",
    eos_token: str | None = None,
    seed: int = 0,
    as_messages: bool = False,
    inverted: bool = True,
) -> Dataset | IterableDataset:
    """Add `prompt`, and `completion` where there is an output; or `messages`. Every other column stays.

    Args:
        dataset: with the columns that [`PromptTemplate`] understands.
        template: four_part_en, four_part_zh, alpaca, plain, flan, t0, chatml, llama3, plain_chat, or a path to a file;
            or hh_rlhf, which makes chat messages of Anthropic's pairs ([`comparisons_from_dialogues`]).
        eos_token, seed, inverted: see [`PromptTemplate`].
        as_messages: make a chat of each row, for a chat template ([`hfcourse.data.set_chat_template`]).

    Raises:
        InputError: no such template, or no column to ask from.
    """
    if template == "hh_rlhf":
        return comparisons_from_dialogues(dataset)
    template = PromptTemplate(template, eos_token, seed, inverted)
    first = next(iter(dataset), None)
    if first is None:
        raise InputError("the dataset is empty: there is nothing to apply a template to")
    if template.name in named_templates() and not {"instruction", "question", "input"} & first.keys():
        raise InputError(
            f"template '{template.name}': no column 'instruction', 'question' or 'input', only "
            f"{', '.join(sorted(first))}; rename one, or leave the template out"
        )
    return dataset.map(_Fill(template, as_messages), with_indices=True)


@dataclass(frozen=True)
class _Fill:
    template: PromptTemplate
    as_messages: bool

    def __call__(self, row: dict, index: int) -> dict:
        return {"messages": self.template.messages(row, index)} if self.as_messages else self.template(row, index)


def _fields(row: dict) -> dict:
    options = row.get("options") or row.get("choices") or []
    output = _output(row)
    texts = {name: value.strip() for name, value in row.items() if isinstance(value, str)}
    question, context = texts.get("question", ""), texts.get("context", "")
    if "input" in texts:
        question, context = (question, context or texts["input"]) if question else (texts["input"], context)
    return {
        **row,
        "instruction": texts.get("instruction", ""),
        "context": context,
        "question": question,
        "options": options,
        "rationale": _rationale(row),
        "output": "" if output is None else output.strip(),
    }


def _rationale(row: dict) -> str:
    thought = row.get("rationale") or str(row.get("answer", "")).rpartition(GSM8K_SEPARATOR)[0]
    return " ".join(re.sub(r"<<.*?>>", "", thought).split())  # <<48/2=24>> is a note for a calculator


def _output(row: dict) -> str | None:
    options, answer = row.get("options") or row.get("choices"), row.get("answer")
    if options and isinstance(answer, int):
        return options[answer]
    if isinstance(answer, str) and GSM8K_SEPARATOR in answer:
        return answer.rpartition(GSM8K_SEPARATOR)[2]
    return next((row[name] for name in ("output", "response", "target") if row.get(name) is not None), None)
