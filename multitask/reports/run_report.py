"""RUN/report.html: settings, scores beside the paper's, errors, conflict of gradients."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from minbert.files import write_text
from multitask.analysis.log import conflict_statistics
from multitask.analysis.paper_results import PAPER_SURGERY, method_of, paper_scores
from multitask.tasks import are_the_papers

from . import figures
from .dev_set_report import Tasks, predictions, shared_sentences, where_it_succeeds, worst_errors
from .page import figure, grid, heading, origin, page, paragraph, table
from .text import duration, metric_of, number, span

MOST_PAIRS = 6  # of tasks, that a figure can tell apart
STAGE_TITLES = {"nli": "MultiNLI pretraining", "gs": "gradient-surgery fine-tuning",
                "fl": "final-layer fine-tuning"}


def write_report(path: Path, settings: dict, metrics: dict, steps: Sequence[dict],
                 epochs: Sequence[dict], analysis: dict | None = None) -> None:
    """Writes the page from the settings' values, metrics.json, the log's events and the analysis.

    A section without data is left out.
    """
    by_name = {task.name: task for task in settings["tasks"]}
    about = "" if are_the_papers(by_name) else f"{', '.join(by_name)} · "
    surgery_steps = [step for step in steps if stage_of(step) == "gs" and "cosines" in step]
    surgery = ""
    if surgery_steps and settings["surgery"] in PAPER_SURGERY:  # method_of names another
        surgery = f" · {settings['surgery']}"
    files = ["log.jsonl", "analysis.json"] if analysis else ["log.jsonl"]
    title = f"minbert: {about}{settings['arch']} · {method_of(settings)}{surgery}"
    parts = [
        paragraph(summary(settings, metrics)), origin(metrics["environment"]),
        *(headline(by_name, settings, analysis) if analysis else []),
        *training(by_name, metrics, steps, epochs),
        *(where_it_succeeds(by_name, analysis) if analysis else []),
        *(predictions(by_name, analysis) if analysis else []),
        *(shared_sentences(by_name, analysis) if analysis else []),
        *(conflicts(surgery_steps) if surgery_steps else []),
        *(worst_errors(by_name, analysis) if analysis else []),
        heading("What was run"), facts(settings, metrics),
        paragraph(f"The numbers behind the figures are in {' and '.join(files)}, beside this page.",
                  note=True),
    ]
    write_text(path, page(title, parts))


def stage_of(event: dict) -> str:
    return event.get("stage", "gs")


# ------------------------------------------------------------------------------------------- scores


def summary(settings: dict, metrics: dict) -> str:
    """Encoder, data and seed; steps, time and the epoch kept."""
    return (f"Encoder {model_of(settings)}, data {data_of(settings)}, seed {settings['seed']}; "
            f"{metrics['steps']:,} steps in {duration(metrics['train_seconds'])}; epoch "
            f"{metrics['best_epoch']} was kept.")


def model_of(settings: dict) -> str:
    return settings["model"] or f"of the run {settings['start']}"


def data_of(settings: dict) -> str:
    if settings["data"] is not None:
        return settings["data"]
    if all(task.has_own_files for task in settings["tasks"]):
        return f"of the tasks' own files ({', '.join(task.train for task in settings['tasks'])})"
    return "the embedded sample (synthetic: compare runs with each other, not with the paper)"


def headline(tasks: Tasks, settings: dict, analysis: dict) -> list[str]:
    """The best epoch's scores with intervals, beside trivial answers and the paper's scores."""
    paper = paper_scores(settings) if are_the_papers(tasks) else None
    header = ["task", "score", "95 % interval", "trivial answer", *(["the paper"] if paper else []),
              "n"]
    rows = []
    for name, task in tasks.items():
        found = analysis["tasks"][name]
        rows.append([metric_of(task), number(found["score"]), span(found["interval"]),
                     number(found["trivial"]), *([number(paper[name])] if paper else []),
                     f"{found['n']:,}"])
    if len(tasks) > 1:
        average = analysis["average"]
        rows.append(["average", number(average["score"]), span(average["interval"]), "",
                     *([number(sum(paper.values()) / len(paper))] if paper else []), ""])

    parts = [
        heading("Scores on the dev set"), table(header, rows),
        paragraph(
            f"Intervals: bootstrap over the n dev examples, {analysis['resamples']:,} resamples, "
            f"seed {analysis['seed']}. They show how scores would move with other examples, not "
            "with another seed. The best epoch was selected on these same examples, which flatters "
            "it. Trivial answer: always the most frequent class, or a correlation of 0.",
            note=True)]
    if paper:
        parts.append(paragraph(
            f"The paper: its Table 1 for {method_of(settings)} with {settings['arch']}, bert-base "
            "on the full data, one seed. It is for orientation, not a like-for-like "
            "comparison.", note=True))
    return parts


# ----------------------------------------------------------------------------------------- training


def training(tasks: Tasks, metrics: dict, steps: Sequence[dict],
             epochs: Sequence[dict]) -> list[str]:
    """Stage by stage: scores of every epoch, learning curves."""
    stages = list(dict.fromkeys(map(stage_of, itertools.chain(epochs, steps))))
    parts = [heading("Training")] if stages else []
    for stage in stages:
        own_steps = [step for step in steps if stage_of(step) == stage and step.get("losses")]
        own_epochs = [epoch for epoch in epochs if stage_of(epoch) == stage]
        best = metrics.get("stages", {}).get(stage, {}).get("best_epoch")
        drawn = []
        if len(own_steps) >= figures.FEWEST_POINTS:
            drawn.append(figure(
                f"loss-{stage}", figures.loss_curves(own_steps, tasks),
                f"Training losses by step, {stage}",
                "Training loss by step: falling is learning. Cross entropy in nats, squared error "
                "of scales in points²."))
        if own_epochs:
            scores = epoch_scores(own_epochs)
            parts.append(epoch_table(tasks, stage, own_epochs, scores, best))
        if len(own_epochs) >= figures.FEWEST_POINTS:
            drawn.append(figure(
                f"dev-{stage}",
                figures.dev_scores(scores, [epoch["epoch"] for epoch in own_epochs], best),
                f"Dev scores by epoch, {stage}",
                "Dev score by epoch: where a line turns down, training has begun to overfit."))
        parts.append(grid(drawn))
    if len(tasks) > 1 and any(set(tasks) <= set(epoch["dev"]) for epoch in epochs):
        note = "average: mean of the tasks' scores, by which the epoch to keep was chosen"
        if are_the_papers(tasks):
            note = ("average: mean of the three, as in the paper, by which the epoch to keep was "
                    "chosen; overall: Pearson's −1…1 brought to 0…1 first, as in the course")
        parts.append(paragraph(f"{note}.", note=True))
    return parts


def epoch_scores(epochs: Sequence[dict]) -> dict[str, list[float | None]]:
    """name → one score per epoch: each task's metric or the stage's accuracy; None if undefined."""
    first = epochs[0]["dev"]
    names = [name for name in first if isinstance(first[name], dict)]
    return {name: [next(iter(epoch["dev"][name].values())) for epoch in epochs] for name in names}


def epoch_table(tasks: Tasks, stage: str, epochs: Sequence[dict],
                scores: dict[str, list[float | None]], best: int | None) -> str:
    totals = [key for key in ("average", "overall") if key in epochs[0]["dev"] and len(tasks) > 1]
    rows = [[epoch["epoch"],
             *(number(row[place]) for row in scores.values()),
             *(number(epoch["dev"][key]) for key in totals)] for place, epoch in enumerate(epochs)]
    numbers = [epoch["epoch"] for epoch in epochs]
    kept = numbers.index(best) if best in numbers else None
    title = "fine-tuning" if stage == "gs" and len(tasks) == 1 else STAGE_TITLES.get(stage, stage)
    return table(["epoch", *scores, *totals], rows, kept, caption=f"{title}: dev scores"
                 + ("; the shaded epoch was kept" if kept is not None else ""))


# ---------------------------------------------------------------------------------------- gradients


def conflicts(steps: Sequence[dict]) -> list[str]:
    """How often and how strongly gradients conflicted, and what surgery did."""
    found = conflict_statistics(steps)
    pairs = table(["pair", "steps in conflict", "mean cosine"],
                  [[pair, f"{found['conflict_rate'][pair]:.1%}",
                    number(found["mean_cosine"][pair], sign="+")]
                   for pair in found["conflict_rate"]])
    weights = table(["task", "mean weight"],
                    [[name, number(weight)] for name, weight in found["mean_weights"].items()])
    shown = sorted(found["mean_cosine"], key=found["mean_cosine"].__getitem__)[:MOST_PAIRS]
    shown = [pair for pair in found["mean_cosine"] if pair in shown]
    some = "" if len(shown) == len(found["mean_cosine"]) else f" The {MOST_PAIRS} lowest pairs."
    cosines = {pair: [step["cosines"][pair] for step in steps] for pair in shown}
    drawn = [] if len(steps) < figures.FEWEST_POINTS else [
        figure("cosines", figures.cosine_curves([step["step"] for step in steps], cosines),
               "Cosines between the tasks' gradients by step",
               "Cosine of two tasks' gradients: below 0, a small step down one of them raises the "
               "other task's loss." + some),
        figure("conflict-rate", figures.conflict_curves(steps, shown),
               "Share of steps in conflict by step",
               "Share of steps in which two tasks conflict: 50 % is what unrelated gradients would "
               "show." + some),
        figure("weights", figures.weight_curves(steps), "Surgery's weights by step",
               "What surgery multiplies a task's gradient by before the sum: 1 is the plain sum."),
    ]
    if drawn and all("gradient_norms" in step for step in steps):
        drawn.append(figure("norms", figures.norm_curves(steps),
                            "Norms of the tasks' gradients by step",
                            "Length of each task's gradient: the longest decides the direction of "
                            "a sum."))
    return [heading("Gradient conflicts"), grid([pairs, weights]), grid(drawn),
            paragraph(f"Gradients of the shared encoder, of every step's own batches; "
                      f"{len(steps):,} steps.",
                      note=True)]


# ------------------------------------------------------------------------------------- what was run


def facts(settings: dict, metrics: dict) -> str:
    """Settings, with what was used for those not given; beside them data, time and machine."""
    environment = metrics["environment"]
    chosen = {**settings, "tasks": ", ".join(task.name for task in settings["tasks"]),
              "data": data_of(settings), "model": model_of(settings),
              "max_length": settings.get("max_length") or "the encoder's limit"}
    if chosen.get("head_lr") is None:
        chosen["head_lr"] = chosen.get("lr")
    if "surgery" not in metrics:  # no step had several tasks' gradients
        chosen |= {"surgery": None, "surgery_by": None}
    sizes = {f"batch_size, {stage}": stated_counts(found["batch_sizes"])
             for stage, found in metrics["stages"].items() if "batch_sizes" in found}
    if sizes:
        chosen |= {"batch_size": None, "batch_sizes": None, **sizes}
    elif not chosen.get("batch_size"):  # older runs recorded only what was given
        chosen["batch_size"] = chosen.get("batch_sizes") or "16; 8 for heads alone; bd by Eq. 6"
    # a limit that was not set, and what the other table holds as well
    chosen = {name: value for name, value in chosen.items()
              if value not in (None, {}) and name not in environment}

    found = {}
    for name, splits in metrics["examples"].items():
        found[f"examples, {name}"] = stated_counts(splits)
        without = {split: n for split, n in metrics.get("left_out", {}).get(name, {}).items() if n}
        if without:
            found[f"rows without a label, {name}"] = f"{stated_counts(without)}: left out"
    seconds = metrics["train_seconds"]
    found |= {"steps": f"{metrics['steps']:,}",
              "train_seconds": f"{seconds:,.1f} ({duration(seconds)})",
              "examples_per_second": f"{metrics['examples_per_second']:,.1f}"}
    return grid([table(["setting", "value"], list(chosen.items()), text=True),
                 table(["result", "value"], list((found | environment).items()), text=True)])


def stated_counts(counts: dict[str, int]) -> str:
    """train 2,000, dev 100"""
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())
