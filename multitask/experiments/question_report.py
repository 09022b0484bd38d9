"""report.html of the surgery question: all arms at a glance, conflicts by time and layer."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minbert.files import write_text
from multitask.reports import figures
from multitask.reports.page import figure, grid, heading, origin, page, paragraph, table
from multitask.tasks import TASKS

from .arms import MOMENTS, PLAIN_SUM, is_control
from .question_tables import CONFLICTS, answer, sections

COLOURS = {"better": figures.BLUE, "worse": figures.VERMILION}  # a verdict; else grey


def write_question_report(path: Path, results: Mapping) -> None:
    """results: the content of question.json."""
    families = {moment: results["comparisons"][moment][PLAIN_SUM] for moment in MOMENTS}
    order = [row["arm"] for row in sorted(families[MOMENTS[0]]["average"],
                                          key=lambda row: row["mean"])]
    n, seed = len(results["seeds"]), results["seeds"][0]
    conflicts = []
    taken = len(next(iter(results["cosines"].values())))
    if taken >= figures.FEWEST_POINTS:
        conflicts.append(figure(
            "cosines", figures.cosine_curves(range(1, 1 + taken), results["cosines"]),
            "Cosines of the tasks' gradients by step",
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
        grid(figure(moment.replace("_", "-"), arms_plot(family, order),
                    f"Every arm's difference from the plain sum at {moment.replace('_', ' ')}",
                    f"Against the plain sum at {moment.replace('_', ' ')}: mean difference over "
                    f"{n} seeds, paired, with its 95 % t interval, which may extend beyond "
                    "the plot. Right of the line the arm is better. Blue (better) and red "
                    "(worse): shown after Holm's correction. Squares: controls. The best average "
                    "at equal steps comes first.")
             for moment, family in families.items()),
    ]
    for title, blocks in sections(results).items():
        parts += [heading(title), *([grid(conflicts)] if title == CONFLICTS else []),
                  *(paragraph(block, note=True) if isinstance(block, str) else
                    table(block.header, block.rows, caption=block.caption, text=block.text)
                    for block in blocks)]
    parts.append(origin(results.get("environment", {})))
    write_text(path, page("Does gradient surgery help?", parts))


def arms_plot(family: Mapping, order: Sequence[str]) -> Figure:
    """A panel for the average and one per task; a row per arm, the last of `order` on top."""
    panels: dict[str, dict] = {}
    for row in (*family["average"], *family["differences"]):
        panels.setdefault(row["task"], {})[row["arm"]] = row
    drawn = Figure(figsize=(figures.WIDTH, 0.8 + 0.17 * len(order)), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.02)

    all_axes = drawn.subplots(1, len(panels), sharey=True)
    for axes, (name, rows) in zip(all_axes, panels.items(), strict=True):
        for place, arm in enumerate(order):
            row = rows[arm]
            mean, low, high = (None if row[key] is None else 100 * row[key]
                               for key in ("mean", "low", "high"))
            colour = COLOURS.get(row["verdict"], figures.GREY)
            if low is not None:
                axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.plot(mean, place, color=colour, marker="s" if is_control(arm) else "o",
                      markersize=4.5,
                      markerfacecolor=colour if row["verdict"] in COLOURS else "white")
        axes.axvline(0, color=figures.GREY, linewidth=0.8, zorder=0)
        axes.set_xlim(*limits_of(rows.values()))
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.tick_params(labelsize=figures.SMALL, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    drawn.supxlabel("difference from the plain sum, × 100", fontsize=figures.SMALL)
    return drawn


def limits_of(rows: Iterable[Mapping]) -> tuple[float, float]:
    """Of an axis with all means and four intervals of five: a very wide one hides no other."""
    means, lows, highs = ([100 * (row["mean"] if row[key] is None else row[key]) for row in rows]
                          for key in ("mean", "low", "high"))
    low, high = min(0, *means, np.quantile(lows, 0.2)), max(0, *means, np.quantile(highs, 0.8))
    margin = 0.08 * (high - low) or 1
    return low - margin, high + margin


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
    figures.legend(axes)
    return drawn
