"""The figures of a report: one plot each, so that on a phone they stand one below the other.

Colours are Okabe and Ito's, told apart by colour-blind readers; lines differ by dashes and markers
too, for grey print. Nothing here writes a file: every function returns a matplotlib Figure.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from multitask.analysis.log import moving_average

Style = tuple[str, str | tuple, str]  # colour, dashes, marker
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY = "#767676"
STYLES = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, ":", "^"), (VERMILION, "-.", "D"))
PAIR_STYLES = ((VERMILION, "-", "o"), ("#56B4E9", "--", "s"), ("#000000", ":", "^"),
               (GREEN, "-.", "D"), (ORANGE, (0, (6, 2, 1, 2, 1, 2)), "v"),
               ("#CC79A7", (0, (10, 3)), "P"))
# inches; shown at about 96 pixels an inch, so that 9 points are legible on a phone
WIDTH, HEIGHT = 4.4, 3.2
SMALL = 8
LEGEND_CHARACTERS = 44  # of a line of the legend
POINTS = 300  # of a curve, at most
FEWEST_POINTS = 5  # of a curve; with fewer a report leaves it out
SCATTER_POINTS = 2000
MOST_WRITTEN = 12  # classes of a confusion matrix whose cells have room for numbers
LABELS_POINTS, MOST_CHARACTERS = 200, 40  # room beside a confusion matrix, and below it
# log of the largest perplexity drawn; no axis can show those of a diverged run
LARGEST_LOG = 50.0


def styles_of(names: Iterable[str], styles: Sequence[Style] = STYLES) -> dict[str, Style]:
    """name → colour, dashes, marker; the tasks, in their order, keep theirs in every figure.

    With more names than styles, colours repeat with other dashes.
    """
    names, count = list(names), len(styles)
    found = {}
    for number, name in enumerate(names):
        colour, _, marker = styles[number % count]
        found[name] = (colour, styles[(number + number // count) % count][1], marker)
    return found


def empty(xlabel: str, ylabel: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def legend(axes: Axes) -> None:
    """Above the plot, where it covers nothing. Long names make fewer columns and a taller figure.
    """
    handles, names = axes.get_legend_handles_labels()
    names = [textwrap.fill(name, LEGEND_CHARACTERS - 6) for name in names]  # less the line drawn
    longest = max((len(line) for name in names for line in name.splitlines()), default=0)
    columns = max(1, min(3, len(names), LEGEND_CHARACTERS // (longest + 3)))
    lines = math.ceil(len(names) / columns) + sum(name.count("\n") for name in names)
    axes.figure.set_figheight(axes.figure.get_figheight() + 0.2 * max(0, lines - 2))
    axes.legend(handles, names, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0),
                ncols=columns, fontsize=9, handlelength=2.4, columnspacing=1.2, borderaxespad=0.1)


# --------------------------------------------------------------------------------------- of the log


def curves(steps: Sequence[int], series: Mapping[str, Sequence[float]], ylabel: str,
           styles: Mapping[str, Style], log_scale: bool = False,
           windows: int = 40) -> Figure:
    """Moving averages over 1/windows of the steps, one line per name, thinned to a few hundred."""
    window = max(1, len(steps) // windows)
    figure, axes = empty("step", ylabel + (f"\n(mean of {window} steps)" if window > 1 else ""))
    # a start from few steps is noise, but losses fall most there
    first = 0 if log_scale else window - 1
    for name, values in series.items():
        colour, dashes, _ = styles[name]
        known = [(step, value) for step, value in zip(steps, values, strict=True)
                 if value is not None]  # a task may sit out
        x, y = np.array(known).T
        shown = np.unique(np.linspace(min(first, len(x) - 1), len(x) - 1, POINTS).astype(int))
        axes.plot(x[shown], moving_average(y, window)[shown], color=colour, linestyle=dashes,
                  linewidth=1.6, label=name)
    if log_scale:
        _log_scale(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend(axes)
    return figure


def _log_scale(axes: Axes) -> None:
    """Labels at least two values: powers of ten; if too few, also 2 and 5; else round numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    for locator in (LogLocator(numticks=7), LogLocator(subs=(1, 2, 5)), MaxNLocator(5)):
        ticks = [value for value in locator.tick_values(low, high) if low <= value <= high]
        if len(ticks) > 2:
            break
    axes.set_yticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()


def loss_curves(steps: Sequence[dict], tasks: Iterable[str]) -> Figure:
    """Training loss of each task by step; logarithmic, since squared errors start far above.

    A task may be missing in any step; other losses than those of `tasks` are shown if alone.
    """
    logged = {name for step in steps for name in step["losses"]}
    names = [name for name in tasks if name in logged] or sorted(logged)
    series = {name: [step["losses"].get(name) for step in steps] for name in names}
    return curves(_numbers(steps), series, "training loss, log scale", styles_of(names),
                  log_scale=True)


def dev_scores(scores: Mapping[str, Sequence[float | None]], epochs: Sequence[int],
               best: int | None) -> Figure:
    """One line per score over epochs; the epoch that was kept is marked."""
    figure, axes = empty("epoch", "dev score")
    for name, (colour, dashes, marker) in styles_of(scores).items():
        values = np.array(scores[name], dtype=float)  # NaN where a score is undefined
        axes.plot(epochs, values, color=colour, linestyle=dashes, marker=marker, markersize=5,
                  label=name)
    if best is not None:
        axes.axvline(best, color=GREY, linewidth=1, zorder=0)
        axes.annotate("kept", (best, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                      textcoords="offset points", va="top", fontsize=SMALL, color="#444")
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.set_xticks(sorted(set(epochs))[::1 + len(epochs) // 12])
    legend(axes)
    return figure


def cosine_curves(steps: Sequence[int], cosines: Mapping[str, Sequence[float]]) -> Figure:
    figure = curves(steps, cosines, "cosine of two tasks' gradients",
                    styles_of(cosines, PAIR_STYLES), windows=20)
    figure.axes[0].axhline(0, color=GREY, linewidth=1)
    return figure


def conflict_curves(steps: Sequence[dict], pairs: Sequence[str]) -> Figure:
    """The share of recent steps in which a pair conflicts."""
    series = {pair: [float(step["cosines"][pair] < 0) for step in steps] for pair in pairs}
    figure = curves(_numbers(steps), series, "steps in conflict", styles_of(pairs, PAIR_STYLES),
                    windows=10)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def weight_curves(steps: Sequence[dict]) -> Figure:
    series = {name: [step["weights"][name] for step in steps] for name in steps[0]["weights"]}
    figure = curves(_numbers(steps), series, "surgery's weight", styles_of(series), windows=20)
    figure.axes[0].axhline(1, color=GREY, linewidth=1)
    return figure


def norm_curves(steps: Sequence[dict]) -> Figure:
    series = {name: [step["gradient_norms"][name] for step in steps]
              for name in steps[0]["gradient_norms"]}
    return curves(_numbers(steps), series, "norm of the gradient, log scale", styles_of(series),
                  log_scale=True)


def pretraining_curves(steps: Sequence[dict], evaluations: Sequence[dict]) -> Figure:
    """Perplexity of masked tokens by tokens seen, for training batches and held-out text."""
    seen = np.cumsum([0, *(step["tokens"] for step in steps)]) / 1e6
    window = max(1, len(steps) // 100)
    training = np.exp(np.minimum(moving_average([step["loss"] for step in steps], window),
                                 LARGEST_LOG))
    shown = np.unique(np.linspace(window - 1, len(steps) - 1, POINTS).astype(int))
    # of each evaluation, how many steps were taken before: some may have been skipped
    before = np.searchsorted(_numbers(steps), [row["step"] for row in evaluations], side="right")
    held_out = np.minimum([row["perplexity"] for row in evaluations], np.exp(LARGEST_LOG))
    figure, axes = empty("millions of tokens", "perplexity of masked tokens, log scale")
    axes.plot(seen[shown + 1], training[shown], color=ORANGE, linewidth=1.2,
              label=f"training (mean of {window})")
    axes.plot(seen[before], held_out, color=BLUE, marker="o", markersize=5, label="held out")
    _log_scale(axes)
    legend(axes)
    return figure


def _numbers(steps: Sequence[dict]) -> list[int]:
    return [step["step"] for step in steps]


# ---------------------------------------------------------------------------------- of the analysis


def score_by_bin(bins: Sequence[dict], xlabel: str, ylabel: str, overall: float | None,
                 key: str = "score", interval_key: str = "interval") -> Figure:
    """One point per bin with its interval; dashes: over all. Bounds below, n above."""
    figure, axes = empty(xlabel, ylabel)
    for place, row in enumerate(bins):
        if row[key] is not None:
            _point(axes, place + 0.5, row[key], row[interval_key])
        _count_above(axes, place + 0.5, row["n"])
    axes.annotate("n", (0, 1), xycoords="axes fraction", xytext=(-4, 2), textcoords="offset points",
                  ha="right", va="bottom", fontsize=SMALL, color="#333")
    if overall is not None:
        axes.axhline(overall, color=GREY, linewidth=1, linestyle="--", zorder=0)
    axes.set_xticks(range(len(bins) + 1),
                    bound_labels([row["low"] for row in bins] + [bins[-1]["high"]]),
                    fontsize=SMALL)
    axes.set_xlim(0, len(bins))
    axes.grid(axis="x", visible=False)
    return figure


def bound_labels(bounds: Sequence[float]) -> list[str]:
    """With as few digits after the point as tell them apart.

    >>> bound_labels([1.0, 8.0, 44.0]), bound_labels([3.0, 6.5, 8.0])
    (['1', '8', '44'], ['3.0', '6.5', '8.0'])
    >>> bound_labels([6.01, 6.04, 6.98])
    ['6.01', '6.04', '6.98']
    """
    fewest = 0 if all(value == int(value) for value in bounds) else 1
    for digits in (fewest, 2, 3):
        labels = [f"{value:.{digits}f}" for value in bounds]
        if len(set(labels)) == len(set(bounds)):
            break
    return labels


def plain(text: object) -> str:
    """The user's text, escaped: between two dollar signs matplotlib would read a formula."""
    return str(text).replace("$", r"\$")


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[object]) -> Figure:
    """Shade and percentage: share of the row; below it the count."""
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = empty("answer", "label (n)" if len(counts) <= MOST_WRITTEN else "label",
                         height=3.6)
    # no bitmap
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    axes.invert_yaxis()
    if len(classes) <= MOST_WRITTEN:
        for row, column in np.ndindex(*counts.shape):
            share = shares[row, column]
            axes.text(column + 0.5, row + 0.5, f"{share:.0%}\n{counts[row, column]:,}",
                      ha="center", va="center", fontsize=9,
                      color="white" if share > 0.55 else "black")
    middles = np.arange(len(classes)) + 0.5
    names = named = [plain(name) for name in classes]
    if len(classes) <= MOST_WRITTEN:
        named = [f"{name}\n({n:,})" for name, n in zip(names, counts.sum(1).tolist(), strict=True)]
    step = math.ceil(len(classes) * SMALL / LABELS_POINTS)  # of many classes, some are named
    names, named, middles = names[::step], named[::step], middles[::step]
    size = min(9, LABELS_POINTS / len(names))
    axes.set_xticks(middles, names, fontsize=size,
                    rotation=90 if sum(map(len, names)) > MOST_CHARACTERS else 0)
    axes.set_yticks(middles, named, fontsize=size)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure


def scatter_plot(labels: Sequence[float], predictions: Sequence[float], line: dict | None,
                 ends: tuple[float, float]) -> Figure:
    """Prediction against label with identity and fitted line; at most 2,000 points.

    Args:
        ends: of the scale.
    """
    scale = f"{ends[0]:g} to {ends[1]:g}"
    figure, axes = empty(f"label, {scale}", f"prediction, {scale}", height=3.6)
    shown = np.unique(np.linspace(0, len(labels) - 1, SCATTER_POINTS).astype(int))
    axes.scatter(np.asarray(labels)[shown], np.asarray(predictions)[shown], s=9, color=BLUE,
                 alpha=0.35 if len(shown) > 500 else 0.8, linewidths=0)
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.4, label="prediction = label")
    if line is not None:
        axes.plot(ends, [line["intercept"] + line["slope"] * end for end in ends], color=VERMILION,
                  linewidth=2, label=f"fitted, slope {line['slope']:.2f}")
    margin = 0.03 * (ends[1] - ends[0])
    limits = (ends[0] - margin, ends[1] + margin)
    axes.set(xlim=limits, ylim=limits)
    legend(axes)
    return figure


def calibration_plot(bins: Sequence[dict], label: str) -> Figure:
    """Share of a label against the probability given to it, one point per bin, n beside it."""
    name = plain(label)
    figure, axes = empty(f"probability given to '{name}'", f"share of '{name}'", height=3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2)
    for row in bins:
        _point(axes, row["mean"], row["share"], row["interval"])
        _count_above(axes, row["mean"], row["n"], rotation=45)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    return figure


def _point(axes: Axes, x: float, y: float, interval: Sequence[float] | None) -> None:
    low, high = interval or (y, y)
    axes.errorbar(x, y, yerr=[[max(0, y - low)], [max(0, high - y)]], color=BLUE, marker="o",
                  markersize=5, capsize=3, linewidth=1.4)


def _count_above(axes: Axes, x: float, count: int, rotation: float = 0) -> None:
    """How many examples the point at x stands for, above the plot."""
    axes.annotate(f"{count:,}", (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
                  textcoords="offset points", ha="center", va="bottom", fontsize=SMALL,
                  color="#333", rotation=rotation)
