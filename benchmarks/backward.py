"""multitask_backward beside the trainer's own step and torchjd's mtl_backward, as Markdown tables.

    python benchmarks/backward.py [--threads 2] [--steps 20] [--data FOLDER]

All three train minbert's own model of 22.7 M parameters (the checkpoint of the test extra) with
PCGrad and AdamW, on the same batches, in turn, in one process. Numbers are medians of wall seconds,
in brackets the processor's own. Peak memory is of a process of its own (Linux only).
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from step import LR, PEAK_STEPS, WARM_UP, build, data_folder, training_batches
from turns import in_turn, over, peak_megabytes

from multitask import MultitaskBert
from multitask.data.batching import Batch
from multitask.training.step import SurgeryTrainer
from optim import AdamW, multitask_backward

Step = Callable[[dict[str, Batch]], object]


def trainer(model: MultitaskBert) -> Step:
    return SurgeryTrainer(model, "pcgrad", LR).step


def two_lines(model: MultitaskBert) -> Step:
    optimizer, generator = AdamW(model.parameters(), LR), torch.Generator().manual_seed(0)

    def losses(batches: dict[str, Batch]) -> Iterator[torch.Tensor]:
        for name, batch in batches.items():
            yield model.tasks[name].loss(model(name, batch), batch.labels)

    def step(batches: dict[str, Batch]) -> None:
        optimizer.zero_grad()
        multitask_backward(losses(batches), model.encoder.parameters(), generator=generator)
        optimizer.step()

    return step


def torchjd(model: MultitaskBert) -> Step:
    from torchjd.aggregation import PCGrad  # here: its memory is not ours
    from torchjd.autojac import jac_to_grad, mtl_backward

    optimizer, aggregator = AdamW(model.parameters(), LR), PCGrad()

    def step(batches: dict[str, Batch]) -> None:
        optimizer.zero_grad()
        features = {name: model.embed(batch) for name, batch in batches.items()}
        losses = [model.tasks[name].loss(model.heads[name](features[name]), batch.labels)
                  for name, batch in batches.items()]
        # one row after another: vmap does not go through minbert's own backward passes
        mtl_backward(losses, features=list(features.values()), parallel_chunk_size=1)
        jac_to_grad(model.encoder.parameters(), aggregator)
        optimizer.step()

    return step


SIDES = {"the trainer's step": trainer, "multitask_backward": two_lines, "torchjd": torchjd}


def compare_time(batches: list[dict[str, Batch]]) -> None:
    steps = {side: make(build("fp32")) for side, make in SIDES.items()}
    medians = in_turn({side: over(step, batches) for side, step in steps.items()},
                      len(batches) - WARM_UP, WARM_UP)
    first = medians["the trainer's step"]
    print("\n| a step, milliseconds, wall (processor) | | of the trainer's |\n| --- | --- | --- |")
    for side, (wall, processor) in medians.items():
        print(f"| {side} | {wall:,.0f} ({processor:,.0f}) | {wall / first[0]:.2f} "
              f"({processor / first[1]:.2f}) |", flush=True)


def compare_memory() -> None:
    print(f"\n| peak memory of {PEAK_STEPS} steps, MB | |\n| --- | --- |")
    for side in SIDES:
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--peak", side], check=True,
                              capture_output=True, text=True)
        print(f"| {side} | {int(done.stdout.split()[-1]):,} |", flush=True)


def peak(side: str, batches: list[dict[str, Batch]]) -> int:
    """The highest resident memory of this process, MB."""
    step = SIDES[side](build("fp32"))
    for batch in batches:
        step(batch)
    return peak_megabytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="that are counted (default: 20)")
    parser.add_argument("--data")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    count = PEAK_STEPS if arguments.peak else WARM_UP + arguments.steps
    batches = training_batches(build("fp32"), data_folder(arguments.data), count)
    if arguments.peak:
        print(peak(arguments.peak, batches))
        return
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    compare_time(batches)
    compare_memory()


if __name__ == "__main__":
    main()
