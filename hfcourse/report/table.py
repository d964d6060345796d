"""The table of methods, in the same words in the terminal and in the report."""

from rich.console import Console
from rich.table import Table

TITLES = {
    "pretrained": "pretrained",
    "prompted": "few-shot prompted",
    "sft": "instruction tuned (SFT)",
    "ppo": "PPO",
    "dpo": "DPO",
}
HEADINGS = (
    "method",
    "gold reward",
    "RM reward",
    "KL to SFT",
    "accuracy",
    "minutes",
    "FLOPs",
    "human labels",
    "parameters changed",
)


def table_rows(methods: dict[str, dict]) -> list[tuple[str, ...]]:
    """One row of texts a method, under [`HEADINGS`]. What was not measured is a dash."""
    return [
        (
            TITLES[name],
            f"{m['gold_reward']:.2f} ± {m['gold_reward_se']:.2f}",
            _number(m["proxy_reward"], ".2f"),
            _number(m["kl_to_sft"], ".1f"),
            f"{100 * m['accuracy']:.0f} %",
            f"{m['minutes']:.1f}",
            _number(m["flops"], ".1e"),
            _number(m["human_labels"], ",d"),
            _number(m["parameters_changed"], ",d"),
        )
        for name, m in methods.items()
    ]


def claims(differences: list[dict]) -> list[str]:
    """What the run shows of each pair of methods, in words that follow from the numbers."""
    return [
        f"{TITLES[d['before']]} → {TITLES[d['after']]}: {d['mean']:+.2f} ± {d['se']:.2f} gold reward on the same prompts, "
        + ("more than two standard errors above 0" if d["holds"] else "not above two standard errors")
        for d in differences
    ]


def print_table(results: dict, console: Console) -> None:
    """The table and what it shows."""
    table = Table(title=f"One life, {results['minutes']:.1f} minutes, seed {results['seed']}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in table_rows(results["methods"]):
        table.add_row(*row)
    console.print(table)
    reward_model = results["reward_model"]
    console.print(
        f"reward model: {reward_model['accuracy']:.3f} of held-out comparisons right; the best that can be is "
        f"{reward_model['bayes_accuracy']:.3f} (Bayes accuracy of the annotators)",
        highlight=False,
    )
    for claim in claims(results["differences"]):
        console.print(claim, highlight=False)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
