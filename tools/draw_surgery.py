"""Draws the README's picture from docs/results/surgery.json.

    python tools/draw_surgery.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from multitask.reports.figures import BLUE, GREY, SMALL

DOCS = Path(__file__).parents[1] / "docs"
ARMS = {"pcgrad": "PCGrad", "paper": "the paper's Eq. 2–5", "constant": "constant weights",
        "single": "single-task models"}
TASKS = {"sst": "sentiment, accuracy", "para": "paraphrase, accuracy", "sts": "similarity, Pearson"}


def draw(results: dict) -> Figure:
    """One panel per task: each arm's mean difference from the plain sum, with its interval."""
    differences = results["comparisons"]["equal_steps"]["sum"]["differences"]
    figure = Figure(figsize=(8.6, 2.3), layout="constrained")
    panels = figure.subplots(1, len(TASKS), sharey=True)

    for panel, (task, title) in zip(panels, TASKS.items(), strict=True):
        rows = {row["arm"]: row for row in differences if row["task"] == task}
        for place, arm in enumerate(ARMS):
            row = rows[arm]
            error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            panel.errorbar(row["mean"], -place, xerr=error, color=BLUE, marker="o", markersize=5,
                           capsize=3, linewidth=1.4)
        panel.axvline(0, color=GREY, linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.set_yticks([-place for place in range(len(ARMS))], list(ARMS.values()))
        panel.set_ylim(0.6 - len(ARMS), 0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=SMALL + 1)

    figure.supxlabel("difference from the plain sum of gradients: mean of 5 seeds, 95 % interval",
                     fontsize=9)
    return figure


def main() -> None:
    results = json.loads((DOCS / "results" / "surgery.json").read_text(encoding="utf-8"))
    with matplotlib.rc_context({"svg.hashsalt": "minbert", "svg.fonttype": "none",
                                "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}):
        draw(results).savefig(DOCS / "figures" / "surgery.svg", metadata={"Date": None},
                              facecolor="white")


if __name__ == "__main__":
    main()
