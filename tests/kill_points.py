"""Kills runs at points drawn at random, resumes them, and compares their bytes with those of a run left alone.

    OMP_NUM_THREADS=1 python tests/kill_points.py --points 50 --seed 0

A point is a line of our own code, the n-th that is executed in a place such as the forward pass of a stage; or half a
checkpoint on the disk; or a moment on the clock, for SIGKILL and SIGTERM. A third of the resumed runs are killed again.
Every run is a fork of this process, which computes nothing itself; with --jobs processes it is two processes that
torchrun starts, of which one is killed. Ends with status 1 if a byte differs.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # optimizers ask for it at their first step; once here is two seconds less in every fork

import train_multitask
from minbert import BertConfig, BertModel, BertTokenizer
from multitask import pretrain
from multitask.data.sample import write_sample
from multitask.pretraining import run as pretraining
from multitask.runs import run, stages
from multitask.system import checkpoint

ROOT = Path(__file__).parent.parent
# place → the files, and functions where a file is in several places, whose lines belong to it
PLACES = {
    "data": ("multitask/data/course.py", "multitask/data/multinli.py", "multitask/data/batching.py", "multitask/data/sampling.py",
             "multitask/pretraining/corpus.py", "multitask/pretraining/segments.py"),
    "forward": ("minbert/model.py", "minbert/layer.py", "minbert/attention.py", "minbert/fast/linear.py",
                "minbert/fast/dropout.py", "minbert/mlm.py", "minbert/fast/layer.py:_forward", "minbert/fast/blocks.py",
                "heads/layers.py"),
    "backward": ("minbert/fast/layer.py:_backward", "multitask/training/step.py:_backward_pieces", "optim/flat.py:adding",
                 "multitask/training/final_layers.py:step", "multitask/pretraining/step.py:step"),
    "surgery": ("optim/surgery.py",),
    "optimizer": ("optim/adamw.py", "multitask/training/step.py:scaled_step"),
    "evaluation": ("multitask/evaluation.py", "multitask/metrics.py", "multitask/pretraining/step.py:evaluate"),
    "checkpoint": ("multitask/system/checkpoint.py", "minbert/checkpoints/pretrained.py:replacing", "minbert/checkpoints/pretrained.py:sync"),
    "publishing": ("multitask/model.py:save_pretrained", "multitask/runs/stages.py:_publish", "minbert/checkpoints/pretrained.py:save"),
    "log": ("multitask/system/runlog.py", "multitask/runs/stages.py:_log_step"),
}
HALF, CLOCK, TERM = "half a checkpoint", "any moment", "SIGTERM"
PROCESSES, TASK = 2, "KILL_POINTS_TASK"
Point = tuple[str, str, float]  # stage, place, and which line, checkpoint or second
OUTSIDE = ("before", "after")  # of the stages, where one place is as good as another
AGAIN = 1 / 3  # of the resumed runs are killed too


# ------------------------------------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Job:
    """A command in a fork of this process. main: of the command."""

    main: Callable[[list[str]], int]
    arguments: list[str]
    anywhere = (HALF, CLOCK, TERM)  # points that belong to no place of the code

    def start(self, folder: Path) -> list[str]:
        return [*self.arguments, "--out", str(folder)]

    def resume(self, folder: Path) -> list[str]:
        return ["--resume", str(folder)]

    def run(self, arguments: list[str], output: Path, point: Point | None = None) -> int:
        """The exit status, or minus the signal of a point that was reached."""
        work = functools.partial(self.main, arguments)
        if point is None:
            return forked(work, output)
        stage, place, which = point
        if place in (CLOCK, TERM):
            return forked(work, output, after(which, signal.SIGTERM if place == TERM else signal.SIGKILL))
        if place == HALF:
            return forked(lambda: killed_half_way(which, work), output)
        return forked(lambda: Lines((stage, place), which).watch(work), output)

    def count(self, arguments: list[str], output: Path) -> dict[tuple[str, str], int]:
        """(stage, place) → how many lines are executed there."""
        counts = output.with_name("counts.json")

        def work() -> int:
            lines = Lines()
            status = lines.watch(lambda: self.main(arguments))
            lines.write(counts)
            return status

        assert forked(work, output) == 0, output.read_text()
        return read_counts(counts)


@dataclass(frozen=True)
class Processes:
    """The main job, by two processes that torchrun starts; a point is in one of them, which alone is killed."""

    arguments: list[str]
    anywhere = tuple(f"process {rank}: {CLOCK}" for rank in range(PROCESSES))
    start, resume = Job.start, Job.resume

    def run(self, arguments: list[str], output: Path, point: Point | None = None) -> int:
        struck = output.with_name("struck")
        struck.unlink(missing_ok=True)
        status = self._torchrun(arguments, output, point=point, struck=str(struck))
        return -signal.SIGKILL if struck.exists() else status

    def count(self, arguments: list[str], output: Path) -> dict[tuple[str, str], int]:
        counts = output.with_name("counts.json")
        assert self._torchrun(arguments, output, counts=str(counts)) == 0, output.read_text()
        return {(stage, f"process {rank}: {place}"): number for rank in range(PROCESSES)
                for (stage, place), number in read_counts(Path(f"{counts}.{rank}")).items()}

    def _torchrun(self, arguments: list[str], output: Path, **task: object) -> int:
        with output.open("w") as file:
            return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone",
                                   f"--nproc_per_node={PROCESSES}", __file__, *arguments], stdout=file, stderr=file,
                                  env={**os.environ, "PYTHONPATH": str(ROOT), TASK: json.dumps(task)},
                                  check=False).returncode


def one_of_several(task: dict, arguments: list[str]) -> int:
    """What torchrun starts: counts its lines, or dies at its point, after it has left a sign that it did."""
    rank, point = os.environ["RANK"], task.get("point")

    def die() -> None:
        Path(task["struck"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    lines = Lines()
    if point is not None and point[1].startswith(f"process {rank}: "):
        stage, place, which = point[0], point[1].partition(": ")[2], point[2]
        if place == CLOCK:
            timer = threading.Timer(which, die)
            timer.daemon = True
            timer.start()
        else:
            lines = Lines((stage, place), which, die)
    status = lines.watch(lambda: train_multitask.main(arguments))
    if "counts" in task:
        lines.write(Path(f"{task['counts']}.{rank}"))
    return status


def jobs(folder: Path) -> dict[str, Job | Processes]:
    """All three stages of the main job, the same by two processes, the baseline, and pretraining: a tiny encoder on
    some dozens of examples."""
    shape = ["--data", str(folder / "data"), "--model", str(folder / "encoder"), "--lr", "1e-3", "--batch-size", "8",
             "--epochs", "2", "--checkpoint-every", "2", "--warmup", "0.1", "--schedule", "linear", "--clip", "1",
             "--weight-decay", "0.01"]
    stages = [*shape, "--arch", "concatB_al", "--nli", "--gs", "wrap", "--fl"]
    return {
        "stages": Job(train_multitask.main, stages),
        "processes": Processes([*stages, "--batch-size", "4"]),
        "baseline": Job(train_multitask.main, [*shape, "--gs", "none"]),
        "pretraining": Job(pretrain.main, [
            "--text", str(folder / "text.txt"), "--layers", "1", "--hidden", "16", "--heads", "2", "--vocab-size",
            "150", "--length", "24", "--batch-size", "8", "--steps", "12", "--checkpoint-every", "4", "--dropout",
            "0.1", "--held-out", "0.1", "--second-segment", "next"]),
    }


def prepare(folder: Path) -> int:
    """Data, encoder and text for `jobs`."""
    data = write_sample(folder / "data")
    for path in [*data.glob("*.csv"), *data.glob("multinli/*.jsonl")]:
        path.write_text("\n".join(path.read_text().splitlines()[:33]) + "\n")
    texts = [example.sentences[0] for example in run.load_dataset(data)["sst"]["train"]]
    torch.manual_seed(0)
    tokenizer = BertTokenizer.train(texts, 200)
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=32)).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    (folder / "text.txt").write_text("\n\n".join(texts * 3))
    return 0


def forked(work: Callable[[], int], output: Path, watch: Callable[[int], None] = lambda child: None) -> int:
    """The exit status of `work` in a fork, or minus the signal that ended it; what it prints goes to `output`."""
    child = os.fork()
    if not child:
        status = 70
        try:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                warnings.simplefilter("ignore")
                status = work()
        finally:
            os._exit(status)
    watch(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# ------------------------------------------------------------------------------------------- points


class Lines:
    """Counts the lines executed in each (stage, place), and kills its process at one of them."""

    def __init__(self, point: tuple[str, str] | None = None, number: int = 0,
                 die: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.point, self.number, self.die, self.stage, self.places = point, number, die, OUTSIDE[0], {}

    def write(self, path: Path) -> None:
        """What `read_counts` reads."""
        path.write_text(json.dumps([[*key, number] for key, number in self.counts.items()]))

    def watch(self, work: Callable[[], int]) -> int:
        for owner in (stages.Stage, pretraining.Pretraining):
            self._announce(owner)
        sys.settrace(self._call)
        try:
            return work()
        finally:
            sys.settrace(None)

    def _announce(self, owner: type) -> None:
        name = "fit" if owner is stages.Stage else "run"
        inner = getattr(owner, name)

        def announced(job):
            self.stage = getattr(job, "name", "pretraining")
            result = inner(job)
            self.stage = OUTSIDE[1]
            return result

        setattr(owner, name, announced)

    def _call(self, frame, event: str, argument: object):
        place = self._place(frame.f_code)
        return None if place is None else lambda *_: self._line(place)

    def _place(self, code) -> str | None:
        if code not in self.places:
            path, name = code.co_filename.removeprefix(f"{ROOT}/"), code.co_name
            self.places[code] = next((place for place, parts in PLACES.items() for part in parts
                                      if part in (path, f"{path}:{name}")), None)
        return self.places[code]

    def _line(self, place: str) -> Callable:
        key = self.stage, place if self.stage not in OUTSIDE else "any line"
        self.counts[key] += 1
        if key == self.point and self.counts[key] == self.number:
            self.die()
        return lambda *_: self._line(place)


def read_counts(path: Path) -> dict[tuple[str, str], int]:
    return {(stage, place): number for stage, place, number in json.loads(path.read_text())}


def killed_half_way(number: int, work: Callable[[], int]) -> int:
    """Dies when half of the number-th checkpoint's tensors are on the disk."""
    written, save_file = 0, checkpoint.save_file

    def half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        nonlocal written
        written += 1
        save_file(tensors, path)
        if written == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = half
    return work()


def after(seconds: float, number: int) -> Callable[[int], None]:
    """Sends the signal when so much time is over."""
    def send(child: int) -> None:
        time.sleep(seconds)
        os.kill(child, number)  # a child that has ended is not waited for yet, so its number is not another's

    return send


@dataclass(frozen=True)
class Known:
    """Of a job that is left alone: what it leaves, its lines by (stage, place), its checkpoints, its seconds."""

    left: dict[str, str]
    counts: dict[tuple[str, str], int]
    checkpoints: int
    seconds: float


def draw(job: Job | Processes, known: Known, chance: random.Random) -> Point:
    """Each (stage, place) is as likely as any other."""
    stage, place = chance.choice([*sorted(known.counts), *(("any", place) for place in job.anywhere)])
    if place == HALF:
        return stage, place, chance.randint(1, known.checkpoints)
    if stage == "any":
        return stage, place, chance.uniform(0, known.seconds)
    return stage, place, chance.randint(1, known.counts[stage, place])


# ------------------------------------------------------------------------------------------- what is left


def left_by(folder: Path) -> dict[str, str]:
    """Everything a run leaves, as checksums, but the seconds it took, what hangs on them, and the commit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        # .lock: of a run that was killed when all was done
        if path.is_file() and not name.startswith(("checkpoint/", ".lock")) and path.suffix not in (".html", ".jsonl"):
            content = path.read_bytes()
            if name == "metrics.json":
                values = json.loads(content)
                values["environment"].pop("commit", None)  # somebody may commit meanwhile
                content = without(values, "train_seconds", "examples_per_second", "tokens_per_second")
            found[name] = checksum(content)
    for number, line in enumerate((folder / "log.jsonl").read_text().splitlines()):
        found[f"log {number}"] = checksum(without(json.loads(line), "seconds"))
    last = checkpoint.load(folder)
    found |= {f"checkpoint {name}": checksum(checkpoint._bytes(value).numpy().tobytes())
              for name, value in last.tensors.items()}
    return found | {"checkpoint values": checksum(without(last.values, "seconds", "log"))}


def without(values: dict, *names: str) -> bytes:
    return json.dumps({name: value for name, value in values.items() if name not in names}).encode()


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def learn(job: Job | Processes, folder: Path, output: Path) -> Known:
    """Runs the job twice, alone: for its time and what it leaves, and for its lines."""
    started = time.monotonic()
    assert job.run(job.start(folder / "alone"), output) == 0, output.read_text()
    seconds = time.monotonic() - started
    counts = job.count(job.start(folder / "counted"), output)
    left = left_by(folder / "alone")
    assert left == left_by(folder / "counted"), "two runs that were left alone differ"
    [last] = checkpoint.numbered(folder / "alone")
    return Known(left, counts, int(last.name), seconds)


def trial(job: Job | Processes, known: Known, folder: Path, output: Path,
          chance: random.Random) -> tuple[list, list[str]]:
    """Kills the run, perhaps more than once, lets it end; the points, with their exit statuses, and what differs."""
    point = draw(job, known, chance)
    history = [(point, job.run(job.start(folder), output, point))]
    while not (folder / run.METRICS_FILE).is_file() or history[-1][1]:
        arguments = (job.resume if checkpoint.numbered(folder) else job.start)(folder)
        if len(history) < 4 and chance.random() < AGAIN:
            point = draw(job, known, chance)
            history.append((point, job.run(arguments, output, point)))
        else:
            status = job.run(arguments, output)
            history.append((("then", "left alone", 0), status))
            if status:
                return history, [f"status {status}: {output.read_text()[-500:]}"]
    left = left_by(folder)
    return history, sorted(name for name in left.keys() | known.left.keys() if left.get(name) != known.left.get(name))


def tried(points: int, seed: int, folder: Path, names: list[str]) -> Iterator[tuple[str, list, list[str]]]:
    """(job, history, what differs) of trial after trial, until so many points have been hit."""
    output, chance, hit = folder / "output.txt", random.Random(seed), 0
    assert forked(lambda: prepare(folder), output) == 0, output.read_text()
    all_jobs = jobs(folder)
    known = {}
    for name in names:
        (folder / name).mkdir()
        known[name] = learn(all_jobs[name], folder / name, output)
    number = 0
    while hit < points:
        # the three stages have many more points than the others
        name = chance.choices(names, [len(known[name].counts) for name in names])[0]
        number += 1
        history, differs = trial(all_jobs[name], known[name], folder / name / str(number), output, chance)
        hit += sum(status in (-signal.SIGKILL, 130) for _, status in history)
        yield name, history, differs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, metavar="N", help="to be hit (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: 0)")
    parser.add_argument("--jobs", default="stages,baseline,pretraining", help="and processes (default: %(default)s)")
    torch.set_num_threads(1)
    # drawing takes longer than all the rest
    run.write_report = pretraining.write_pretraining_report = lambda path, *_: path.write_text("")
    if TASK in os.environ:
        return one_of_several(json.loads(os.environ[TASK]), sys.argv[1:])
    arguments = parser.parse_args(argv)
    hits: collections.Counter[tuple[str, str, str]] = collections.Counter()
    trials = spoilt = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, history, differs in tried(arguments.points, arguments.seed, Path(folder), arguments.jobs.split(",")):
            trials += 1
            spoilt += bool(differs)
            for (stage, place, _), status in history:
                if status in (-signal.SIGKILL, 130):
                    hits[name, stage, place] += 1
            told = ", ".join(f"{stage} {place} {which:g}: {status}" for (stage, place, which), status in history)
            result = f"differs in {len(differs)}, such as {differs[:5]}" if differs else "the same bytes"
            print(f"{name}: {told}; {result}", flush=True)
    for (name, stage, place), count in sorted(hits.items()):
        print(f"{name:12} {stage:12} {place:18} {count}")
    print(f"{sum(hits.values())} points hit in {trials} runs; {spoilt} of these ended with other bytes")
    return 1 if spoilt else 0


if __name__ == "__main__":
    sys.exit(main())
