"""The page of several runs as one model: their scores, and where the mean succeeds and fails."""

from collections.abc import Mapping
from pathlib import Path

from minbert.files import write_text

from .dev_set_report import Tasks, predictions, where_it_succeeds, worst_errors
from .page import heading, origin, page, paragraph, table
from .text import metric_of, number, span


def write_ensemble_report(path: Path, tasks: Tasks, runs: Mapping[str, dict], together: dict,
                          analysis: dict, environment: Mapping[str, str]) -> None:
    """Writes the page.

    Args:
        runs: run → its dev scores (evaluation.scores_of).
        together: the dev scores of the mean.
        analysis: of the mean, from analysis.dev_set.analyse.
    """
    parts = [
        paragraph(f"The mean of the raw outputs of {len(runs)} runs."), origin(environment),
        heading("Scores on the dev set"), *score_table(tasks, runs, together, analysis),
        *where_it_succeeds(tasks, analysis), *predictions(tasks, analysis),
        *worst_errors(tasks, analysis)]
    write_text(path, page(f"minbert: {len(runs)} runs as one", parts))


def score_table(tasks: Tasks, runs: Mapping[str, dict], together: dict,
                analysis: dict) -> list[str]:
    """A row per run, then the mean of their scores, and the scores of their mean."""
    def row(name: str, scores: dict) -> list[str]:
        return [name, *(number(scores[task][each.metric]) for task, each in tasks.items()),
                number(scores["average"])]

    count = len(runs)
    mean = {task: {each.metric: sum(scores[task][each.metric] or 0.0
                                    for scores in runs.values()) / count}
            for task, each in tasks.items()}
    mean["average"] = sum(scores["average"] for scores in runs.values()) / count
    intervals = [span(analysis["tasks"][task]["interval"]) for task in tasks]
    rows = [*(row(name, scores) for name, scores in runs.items()),
            row("mean of their scores", mean), row("all as one", together),
            ["95 % interval", *intervals, span(analysis["average"]["interval"])]]
    note = ("The interval is of all as one: a bootstrap over the dev examples. It does not say how "
            "other seeds would do. Each run's best epoch was selected on these examples.")
    return [table(["run", *map(metric_of, tasks.values()), "average"], rows, best=count + 1),
            paragraph(note, note=True)]
