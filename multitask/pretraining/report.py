"""report.html of a pretraining: how the guesses got better, and some of them to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from minbert.files import replacing
from multitask.reports.figures import pretraining_curves
from multitask.reports.page import figure, heading, page, paragraph, table
from multitask.reports.text import duration

from .segments import AGAIN


class Guess(NamedTuple):
    """A hidden piece with the text around it, and the likeliest pieces there with their probabilities."""

    before: str
    hidden: str
    after: str
    likely: Sequence[tuple[str, float]]

    @property
    def guesses(self) -> str:
        return ", ".join(f"{piece} {share:.2f}" for piece, share in self.likely)

    def __str__(self) -> str:
        return f"… {self.before} <{self.hidden}> {self.after} …  guesses: {self.guesses}"


def write_pretraining_report(path: Path, settings: Mapping, metrics: Mapping, steps: Sequence[dict],
                             evaluations: Sequence[dict], guesses: Sequence[Guess]) -> None:
    """settings: pretraining.json. metrics: metrics.json. steps, evaluations: the log's events."""
    title = f"minbert: pretraining on {Path(settings['text']).name}"
    drawn = figure("perplexity", pretraining_curves(steps, evaluations), "Perplexity by tokens seen",
                   "How many pieces a guess is torn between: e to the mean cross entropy over hidden pieces.")
    facts = {**{name: "default" if value is None else value for name, value in settings.items()},
             "start": settings["start"] or "scratch",
             **{f"{name} in all": f"{metrics[name]:,}" for name in ("steps", "tokens", "parameters", "sequences",
                                                        "held_out_tokens_masked", "skipped_steps")},
             "train_seconds": f"{metrics['train_seconds']:,.1f} ({duration(metrics['train_seconds'])})",
             **metrics["environment"]}
    with replacing(path) as partial:
        partial.write_text(page(title, [
            heading(title, 1),
            paragraph(f"On text that was held out, perplexity {metrics['perplexity']:.1f}, and "
                      f"{metrics['masked_accuracy']:.1%} of the hidden pieces guessed right; always guessing "
                      f"{metrics['most_frequent_piece']!r}, the most frequent piece: "
                      f"{metrics['trivial_accuracy']:.1%}."
                      + (f" Of pairs of segments {metrics['segment_accuracy']:.1%} were told right, by lot half."
                         if "segment_accuracy" in metrics else "")),
            heading("Perplexity"), drawn,
            heading("Guesses"),
            paragraph("Held-out text with the model's likeliest pieces for one that was hidden from it; around it are "
                      "others that are hidden or replaced, as in training."
                      + (" In half of this text everything comes twice, so what is hidden may stand further on."
                         if settings["second_segment"] == AGAIN else ""), note=True),
            table(["before", "hidden", "after", "guesses, with their probabilities"],
                  [[guess.before, guess.hidden, guess.after, guess.guesses] for guess in guesses], text=True),
            heading("What was run"), table(["setting", "value"], list(facts.items()), text=True),
        ]), encoding="utf-8")
