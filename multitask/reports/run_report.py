"""RUN/report.html: what was run, how well it does beside the paper, where it fails, how the gradients got along."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from minbert.files import replacing
from multitask.analysis.log import conflict_statistics, pairs_of
from multitask.analysis.paper_results import PAPER_TRENDS, method_of, paper_scores
from multitask.tasks import TASKS

from . import figures
from .page import bullets, figure, grid, heading, page, paragraph, table

STAGE_TITLES = {"nli": "MultiNLI pretraining", "gs": "gradient-surgery fine-tuning", "fl": "final-layer fine-tuning"}
PREDICTORS = {"length": "sentence length", "commonality": "word commonality"}
PREDICTOR_AXES = {"length": ("words in the sentence", "words a sentence, mean of both"),
                  "commonality": ("mean of log(1 + count) over its words", "mean of log(1 + count), words of both")}


def write_report(path: Path, settings: dict, metrics: dict, steps: Sequence[dict], epochs: Sequence[dict],
                 analysis: dict | None = None) -> None:
    """settings: what was run. metrics: metrics.json. steps, epochs: the log's events. analysis: from `analyse`.

    What is missing (no analysis, a stage without steps or gradients of its own) leaves its section out.
    """
    surgery = f" · {settings['surgery']}" if settings["gs"] != "none" else ""
    title = f"minbert: {settings['arch']} · {method_of(settings)}{surgery}"
    surgery_steps = [step for step in steps if stage_of(step) == "gs" and "cosines" in step]
    parts = [
        heading(title, 1), paragraph(summary(settings, metrics)),
        *(headline(settings, metrics, analysis) if set(TASKS) <= set(metrics["dev"]) else []),
        *training(metrics, steps, epochs),
        *(where_it_succeeds(analysis) if analysis else []),
        *(predictions(analysis) if analysis else []),
        *(shared_sentences(analysis) if analysis else []),
        *(conflicts(surgery_steps) if surgery_steps else []),
        *(worst_errors(analysis) if analysis else []),
        heading("What was run"), facts(settings, metrics),
    ]
    with replacing(path) as partial:
        partial.write_text(page(title, parts), encoding="utf-8")


# ------------------------------------------------------------------------------------------- words and numbers


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """−0.123 with a true minus; "undefined" for None."""
    return "undefined" if value is None else f"{value:{sign}.{digits}f}".replace("-", "−")


def span(interval: Sequence[float] | None, digits: int = 3) -> str:
    """An interval: 0.230 to 0.282."""
    return "undefined" if interval is None else " to ".join(number(value, digits) for value in interval)


def probability(p: float | None) -> str:
    """What is below a thousandth says no more than that.

    >>> probability(0.1), probability(0.0054), probability(1e-9)
    ('0.100', '0.005', '< 0.001')
    """
    return "undefined" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def stage_of(event: dict) -> str:
    return event.get("stage", "gs")


def metric_of(name: str) -> str:
    return f"{TASKS[name].title}, {TASKS[name].metric_name.replace('pearson', 'Pearson')}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would take.

    >>> duration(12), duration(90), duration(5400)
    ('12 s', '1.5 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------- scores


def summary(settings: dict, metrics: dict) -> str:
    """One sentence: which encoder, which data, how long."""
    data = settings.get("data") or "the embedded sample (made up by rule: compare runs with each other, not the paper)"
    start = settings.get("model") or f"of the run {settings['start']}"
    text = f"Encoder {start}, data {data}, seed {settings.get('seed')}"
    if metrics.get("steps"):
        text += f"; {metrics['steps']:,} steps"
    if metrics.get("train_seconds"):
        text += f" in {duration(metrics['train_seconds'])}"
    return text + (f"; epoch {metrics['best_epoch']} was kept." if metrics.get("best_epoch") else ".")


def headline(settings: dict, metrics: dict, analysis: dict | None) -> list[str]:
    """The best epoch's scores, with intervals where the analysis gives them, beside the paper's."""
    paper = paper_scores(settings)
    header = ["task", "score", *(["95 % interval", "trivial answer"] if analysis else []),
              *(["the paper"] if paper else []), "dev examples"]
    rows = [_score_row(name, metrics, analysis, paper) for name in TASKS]
    average = analysis["average"] if analysis else {"score": metrics["dev"]["average"]}
    rows.append(["average", number(average["score"]), *([span(average["interval"]), ""] if analysis else []),
                 *([number(sum(paper.values()) / len(paper))] if paper else []), ""])
    parts = [heading("Scores on the dev set"), table(header, rows)]
    if analysis:
        parts.append(paragraph(
            f"Intervals: bootstrap over the dev examples, {analysis['resamples']:,} resamples, seed "
            f"{analysis['seed']}. They say how the scores would move with other examples, not with another seed, and "
            "take no account of the best epoch having been picked on these very examples. Trivial answer: always the "
            "most frequent class, or a Pearson of 0.", note=True))
    if paper:
        parts.append(paragraph(
            f"The paper: its Table 1 for {method_of(settings)} with {settings['arch']}, bert-base on the full data, "
            "one seed: for orientation, not a like-for-like comparison with another encoder or less data.", note=True))
    return parts


def _score_row(name: str, metrics: dict, analysis: dict | None, paper: dict | None) -> list[str]:
    theirs = [number(paper[name]) if name in paper else ""] if paper else []
    if analysis is None:
        n = metrics.get("examples", {}).get(name, {}).get("dev")
        score = metrics["dev"][name][TASKS[name].metric_name]
        return [metric_of(name), number(score), *theirs, "" if n is None else f"{n:,}"]
    found = analysis["tasks"][name]
    return [metric_of(name), number(found["score"]), span(found["interval"]), number(found["trivial"]), *theirs,
            f"{found['n']:,}"]


# ------------------------------------------------------------------------------------------- training


def training(metrics: dict, steps: Sequence[dict], epochs: Sequence[dict]) -> list[str]:
    """Stage by stage: scores of every epoch, learning curves."""
    stages = list(dict.fromkeys(map(stage_of, itertools.chain(epochs, steps))))
    parts = [heading("Training")] if stages else []
    for stage in stages:
        own_steps = [step for step in steps if stage_of(step) == stage and step.get("losses")]
        own_epochs = [epoch for epoch in epochs if stage_of(epoch) == stage]
        best = metrics.get("stages", {}).get(stage, {}).get("best_epoch")
        drawn = []
        if own_steps:
            drawn.append(figure(
                f"loss-{stage}", figures.loss_curves(own_steps), f"Training losses by step, {stage}",
                "Training loss by step: falling is learning. Cross entropy in nats, squared error (sts) in points²."))
        if own_epochs:
            scores = epoch_scores(own_epochs)
            parts.append(epoch_table(stage, own_epochs, scores, best))
            drawn.append(figure(
                f"dev-{stage}", figures.dev_scores(scores, [epoch["epoch"] for epoch in own_epochs], best),
                f"Dev scores by epoch, {stage}",
                "Dev score by epoch, accuracy or Pearson: where a line turns down, training has begun to overfit."))
        parts.append(grid(drawn))
    if any(set(TASKS) <= set(epoch["dev"]) for epoch in epochs):
        parts.append(paragraph("average: mean of the three, as in the paper, by which the epoch to keep was chosen; "
                               "overall: Pearson's −1…1 brought to 0…1 first, as in the course.", note=True))
    return parts


def epoch_scores(epochs: Sequence[dict]) -> dict[str, list[float]]:
    """name → a score an epoch: every task's metric, or the stage's own accuracy; NaN where it is undefined."""
    first = epochs[0]["dev"]
    names = [name for name in first if isinstance(first[name], dict)]
    values = {name: [next(iter(epoch["dev"][name].values())) for epoch in epochs] for name in names}
    return {name: [float("nan") if value is None else value for value in row] for name, row in values.items()}


def epoch_table(stage: str, epochs: Sequence[dict], scores: dict[str, list[float]], best: int | None) -> str:
    totals = [key for key in ("average", "overall") if key in epochs[0]["dev"]]
    header = ["epoch", *(metric_of(name) if name in TASKS else name for name in scores), *totals]
    rows = [[epoch["epoch"],
             *(number(None if row[place] != row[place] else row[place]) for row in scores.values()),
             *(number(epoch["dev"][key]) for key in totals)] for place, epoch in enumerate(epochs)]
    numbers = [epoch["epoch"] for epoch in epochs]
    kept = numbers.index(best) if best in numbers else None
    return table(header, rows, kept, caption=f"{STAGE_TITLES.get(stage, stage)}: dev scores"
                 + ("; the shaded epoch was kept" if kept is not None else ""))


# ------------------------------------------------------------------------------------------- the paper's section 6


def verdict(trend: dict, expected: int | None) -> str:
    """What this run says of a claim of the paper: its interval lies on the claimed side of 0, the other, or both."""
    if trend["interval"] is None:
        return "undefined"
    low, high = trend["interval"]
    if low <= 0 <= high:
        return "undecided"
    if expected is None:
        return "better" if low > 0 else "worse"
    return "as the paper says" if (low > 0) == (expected > 0) else "the opposite"


def where_it_succeeds(analysis: dict) -> list[str]:
    """Figures 4 and 5: score by sentence length and word commonality, and whether the paper's trends are there."""
    rows = []
    for predictor, name in itertools.product(PREDICTORS, TASKS):
        trend = analysis["tasks"][name][predictor]["trend"]
        expected = PAPER_TRENDS[predictor].get(name)  # it knows nothing of a task of one's own
        rows.append([f"{name}, {PREDICTORS[predictor]}", {1: "better", -1: "worse", None: ""}[expected],
                     verdict(trend, expected), number(trend["spearman"], sign="+"), span(trend["interval"]),
                     probability(trend["p"]), f"{trend['n']:,}"])
    parts = [
        heading("Where it succeeds and fails"),
        table(["task, and what grows", "the paper: gets", "this run", "Spearman", "95 % interval", "p", "n"], rows),
        paragraph("Spearman's rank correlation over all dev examples between length or commonality and being right "
                  "(sts: minus the absolute error); above 0, the model does better where there is more of it. "
                  "Undecided: the interval holds 0. By chance alone one such test in twenty shows something; these are "
                  "six. The paper shows trends without a test.", note=True)]
    for predictor, title in PREDICTORS.items():
        drawn = [part for name in TASKS for part in _by_bin(name, analysis["tasks"][name], predictor)]
        figure_number = 4 if predictor == "length" else 5
        parts += [heading(f"By {title} (the paper's Figure {figure_number})", 3), grid(drawn)]
    parts.append(paragraph("Each point holds about an equal share of the dev examples: their number above, the bounds "
                           "of length or commonality below. Bars: 95 % (Wilson; Fisher for Pearson; Student for "
                           "errors). Dashes: the score over all examples. A bin's labels span less than all do, which "
                           "alone lowers Pearson: trust the absolute error.", note=True))
    return parts


def _by_bin(name: str, found: dict, predictor: str) -> list[str]:
    bins, title = found[predictor]["bins"], PREDICTORS[predictor]
    xlabel = PREDICTOR_AXES[predictor][len(TASKS[name].text_columns) - 1]
    panels = [(found["metric"], "score", "interval", found["score"], "higher is better")]
    if "absolute_error" in bins[0]:
        overall = sum(row["n"] * row["absolute_error"] for row in bins) / found["n"]
        panels.insert(0, ("mean absolute error", "absolute_error", "absolute_error_interval", overall,
                          "lower is better"))
    return [figure(f"{predictor}-{name}-{key.replace('_', '-')}",
                   figures.score_by_bin(bins, xlabel, f"{name} {metric.replace('pearson', 'Pearson')}", value, key,
                                        interval),
                   f"{name}: {metric} by {title}, {found['n']:,} examples in {len(bins)} bins",
                   f"{TASKS[name].title}: {metric.replace('pearson', 'Pearson')} by {title}, n = {found['n']:,}; "
                   f"{direction}.") for metric, key, interval, value, direction in panels]


def predictions(analysis: dict) -> list[str]:
    """Figure 6: confusion matrices and the scatter plot; calibration; whether predictions undershoot."""
    drawn, statements = [], []
    for name, found in analysis["tasks"].items():
        if "confusion" in found:
            drawn.append(figure(
                f"confusion-{name}", figures.confusion_matrix(**found["confusion"]),
                f"{name}: confusion matrix of {found['n']:,} examples",
                f"{TASKS[name].title}, n = {found['n']:,}: a row holds the examples of one label "
                f"({TASKS[name].scale}), its shares add up to 100 %; a good model is dark on the diagonal."))
        if "scatter" in found:
            drawn.append(figure(
                f"scatter-{name}", figures.scatter_plot(**{key: found["scatter"][key]
                                                           for key in ("labels", "predictions", "line")}),
                f"{name}: predictions against labels of {found['n']:,} pairs",
                f"{TASKS[name].title}, n = {found['n']:,}: a point is a pair; below the dashes the model undershoots."))
            statements += undershooting(name, found["scatter"])
        if "calibration" in found:
            drawn.append(figure(
                f"calibration-{name}", figures.calibration_plot(found["calibration"]["bins"]),
                f"{name}: share of duplicates by probability given, {found['n']:,} pairs",
                f"{TASKS[name].title}, n = {found['n']:,} (of each bin above): on the dashes, probabilities mean what "
                "they say; below them the model is too sure of duplicates."))
            statements.append(f"{name}: expected calibration error "
                              f"{number(found['calibration']['expected_error'])}, the mean distance from the dashes.")
    return [heading("What it answers (the paper's Figure 6)"), grid(drawn), bullets(statements)]


def undershooting(name: str, found: dict) -> list[str]:
    """The paper: predictions slightly undershoot the labels. Said of all, and of both halves of the scale."""
    everything = found["signed_error"]["all"]
    if everything["interval"] is None or everything["interval"][0] <= 0 <= everything["interval"][1]:
        outcome = "undecided"
    else:
        outcome = "they do here" if everything["mean"] < 0 else "here they overshoot"
    texts = [f"{part}: {number(error['mean'], 2, '+')} ({span(error['interval'], 2)}, n = {error['n']:,})"
             for part, error in (("all", everything), ("labels of 2.5 and more", found["signed_error"]["upper"]),
                                 ("labels below 2.5", found["signed_error"]["lower"])) if error["mean"] is not None]
    lines = [f"{name}: does it undershoot, as the paper says? Mean of prediction − label over all pairs: {outcome}. "
             + "; ".join(texts) + "."]
    if found["line"] is not None:
        line = found["line"]
        lines.append(f"{name}: slope {number(line['slope'], 2)} ({span(line['slope_interval'], 2)}). Below 1, high "
                     "labels are undershot and low ones overshot, as any imperfect least-squares prediction does.")
    return lines


def shared_sentences(analysis: dict) -> list[str]:
    """Scores with and without the dev examples that share a sentence with the training file."""
    rows = []
    for name, found in analysis["tasks"].items():
        row = [metric_of(name), number(found["score"])]
        for group in (found["leakage"]["apart"], found["leakage"]["shared"]):
            row += [f"{group['n']:,}", *((number(group["score"]), span(group["interval"])) if group["n"] else ("", ""))]
        rows.append([*row, f"{found['leakage']['whole']:,}"])
    return [heading("Sentences seen in training"),
            table(["task", "all", "n", "no sentence shared", "95 % interval", "n", "a sentence shared", "95 % interval",
                   "n, whole in training"], rows),
            paragraph("A dev example shares a sentence if one of its sentences (in lower case, spaces made single) "
                      "stands in the same task's training file; whole, if all do, in one example. A score that is only "
                      "good where sentences are shared was learnt by heart. The two groups may differ in other ways "
                      "too.", note=True)]


def worst_errors(analysis: dict) -> list[str]:
    """The answers furthest from their labels, with their sentences."""
    parts = [heading("Worst errors"), paragraph(
        "Read them before believing a score: some are the model's, some the label's. With classes, the wrong answers "
        "that gave the label the least probability, p(label); on the scale, those furthest from it.", note=True)]
    for name, found in analysis["tasks"].items():
        classes = found["metric"] == "accuracy"
        rows = [["\n".join(error["sentences"]), number(error["label"], 0 if classes else 1),
                 number(error["answer"], 0 if classes else 1),
                 f"{1 - error['wrong']:.1%}" if classes else number(error["wrong"], 1)]
                for error in found["worst_errors"]]
        header = ["sentence" if len(TASKS[name].text_columns) == 1 else "sentences", "label", "answer",
                  "p(label)" if classes else "error"]
        parts.append(table(header, rows, caption=f"{TASKS[name].title}: {TASKS[name].scale}", text=True))
    return parts


# ------------------------------------------------------------------------------------------- gradients


def conflicts(steps: Sequence[dict]) -> list[str]:
    """How often and how strongly the tasks' gradients pointed against each other, and what surgery did about it."""
    found = conflict_statistics(steps)
    pairs = table(["pair", "steps in conflict", "mean cosine"],
                  [[pair, f"{found['conflict_rate'][pair]:.1%}", number(found["mean_cosine"][pair], sign="+")]
                   for pair in pairs_of(TASKS)])
    weights = table(["task", "mean weight"], [[name, number(found["mean_weights"][name])] for name in TASKS])
    drawn = [
        figure("cosines", figures.cosine_curves(steps), "Cosines between the tasks' gradients by step",
               "Cosine of two tasks' gradients: below 0 a step that helps one task hurts the other."),
        figure("conflict-rate", figures.conflict_curves(steps), "Share of steps in conflict by step",
               "Share of steps in which two tasks conflict: 50 % is what unrelated gradients would show."),
        figure("weights", figures.weight_curves(steps), "Surgery's weights by step",
               "What surgery multiplies a task's gradient by before the sum: 1 is the plain sum."),
    ]
    if all("gradient_norms" in step for step in steps):
        drawn.append(figure("norms", figures.norm_curves(steps), "Norms of the tasks' gradients by step",
                            "Length of each task's gradient: the longest decides the direction of a sum."))
    return [heading("Gradient conflicts"), pairs, weights, grid(drawn),
            paragraph(f"Gradients of the shared encoder, of every step's own batches; {len(steps):,} steps.",
                      note=True)]


# ------------------------------------------------------------------------------------------- what was run


def facts(settings: dict, metrics: dict) -> str:
    """Settings, data, time, hardware, versions, the commit."""
    rows = {key: "default" if value is None else value for key, value in settings.items()}
    for name, splits in metrics.get("examples", {}).items():
        rows[f"examples, {name}"] = ", ".join(f"{split} {n:,}" for split, n in splits.items())
        without = {split: n for split, n in metrics.get("left_out", {}).get(name, {}).items() if n}
        if without:
            rows[f"rows without a label, {name}"] = (", ".join(f"{split} {n:,}" for split, n in without.items())
                                                     + ": left out")
    rows["steps"] = f"{metrics['steps']:,}" if metrics.get("steps") is not None else "none"
    if metrics.get("train_seconds") is not None:
        rows["train_seconds"] = f"{metrics['train_seconds']:,.1f} ({duration(metrics['train_seconds'])})"
    if metrics.get("examples_per_second") is not None:
        rows["examples_per_second"] = f"{metrics['examples_per_second']:,.1f}"
    rows |= metrics.get("environment", {})
    return table(["setting", "value"], list(rows.items()), text=True)
