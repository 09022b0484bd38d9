"""report.html of the surgery question: differences, intervals, conflicts by time and layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minbert.files import write_text
from multitask.reports import figures
from multitask.reports.page import figure, grid, heading, page, paragraph, table
from multitask.tasks import TASKS

from .question_tables import DIFFERENCE_HEADER, difference_rows, trial_note


def write_question_report(path: Path, results: Mapping, about: str) -> None:
    """results: the content of question.json. about: what was trained, in one paragraph."""
    planned = results["comparisons"]["equal_steps"]["sum"]
    n = len(results["seeds"])
    parts = [
        heading("Does gradient surgery help?", 1), paragraph(about),
        *([paragraph(trial_note(results))] if trial_note(results) else []),
        heading("Differences from the plain sum"),
        table(DIFFERENCE_HEADER, difference_rows(planned["differences"])),
        grid([figure(f"differences-{moment}-{name}".replace("_", "-"),
                     differences_plot(results["comparisons"][moment]["sum"]["differences"], name),
                     f"{name}: difference of each arm from the plain sum at "
                     f"{moment.replace('_', ' ')}",
                     f"{task.title}, {moment.replace('_', ' ')}: mean difference over {n} seeds, "
                     f"paired, with its 95 % "
                     "t interval; right of the line the arm is better than the plain sum.")
              for moment in results["comparisons"] for name, task in TASKS.items()]),
        heading("Conflicts"),
        grid([figure("cosines", cosines_plot(results["cosines"]),
                     "Cosines of the tasks' gradients by step",
                     f"PCGrad's run of seed {results['seeds'][0]}: cosine of two tasks' gradients "
                     "by step; below 0 they conflict."),
              *(figure(f"layers-{step}", layers_plot(probe), f"Cosines by layer after {step} steps",
                       f"After {step} steps, by part of the encoder: coloured, two tasks; grey, "
                       f"two batches of one task (mean of {len(TASKS)} tasks), which would be 1 "
                       f"without sampling noise. {next(iter(probe['pairs'].values()))['n']} draws, "
                       "bars: 95 % t intervals.")
                for step, probe in results["probes"].items())]),
    ]
    write_text(path, page("minbert: does gradient surgery help?", parts))


def differences_plot(differences: list[dict], task: str) -> Figure:
    """A line an arm: mean and interval of its difference from the control."""
    drawn, axes = figures.empty("difference of scores", "", height=2.2)
    rows = [row for row in differences if row["task"] == task]
    for place, row in enumerate(rows):
        low, high = (row["mean"], row["mean"]) if row["low"] is None else (row["low"], row["high"])
        axes.errorbar(row["mean"], -place, xerr=[[row["mean"] - low], [high - row["mean"]]],
                      color=figures.BLUE, marker="o", markersize=5, capsize=3, linewidth=1.4)
    axes.axvline(0, color=figures.GREY, linewidth=1)
    axes.set_yticks([-place for place in range(len(rows))], [row["arm"] for row in rows])
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
