"""Where a training step's time goes, by torch's profiler, and a drawing of two such measurements.

    python benchmarks/anatomy.py --precision bf16 --json after.json [--threads 2] [--steps 12]
    [--data FOLDER]
    python benchmarks/anatomy.py --draw before.json after.json --plot docs/figures/anatomy.svg

3 tasks × 16 real examples with the checkpoint of the test extra, as in benchmarks/step.py; no batch
comes twice, the first three steps are left out. To measure an older commit, run the script of that
commit. The profiler itself takes time, of many small calls more than of few large ones, so the
milliseconds are the profiled ones scaled to the median step without it.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch
from matplotlib.figure import Figure
from step import WARM_UP, build, data_folder, stepper, training_batches
from torch.profiler import ProfilerActivity, profile, record_function

from optim import AdamW, TaskGradients

REST = "everything else"
# whose function, its name, and the part that all of its operations count for
REGIONS = ((TaskGradients, "grams", "Gram matrix"),
           (TaskGradients, "combine_groups_", "combination"),
           (AdamW, "step", "AdamW"))
OPERATIONS = {  # the other operations, by how their names begin after "aten::"
    "products of the linear layers": ("mm", "addmm", "mkldnn::_linear", "mkldnn_linear", "linear"),
    "attention: products, softmax": ("bmm", "baddbmm", "_softmax", "softmax", "_scaled_dot",
                                     "matmul"),
    "dropout": ("bernoulli", "random_", "native_dropout", "dropout", "bitwise", "__and__", "where",
                "masked"),
    "LayerNorm, GELU": ("native_layer_norm", "layer_norm", "gelu"),
    "copies, casts, zero-filling": ("copy_", "_to_copy", "to", "contiguous", "clone", "cat",
                                    "fill_", "zero_", "index", "embedding", "gather", "scatter"),
    "sums and products of elements": ("add", "sub", "mul", "div", "sum", "neg", "mean", "tanh"),
}
PARTS = (*OPERATIONS, "Gram matrix", "combination", "AdamW", REST)
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#882255",
           "#000000", "#BBBBBB")


def named(function: Callable, part: str) -> Callable:
    """The function, with the part's name in the profile around its operations."""
    def wrapped(*args: object, **kwargs: object) -> object:
        with record_function(part):
            return function(*args, **kwargs)
    return wrapped


def part_of(event: torch.autograd.profiler_util.FunctionEvent) -> str:
    caller = event
    while caller is not None:
        if caller.name in PARTS:
            return caller.name
        caller = caller.cpu_parent
    name = event.name.removeprefix("aten::")
    return next((part for part, beginnings in OPERATIONS.items() if name.startswith(beginnings)),
                REST)


def measure(precision: str, steps: int, folder: Path) -> dict[str, float]:
    """Part → milliseconds per step; what no operation accounts for is in the rest."""
    model = build(precision)
    step = stepper("ours", precision, model)
    batches = training_batches(model, folder, WARM_UP + 2 * steps)
    seconds = []
    for batch in batches[:WARM_UP + steps]:
        started = time.perf_counter()
        step(batch)
        seconds.append(time.perf_counter() - started)
    with ExitStack() as stack:
        for owner, name, part in REGIONS:
            region = named(getattr(owner, name), part)
            stack.enter_context(mock.patch.object(owner, name, region))
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
        started = time.perf_counter()
        for batch in batches[WARM_UP + steps:]:
            step(batch)
        profiled = time.perf_counter() - started
    totals = Counter()
    for event in profiler.events():
        totals[part_of(event)] += event.self_cpu_time_total / 1e6
    totals[REST] += profiled - totals.total()
    whole = statistics.median(seconds[WARM_UP:]) * 1e3
    return {part: totals[part] / profiled * whole for part in PARTS}


def draw(measured: list[dict]) -> Figure:
    """A bar for each measurement, its parts side by side."""
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(measured)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(measured):
        left = 0.0
        for part, colour in zip(PARTS, COLOURS, strict=True):
            width = one["parts"][part]
            axes.barh(-place, width, left=left, color=colour, edgecolor="white", linewidth=0.6,
                      label=part if place == 0 else None)
            left += width
        axes.text(left, -place, f" {left:,.0f}", va="center", fontsize=9)
    axes.set_yticks([-place for place in range(len(measured))], [one["label"] for one in measured])
    axes.set(xlabel="milliseconds a step")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: fp32)")
    add("--threads", type=int, default=2)
    add("--steps", type=int, default=12, help="timed, and as many profiled (default: 12)")
    add("--data")
    add("--label", help="of the measurement in the drawing (default: the precision)")
    add("--json", type=Path, help="where the measurement goes")
    add("--draw", type=Path, nargs="+", metavar="JSON",
        help="measurements to draw, from above to below")
    add("--plot", type=Path, help="where the drawing goes")
    arguments = parser.parse_args()
    if arguments.draw:
        if arguments.plot is None:
            parser.error("--draw needs --plot")
        draw([json.loads(path.read_text(encoding="utf-8")) for path in arguments.draw]).savefig(
            arguments.plot, metadata={"Date": None})
        return
    torch.set_num_threads(arguments.threads)
    parts = measure(arguments.precision, arguments.steps, data_folder(arguments.data))
    print("| part | milliseconds a step | share |\n| --- | --- | --- |")
    for part, milliseconds in parts.items():
        print(f"| {part} | {milliseconds:,.0f} | {milliseconds / sum(parts.values()):.0%} |")
    if arguments.json:
        result = {"label": arguments.label or arguments.precision, "threads": arguments.threads,
                  "parts": parts}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
