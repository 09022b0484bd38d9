"""The sections of report.html on the dev set: the paper's section 6, Figures 4 to 6.

Every section takes the result of `multitask.analysis.dev_set.analyse`.
"""

import itertools
from collections.abc import Mapping

from multitask.analysis.intervals import LEVEL
from multitask.analysis.paper_results import PAPER_TRENDS
from multitask.tasks import Task, are_the_papers

from . import figures
from .page import bullets, figure, grid, heading, paragraph, table
from .text import metric_of, metric_title, number, probability, span

Tasks = Mapping[str, Task]
LONGEST_NAME = 10   # of a class, beside a confusion matrix of up to six
LONGEST_OF_MANY = 4
LONGEST_TEXT = 600  # characters of a worst error
MOST_CLASSES = 50   # of a confusion matrix that can be read

PREDICTORS = {"length": "sentence length", "commonality": "word commonality"}
PREDICTOR_AXES = {"length": ("words in the sentence", "words per sentence, mean of both"),
                  "commonality": ("mean of log(1 + count) over its words",
                                  "mean of log(1 + count), words of both")}


def verdict(trend: dict, expected: int | None) -> str:
    """Whether a trend is shown, by its interval and its p value, and as the paper says or not."""
    if trend["interval"] is None:
        return "undefined"
    low, high = trend["interval"]
    if low <= 0 <= high or trend["p"] > 1 - LEVEL:
        return "undecided"
    if expected is None:
        return "better" if low > 0 else "worse"
    return "as the paper says" if (low > 0) == (expected > 0) else "the opposite"


def where_it_succeeds(tasks: Tasks, analysis: dict) -> list[str]:
    """Figures 4 and 5: score by sentence length and word commonality, and the trends."""
    has_paper = are_the_papers(tasks)
    rows = []
    for predictor, name in itertools.product(PREDICTORS, tasks):
        trend = analysis["tasks"][name][predictor]["trend"]
        expected = PAPER_TRENDS[predictor][name] if has_paper else None
        theirs = [{1: "better", -1: "worse"}[expected]] if expected else []
        rows.append([f"{name}, {PREDICTORS[predictor]}", *theirs, verdict(trend, expected),
                     number(trend["spearman"], sign="+"), span(trend["interval"]),
                     probability(trend["p"]), f"{trend['n']:,}"])
    header = ["task and predictor", *(["the paper: gets"] if has_paper else []),
              "this run", "Spearman", "95 % interval", "p", "n"]
    note = (f"Spearman's rank correlation, over all dev examples, of length or commonality with "
            f"being right (on a scale: with minus the absolute error). Above 0, the model does "
            f"better where there is more of it. Undecided: the interval holds 0, or p is above "
            f"0.05. These are {len(rows)} tests; one in twenty shows something by chance alone.")
    if has_paper:
        note += " The paper shows trends without a test."
    parts = [
        heading("Where it succeeds and fails"),
        table(header, rows), paragraph(note, note=True)]
    curves = []
    for number_there, (predictor, title) in enumerate(PREDICTORS.items(), start=4):
        as_paper = f" (the paper's Figure {number_there})" if has_paper else ""
        drawn = [part for name, task in tasks.items()
                 for part in _by_bin(task, analysis["tasks"][name], predictor)]
        if drawn:
            curves += [heading(f"By {title}{as_paper}", 3), grid(drawn)]
    if curves:
        curves.append(paragraph(
            "Each point holds about an equal share of the dev examples: their number above, the "
            "bounds of length or commonality below. Bars: 95 % (Wilson; Fisher for Pearson; "
            "Student for errors; else bootstrap). Dashes: the score over all examples. Labels "
            "within a bin span a smaller range, which alone lowers Pearson: trust the absolute "
            "error.", note=True))
    return parts + curves


def _by_bin(task: Task, found: dict, predictor: str) -> list[str]:
    name, bins, title = task.name, found[predictor]["bins"], PREDICTORS[predictor]
    if len(bins) < figures.FEWEST_POINTS:
        return []
    xlabel = PREDICTOR_AXES[predictor][len(task.text) - 1]
    panels = [(metric_title(found["metric"]), "score", "interval", found["score"],
               "higher is better")]
    if "absolute_error" in bins[0]:
        overall = sum(row["n"] * row["absolute_error"] for row in bins) / found["n"]
        panels.insert(0, ("mean absolute error", "absolute_error", "absolute_error_interval",
                          overall, "lower is better"))
    return [figure(f"{predictor}-{name}-{key.replace('_', '-')}",
                   figures.score_by_bin(bins, xlabel, metric, value, key, interval),
                   f"{name}: {metric} by {title}, {found['n']:,} examples in {len(bins)} bins",
                   f"{task.title}: {metric} by {title}, n = {found['n']:,}; {direction}.")
            for metric, key, interval, value, direction in panels]


def predictions(tasks: Tasks, analysis: dict) -> list[str]:
    """Figure 6: confusion matrices, scatter plot, calibration, and undershooting."""
    drawn, statements, has_paper = [], [], are_the_papers(tasks)
    for name, found in analysis["tasks"].items():
        task = tasks[name]
        if "confusion" in found and task.classes <= MOST_CLASSES:
            names = _class_names(task)
            legend = "" if names == list(task.labels) else f" ({task.meaning})"
            drawn.append(figure(
                f"confusion-{name}",
                figures.confusion_matrix(found["confusion"]["counts"], names),
                f"{name}: confusion matrix of {found['n']:,} examples",
                f"{task.title}, n = {found['n']:,}: a row holds the examples of one label{legend}, "
                f"its shares add up to 100 %. A good model is dark on the diagonal."))
        if "scatter" in found:
            points = {key: found["scatter"][key] for key in ("labels", "predictions", "line")}
            drawn.append(figure(
                f"scatter-{name}", figures.scatter_plot(**points, ends=task.range),
                f"{name}: predictions against labels of {found['n']:,} examples",
                f"{task.title}, n = {found['n']:,}: a point is an example; below the dashes the "
                f"model undershoots."))
            statements += undershooting(task, found["scatter"], has_paper)
        if "calibration" in found:
            label, bins = task.labels[1], found["calibration"]["bins"]
            if len(bins) >= figures.FEWEST_POINTS:
                drawn.append(figure(
                    f"calibration-{name}", figures.calibration_plot(bins, label),
                    f"{name}: share of '{label}' by probability given, {found['n']:,} examples",
                    f"{task.title}, n = {found['n']:,} (of each bin above): on the dashes, "
                    f"probabilities mean what they say; below them the model is too sure of "
                    f"'{label}'."))
            statements.append(f"{name}: expected calibration error "
                              f"{number(found['calibration']['expected_error'])}, the mean "
                              f"distance of a probability from the share that is right.")
    as_paper = " (the paper's Figure 6)" if has_paper else ""
    return [heading(f"What it answers{as_paper}"), grid(drawn), bullets(statements)]


def _class_names(task: Task) -> list[object]:
    """The names of the classes where a figure has room for them, else their numbers."""
    longest = LONGEST_NAME if task.classes <= 6 else LONGEST_OF_MANY
    has_room = max(map(len, task.labels)) <= longest
    return list(task.labels) if has_room else list(range(task.classes))


def undershooting(task: Task, found: dict, has_paper: bool) -> list[str]:
    """The paper's "predictions slightly undershoot", checked on all and on both halves."""
    name, middle = task.name, f"{sum(task.range) / 2:g}"
    everything = found["signed_error"]["all"]
    interval = everything["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        outcome = "undecided"
    else:
        outcome = "it does" if everything["mean"] < 0 else "it overshoots"
    texts = [f"{part}: {number(error['mean'], 2, '+')} ({span(error['interval'], 2)}, n = "
             f"{error['n']:,})"
             for part, error in (("all", everything),
                                 (f"labels of {middle} and more", found["signed_error"]["upper"]),
                                 (f"labels below {middle}", found["signed_error"]["lower"]))
             if error["mean"] is not None]
    asked = "does it undershoot, as the paper says?" if has_paper else "does it undershoot?"
    lines = [f"{name}: {asked} Mean of prediction − label over all examples: {outcome}. "
             + "; ".join(texts) + "."]
    if found["line"] is not None:
        line = found["line"]
        lines.append(f"{name}: slope {number(line['slope'], 2)} "
                     f"({span(line['slope_interval'], 2)}). Below 1, high labels are undershot and "
                     "low ones overshot, as any imperfect least-squares prediction does.")
    return lines


def shared_sentences(tasks: Tasks, analysis: dict) -> list[str]:
    """Scores with and without the dev examples that share a sentence with the training file."""
    rows = []
    for name, found in analysis["tasks"].items():
        row = [metric_of(tasks[name]), number(found["score"])]
        for group in (found["leakage"]["apart"], found["leakage"]["shared"]):
            row += [f"{group['n']:,}",
                    *((number(group["score"]), span(group["interval"])) if group["n"]
                      else ("", ""))]
        rows.append([*row, f"{found['leakage']['whole']:,}"])
    return [heading("Sentences seen in training"),
            table(["task", "all", "n", "no sentence shared", "95 % interval", "n",
                   "a sentence shared", "95 % interval", "n, whole in training"], rows),
            paragraph("A dev example shares a sentence if one of its sentences (ignoring case and "
                      "spacing) is in the same task's training file. It is whole if all of its "
                      "sentences are, in one example. A score that is good only for shared "
                      "sentences was learnt by heart. The two groups may differ in other ways "
                      "too.", note=True)]


def worst_errors(tasks: Tasks, analysis: dict) -> list[str]:
    """The answers furthest from their labels, with their sentences."""
    parts = [heading("Worst errors"), paragraph(
        "Read them before you believe a score: some errors are the model's, some the label's. With "
        "classes, these are the wrong answers with the lowest probability of the label, p(label). "
        "On a scale, they are the answers furthest from it.",
        note=True)]
    for name, found in analysis["tasks"].items():
        task = tasks[name]
        rows = []
        for error in found["worst_errors"]:
            texts = "\n".join(_shortened(text) for text in error["sentences"])
            if task.classes:
                rows.append([texts, *(task.labels[int(error[key])] for key in ("label", "answer")),
                             f"{1 - error['wrong']:.1%}"])
            else:
                rows.append([texts, number(error["label"], 1), number(error["answer"], 1),
                             number(error["wrong"], 1)])
        header = ["sentence" if len(task.text) == 1 else "sentences", "label", "answer",
                  "p(label)" if task.classes else "error"]
        if rows:
            caption = task.title if task.classes else f"{task.title}: {task.meaning}"
            parts.append(table(header, rows, caption=caption, text=True))
    return parts


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"
