"""Conflict of the tasks' gradients at one moment, by layer, separated from sampling noise.

A batch's gradient is the data's gradient plus sampling noise. In millions of dimensions, noise is
orthogonal to nearly everything, so a small cosine may mean unrelated tasks or small batches. The
probe therefore also takes two batches of *one* task: the gap between their cosine and 1
is noise.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from minbert import BertModel
from minbert.progress import Progress
from minbert.sentences import evaluating
from multitask.data.batching import TokenizedExamples
from multitask.model import MultitaskBert
from optim import cosines, gram_matrix

from .comparisons import mean_interval

# a parameter's first name → the part it belongs to
PARTS = {"embeddings": "embeddings", "pooler_dense": "pooler"}


def part_slices(encoder: BertModel) -> dict[str, slice]:
    """Where each part's parameters lie in the vector of `encoder.parameters()`.

    Parts: "embeddings", "layer 0", "layer 1", …, "pooler"; together they cover the vector, each
        number once.
    """
    slices, start = {}, 0
    for part, named in itertools.groupby(encoder.named_parameters(),
                                         lambda item: _part_of(item[0])):
        stop = start + sum(value.numel() for _, value in named)
        slices[part] = slice(start, stop)
        start = stop
    return slices


def _part_of(name: str) -> str:
    """layers.3.output_dense.bias → layer 3."""
    first, second, *_ = name.split(".")
    return f"layer {second}" if first == "layers" else PARTS[first]


@torch.enable_grad()
def conflict_probe(model: MultitaskBert, examples: Mapping[str, TokenizedExamples], batch_size: int,
                   draws: int, seed: int) -> dict:
    """Cosines of the tasks' encoder gradients on `draws` fresh batches; the model is unchanged.

    A draw takes two batches of each task without a common example: the first of each make the
    pairs' cosines, as in a training step; both of one task make the noise floor. Layers are parts
    of the same gradients. A zero gradient has cosine 0. There is no dropout, so that sampling is
    the only noise. Memory: (2 · tasks, params) numbers.

    Args:
        model: parameters, modes and .grad are left as found.
        examples: task → labelled examples, at least 2 · batch_size each.
        seed: of the draws.

    Returns:
        Ready for JSON: {"pairs": {"sst-para": {"cosine": [one number per draw], "layers":
        {"embeddings": […], "layer 0": […], …, "pooler": […]}}, …}, "same_task": {"sst": likewise,
        …}}.

    Raises:
        ValueError: a task has too few examples.
        FloatingPointError: a gradient is not finite; the message names the task.
    """
    for name, tokenized in examples.items():
        if len(tokenized) < 2 * batch_size:
            raise ValueError(f"{name}: {len(tokenized)} examples, but two batches of {batch_size} "
                             f"without a common example take {2 * batch_size}: take a smaller "
                             "batch size or more examples")
    names = [name for name in model.tasks if name in examples]
    slices = part_slices(model.encoder)
    parameters = list(model.encoder.parameters())
    matrix = parameters[0].new_zeros(2 * len(names), sum(value.numel() for value in parameters))
    generator = torch.Generator().manual_seed(seed)
    tables = []
    with _left_as_found(model):
        for _ in Progress(range(draws), desc="probe", unit="draw", leave=False, delay=1):
            for row, name in enumerate(names):
                items = torch.randperm(len(examples[name]),
                                       generator=generator)[:2 * batch_size].tolist()
                _gradient(matrix[row], model, name, examples[name], items[:batch_size])
                _gradient(matrix[row + len(names)], model, name, examples[name], items[batch_size:])
            # by part; they sum to the whole
            grams = torch.stack([gram_matrix(matrix[:, part]) for part in slices.values()])
            _check_finite(grams, names)
            tables.append(torch.stack([cosines(gram) for gram in (grams.sum(0), *grams)]))
    table = torch.stack(tables)  # (draws, 1 + parts, 2 · tasks, 2 · tasks)
    rows = {"pairs": {f"{names[i]}-{names[j]}": (i, j)
                      for i, j in itertools.combinations(range(len(names)), 2)},
            "same_task": {name: (i, i + len(names)) for i, name in enumerate(names)}}
    return {kind: {key: _series(table[:, :, i, j], slices) for key, (i, j) in pairs.items()}
            for kind, pairs in rows.items()}


def _series(values: torch.Tensor, slices: Mapping[str, slice]) -> dict:
    """(draws, 1 + parts) → lists of draws: the whole first, then each part."""
    whole, *parts = values.T.tolist()
    return {"cosine": whole, "layers": dict(zip(slices, parts, strict=True))}


def _gradient(row: torch.Tensor, model: MultitaskBert, name: str, examples: TokenizedExamples,
              items: Sequence[int]) -> None:
    """Writes the encoder's gradient of the task's mean loss on these examples to `row`.

    FlatParameters would do, but it moves the parameters, and a trainer may be holding them in a
    vector of its own.
    """
    parameters = list(model.encoder.parameters())
    row.zero_()
    for parameter, view in zip(parameters, row.split([value.numel() for value in parameters]),
                               strict=True):
        parameter.grad = view.view_as(parameter)
    batch = examples.batch(items).to(model.device)
    loss = model.tasks[name].loss(model(name, batch), batch.labels)
    loss.backward(inputs=parameters)  # the heads' gradients are neither computed nor touched


@contextmanager
def _left_as_found(model: MultitaskBert) -> Iterator[None]:
    """Inside, the model is in eval mode and gradients may be written; then all is restored."""
    found = [(parameter, parameter.grad, parameter.requires_grad)
             for parameter in model.encoder.parameters()]
    for parameter, _, _ in found:
        parameter.requires_grad_(True)  # also of an encoder that a stage has frozen
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, gradient, required in found:
            parameter.grad = gradient
            parameter.requires_grad_(required)


def _check_finite(grams: torch.Tensor, names: Sequence[str]) -> None:
    for number, square in enumerate(grams.sum(0).diagonal().tolist()):
        if not math.isfinite(square):
            raise FloatingPointError(f"the gradient of {names[number % len(names)]} is not finite: "
                                     "has this model diverged?")


def summarise(probe: Mapping) -> dict:
    """Means of `conflict_probe` over its draws, whole and by part, with the noise separated.

    Suppose a batch's gradient is μ plus noise of total variance σ². Two batches of one task then
    have a cosine of about ‖μ‖²/(‖μ‖² + σ²). `noise_share` is 1 minus that: the noise's share of the
    squared length. Between tasks i and j the noise shrinks cos(μ_i, μ_j) by √(c_i c_j), c the
    same-task cosines; `ratio_to_same_task` is the mean cosine divided by that (Spearman 1904), an
    estimate of cos(μ_i, μ_j). It is None where a c is not positive: all noise. With c near 0 it is
    unreliable and may leave [−1, 1].

    Returns {"pairs": {"sst-para": {"n", "mean_cosine", "low", "high", "conflict_rate",
    "ratio_to_same_task", "layers": {part: likewise}}, …}, "same_task": {"sst": {"n", "mean_cosine",
    "low", "high", "noise_share", "layers"}, …}}. low, high: 95 % interval of the mean over draws,
    None for one. conflict_rate: the share of the n draws with a negative cosine.
    """
    same_task = {}
    for name, series in probe["same_task"].items():
        layers = {part: _within(draws) for part, draws in series["layers"].items()}
        same_task[name] = {**_within(series["cosine"]), "layers": layers}

    pairs = {}
    for pair, series in probe["pairs"].items():
        first, second = (same_task[name] for name in pair.split("-"))
        layers = {part: _between(draws, first["layers"][part], second["layers"][part])
                  for part, draws in series["layers"].items()}
        pairs[pair] = {**_between(series["cosine"], first, second), "layers": layers}
    return {"pairs": pairs, "same_task": same_task}


def _mean(draws: Sequence[float]) -> dict:
    mean, low, high = mean_interval(draws)
    return {"n": len(draws), "mean_cosine": mean, "low": low, "high": high}


def _within(draws: Sequence[float]) -> dict:
    """The summary of two batches of one task."""
    found = _mean(draws)
    return {**found, "noise_share": 1 - found["mean_cosine"]}


def _between(draws: Sequence[float], first: Mapping, second: Mapping) -> dict:
    """The summary of two tasks; first, second: those within each of them."""
    found, ratio = _mean(draws), None
    if min(first["mean_cosine"], second["mean_cosine"]) > 0:
        ratio = found["mean_cosine"] / math.sqrt(first["mean_cosine"] * second["mean_cosine"])
    return {**found, "conflict_rate": float(np.mean(np.array(draws) < 0)),
            "ratio_to_same_task": ratio}
