"""RUN/report.html: one self-contained page with scores, learning curves and gradient conflicts."""

from __future__ import annotations

import html
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minbert.pretrained import replacing

from .analysis import PAIRS, moving_average
from .tasks import TASKS

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey by their lightness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
TASK_COLOURS = dict(zip(TASKS, itertools.cycle(PALETTE)))
PAIR_COLOURS = dict(zip(PAIRS, itertools.cycle(PALETTE[3:] + PALETTE[:3])))

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .5rem 0 } th, td { padding: .25rem .8rem .25rem 0; text-align: right }
th:first-child, td:first-child { text-align: left } th { border-bottom: 1px solid #888 }
tr.best { font-weight: 600 } figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
.wide { overflow-x: auto } p.note { color: #555; font-size: .9rem }
@media print { body { max-width: none } h2, figure { break-inside: avoid } }
"""


def write_report(path: Path, settings: dict, metrics: dict, steps: Sequence[dict], epochs: Sequence[dict]) -> None:
    """settings: what was run. metrics: metrics.json. steps, epochs: the log's events."""
    title = f"{settings['arch']} · {settings['gs']} · {settings['surgery']}"
    steps, epochs = ([e for e in events if e["stage"] == "gs"] for events in (steps, epochs))
    parts = [
        f"<h1>minbert: {html.escape(title)}</h1>",
        "<h2>Scores on the dev set</h2>", _score_table(epochs, metrics["best_epoch"]) if epochs else "",
        "<p class=note>The row in bold is the best epoch, which was kept. average: mean of the three, as in the "
        "paper; overall: Pearson's −1…1 brought to 0…1 first, as in the course.</p>",
        "<h2>Learning curves</h2>", _figure(_learning_curves(steps, epochs)) if epochs else "",
        "<h2>Gradient conflicts</h2>", *([_conflict_table(metrics["surgery"]), _figure(_conflict_plot(steps))] if "surgery" in metrics else []),
        "<p class=note>Cosines between the tasks' gradients of the shared encoder, of every step's own batches; two "
        "tasks conflict in a step if theirs is below 0. A weight is what surgery multiplies a task's gradient by "
        "before the sum; 1 is the plain sum.</p>",
        "<h2>What was run</h2>", _settings_table(settings, metrics),
    ]
    body = "\n".join(parts)
    head = (f"<meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>"
            f"<title>minbert: {html.escape(title)}</title><style>{STYLE}</style>")
    page = f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>\n{body}\n</body></html>\n"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = []
    for number, row in enumerate(rows):
        mark = " class=best" if number == best else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<div class=wide><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _score_table(epochs: Sequence[dict], best_epoch: int) -> str:
    header = ["epoch", *(f"{task.title}, {task.metric_name}" for task in TASKS.values()), "average", "overall"]
    rows = []
    for epoch in epochs:
        dev = epoch["dev"]
        scores = [dev[name][task.metric_name] for name, task in TASKS.items()]
        rows.append([str(epoch["epoch"]), *map(_number, [*scores, dev["average"], dev["overall"]])])
    return _table(header, rows, 0)


def _conflict_table(surgery: dict) -> str:
    pairs = _table(["pair", "steps in conflict", "mean cosine"],
                   [[pair, f"{surgery['conflict_rate'][pair]:.1%}", f"{surgery['mean_cosine'][pair]:+.3f}"]
                    for pair in PAIRS])
    weights = _table(["task", "mean weight"], [[name, _number(surgery["mean_weights"][name])] for name in TASKS])
    return pairs + weights


def _settings_table(settings: dict, metrics: dict) -> str:
    facts = {**settings, "steps": metrics["steps"], "train_seconds": f"{metrics['train_seconds']:.1f}",
             "examples_per_second": f"{metrics['examples_per_second']:.1f}", **metrics["environment"]}
    return _table(["setting", "value"], [[key, "default" if value is None else str(value)]
                                         for key, value in facts.items()])


def _learning_curves(steps: Sequence[dict], epochs: Sequence[dict]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    window = max(1, len(steps) // 50)
    x = [step["step"] for step in steps]
    for name, colour in TASK_COLOURS.items():
        left.plot(x, moving_average([step["losses"][name] for step in steps], window), color=colour, label=name)
        scores = [epoch["dev"][name][TASKS[name].metric_name] for epoch in epochs]
        right.plot([epoch["epoch"] for epoch in epochs], scores, color=colour, marker="o",
                   label=f"{name} {TASKS[name].metric_name}")
    left.set(xlabel="step", ylabel=f"training loss (mean of {window} steps)", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="dev score", ylim=(0, 1), xticks=[epoch["epoch"] for epoch in epochs])
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    return figure


def _conflict_plot(steps: Sequence[dict]) -> Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    window = max(1, len(steps) // 50)
    x = [step["step"] for step in steps]
    for pair, colour in PAIR_COLOURS.items():
        left.plot(x, moving_average([step["cosines"][pair] for step in steps], window), color=colour, label=pair)
    for name, colour in TASK_COLOURS.items():
        right.plot(x, moving_average([step["weights"][name] for step in steps], window), color=colour, label=name)
    left.axhline(0, color="#888", linewidth=0.8)
    left.set(xlabel="step", ylabel=f"cosine (mean of {window} steps)")
    right.set(xlabel="step", ylabel=f"surgery weight (mean of {window} steps)")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    return figure


def _figure(figure: Figure) -> str:
    """The figure as SVG inside the page: no file beside it, sharp on paper."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue()
    return f"<figure>{text[text.index('<svg'):]}</figure>"
