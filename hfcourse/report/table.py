"""The table of methods and what it shows, in the same words in the terminal and in the report."""

from rich.console import Console
from rich.table import Table

TITLES = {
    "pretrained": "Pretrained",
    "prompted": "Few-shot prompted",
    "sft": "Instruction tuned (SFT)",
    "ppo": "RLHF (PPO)",
    "dpo": "DPO",
}
HEADINGS = (
    "Method",
    "Gold reward",
    "RM reward",
    "KL to SFT",
    "Accuracy",
    "Minutes",
    "FLOPs",
    "Human labels",
    "Parameters changed",
)


def table_rows(methods: dict[str, dict]) -> list[tuple[str, ...]]:
    """One row of texts a method, under [`HEADINGS`]."""
    return [
        (
            TITLES[name],
            f"{m['gold_reward']:.2f} ± {m['gold_reward_se']:.2f}",
            f"{m['proxy_reward']:.2f}",
            f"{m['kl_to_sft']:.1f}",
            f"{100 * m['accuracy']:.0f} %",
            f"{m['minutes']:.1f}",
            f"{m['flops']:.1e}" if m["flops"] else "0",
            f"{m['human_labels']:,}",
            f"{m['parameters_changed']:,}",
        )
        for name, m in methods.items()
    ]


def claims(results: dict) -> list[tuple[bool, str]]:
    """(whether it holds, what the run shows), of each claim of the course; in words that follow from the numbers."""
    return [*map(_difference, results["differences"]), _reward_model(results["reward_model"])]


def overoptimization(methods: dict[str, dict]) -> list[str]:
    """Of PPO and DPO: what the reward model says was gained on SFT, and what was."""
    sentences, sft = [], methods["sft"]
    for name in ("ppo", "dpo"):
        proxy, gold, right = (methods[name][key] - sft[key] for key in ("proxy_reward", "gold_reward", "accuracy"))
        hacked = "; the reward model is being hacked" if proxy > 0 > gold else ""
        sentences.append(
            f"{TITLES[name]} against SFT: reward model {proxy:+.2f}, gold reward {gold:+.2f}, right answers "
            f"{100 * right:+.0f} points{hacked}"
        )
    return sentences


def _difference(d: dict) -> tuple[bool, str]:
    before, after = TITLES[d["before"]], TITLES[d["after"]]
    if d["holds"]:
        verdict = f"{after} is better than {before}"
    elif d["mean"] < -2 * d["se"]:
        verdict = f"{after} is worse than {before}"
    else:
        verdict = f"no difference shown between {after} and {before}"
    return d["holds"], f"{verdict}: {d['mean']:+.2f} gold reward on the same prompts, ± {2 * d['se']:.2f}"


def _reward_model(measured: dict) -> tuple[bool, str]:
    gap = measured["bayes_accuracy"] - measured["accuracy"]
    holds = gap <= 0.05
    return holds, (
        f"the reward model is right on {100 * measured['accuracy']:.1f} % of held-out comparisons, "
        f"{'within' if holds else 'not within'} 5 points of the {100 * measured['bayes_accuracy']:.1f} % that the "
        "best possible guess reaches (people disagree among themselves)"
    )


def print_table(results: dict, console: Console) -> None:
    """The table and what it shows."""
    table = Table(title=f"One life: {results['minutes']:.1f} minutes, seed {results['seed']}")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "Method" else "right")
    for row in table_rows(results["methods"]):
        table.add_row(*row)
    console.print(table)
    console.print("Gold reward: mean ± one standard error. Below, ± is two standard errors of the paired difference.")
    for holds, text in claims(results):
        console.print(f"{'✓' if holds else '✗'} {text}", highlight=False, markup=False)
    for text in overoptimization(results["methods"]):
        console.print(f"  {text}", highlight=False, markup=False)
