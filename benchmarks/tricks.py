"""What each trick for speed is worth: a training step without it, in turn with the step as it is.

    python benchmarks/tricks.py --data data --model CHECKPOINT

Printed: the median step, and how much longer it takes without the trick. A trick that is worth less than
a tenth of a step's time or memory should go.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from unittest import mock

import torch
from step import build, data_folder, training_batches
from turns import in_turn, over

from minbert.fast import attention, blocks, layer, linear
from multitask.training import all_at_once
from multitask.training.step import SurgeryTrainer
from optim import TaskGradients
from optim import fast as optim_fast

by_hand_forward = layer.forward


def bernoulli_mask(shape, share):
    """`keep_mask` by torch's own draws."""
    return -torch.empty(shape).bernoulli_(1 - share).to(torch.int16) if share else None


def whole_last_layer(part, x, packing, first_only=False):
    out = by_hand_forward(part, x, packing, False)
    return out.index_select(0, packing.starts) if first_only else out


# trick → what stands in for it: (object, attribute, value)
WITHOUT = {
    "dropout from cheap bits": [(layer, "keep_mask", bernoulli_mask),
                                (attention, "keep_mask", bernoulli_mask)],
    "fused AdamW": [(optim_fast, "fused_adamw_applies", lambda *_: False)],
    "products by oneDNN": [(linear, "BY_ONEDNN", False)],
    "layer by hand": [(layer, "applies", lambda *_: False)],
    "all tasks at once": [(all_at_once, "MOST_TOKENS", 0)],
    "[CLS] alone in the last layer": [(layer, "forward", whole_last_layer)],
    "blocks of similar length": [
        (blocks, "group_by_length", lambda lengths: [[n for n, size in enumerate(lengths) if size]])],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the course's files")
    parser.add_argument("--model", required=True, help="a checkpoint's folder")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="the first one warms up")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)

    def trainer() -> SurgeryTrainer:
        return SurgeryTrainer(build(arguments.precision, arguments.model), "pcgrad", lr=1e-5)

    usual = trainer()
    with mock.patch("multitask.training.step.TaskGradients",
                    lambda flat, tasks, *_, **named: TaskGradients(flat, tasks, **named)):
        dense = trainer()
    unfilled = trainer()
    unfilled._fills = False
    batches = training_batches(usual.model, data_folder(arguments.data), arguments.rounds)

    def way(stepped: SurgeryTrainer, patches: Sequence = ()) -> Callable[[], object]:
        def step(batch: dict) -> None:
            with ExitStack() as stack:
                for target, attribute, value in patches:
                    stack.enter_context(mock.patch.object(target, attribute, value))
                stepped.step(batch)

        return over(step, batches)

    ways = {"as it is": way(usual),
            **{name: way(usual, patches) for name, patches in WITHOUT.items()},
            "rows of looked-up embeddings": way(dense), "rows filled to few lengths": way(unfilled)}
    times = in_turn(ways, arguments.rounds - 1)
    base, _ = times["as it is"]
    for name, (median, _) in times.items():
        print(f"{name:32}{median:8.0f} ms  {100 * (median / base - 1):+6.1f} %")


if __name__ == "__main__":
    main()
