"""The page that `minbert runs compare --out` writes: differences, and the runs' curves overlaid."""

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from minbert.files import read_object, write_text
from multitask.analysis.dev_set import RESAMPLES
from multitask.reports import figures
from multitask.reports.page import bullets, figure, grid, heading, page, paragraph, table
from multitask.reports.text import metric_title, number, span
from multitask.system.runlog import read_events
from multitask.tasks import NLI

from .compare import Difference
from .folder import METRICS_FILE
from .overview import Summary

PAGE_FILE = "compare.html"
LETTERS = string.ascii_uppercase  # of the runs, in tables and figures; A is the reference
HEADER = ("task", "run", "A", "score", "difference", "95 % interval", "gained", "lost", "n")
NOTE = ("difference: the run's score minus A's, with its 95 % interval by paired bootstrap over "
        f"the n dev examples ({RESAMPLES:,} resamples). If 0 lies inside, no difference is shown. "
        "It says nothing about another seed. gained, lost: examples that only the run, or only A, "
        "has right")


def letters_of(runs: Sequence[str]) -> dict[str, str]:
    """Run → its letter. Raises ValueError for more runs than letters, or one that is there twice.
    """
    if len(runs) > len(LETTERS) or len(set(runs)) < len(runs):
        raise ValueError(f"compare takes 2 to {len(LETTERS)} runs, each once")
    return dict(zip(runs, LETTERS, strict=False))


def difference_row(one: Difference, letters: Mapping[str, str]) -> list[str]:
    """The cells below HEADER."""
    sides = ["" if count is None else f"{count:,}" for count in (one.gained, one.lost)]
    return [one.task, letters[one.run], number(one.reference_score), number(one.score),
            number(one.difference, sign="+"), span([one.low, one.high], sign="+"), *sides,
            f"{one.n:,}"]


def write_comparison(path: Path, runs: Sequence[Summary], differences: Sequence[Difference],
                     left_out: Sequence[str]) -> None:
    """Writes the page.

    Args:
        runs: the reference first.
        left_out: a line for each task that cannot be compared.
    """
    letters = letters_of([one.run for one in runs])
    names = {one.task: f"{one.task}, {metric_title(one.metric)}" for one in differences}
    rows = [[names[one.task], *difference_row(one, letters)[1:]] for one in differences]
    courses = {letters[one.run]: course_of(Path(one.run)) for one in runs}
    styles = figures.styles_of(courses, figures.PAIR_STYLES)

    losses, scores = [], []
    for task in dict.fromkeys(one.task for one in differences):
        with_losses = {run: course for run, course in courses.items() if course.losses.get(task)}
        if with_losses:
            losses.append(figure(f"loss-{task}", loss_plot(with_losses, task, styles),
                                 f"Training loss of {task} by step, each run",
                                 f"{task}: training loss by step."))
        scores.append(figure(f"dev-{task}", dev_plot(courses, task, styles),
                             f"Dev score of {task} by epoch, each run",
                             f"{names[task]}: dev score by epoch. Filled: the epoch kept."))

    parts = [
        table(["run", "tasks", "training"],
              [[f"{letters[one.run]}: {one.run}", ", ".join(one.tasks),
                f"{one.method}, from {one.model}, seed {one.seed}, {one.steps:,} steps"]
               for one in runs], text=True),
        heading("Differences from A"), table(HEADER, rows), paragraph(f"{NOTE}.", note=True),
        *([bullets(left_out)] if left_out else []),
        paragraph("Each run's best epoch was selected on these same examples, which flatters all "
                  "of them.", note=True),
        heading("Training"), grid(losses), heading("Dev scores"), grid(scores),
        paragraph("Steps and epochs count over a run's stages, without pretraining on MultiNLI.",
                  note=True),
    ]
    write_text(path, page("minbert: runs compared", parts))


# ------------------------------------------------------------------------------------------ curves


@dataclass(frozen=True)
class Course:
    """A run's log: task → step → loss, task → epoch → dev score, and the last epoch kept."""

    losses: dict[str, dict[int, float]]
    scores: dict[str, dict[int, float]]
    kept: int


def course_of(run: Path) -> Course:
    """Steps and epochs count over the stages but MultiNLI's, which trains none of the tasks."""
    losses: dict[str, dict[int, float]] = {}
    scores: dict[str, dict[int, float]] = {}
    steps: dict[str | None, int] = {}  # stage → its steps so far
    epochs: dict[str | None, int] = {}
    for event in read_events(run):
        stage = event.get("stage")
        if stage == NLI.name or event["event"] not in ("step", "epoch"):
            continue
        steps[stage], epochs[stage] = event["step"], event["epoch"]
        for task, loss in event.get("losses", {}).items():
            losses.setdefault(task, {})[sum(steps.values())] = loss
        for task, score in event.get("dev", {}).items():
            if isinstance(score, Mapping):
                [value] = score.values()
                scores.setdefault(task, {})[sum(epochs.values())] = value
    metrics = read_object(run / METRICS_FILE)
    before = sum([*epochs.values()][:-1])  # the epoch kept is one of the last stage
    return Course(losses, scores, before + metrics["best_epoch"])


def loss_plot(courses: Mapping[str, Course], task: str,
              styles: Mapping[str, figures.Style]) -> Figure:
    steps = range(1, 1 + max(max(course.losses[task]) for course in courses.values()))
    series = {run: [course.losses[task].get(step) for step in steps]
              for run, course in courses.items()}
    return figures.curves(steps, series, "training loss, log scale", styles, log_scale=True)


def dev_plot(courses: Mapping[str, Course], task: str,
             styles: Mapping[str, figures.Style]) -> Figure:
    """A line per run over its epochs, hollow but for the epoch that was kept."""
    drawn, axes = figures.empty("epoch", "dev score")
    for run, course in courses.items():
        known = {epoch: math.nan if score is None else score
                 for epoch, score in course.scores.get(task, {}).items()}
        if known:
            colour, dashes, marker = styles[run]
            axes.plot([*known], [*known.values()], color=colour, linestyle=dashes, marker=marker,
                      markersize=6, markerfacecolor="white", label=run)
            if course.kept in known:
                axes.plot(course.kept, known[course.kept], color=colour, marker=marker,
                          markersize=6)
    axes.xaxis.set_major_locator(figures.MaxNLocator(12, integer=True, min_n_ticks=1))
    figures.legend(axes)
    return drawn
