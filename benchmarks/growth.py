"""How a step's cost grows with tokens, length, tasks and size, each beside its floor.

    python benchmarks/growth.py [--threads 2] [--repeat 5] [--precision fp32] [--plot FILE]

The floor of a training step is its matrix products, forward and backward, at the rate of a large
square product; that of surgery on T tasks is its traffic, (2 T + 1) · params · 4 bytes (read T rows
for their products; read T, write 1 for the combination), at the rate of a copy. Each is timed right
beside what it is the floor of. A number is a median of wall milliseconds, and in brackets the
processor's own, which a busy machine changes less. Weights and token ids are random, lengths like
those of the course's sentences; surgery is PCGrad, dropout is on. Takes 5 GB.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from torch import nn
from turns import timed

from minbert import BertConfig, BertModel, pack
from minbert.fast.linear import product
from multitask import MultitaskBert
from multitask.data.batching import Batch
from multitask.reports.figures import BLUE, HEIGHT, SMALL, VERMILION, WIDTH, legend
from multitask.reports.page import svg
from multitask.system.device import PRODUCT_DTYPES
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import combine, gram_matrix, pcgrad_weights

SMALL_SHAPE = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
BASE_SHAPE = BertConfig()
SEQUENCES, LENGTHS, TOKENS_EACH = (2, 4, 8, 16, 32), (16, 32, 64, 128, 256, 512), 1024
ROWS, PARAMS = 8, 10_600_000  # of surgery; the weights of the small shape's layers
SQUARE = 2048  # side of the product that gives the rate


class Point(NamedTuple):
    """x: where it stands in the plot. units: how often `unit` fits into the floor of `work`."""

    label: str
    x: float
    work: Callable[[], object]
    unit: Callable[[], object]
    units: float


class Axis(NamedTuple):
    """A table and a panel; logarithmic says which of x and y are."""

    what: str
    name: str
    column: str
    logarithmic: str
    points: Sequence[Point]


def training_flop(config: BertConfig, lengths: Sequence[int]) -> int:
    """Operations of the products of forward and backward on sequences of these lengths.

    A weight costs 2 FLOP per token forward and 4 backward. Attention's two products cost 4 · hidden
    · length² forward and twice that backward. Of the last layer only keys and values see all
    tokens; the rest, and the pooler, [CLS].
    """
    tokens, sequences, hidden = sum(lengths), len(lengths), config.hidden_size
    layer = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    keys_values = 2 * hidden**2
    linear = (tokens * ((config.num_hidden_layers - 1) * layer + keys_values)
              + sequences * (layer - keys_values + hidden**2))
    scores = (config.num_hidden_layers - 1) * sum(length**2 for length in lengths) + tokens
    return 6 * linear + 12 * hidden * scores


def lengths_like_sentences(count: int, generator: np.random.Generator) -> list[int]:
    """Tokens of one example: log-normal, median 26 and mean 28, as in the three tasks."""
    return generator.lognormal(np.log(26), 0.42, count).astype(int).clip(4, 512).tolist()


def random_batch(lengths: Sequence[int], config: BertConfig,
                 generator: np.random.Generator) -> Batch:
    ids = [generator.integers(config.vocab_size, size=length) for length in lengths]
    labels = torch.from_numpy(generator.integers(2, size=len(lengths)).astype(np.float32))
    return Batch(*pack(ids, [np.zeros_like(row) for row in ids]), 1, labels)


def random_trainer(config: BertConfig, precision: str) -> SurgeryTrainer:
    torch.manual_seed(0)
    tokenizer = SimpleNamespace(vocab_size=config.vocab_size)  # no text is read
    return SurgeryTrainer(MultitaskBert(BertModel(config), tokenizer, "concatB", precision).train(),
                          "pcgrad", 1e-5)


def step_point(trainer: SurgeryTrainer, label: str, lengths: Sequence[Sequence[int]],
               x: float | None = None) -> Point:
    """A training step with one batch per task and sequences of these lengths."""
    config, generator = trainer.model.encoder.config, np.random.default_rng(0)
    batches = {name: random_batch(row, config, generator)
               for name, row in zip(TASKS, lengths, strict=True)}
    tokens = sum(map(sum, lengths))
    flop = sum(training_flop(config, row) for row in lengths)
    return Point(f"{label}{tokens:,} tokens", tokens if x is None else x,
                 lambda: trainer.step(batches),
                 square_product(trainer.model.precision), flop / (2 * SQUARE**3))


def square_product(precision: str) -> Callable[[], object]:
    """By the library that computes the layers' products."""
    linear = nn.Linear(SQUARE, SQUARE).to(PRODUCT_DTYPES[precision]).requires_grad_(False)
    x = torch.randn(SQUARE, SQUARE).to(linear.weight.dtype)
    return lambda: product(linear, x)


def surgery_point(rows: torch.Tensor, copy: torch.Tensor) -> Point:
    """As in training, in place. A copy reads and writes one row each."""
    tasks = len(rows)
    return Point(f"{tasks}", tasks,
                 lambda: combine(rows, pcgrad_weights(gram_matrix(rows)), out=rows[0]),
                 lambda: copy.copy_(rows[-1]), (2 * tasks + 1) / 2)


def axes_of(precision: str) -> list[Axis]:
    generator, trainer = np.random.default_rng(0), random_trainer(SMALL_SHAPE, precision)
    by_batch = [step_point(trainer, f"3 × {count}: ",
                           [lengths_like_sentences(count, generator) for _ in TASKS])
              for count in SEQUENCES]
    by_length = [step_point(trainer, f"{length}: ",
                            [[length] * (TOKENS_EACH // length) for _ in TASKS], length)
               for length in LENGTHS]
    matrix = torch.randn(ROWS, PARAMS, generator=torch.Generator().manual_seed(0)).mul_(1e-3)
    copy = torch.zeros(PARAMS)
    four = [lengths_like_sentences(4, generator) for _ in TASKS]
    models = [step_point(trainer, "22.7 M, ", four, 22.7),
              step_point(random_trainer(BASE_SHAPE, precision), "bert-base, 109.5 M, ", four, 109.5)]
    surgery = [surgery_point(matrix[:tasks], copy) for tasks in range(1, ROWS + 1)]
    return [
        Axis("step", "a step, by tokens per step", "tokens per step, 22.7 M parameters", "xy",
             by_batch),
        Axis("step", f"a step of 3 × {TOKENS_EACH:,} tokens, by sequence length",
             f"tokens per sequence, 3 × {TOKENS_EACH:,} per step", "x", by_length),
        Axis("surgery", f"surgery alone on {PARAMS / 1e6:.1f} M numbers per task, by tasks",
             f"tasks, {PARAMS / 1e6:.1f} M numbers each", "", surgery),
        Axis("step", "a step of 3 × 4 sequences, by model", "parameters, millions; 3 × 4 sequences",
             "xy", models)]


def measure(points: Sequence[Point], repeat: int) -> list[dict]:
    """All points in turn, the first round not counted; wall and processor are pairs of medians."""
    rounds = [[(timed(point.work), timed(point.unit)) for point in points]
              for _ in range(repeat + 1)][1:]
    results = []
    for point, runs in zip(points, zip(*rounds, strict=True), strict=True):
        works, units = zip(*runs, strict=True)
        results.append({"label": point.label, "x": point.x,
                        "ms": [statistics.median(clock) for clock in zip(*works, strict=True)],
                        "floor_ms": [point.units * statistics.median(clock)
                                     for clock in zip(*units, strict=True)],
                        "range_ms": [min(works)[0], max(works)[0]]})
    return results


def print_table(axis: Axis, results: Sequence[dict]) -> None:
    print(f"\n| {axis.name} | ms | the floor, ms | × the floor |\n| --- | --- | --- | --- |")
    for result in results:
        (wall, processor), (floor, floor_processor) = result["ms"], result["floor_ms"]
        print(f"| {result['label']} | {wall:,.0f} ({processor:,.0f}) | {floor:,.0f} "
              f"({floor_processor:,.0f}) "
              f"| {wall / floor:.2f} ({processor / floor_processor:.2f}) |", flush=True)


def draw_panel(panel: Axes, axis: Axis, results: Sequence[dict]) -> None:
    x, measured = [result["x"] for result in results], [result["ms"][0] for result in results]
    spread = [[abs(result["range_ms"][end] - result["ms"][0]) for result in results]
              for end in (0, 1)]
    panel.errorbar(x, measured, yerr=spread, color=BLUE, marker="o", markersize=5, capsize=3,
                   label="measured")
    panel.plot(x, [result["floor_ms"][0] for result in results], color=VERMILION, linestyle="--",
               marker="s", markersize=4, label="floor")
    if "x" in axis.logarithmic:
        panel.set_xscale("log")
    if "y" in axis.logarithmic:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(bottom=0)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(x, [f"{value:,g}" for value in x])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    panel.set(xlabel=axis.column, ylabel=f"{axis.what}, ms")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3, linewidth=0.6)
    legend(panel)


def draw(measured: Sequence[tuple[Axis, list[dict]]], caption: str) -> Figure:
    figure = Figure(figsize=(2 * WIDTH, 2 * HEIGHT + 0.3), layout="constrained")
    for panel, (axis, results) in zip(figure.subplots(2, 2).flat, measured, strict=True):
        draw_panel(panel, axis, results)
    figure.supxlabel(caption, fontsize=SMALL)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--precision", choices=list(PRODUCT_DTYPES), default="fp32")
    parser.add_argument("--plot", type=Path, metavar="FILE",
                        help="a figure of four panels, as SVG")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = (f"{arguments.precision}, {arguments.threads} threads, torch {torch.__version__}, "
             f"median and range of n = {arguments.repeat}")
    print(about)
    measured = []
    for axis in axes_of(arguments.precision):
        measured.append((axis, measure(axis.points, arguments.repeat)))
        print_table(*measured[-1])
    if arguments.plot:
        arguments.plot.write_bytes(svg(draw(measured, about)))


if __name__ == "__main__":
    main()
