"""Table 1 of the paper as a graph of trainings: ten methods × three architectures and the baseline.

Stages that several experiments share are trained once: 15 encoder trainings, 18 trainings of heads,
the baseline.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from heads import ARCHITECTURES
from minbert.files import read_object
from multitask.analysis.paper_results import (
    PAPER_BASELINE,
    PAPER_CELLS,
    PAPER_TABLE_1,
    PAPER_TABLE_2,
)
from multitask.data.examples import TEST_SPLIT, Dataset
from multitask.evaluation import PREDICTIONS_FOLDER, describe, prediction_file, read_predictions
from multitask.runs import run
from multitask.runs.folder import CONFIG_FILE, METRICS_FILE, REPORT_FILE, is_finished
from multitask.runs.hand_in import hand_in
from multitask.runs.inputs import Tokens, load_data, settings_of_run
from multitask.runs.settings import Settings
from multitask.system.checkpoint import CHECKPOINT_FOLDER, numbered
from multitask.system.console import say
from multitask.system.device import pick_device
from multitask.system.environment import invocation
from multitask.tasks import TASKS

from . import claims, table
from .grid_report import write_grid_report
from .presets import FLAGS, PRESETS
from .request import claim_folder

GRID_FILE, FAILED_FILE = "grid.json", "failed.txt"
BASELINE = ("baseline",)
# the paper's ten methods as chains of stages, in the order of its Table 1
METHODS = tuple(tuple(name.split("+")) for name in dict.fromkeys(name for name, _ in PAPER_TABLE_1))


@dataclass(frozen=True)
class Node:
    """One training: the last stage of `chain`, from the model that the stages before it left."""

    arch: str
    chain: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.chain)

    @property
    def parent(self) -> "Node | None":
        """The training whose model it starts from; None if it starts from a checkpoint."""
        return Node(self.arch, self.chain[:-1]) if len(self.chain) > 1 else None


def graph() -> Iterator[Node]:
    """All trainings, each after its parent: encoders first, then method by method."""
    yield Node("concatA", BASELINE)
    chains = dict.fromkeys(chain[:length] for chain in METHODS
                           for length in range(1, len(chain) + 1))

    def order(chain: tuple[str, ...]) -> tuple[bool, int, int]:
        return chain[-1] == "fl", len(chain), list(FLAGS).index(chain[0])

    for chain in sorted(chains, key=order):
        for arch in table.ARCH_TITLES:
            yield Node(arch, chain)


@dataclass(frozen=True)
class Grid:
    """Folder and settings of a grid, saved as grid.json: only the same grid resumes there."""

    out: Path
    preset: str
    data: str | None
    model: str
    precision: str
    device: str
    max_steps: int | None = None
    eval_limit: int | None = None

    def asked(self) -> dict:
        """What was asked for, wherever the results go."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "out"}

    def check(self) -> None:
        """Raises ValueError if the folder holds trainings of another grid, finished or not."""
        path = self.out / GRID_FILE
        has_results = path.is_file() and any(self.out.glob(f"seed-*/*/*/{CONFIG_FILE}"))
        preset = PRESETS[self.preset]
        settings = {"every": preset.every, "stage": preset.stage}
        claim_folder(path, {**self.asked(), "settings": settings}, has_results)

    def folder(self, node: Node, seed: int) -> Path:
        return self.out / f"seed-{seed}" / node.arch / node.name

    def node_settings(self, node: Node, seed: int) -> Settings:
        preset, stage = PRESETS[self.preset], node.chain[-1]
        values = {**preset.every, **preset.stage.get(stage, {}), **FLAGS[stage],
                  "data": self.data, "precision": self.precision, "device": self.device}
        for name in ("max_steps", "eval_limit"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)

        if node.parent is None:
            values["model"] = self.model
        else:
            values |= {"model": None, "start": str(self.folder(node.parent, seed).resolve())}
        return Settings(arch=node.arch, seed=seed, **values)


def run_grid(grid: Grid, seeds: list[int]) -> dict:
    """Trains what is missing and writes the table after each training; returns its content."""
    grid.check()
    dataset: Dataset | None = None
    tokens: dict[int, Tokens] = {}  # by the inputs that a pair makes
    nodes = list(graph())

    for seed in seeds:
        for number, node in enumerate(nodes, start=1):
            folder = grid.folder(node, seed)
            if is_finished(folder):
                continue

            say(f"seed {seed}, {number} of {len(nodes)}: {node.arch} {node.name}")
            reason = hindrance(node, grid, seed)
            if reason is not None:
                say(f"  left out: {reason}")
                continue

            if dataset is None:
                dataset = load_shared(grid.node_settings(node, seed))
            known = tokens.setdefault(ARCHITECTURES[node.arch].sequences(2), {})
            started = time.perf_counter()
            try:
                metrics = train_node(node, grid, seed, dataset, known)
            except FloatingPointError as error:  # it would fail again, so the table does without it
                folder.mkdir(parents=True, exist_ok=True)
                (folder / FAILED_FILE).write_text(f"{error}\n", encoding="utf-8")
                say(f"  failed: {error}")
                continue

            say(f"  dev {describe(metrics['dev'])}  ({time.perf_counter() - started:.0f} s)")
            table.write(grid.out, collect(grid, seeds))

    results = collect(grid, seeds)
    table.write(grid.out, results)
    return results


def hindrance(node: Node, grid: Grid, seed: int) -> str | None:
    """Why a training is left out: it failed before, or the one that it starts from is missing."""
    failed = grid.folder(node, seed) / FAILED_FILE
    if failed.is_file():
        return f"it failed before ({failed} holds the reason; remove that file to try again)"

    parent = node.parent
    if parent is not None and not is_finished(grid.folder(parent, seed)):
        return f"{parent.name}, which it starts from, was not trained"
    return None


def load_shared(settings: Settings) -> Dataset:
    """The data of all trainings, MultiNLI included, test sets excluded; read once."""
    dataset = load_data(dataclasses.replace(settings, nli=True))
    return {name: {split: examples for split, examples in splits.items() if split != TEST_SPLIT}
            for name, splits in dataset.items()}


def train_node(node: Node, grid: Grid, seed: int, shared: Dataset, tokens: Tokens) -> dict:
    """One training, started or resumed; its checkpoint is removed at the end. Returns its metrics.

    tokens: of this pair encoding; what the training had to tokenize is added.
    """
    folder, settings = grid.folder(node, seed), grid.node_settings(node, seed)
    dataset = {name: splits for name, splits in shared.items() if name in TASKS or settings.nli}
    known = None
    if dataset.keys() <= tokens.keys():
        known = {name: tokens[name] for name in dataset}

    # silent: the grid prints shorter lines of its own
    if numbered(folder):
        job = run.resume(folder, lambda line: None, dataset, known)
    else:
        job = run.start(settings, str(folder), lambda line: None, dataset, known)
    tokens |= job.tokens

    metrics = run.execute(job)
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    return metrics


def collect(grid: Grid, seeds: list[int]) -> dict:
    """Content of table.json: the figures of Table 1 that are known so far, and the best run."""
    cells: dict[str, dict] = {}
    best = None
    for (method, arch), paper in PAPER_TABLE_1.items():
        finished = _finished(grid, Node(arch, tuple(method.split("+"))), seeds)
        found = table.score_cells([metrics["dev"] for metrics in finished.values()], paper)
        cells.setdefault(method, {})[arch] = found
        average = found["average"]["mean"]
        if average is not None and (best is None or average > best["average"]):
            # of several seeds the one with the best dev average
            folder, _ = max(finished.items(), key=lambda item: item[1]["dev"]["average"])
            best = {"method": method, "arch": arch, "average": average,
                    "run": folder.relative_to(grid.out).as_posix()}

    finished = _finished(grid, Node("concatA", BASELINE), seeds)
    baseline = table.score_cells([metrics["dev"] for metrics in finished.values()], PAPER_BASELINE)
    path = grid.out / table.TABLE_FILE
    before = read_object(path) if path.is_file() else {}
    is_best_still = best and best["run"] == (before.get("best") or {}).get("run")
    return {"about": about(grid, seeds), "environment": invocation(), **grid.asked(),
            "seeds": seeds, "cells": cells, "baseline": baseline, "best": best,
            "test": before.get("test") if is_best_still else None}


def _finished(grid: Grid, node: Node, seeds: list[int]) -> dict[Path, dict]:
    """Folder → metrics, for the seeds whose training is finished."""
    found = {}
    for seed in seeds:
        folder = grid.folder(node, seed)
        if is_finished(folder):
            found[folder] = read_object(folder / METRICS_FILE)
    return found


def judge_claims(grid: Grid, seeds: list[int]) -> list[dict]:
    """The paper's claims judged on the seeds whose grid is complete."""
    cells = {(node.name, node.arch): node for node in graph()
             if (node.name, node.arch) in PAPER_CELLS}
    complete = [seed for seed in seeds
                if all(_finished(grid, node, [seed]) for node in cells.values())]
    if not complete:
        return []

    dataset = load_data(grid.node_settings(Node("concatB", ("gs_wrap",)), seeds[0]))
    labels = {name: np.array([example.label for example in dataset[name]["dev"]]) for name in TASKS}
    predictions = []
    for seed in complete:
        of_seed: dict = {}
        for cell, node in cells.items():
            folder = grid.folder(node, seed) / PREDICTIONS_FOLDER
            of_seed[cell] = {name: read_predictions(prediction_file(folder, task, "dev"), task)[1]
                             for name, task in TASKS.items()}
        predictions.append(of_seed)
    return claims.judge(predictions, labels)


def about(grid: Grid, seeds: list[int]) -> str:
    """The paragraph above the table: what these figures are, and what they are not."""
    preset = PRESETS[grid.preset]
    limit = grid.eval_limit or preset.every.get("eval_limit")
    caps = {stage: grid.max_steps or preset.stage.get(stage, {}).get("max_steps")
            for stage in FLAGS}
    steps = ", ".join(f"{stage} {cap:,}" for stage, cap in caps.items() if cap)
    parts = [
        "Dev scores, the paper's in brackets (bert-base, the whole of Quora and MultiNLI). Ours: "
        f"{grid.model} on {grid.data or 'the embedded sample'}; {preset.note}.",
        f"Steps per stage at most: {steps}." if steps else "",
        f"Dev sets cut to {limit:,} examples per task, the same ones for all runs." if limit
        else "",
        f"{len(seeds)} seeds, mean ± half a 95 % t interval." if len(seeds) > 1 else
        f"One seed ({seeds[0]}), so no interval.",
    ]
    return " ".join(part for part in parts if part)


def conclude(grid: Grid, results: dict, labelled: Dataset) -> None:
    """Writes the best model's hand-in and, on labelled test examples, the paper's Table 2."""
    settings = settings_of_run(grid.out / results["best"]["run"])
    dataset = load_data(dataclasses.replace(settings, eval_limit=None))
    for name, examples in labelled.items():
        dataset[name][TEST_SPLIT] = examples
    scores, files = hand_in(grid.out / results["best"]["run"], dataset, grid.out / "hand-in",
                            pick_device(grid.device))
    results["claims"] = judge_claims(grid, results["seeds"])
    results["test"] = scores.get(TEST_SPLIT, results["test"])
    table.write(grid.out, results)
    write_grid_report(grid.out / REPORT_FILE, results)
    for split, called in scores.items():
        paper = ", ".join(f"{name} {table.number(value)}" for name, value in PAPER_TABLE_2.items())
        beside = f"  (the paper's Table 2: {paper})" if split == TEST_SPLIT else ""
        print(f"best model, {split}: {describe(called)}{beside}")
    print(f"table: {grid.out / 'table.md'}\nreport: {grid.out / REPORT_FILE}\nhand in: "
          f"{files[0].parent}")
