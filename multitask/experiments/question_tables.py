"""question.md: scores, differences with their intervals, conflicts."""

from __future__ import annotations

import numpy as np

from multitask.analysis.comparisons import mean_interval
from multitask.analysis.log import pairs_of
from multitask.reports.text import markdown_table
from multitask.tasks import TASKS

from .arms import MOMENTS, training_of

ENOUGH_SEEDS = 5


def about(results: dict) -> str:
    """What was trained and on what it was scored."""
    asked, seeds = results["asked"], results["seeds"]
    dev = ", ".join(f"{name} {count:,}" for name, count in results["dev"].items())
    return (f"{asked['arch']}, wrap, {asked['model']} on {asked['data'] or 'the embedded sample'}; "
            f"{asked['steps']} steps of 3 × {asked['batch_size']} examples, learning rate "
            f"{asked['lr']:g}, of the heads {asked['head_lr']:g}, {asked['warmup']:.0%} warm-up, "
            f"no clipping (it would scale each arm's heads otherwise); {len(seeds)} "
            f"seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))}); dev items: {dev}.")


def trial_note(results: dict) -> str:
    """The warning that every page of too few seeds carries; else empty."""
    count = len(results["seeds"])
    if count >= ENOUGH_SEEDS:
        return ""
    return (f"A trial run: {count} seed{'s are' if count > 1 else ' is'} too few to conclude from; "
            f"take at least {ENOUGH_SEEDS}.")


def answer(results: dict) -> str:
    """The question's answer in one sentence: PCGrad against the plain sum after equal steps."""
    if trial_note(results):
        return f"Not answered yet. {trial_note(results)}"
    tasks: dict[str, list[str]] = {}
    for row in results["comparisons"]["equal_steps"]["sum"]["differences"]:
        if row["arm"] == "pcgrad":
            tasks.setdefault(row["verdict"], []).append(row["task"])
    better, worse = "better" in tasks, "worse" in tasks
    opening = {(True, False): "Yes, it helps", (False, True): "No, it harms",
               (True, True): "It depends on the task", (False, False): "No effect is shown"}
    found = "; ".join(f"{verdict if verdict in ('better', 'worse') else 'not shown to differ'} on "
                      f"{', '.join(names)}" for verdict, names in tasks.items())
    return (f"{opening[better, worse]}: over {len(results['seeds'])} seeds, against the plain sum "
            f"of gradients, PCGrad is {found}.")


def question_markdown(results: dict) -> str:
    parts = ["# Does gradient surgery help?", f"**{answer(results)}**", about(results)]
    parts.append("The comparison with `sum` at equal steps was planned to answer the question. Its "
                 "p values are corrected for its arms × tasks. The others help to explain it; each "
                 "is corrected within itself.")

    for moment in MOMENTS:
        parts += [f"## At {moment.replace('_', ' ')}", score_table(results, moment)]
        for control, family in results["comparisons"][moment].items():
            parts += [f"### Against {control}", markdown_table(DIFFERENCE_HEADER,
                                                               difference_rows(family["differences"]))]
    parts += ["## Within a seed: other dev items, the same models",
              "Paired bootstrap over dev items of pcgrad − sum at equal steps. It takes the "
              "trained models as given, "
              "so it does not describe another seed.", within_table(results["within_seed"]),
              "## Conflicts", conflict_table(results)]
    return "\n\n".join(parts) + "\n"


def score_table(results: dict, moment: str) -> str:
    rows = []
    for arm, by_task in results["scores"][moment].items():
        steps = [results["steps"][training_of(arm, task)][moment] for task in TASKS]
        cells = []
        for values in by_task.values():
            mean, _, high = mean_interval(values)
            cells.append(f"{mean:.3f}" + ("" if high is None else f" ± {high - mean:.3f}"))
        rows.append([arm, f"{steps[0]:,}", *cells])
    return markdown_table(["arm", "steps",
                           *(f"{name} {task.metric}" for name, task in TASKS.items())], rows)


DIFFERENCE_HEADER = ["arm", "task", "difference", "95 % interval", "p", "p, Holm", "verdict"]


def difference_rows(differences: list[dict]) -> list[list[str]]:
    rows = []
    for row in differences:
        interval = "none" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        p_values = ["none" if row[key] is None else f"{row[key]:.3f}" for key in ("p", "holm")]
        rows.append([row["arm"], row["task"], f"{row['mean']:+.4f}", interval, *p_values,
                     row["verdict"]])
    return rows


def within_table(within: dict) -> str:
    rows = []
    for seed, by_task in within.items():
        cells = []
        for name in TASKS:
            low, high = by_task[name]["low"], by_task[name]["high"]
            cells.append("undefined" if low is None else f"{low:+.3f} to {high:+.3f}")
        rows.append([seed, *cells])
    return markdown_table(["seed", *TASKS], rows)


def conflict_table(results: dict) -> str:
    """Conflicts over the steps of all seeds, and the probe between and within tasks."""
    rows = []
    for pair in pairs_of(TASKS):
        rate = np.mean([seed["conflict_rate"][pair] for seed in results["conflicts"].values()])
        cosine = np.mean([seed["mean_cosine"][pair] for seed in results["conflicts"].values()])
        rows.append([pair, f"{rate:.1%}", f"{cosine:+.4f}"])
    rates = markdown_table(["pair", "steps in conflict", "mean cosine"], rows)

    rows = []
    for step, probe in results["probes"].items():
        for kind in ("pairs", "same_task"):
            for key, values in probe[kind].items():
                rate = f"{values['conflict_rate']:.0%}" if kind == "pairs" else ""
                low, high = values["low"], values["high"]
                interval = "" if low is None else f"{low:+.3f} to {high:+.3f}"
                rows.append([f"after {step} steps", key, f"{values['mean_cosine']:+.4f}", rate,
                             interval])
    floor = markdown_table(["moment", "pair, or one task twice", "mean cosine", "draws in conflict",
                            "95 % interval"], rows)
    return (f"{rates}\n\nThe noise floor: without sampling noise, the cosine of two batches of one "
            f"task would be 1. "
            f"The pairs' cosines stand beside it.\n\n{floor}")
