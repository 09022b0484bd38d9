"""Table 1 of the paper: ten methods × three architectures and the baseline, what they share trained once.

    python -m multitask.experiments --preset quick --data data --model bert-base-uncased
    python -m multitask.experiments --question surgery --seeds 5 --data data

Two chains of stages that begin alike are trained once up to where they part: 15 encoder trainings, 18 trainings of
heads, the baseline. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from heads import ARCHITECTURES
from minbert.checkpoints.hub import EMBEDDED
from minbert.files import replacing
from multitask.analysis.paper_results import PAPER_BASELINE, PAPER_TABLE_1, PAPER_TABLE_2
from multitask.data.course import TEST_SPLIT, Dataset, read_examples
from multitask.evaluation import PREDICTIONS_FOLDER, describe, read_predictions
from multitask.runs import run
from multitask.runs.hand_in import hand_in
from multitask.runs.inputs import DEFAULT_MODEL, Tokens, default_data
from multitask.runs.settings import Settings
from multitask.system import command
from multitask.system.checkpoint import CHECKPOINT_FOLDER, numbered
from multitask.system.command import Parser
from multitask.system.device import DEVICES, PRECISION_HELP, PRECISIONS
from multitask.tasks import TASKS

from . import claims, question, table
from .grid_report import write_grid_report

GRID_FILE, FAILED_FILE = "grid.json", "failed.txt"
FIRST_SEED = 11711
BASELINE = ("baseline",)
# the paper's ten methods as chains of stages, in the order of its Table 1
METHODS = tuple(tuple(name.split("+")) for name in dict.fromkeys(name for name, _ in PAPER_TABLE_1))
# what a stage's name here means as flags of the main job
FLAGS = {
    "nli": {"nli": True, "gs": "none"},
    "gs_bd": {"gs": "bd"},
    "gs_wrap": {"gs": "wrap"},
    "fl": {"gs": "none", "fl": True},
    "baseline": {"gs": "none"},
}


@dataclass(frozen=True)
class Preset:
    """Settings of every stage, of single ones, and what the table says about them."""

    every: dict
    stage: dict[str, dict] = field(default_factory=dict)
    note: str = ""


PRESETS = {
    "paper": Preset({"lr": 1e-5, "epochs": 10}, note="the paper's: learning rate 1e-5, 10 epochs a stage"),
    "quick": Preset(
        {"lr": 1e-4, "head_lr": 3e-3, "epochs": 1, "warmup": 0.1, "schedule": "linear", "clip": 1.0,
         "eval_limit": 4000},
        {"nli": {"batch_size": 8, "max_steps": 250}, "gs_bd": {"max_steps": 200},
         "gs_wrap": {"batch_size": 8, "max_steps": 300}, "fl": {"max_steps": 150}, "baseline": {"max_steps": 150}},
        note="quick, about 80 minutes on one core: learning rate 1e-4, of the heads 3e-3, 10 % warm-up, linear decay, "
             "clipping at 1, batches of 8 (GS_bd: Eq. 6), few steps a stage. GS_w and GS_bd cost about the same there, "
             "but do not meet the same examples: GS_w the same number of each task, GS_bd most of PARA"),
}


@dataclass(frozen=True)
class Node:
    """One training: the last stage of `chain`, from the model that the stages before it left."""

    arch: str
    chain: tuple[str, ...]

    @property
    def name(self) -> str:
        return "+".join(self.chain)

    def folder(self, seed_folder: Path) -> Path:
        return seed_folder / self.arch / self.name

    def settings(self, common: dict, preset: Preset, seed_folder: Path) -> Settings:
        stage = self.chain[-1]
        parent = Node(self.arch, self.chain[:-1])
        start = {"model": None, "start": str(parent.folder(seed_folder).resolve())} if parent.chain else {}
        return Settings(arch=self.arch, **{**preset.every, **preset.stage.get(stage, {}), **FLAGS[stage], **common,
                                           **start})


def graph() -> Iterator[Node]:
    """All trainings, each after the one it starts from: encoders first, and method by method across architectures."""
    yield Node("concatA", BASELINE)
    chains = {chain[:length] for chain in METHODS for length in range(1, len(chain) + 1)}
    for chain in sorted(chains, key=lambda chain: (chain[-1] == "fl", len(chain), list(FLAGS).index(chain[0]))):
        for arch in table.ARCH_TITLES:
            yield Node(arch, chain)


@dataclass(frozen=True)
class Grid:
    """One grid's folder and what it was started with; saved as grid.json, so that only the same goes on there."""

    out: Path
    preset: str
    data: str | None
    model: str
    precision: str
    device: str
    max_steps: int | None = None
    eval_limit: int | None = None

    def check(self) -> None:
        """Raises ValueError if the folder holds results of another grid."""
        asked = {key: value for key, value in dataclasses.asdict(self).items() if key != "out"}
        asked["settings"] = dataclasses.asdict(PRESETS[self.preset])
        path = self.out / GRID_FILE
        has_results = any(self.out.glob(f"seed-*/*/*/{run.METRICS_FILE}")) and path.is_file()
        begun = json.loads(path.read_text(encoding="utf-8")) if has_results else asked
        other = [key for key in asked if begun.get(key) != asked[key]]
        if other:
            raise ValueError(f"{self.out} holds a grid with another {other[0]} ({begun.get(other[0])}, not "
                             f"{asked[other[0]]}); name another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")

    def common(self, seed: int) -> dict:
        given = {"max_steps": self.max_steps, "eval_limit": self.eval_limit}
        return {"model": self.model, "data": self.data, "precision": self.precision, "device": self.device,
                "seed": seed, **{key: value for key, value in given.items() if value is not None}}

    def seed_folder(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"

    def node_settings(self, node: Node, seed: int) -> Settings:
        return node.settings(self.common(seed), PRESETS[self.preset], self.seed_folder(seed))


def run_grid(grid: Grid, seeds: list[int], say: Callable[[str], None] = print) -> dict:
    """Trains what is still missing, writes the table after each training; returns the table's content."""
    grid.check()
    dataset: Dataset | None = None
    tokens: dict[bool, Tokens] = {}  # by whether pairs go in joined
    for seed in seeds:
        for number, node in enumerate(nodes := list(graph()), start=1):
            folder = node.folder(grid.seed_folder(seed))
            if (folder / run.METRICS_FILE).is_file():
                continue
            say(f"seed {seed}, {number} of {len(nodes)}: {node.arch} {node.name}")
            if (reason := hindrance(node, grid, seed)) is not None:
                say(f"  left out: {reason}")
                continue
            if dataset is None:
                dataset = load_shared(grid.node_settings(node, seed))
            started = time.perf_counter()
            try:
                metrics = train(node, grid, seed, dataset, tokens.setdefault(ARCHITECTURES[node.arch].pairs_joined, {}))
            except FloatingPointError as error:  # it would end there again: the table goes on without it
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
    """Why a training cannot be had: it has failed before, or what it starts from has."""
    failed = node.folder(grid.seed_folder(seed)) / FAILED_FILE
    if failed.is_file():
        return f"it failed before ({failed} says why; remove that file to try again)"
    parent = Node(node.arch, node.chain[:-1])
    if parent.chain and not (parent.folder(grid.seed_folder(seed)) / run.METRICS_FILE).is_file():
        return f"{parent.name}, which it starts from, failed"
    return None


def load_shared(settings: Settings) -> Dataset:
    """The data of every training, read once, MultiNLI included; without test sets, which only the best model meets."""
    dataset = run.load_data(dataclasses.replace(settings, nli=True))
    return {name: {split: examples for split, examples in splits.items() if split != TEST_SPLIT}
            for name, splits in dataset.items()}


def train(node: Node, grid: Grid, seed: int, shared: Dataset, tokens: Tokens) -> dict:
    """One training, begun or gone on with; its checkpoint is removed once it has ended. Returns its metrics.

    tokens: for this pair encoding, filled in as far as a training needed them.
    """
    folder, settings = node.folder(grid.seed_folder(seed)), grid.node_settings(node, seed)
    dataset = {name: splits for name, splits in shared.items() if name in TASKS or settings.nli}
    known = {name: tokens[name] for name in dataset} if dataset.keys() <= tokens.keys() else None

    def silent(line: str) -> None:
        """The grid's own lines say it shorter."""

    job = (run.resume(folder, silent, dataset, known) if numbered(folder)
           else run.start(settings, str(folder), silent, dataset, known))
    tokens |= job.tokens
    try:
        metrics = run.execute(job)
    finally:
        job.log.close()
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    return metrics


def collect(grid: Grid, seeds: list[int]) -> dict:
    """What table.json holds: every figure of Table 1 as far as it has been got, and which run is the best."""

    def scores(node: Node) -> list[dict]:
        files = [node.folder(grid.seed_folder(seed)) / run.METRICS_FILE for seed in seeds]
        return [json.loads(path.read_text(encoding="utf-8"))["dev"] for path in files if path.is_file()]

    nodes = {(method, arch): Node(arch, tuple(method.split("+"))) for method, arch in PAPER_TABLE_1}
    cells: dict[str, dict] = {}
    for (method, arch), node in nodes.items():
        cells.setdefault(method, {})[arch] = table.row(scores(node), PAPER_TABLE_1[method, arch])
    done = {key: cells[key[0]][key[1]]["average"]["mean"] for key in nodes
            if cells[key[0]][key[1]]["average"]["mean"] is not None}
    best = max(done, key=done.__getitem__, default=None)
    return {
        "about": about(grid, seeds),
        **{key: value for key, value in dataclasses.asdict(grid).items() if key != "out"},
        "seeds": seeds,
        "cells": cells,
        "baseline": table.row(scores(Node("concatA", BASELINE)), PAPER_BASELINE),
        "best": best and {"method": best[0], "arch": best[1], "average": done[best], "run": best_run(
            grid, nodes[best], seeds)},
        "train_seconds": sum(train_seconds(grid, seeds)),
    }


def judge(grid: Grid, seeds: list[int]) -> list[dict]:
    """What the grid says of each of the paper's claims about its Table 1; from seeds that are complete."""
    cells = {(node.name, node.arch): node for node in graph() if (node.name, node.arch) in PAPER_TABLE_1}
    cells["baseline", "concatA"] = Node("concatA", BASELINE)
    complete = [seed for seed in seeds if all((node.folder(grid.seed_folder(seed)) / run.METRICS_FILE).is_file()
                                              for node in cells.values())]
    if not complete:
        return []
    dev = run.load_data(grid.node_settings(Node("concatB", ("gs_wrap",)), seeds[0]))
    labels = {name: np.array([example.label for example in dev[name]["dev"]]) for name in TASKS}
    predictions = [{cell: {name: read_predictions(node.folder(grid.seed_folder(seed)) / PREDICTIONS_FOLDER, task, "dev")
                           for name, task in TASKS.items()} for cell, node in cells.items()} for seed in complete]
    return claims.judge(predictions, labels, {**PAPER_TABLE_1, ("baseline", "concatA"): PAPER_BASELINE})


def best_run(grid: Grid, node: Node, seeds: list[int]) -> str:
    """Of the best experiment's seeds the one with the best dev average, as a path inside the grid's folder."""
    folders = [node.folder(grid.seed_folder(seed)) for seed in seeds]
    finished = [folder for folder in folders if (folder / run.METRICS_FILE).is_file()]
    average = lambda folder: json.loads((folder / run.METRICS_FILE).read_text())["dev"]["average"]  # noqa: E731
    return max(finished, key=average).relative_to(grid.out).as_posix()


def train_seconds(grid: Grid, seeds: list[int]) -> Iterator[float]:
    for seed in seeds:
        for path in sorted(grid.seed_folder(seed).glob(f"*/*/{run.METRICS_FILE}")):
            yield json.loads(path.read_text(encoding="utf-8"))["train_seconds"]


def about(grid: Grid, seeds: list[int]) -> str:
    """The paragraph above the table: what these figures are, and what they are not."""
    preset = PRESETS[grid.preset]
    limit = grid.eval_limit or preset.every.get("eval_limit")
    caps = {stage: grid.max_steps or preset.stage.get(stage, {}).get("max_steps") for stage in FLAGS}
    steps = ", ".join(f"{stage} {cap:,}" for stage, cap in caps.items() if cap)
    parts = [
        f"Dev scores, the paper's in brackets (bert-base, the whole of Quora and MultiNLI). Ours: {grid.model} on "
        f"{grid.data or 'the embedded sample'}; {preset.note}.",
        f"Steps a stage at most: {steps}." if steps else "",
        f"Dev sets cut to {limit:,} examples a task where they are larger, a choice that is the same for all." if limit
        else "",
        f"{len(seeds)} seeds, mean ± half a 95 % t interval." if len(seeds) > 1 else f"One seed ({seeds[0]}): no "
        "interval, and differences of a point or two mean nothing.",
    ]
    return " ".join(part for part in parts if part)


def answer(arguments: argparse.Namespace) -> int:
    """The grid or the question, as asked for."""
    data = default_data() if arguments.data is None else str(Path(arguments.data).resolve())
    model = arguments.model or (EMBEDDED if data is None else DEFAULT_MODEL)
    given = {"model": model, "data": data, "device": arguments.device, "precision": arguments.precision}
    if arguments.question:
        out = arguments.out or Path("experiments") / arguments.question
        limit = {} if arguments.eval_limit is None else {"eval_limit": arguments.eval_limit}
        if arguments.test_labels or arguments.preset:
            raise ValueError("--question takes neither --preset nor --test-labels")
        steps = 160 if arguments.max_steps is None else arguments.max_steps
        question.ask(question.Question(steps=steps, **given, **limit), out, seeds_of(arguments, 5))
        print((out / "question.md").read_text(encoding="utf-8"))
        return 0
    preset = arguments.preset or "quick"
    out = arguments.out or Path("experiments") / preset
    grid = Grid(out, preset, max_steps=arguments.max_steps, eval_limit=arguments.eval_limit, **given)
    labelled = {} if arguments.test_labels is None else {
        name: read_examples(arguments.test_labels / f"{task.file}-test.csv", task) for name, task in TASKS.items()}
    results = run_grid(grid, seeds_of(arguments, 1))
    if results["best"] is not None:
        conclude(grid, results, labelled)
    print("\n" + table.markdown(results))
    return 0


def seeds_of(arguments: argparse.Namespace, default: int) -> list[int]:
    count = default if arguments.seeds is None else arguments.seeds
    if count < 1:
        raise ValueError(f"--seeds {count}: must be at least 1")
    return [FIRST_SEED + number for number in range(count)]


def conclude(grid: Grid, results: dict, labelled: Dataset) -> None:
    """The best model's hand-in, and its scores on labelled test examples, task → examples: the paper's Table 2."""
    settings = Settings.load(grid.out / results["best"]["run"] / run.CONFIG_FILE)
    dataset = run.load_data(dataclasses.replace(settings, nli=False, eval_limit=None))
    for name, examples in labelled.items():
        dataset[name][TEST_SPLIT] = examples
    scores, files = hand_in(grid.out / results["best"]["run"], dataset, grid.out / "hand-in",
                            run.pick_device(grid.device))
    results["claims"] = judge(grid, results["seeds"])
    results["test"] = scores.get(TEST_SPLIT)
    table.write(grid.out, results)
    write_grid_report(grid.out / run.REPORT_FILE, results)
    for split, called in scores.items():
        paper = ", ".join(f"{name} {table.number(value)}" for name, value in PAPER_TABLE_2.items())
        beside = f"  (the paper's Table 2: {paper})" if split == TEST_SPLIT else ""
        print(f"best model, {split}: {describe(called)}{beside}")
    print(f"table: {grid.out / 'table.md'}\nreport: {grid.out / run.REPORT_FILE}\nhand in: {files[0].parent}")


def build_parser() -> Parser:
    parser = Parser("python -m multitask.experiments", __doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, help="the paper's settings, or few steps (default: quick)")
    add("--question", choices=["surgery"], help="does surgery help? control arms paired by seed, instead of the table")
    add("--seeds", type=int, metavar="N", help="11711 and the N - 1 after it (default: 1; 5 for --question)")
    add("--data", metavar="FOLDER", help="the course's files (default: ./data if it holds them, else the sample)")
    add("--model", metavar="NAME_OR_FOLDER", help="as in train_multitask.py")
    add("--out", type=Path, metavar="FOLDER", help="(default: experiments/PRESET or experiments/surgery)")
    add("--max-steps", type=int, metavar="N", help="end each stage after N steps (default: the preset's)")
    add("--eval-limit", type=int, metavar="N", help="at most N dev examples a task (default: the preset's)")
    add("--device", choices=DEVICES, default="auto", help="(default: auto)")
    add("--precision", choices=PRECISIONS, default="auto", help=PRECISION_HELP)
    add("--test-labels", type=Path, metavar="FOLDER",
        help="{file}-test.csv with labels: the best model is scored on them, the paper's Table 2")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    arguments = build_parser().parse_args(argv)
    return command.answer("multitask.experiments", lambda: answer(arguments),
                          interrupted="interrupted; the same command goes on")
