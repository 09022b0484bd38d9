"""Draws docs/figures/surgery.svg from docs/results/surgery-arms.json.

    python tools/draw_surgery.py
"""

import json
from pathlib import Path

from multitask.experiments.arms import PLAIN_SUM
from multitask.experiments.question_report import arms_plot
from multitask.reports.page import svg

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    text = (DOCS / "results" / "surgery-arms.json").read_text(encoding="utf-8")
    family = json.loads(text)["comparisons"]["equal_steps"][PLAIN_SUM]
    rows = sorted(family["average"], key=lambda row: row["mean"])
    drawn = arms_plot(family, [row["arm"] for row in rows])
    (DOCS / "figures" / "surgery.svg").write_bytes(svg(drawn, facecolor="white"))


if __name__ == "__main__":
    main()
