"""report.html of the surgery question: differences, intervals, conflicts by time and layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minbert.files import write_text
from multitask.reports import figures
from multitask.reports.page import figure, grid, heading, origin, page, paragraph, table
from multitask.tasks import TASKS

from .question_tables import DIFFERENCE_HEADER, answer, difference_rows


def write_question_report(path: Path, results: Mapping, about: str) -> None:
    """results: the content of question.json. about: what was trained, in one paragraph."""
    planned = results["comparisons"]["equal_steps"]["sum"]["differences"]
    n, seed = len(results["seeds"]), results["seeds"][0]
    how_to_read = (f"mean difference over {n} seeds, paired, with its 95 % t interval; right of "
                   "the line")
    conflicts = []
    if len(next(iter(results["cosines"].values()))) >= figures.FEWEST_POINTS:
        conflicts.append(figure(
            "cosines", cosines_plot(results["cosines"]), "Cosines of the tasks' gradients by step",
            f"PCGrad's run of seed {seed}: cosine of two tasks' gradients by step; below 0 they "
            "conflict."))
    for step, probe in results["probes"].items():
        first = next(iter(probe["pairs"].values()))
        if len(first["layers"]) >= figures.FEWEST_POINTS:
            conflicts.append(figure(
                f"layers-{step}", layers_plot(probe), f"Cosines by layer after {step} steps",
                f"After {step} steps, by part of the encoder: coloured, two tasks; grey, two "
                f"batches of one task (mean of {len(TASKS)} tasks), which would be 1 without "
                f"sampling noise. {first['n']} draws, bars: 95 % t intervals."))
    parts = [
        paragraph(answer(results)),
        figure("answer", differences_plot([row for row in planned if row["arm"] == "pcgrad"],
                                          "task"),
               "PCGrad's difference from the plain sum by task",
               f"PCGrad and the plain sum after equal steps: {how_to_read} PCGrad is better."),
        heading("Every arm against the plain sum"),
        grid(figure(f"differences-{moment}-{name}".replace("_", "-"),
                    differences_plot([row for row in family["sum"]["differences"]
                                      if row["task"] == name], "arm"),
                    f"{name}: difference of each arm from the plain sum at "
                    f"{moment.replace('_', ' ')}",
                    f"{task.title}, {moment.replace('_', ' ')}: {how_to_read} the arm is better.")
             for name, task in TASKS.items()
             for moment, family in results["comparisons"].items()),
        table(DIFFERENCE_HEADER, difference_rows(planned), caption="At equal steps"),
        *([heading("Conflicts"), grid(conflicts)] if conflicts else []),
        heading("What was run"), paragraph(about), origin(results.get("environment", {})),
    ]
    write_text(path, page("Does gradient surgery help?", parts))


def differences_plot(rows: list[dict], label: str) -> Figure:
    """A line a row, named by its `label`: mean and interval of its difference from the control."""
    drawn, axes = figures.empty("difference of scores", "", height=2.2)
    for place, row in enumerate(rows):
        low, high = (row["mean"], row["mean"]) if row["low"] is None else (row["low"], row["high"])
        axes.errorbar(row["mean"], -place, xerr=[[row["mean"] - low], [high - row["mean"]]],
                      color=figures.BLUE, marker="o", markersize=5, capsize=3, linewidth=1.4)
    axes.axvline(0, color=figures.GREY, linewidth=1)
    axes.set_yticks([-place for place in range(len(rows))], [row[label] for row in rows])
    axes.set_ylim(0.5 - len(rows), 0.5)
    axes.locator_params(axis="x", nbins=5)
    return drawn


def cosines_plot(cosines: Mapping[str, list[float]]) -> Figure:
    steps = list(range(1, 1 + len(next(iter(cosines.values())))))
    styles = figures.styles_of(cosines, figures.PAIR_STYLES)
    drawn = figures.curves(steps, cosines, "cosine of two tasks' gradients", styles, windows=20)
    drawn.axes[0].axhline(0, color=figures.GREY, linewidth=1)
    return drawn


def layers_plot(probe: Mapping) -> Figure:
    """Cosine by part of the encoder: the pairs of tasks, and the noise floor."""
    drawn, axes = figures.empty("part of the encoder", "cosine", height=3.6)
    parts = list(next(iter(probe["pairs"].values()))["layers"])
    places = np.arange(len(parts))
    floor = np.mean([[values["layers"][part]["mean_cosine"] for part in parts]
                     for values in probe["same_task"].values()], axis=0)
    axes.plot(places, floor, color=figures.GREY, linestyle=":", marker="_", label="one task twice")
    shifts = itertools.count(-0.15, 0.15)
    styles = figures.styles_of(probe["pairs"], figures.PAIR_STYLES)
    for pair, (colour, dashes, marker) in styles.items():
        layers = [probe["pairs"][pair]["layers"][part] for part in parts]
        means = np.array([layer["mean_cosine"] for layer in layers])
        half = [0 if layer["low"] is None else layer["mean_cosine"] - layer["low"]
                for layer in layers]
        axes.errorbar(places + next(shifts), means, yerr=half, color=colour, linestyle=dashes,
                      marker=marker, markersize=4, capsize=2, linewidth=1.2, label=pair)
    axes.axhline(0, color=figures.GREY, linewidth=1)
    axes.set_xticks(places, [part.replace("layer ", "") for part in parts], rotation=45, ha="right",
                    fontsize=figures.SMALL)
    figures.legend(axes, 2)
    return drawn
