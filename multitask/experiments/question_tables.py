"""What question.md and report.html say: scores, ranks, differences with intervals, conflicts."""

from typing import NamedTuple

import numpy as np

from minbert.files import counted
from multitask.analysis.comparisons import mean_interval
from multitask.reports.text import markdown_table, number, probability, span
from multitask.tasks import TASKS

from .arms import (
    BEST,
    CONTROLS,
    GRID_SEEDS,
    MOMENTS,
    PCGRAD,
    PLAIN_SUM,
    SINGLES,
    is_control,
    training_of,
)

AVERAGE = "average"  # of the tasks' scores: compared as if it were a task, in a family of its own
ENOUGH_SEEDS = 5
OPENINGS = {  # is a surgery method better on anything, is one worse?
    (True, False): "Yes, it can help", (False, True): "No, it can harm",
    (True, True): "It depends on the method and the task", (False, False): "No effect is shown"}


def about(results: dict) -> str:
    """What was trained and on what it was scored."""
    asked, seeds = results["asked"], results["seeds"]
    dev = ", ".join(f"{name} {count:,}" for name, count in results["dev"].items())
    return (f"{asked['arch']}, wrap, {asked['model']} on {asked['data'] or 'the embedded sample'}; "
            f"{asked['steps']} steps of 3 × {asked['batch_size']} examples, learning rate "
            f"{asked['lr']:g}, of the heads {asked['head_lr']:g}, {asked['warmup']:.0%} warm-up, "
            "no clipping, because a clip over all weights would scale the heads differently in "
            f"each arm; {counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}); "
            f"dev items: {dev}.")


def trial_note(results: dict) -> str:
    """The warning for too few seeds; else empty."""
    count = len(results["seeds"])
    if count >= ENOUGH_SEEDS:
        return ""
    return (f"A trial run: {count} seed{'s are' if count > 1 else ' is'} too few to conclude from; "
            f"take at least {ENOUGH_SEEDS}.")


def answer(results: dict) -> str:
    """The question's answer: which arms differ from the plain sum on a task after equal steps.

    Surgery methods alone decide how it opens; controls are named after them. The averages are
    corrected by themselves: to ask both would double the rate of false answers.
    """
    family = results["comparisons"]["equal_steps"][PLAIN_SUM]
    places: dict[str, dict[str, list[str]]] = {"better": {}, "worse": {}}
    for row in family["differences"]:
        if row["verdict"] in places:
            places[row["verdict"]].setdefault(row["arm"], []).append(row["task"])
    better, worse = (any(not is_control(arm) for arm in found) for found in places.values())
    note, opening = trial_note(results), OPENINGS[better, worse]

    shown = []
    for verdict, found in places.items():
        named = [f"{arm} ({', '.join(tasks)})" for arm, tasks in found.items()]
        if named:
            shown.append(f"{verdict}: {', '.join(named)}")
    others = len(family["average"]) - len(places["better"] | places["worse"])
    if not shown:
        shown.append(f"none of {others} arms is shown to differ")
    elif others:
        shown.append(f"not shown to differ: {counted(others, 'other arm')}")
    found = (f"against the plain sum of gradients and after Holm's correction, "
             f"{'; '.join(shown)}.")
    seeds = len(results["seeds"])
    if note:
        return f"Not answered yet. {note}" + (f" So far, {found}" if seeds > 1 else "")
    return f"{opening}: over {seeds} seeds, {found}"


class Table(NamedTuple):
    caption: str
    header: list[str]
    rows: list[list[str]]
    text: bool = False  # left-aligned on the page


def question_markdown(results: dict) -> str:
    parts = ["# Does gradient surgery help?", f"**{answer(results)}**"]
    for title, blocks in sections(results).items():
        parts.append(f"## {title}")
        for block in blocks:
            parts += ([block] if isinstance(block, str) else
                      [f"### {block.caption}", markdown_table(block.header, block.rows)])
    return "\n\n".join(parts) + "\n"


def sections(results: dict) -> dict[str, list[str | Table]]:
    """Title → paragraphs and tables, of both question.md and report.html."""
    found: dict[str, list[str | Table]] = {}
    for moment, notes in zip(MOMENTS, ((RANKS, PLANNED), (equal_time(results),)), strict=True):
        families = results["comparisons"][moment].items()
        found[f"At {moment.replace('_', ' ')}"] = [
            *notes, Table("Scores and ranks", SCORE_HEADER, score_rows(results, moment)),
            *(Table(f"Against {control}", DIFFERENCE_HEADER, difference_rows(family))
              for control, family in families)]
    return {
        **found,
        "Within a seed: other dev items, the same models": [
            WITHIN, Table("95 % intervals", ["seed", *TASKS], within_rows(results["within_seed"]))],
        CONFLICTS: [
            Table("PCGrad's steps", ["pair", "steps in conflict", "mean cosine"],
                  conflict_rows(results)),
            FLOOR, Table("The noise floor", FLOOR_HEADER, floor_rows(results))],
        "What was run": [about(results),
                         Table("Controls", ["control", "what it is"], control_rows(results),
                               text=True)],
    }


RANKS = ("Mean and half of a 95 % t interval over seeds. Ranks are by the average of the tasks' "
         "scores within a seed, 1 for the best arm; the mean over seeds, with a t interval. "
         "A score without ± and \"undefined\" have no interval: there is one seed, or all seeds "
         "gave the same (no spread).")
PLANNED = ("The comparison with the plain sum on the tasks, at equal steps, was planned to answer "
           "the question. Its p values are corrected together, over arms × tasks. The averages and "
           "the other comparisons help to explain it; each is corrected within itself.")
WITHIN = ("Paired bootstrap over dev items of pcgrad − sum at equal steps. It takes the trained "
          "models as given, so it does not describe another seed.")
CONFLICTS = "Conflicts"
FLOOR = ("The noise floor is the cosine of two batches of one task. Without sampling noise, it "
         "would be 1. The pairs' cosines stand beside it.")


def equal_time(results: dict) -> str:
    """What equal time is, and the seconds per step that were measured."""
    seconds, steps = results["seconds"], results["asked"]["steps"]
    singles = sum(seconds[training] for training in SINGLES)
    budget = steps * max(seconds[PCGRAD], singles)
    measured = ", ".join(f"{training} {value:.3f} s" for training, value in seconds.items())
    return (f"Every arm is trained for {budget:.1f} s, the time that {steps} steps of all "
            f"single-task models take, or of one multi-task model if that is longer. Per step: "
            f"{measured}; other arms as {PCGRAD}.")


def control_rows(results: dict) -> list[list[str]]:
    """The controls among the arms, and which row of the grid was chosen."""
    rows = {arm: CONTROLS[arm] for arm in results["ranks"]["equal_steps"] if arm in CONTROLS}
    if results["grid"]:
        grid = {name.removeprefix("grid-").replace("+", ":"): average
                for name, average in results["grid"].items()}
        averages = ", ".join(f"{name} {average:.3f}" for name, average in grid.items())
        rows[BEST] += (f" ({', '.join(map(str, GRID_SEEDS))}) after half the steps: "
                       f"{max(grid, key=grid.__getitem__)}. Averages of {':'.join(TASKS)}: "
                       f"{averages}")
    return [list(row) for row in rows.items()]


SCORE_HEADER = ["arm", "steps", *(f"{name} {task.metric}" for name, task in TASKS.items()),
                "mean rank", "95 % interval"]


def score_rows(results: dict, moment: str) -> list[list[str]]:
    """Each arm's scores and its rank by their average, the best rank first."""
    ranks, rows = results["ranks"][moment], []
    for arm in sorted(ranks, key=lambda arm: ranks[arm]["mean"]):
        steps = [results["steps"][training_of(arm, task)][moment] for task in TASKS]
        cells = []
        for values in results["scores"][moment][arm].values():
            mean, _, high = mean_interval(values)
            cells.append(number(mean) + ("" if high is None else f" ± {high - mean:.3f}"))
        rank = ranks[arm]
        rows.append([arm, f"{steps[0]:,}", *cells, number(rank["mean"], 1),
                     span([rank["low"], rank["high"]], 1)])
    return rows


DIFFERENCE_HEADER = ["arm", "task", "difference", "95 % interval", "p", "p, Holm", "verdict"]


def difference_rows(family: dict) -> list[list[str]]:
    """A family's differences on the tasks, then on their average."""
    rows = []
    for row in (*family["differences"], *family["average"]):
        rows.append([row["arm"], row["task"], number(row["mean"], 4, "+"),
                     span([row["low"], row["high"]], 4, "+"), probability(row["p"]),
                     probability(row["holm"]), row["verdict"]])
    return rows


def within_rows(within: dict) -> list[list[str]]:
    return [[seed, *(span([by_task[name]["low"], by_task[name]["high"]], sign="+")
                     for name in TASKS)]
            for seed, by_task in within.items()]


def conflict_rows(results: dict) -> list[list[str]]:
    """Conflicts over the steps of all seeds."""
    rows, by_seed = [], list(results["conflicts"].values())
    for pair in by_seed[0]["conflict_rate"]:
        rate = np.mean([seed["conflict_rate"][pair] for seed in by_seed])
        cosine = np.mean([seed["mean_cosine"][pair] for seed in by_seed])
        rows.append([pair, f"{rate:.1%}", number(cosine, 4, "+")])
    return rows


FLOOR_HEADER = ["moment", "pair, or one task twice", "mean cosine", "draws in conflict",
                "95 % interval"]


def floor_rows(results: dict) -> list[list[str]]:
    """The probe between and within tasks."""
    rows = []
    for step, probe in results["probes"].items():
        for kind in ("pairs", "same_task"):
            for key, values in probe[kind].items():
                rate = f"{values['conflict_rate']:.0%}" if kind == "pairs" else ""
                rows.append([f"after {step} steps", key, number(values["mean_cosine"], 4, "+"),
                             rate, span([values["low"], values["high"]], sign="+")])
    return rows
