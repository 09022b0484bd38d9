"""Surgery and the update, ours against torchjd's PCGrad and torch's AdamW, as Markdown tables.

    python benchmarks/surgery.py [--threads 2] [--repeat 7] [--params 109482240]

Gradients of 3 tasks, the size of bert-base, in float32. All ways take turns in one process; a
number is a median of wall milliseconds, and in brackets the processor's own, which a busy machine
changes less. The floor of surgery is its traffic, 7 · params · 4 bytes (read 3 rows for their
products; read 3, write 1 for the combination), at the rate of a copy in the same run. Takes 3.2 GB.
"""

import argparse
from collections.abc import Mapping

import torch
from torch import nn
from torchjd.aggregation import PCGrad
from turns import Times, in_turn

from optim import (
    AdamW,
    FlatParameters,
    TaskGradients,
    combine,
    gram_matrix,
    pcgrad_weights,
    project_conflicting,
)

TASKS, LR = 3, 1e-5
# of 16 sentences of a task, and pairs as often as not
VOCABULARY, HIDDEN, LOOKED_UP = 30_522, 768, 700


def print_table(title: str, times: Times, units: Mapping[str, tuple[float, float]]) -> None:
    """One line per way. Each unit gives a column of ratios, wall and processor."""
    print(f"\n| {title} | ms | {' | '.join(f'× {unit}' for unit in units)} |")
    print(f"| --- | --- |{' --- |' * len(units)}")
    for name, (wall, processor) in times.items():
        ratios = [f"{wall / by[0]:.2f} ({processor / by[1]:.2f})" for by in units.values()]
        print(f"| {name} | {wall:,.0f} ({processor:,.0f}) | {' | '.join(ratios)} |", flush=True)


def whole(params: int, repeat: int) -> None:
    """Every task's gradient as one long row."""
    rows = torch.randn(TASKS, params, generator=torch.Generator().manual_seed(0)).mul_(1e-3)
    theta = nn.Parameter(rows[0] * 50)
    theta.grad = rows[0]
    theirs = torch.optim.AdamW([theta], lr=LR, weight_decay=0.0, fused=True)
    theirs.step()
    ours, decayed = (AdamW([theta], lr=LR, weight_decay=weight_decay)
                     for weight_decay in (0.0, 0.01))
    for optimizer in (ours, decayed):  # one set of moments for all: memory
        optimizer.state[theta] = {**theirs.state[theta], "step": 1}
    aggregator = PCGrad()

    def surgery() -> None:
        combine(rows, pcgrad_weights(gram_matrix(rows)), out=rows[0])

    times = in_turn({
        "copy of one row": lambda: rows[1].copy_(rows[2]),
        "ours: products of the rows": lambda: gram_matrix(rows),
        "ours: combination, in place": lambda: combine(rows, torch.ones(TASKS), out=rows[0]),
        "ours, in place as in training": surgery,
        "ours, project_conflicting": lambda: project_conflicting(rows),
        "torchjd's PCGrad": lambda: aggregator(rows),
        "torch's AdamW, fused": theirs.step,
        "our AdamW": ours.step,
        "our AdamW with decay": decayed.step,
        "ours: surgery + AdamW": lambda: (surgery(), ours.step()),
        "ours: surgery + AdamW with decay": lambda: (surgery(), decayed.step()),
        "torchjd's PCGrad + torch's AdamW": lambda: (aggregator(rows), theirs.step()),
    }, repeat)
    copy = times.pop("copy of one row")
    floor = tuple(3.5 * clock for clock in copy)
    print(f"A copy runs at {params * 8 / copy[0] / 1e6:.1f} GB/s: the floor is {floor[0]:,.0f} "
          f"({floor[1]:,.0f}) ms.")
    updates = {name: times.pop(name) for name in list(times) if "AdamW" in name}
    print_table("surgery alone", times, {"the floor": floor, "torchjd": times["torchjd's PCGrad"]})
    print_table("with the update", updates, {"torch's AdamW": updates["torch's AdamW, fused"]})


def compact(params: int, repeat: int) -> None:
    """A training step on a CPU: word-embedding gradients are the rows that were looked up."""
    table = nn.Embedding(VOCABULARY, HIDDEN, sparse=True)
    rest = nn.Parameter(torch.randn(params - table.weight.numel()) * 0.05)
    flat = FlatParameters({"table": table.weight, "rest": rest}.items())
    gradients = TaskGradients(flat, TASKS, "table", watched=False)
    generator = torch.Generator().manual_seed(0)
    gradients.matrix.normal_(std=1e-3, generator=generator)
    for task, row in enumerate(gradients.matrix):
        values = row.clone()
        with gradients.row(task):
            table(torch.randint(VOCABULARY, (LOOKED_UP,), generator=generator)).sum().backward()
        row.copy_(values)
    vectors = [nn.Parameter(flat.vector[:table.weight.numel()].view_as(table.weight)),
               nn.Parameter(flat.vector[table.weight.numel():])]
    vectors[1].grad = gradients.matrix[0]
    optimizer = AdamW(vectors, lr=LR)
    whole = nn.Parameter(flat.vector)
    theirs = torch.optim.AdamW([whole], lr=LR, weight_decay=0.0, fused=True)
    whole.grad = torch.zeros_like(whole)

    def step() -> None:
        _, vectors[0].grad = gradients.combine_(pcgrad_weights(gradients.gram()))
        optimizer.step()

    times = in_turn({"torch's AdamW, fused, on a dense gradient": theirs.step,
                     f"ours: surgery + AdamW, {LOOKED_UP} rows of word embeddings a task": step},
                    repeat)
    print_table("with the update, word embeddings compact", times,
                {"torch's AdamW": times["torch's AdamW, fused, on a dense gradient"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--params", type=int, default=109_482_240)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {TASKS} × "
          f"{arguments.params / 1e6:.1f} M numbers.")
    with torch.no_grad():
        whole(arguments.params, arguments.repeat)
    compact(arguments.params, arguments.repeat)


if __name__ == "__main__":
    main()
