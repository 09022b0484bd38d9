"""report.html of a pretraining run: how its guesses improved, and some of them to read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minbert.files import write_text
from multitask.reports.figures import FEWEST_POINTS, pretraining_curves
from multitask.reports.page import figure, grid, heading, origin, page, paragraph, table
from multitask.reports.text import duration

from .guesses import Guess
from .segments import AGAIN
from .settings import SHAPE

COUNTS = ("steps", "tokens", "parameters", "sequences", "held_out_tokens_masked", "skipped_steps")


def write_pretraining_report(path: Path, settings: Mapping, metrics: Mapping, steps: Sequence[dict],
                             evaluations: Sequence[dict], guesses: Sequence[Guess]) -> None:
    """Writes the report.

    Args:
        settings: content of pretraining.json.
        metrics: content of metrics.json.
        steps, evaluations: the log's events.
    """
    title = f"minbert: pretraining on {Path(settings['text']).name}"
    curves = [] if len(steps) < FEWEST_POINTS else [
        heading("Perplexity"),
        figure("perplexity-by-tokens", pretraining_curves(steps, evaluations),
               "Perplexity by tokens seen",
               "e to the mean cross entropy over hidden pieces: how many pieces a guess hesitates "
               "between.")]
    scores = (f"On text that was held out, perplexity {metrics['perplexity']:.1f}, and "
              f"{metrics['masked_accuracy']:.1%} of the hidden pieces guessed right; always "
              f"guessing {metrics['most_frequent_piece']!r}, the most frequent piece: "
              f"{metrics['trivial_accuracy']:.1%}.")

    note = ("Held-out text with the model's likeliest pieces for one that was hidden from it. "
            "Other pieces around it are hidden or replaced, as in training.")
    if settings["second_segment"] == AGAIN:
        note += " Half of this text comes twice, so a hidden piece may stand further on."
    rows = [[guess.before, guess.hidden, guess.after, guess.guesses] for guess in guesses]

    parts = [
        paragraph(scores), origin(metrics["environment"]), *curves,
        heading("Guesses"), paragraph(note, note=True),
        table(["before", "hidden", "after", "guesses, with their probabilities"], rows, text=True),
        heading("What was run"), _facts(settings, metrics),
    ]
    write_text(path, page(title, parts))


def _facts(settings: Mapping, metrics: Mapping) -> str:
    """The settings that were used; beside them counts, time and machine."""
    environment = metrics["environment"]
    unused = {*environment, *(SHAPE if settings["start"] else ()),
              "epochs" if settings["steps"] else "steps"}
    chosen = {name: value for name, value in settings.items() if name not in unused}
    chosen["start"] = settings["start"] or "scratch"
    found = {name: f"{metrics[name]:,}" for name in COUNTS}
    seconds = metrics["train_seconds"]
    found["train_seconds"] = f"{seconds:,.1f} ({duration(seconds)})"
    return grid([table(["setting", "value"], list(chosen.items()), text=True),
                 table(["result", "value"], list((found | environment).items()), text=True)])
