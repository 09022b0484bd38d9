"""Draws docs/figures/surgery.svg from docs/results/surgery-arms.json.

    python tools/draw_surgery.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

from multitask.experiments.arms import PLAIN_SUM
from multitask.experiments.question_report import arms_plot

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    text = (DOCS / "results" / "surgery-arms.json").read_text(encoding="utf-8")
    family = json.loads(text)["comparisons"]["equal_steps"][PLAIN_SUM]
    rows = sorted(family["average"], key=lambda row: row["mean"])
    with matplotlib.rc_context({"svg.hashsalt": "minbert", "svg.fonttype": "none",
                                "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}):
        drawn = arms_plot(family, [row["arm"] for row in rows])
        drawn.savefig(DOCS / "figures" / "surgery.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
