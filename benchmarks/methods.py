"""What surgery methods cost: the weights alone beside torchjd's, and whole training steps.

    python benchmarks/methods.py --weights
    python benchmarks/methods.py --steps --data data --model CHECKPOINT

--weights prints milliseconds per call, medians, for 3, 8 and 32 tasks. --steps prints the seconds
of a step of 3 × 16 examples with each method as a multiple of the plain sum's, medians of steps
taken in turn with it, on equal batches.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from step import WARM_UP, build, data_folder, training_batches
from turns import in_turn, over

from multitask.training.step import SurgeryTrainer
from optim import SURGERY, Method

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import optimality


def median_ms(call: Callable[[], object], repetitions: int) -> float:
    wall, _ = in_turn({"": call}, repetitions, warm_up=0)[""]
    return wall


def weights(repetitions: int) -> None:
    theirs = optimality.torchjds()
    print("| method | " + " | ".join(f"T = {tasks}, ours | torchjd" for tasks in (3, 8, 32)) + " |")
    print("| --- " * 7 + "|")
    losses = torch.ones(32, dtype=torch.float64)
    for name in (name for name in SURGERY if name != "constant"):
        cells = []
        for tasks in (3, 8, 32):
            G = torch.randn(tasks, 1000, dtype=torch.float64,
                            generator=torch.Generator().manual_seed(tasks))
            K, method = G @ G.T, Method(name)
            ours = median_ms(lambda: method(K, losses=losses[:tasks]), repetitions)  # noqa: B023
            cells.append(f"{ours:.2f}")
            other = theirs.get(name)
            cells.append("" if other is None else
                         f"{median_ms(lambda: other(K), max(3, repetitions // 10)):.2f}")  # noqa: B023
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def steps(arguments: argparse.Namespace) -> None:
    def trainer(name: str) -> SurgeryTrainer:
        return SurgeryTrainer(build("fp32", arguments.model), name, lr=1e-5)

    plain = trainer("sum")
    batches = training_batches(plain.model, data_folder(arguments.data),
                               WARM_UP + arguments.rounds)

    print(f"{torch.get_num_threads()} threads")
    for name in (name for name in SURGERY if name not in ("sum", "constant")):
        times = in_turn({"sum": over(plain.step, batches), name: over(trainer(name).step, batches)},
                        arguments.rounds, WARM_UP)
        (plain_time, _), (taken, _) = times.values()
        print(f"{name}: {taken / plain_time:.3f} of the sum's {plain_time / 1e3:.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", action="store_true")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--data")
    parser.add_argument("--model", default="minbert-mini")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.weights:
        weights(arguments.repetitions)
    if arguments.steps:
        steps(arguments)


if __name__ == "__main__":
    main()
