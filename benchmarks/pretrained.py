"""What pretraining is worth: one recipe and the same seeds from different encoders.

    python benchmarks/pretrained.py --data data --out FOLDER random=RANDOM drawn=ATTENTIVE
    mini=minbert-mini

An arm is a name and what --model takes, or a way to draw weights of minbert-mini's shape, anew for
each seed: RANDOM as Devlin et al. drew them, ATTENTIVE as pretraining starts; behind an @, the
encoder's learning rate, if not that of --lr. Every run is a process of its own with one thread;
what is finished is not run again. Scores are means over the seeds with half of a 95 % t interval;
differences from the first arm are paired by seed.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from minbert import BertForMaskedLM, BertModel, BertTokenizer
from multitask.analysis.comparisons import mean_interval, paired_difference
from multitask.pretraining.step import draw_attentive
from multitask.system.checkpoint import numbered

ROOT = Path(__file__).parent.parent
RECIPE = ["--arch", "concatB", "--gs", "wrap", "--head-lr", "1e-3", "--warmup", "0.1", "--schedule",
          "linear", "--clip", "1"]
RANDOM, ATTENTIVE = "RANDOM", "ATTENTIVE"
SCORES = {"SST accuracy": ("sst", "accuracy"), "PARA accuracy": ("para", "accuracy"),
          "STS Pearson": ("sts", "pearson"), "average": ("average",)}


def drawn(how: str, folder: Path, seed: int) -> Path:
    """An untrained encoder of minbert-mini's shape and vocabulary."""
    torch.manual_seed(seed)
    model = BertForMaskedLM(BertModel.from_pretrained("minbert-mini").config)
    if how == ATTENTIVE:
        draw_attentive(model)
    model.encoder.save_pretrained(folder)
    BertTokenizer.from_pretrained("minbert-mini").save_pretrained(folder)
    return folder


def train(arm: str, model: str | Path, lr: str, seed: int, arguments: argparse.Namespace) -> dict:
    """The dev scores of one run."""
    out = arguments.out / f"{arm}-{seed}"
    metrics = out / "metrics.json"
    if not metrics.is_file():
        if numbered(out):
            flags = ["--resume", out]
        else:
            flags = [*RECIPE, "--model", model, "--data", arguments.data, "--out", out, "--seed",
                     seed, "--lr", lr, "--batch-size", arguments.batch_size, "--max-steps",
                     arguments.steps, "--eval-limit", arguments.eval_limit, "--device",
                     arguments.device, "--precision", arguments.precision]
        done = subprocess.run([sys.executable, ROOT / "train_multitask.py", *map(str, flags)],
                              check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
                              capture_output=True, text=True)
        if done.returncode:
            last_line = (done.stderr.splitlines() or ["killed"])[-1]
            raise SystemExit(f"{arm}, seed {seed}: {last_line[:500]}")
    dev = json.loads(metrics.read_text(encoding="utf-8"))["dev"]
    print(f"{arm}, seed {seed}: "
          + ", ".join(f"{score} {value_of(dev, path):.3f}" for score, path in SCORES.items()),
          flush=True)
    return dev


def value_of(dev: dict, path: tuple[str, ...]) -> float:
    """0 for a correlation that is undefined."""
    found = dev
    for key in path:
        found = found[key]
    return found or 0.0


def shown(mean: float, low: float | None, high: float | None, sign: str = "") -> str:
    half = "" if low is None or high is None else f" ± {(high - low) / 2:.3f}"
    return f"{mean:{sign}.3f}{half}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("arms", nargs="+", metavar="NAME=MODEL[@LR]")
    add("--data", type=Path, required=True)
    add("--out", type=Path, required=True, help="where the runs go")
    add("--seeds", type=int, default=3, help="(default: 3)")
    add("--first-seed", type=int, default=11711, help="(default: 11711)")
    add("--lr", default="2e-4", help="highest learning rate of the encoder (default: 2e-4)")
    add("--device", default="cpu", help="(default: cpu)")
    add("--precision", default="fp32", help="(default: fp32)")
    add("--steps", type=int, default=500, help="(default: 500)")
    add("--batch-size", type=int, default=8, help="examples of each task per step (default: 8)")
    add("--eval-limit", type=int, default=2000, help="dev examples per task (default: 2,000)")
    add("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    arguments = parser.parse_args()
    arms = {name: model.partition("@")
            for name, _, model in (arm.partition("=") for arm in arguments.arms)}
    seeds = [arguments.first_seed + number for number in range(arguments.seeds)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    # here, not in the threads, which share a generator
    starts = {}
    for arm, (model, *_) in arms.items():
        for seed in seeds:
            is_drawn = model in (RANDOM, ATTENTIVE)
            folder = arguments.out / f"{arm}-{seed}-start"
            starts[arm, seed] = drawn(model, folder, seed) if is_drawn else model
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = {(arm, seed): pool.submit(train, arm, starts[arm, seed], lr or arguments.lr, seed,
                                         arguments)
                for seed in seeds for arm, (_, _, lr) in arms.items()}
    dev = {key: run.result() for key, run in runs.items()}
    scores = {(arm, score): [value_of(dev[arm, seed], path) for seed in seeds] for arm in arms
              for score, path in SCORES.items()}
    print(f"\n{arguments.steps} steps of {arguments.batch_size} examples per task, {len(seeds)} "
          f"seeds, torch {torch.__version__}\n")
    print(f"| from | {' | '.join(SCORES)} |\n| --- |{' --- |' * len(SCORES)}")
    for arm in arms:
        print(f"| {arm} | "
              + " | ".join(shown(*mean_interval(scores[arm, score])) for score in SCORES) + " |")
    first, *others = arms
    for arm in others:
        differences = (paired_difference(scores[arm, score], scores[first, score])
                       for score in SCORES)
        print(f"| {arm} − {first} | "
              + " | ".join(shown(d.mean, d.low, d.high, "+") for d in differences) + " |")


if __name__ == "__main__":
    main()
