"""Kills runs at random points, resumes them, and compares their bytes with a whole run's.

    OMP_NUM_THREADS=1 python tools/kill_points.py --points 50 --seed 0
    OMP_NUM_THREADS=1 python tools/kill_points.py --methods

A point is the n-th executed line of a place in our code, such as the forward pass of a stage; or
half a checkpoint on the disk; or a moment on the clock, for SIGKILL and SIGTERM. A third of the
resumed runs are killed again. A job runs in a fork of this process, which trains nothing itself, or
in two processes that torchrun starts, of which one is killed. With --methods, the point is one
step, and the runs are one for each surgery method that remembers or draws something. Ends with
status 1 if a byte differs.
"""

import argparse
import collections
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
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import scipy.stats  # noqa: F401
import torch

# a run imports these two when it first needs them; here, once, they save three seconds per fork
import torch._dynamo

import train_multitask
from minbert import BertConfig, BertModel, BertTokenizer
from multitask import pretrain
from multitask.data.examples import load_dataset
from multitask.data.sample import write_sample
from multitask.pretraining import run as pretraining
from multitask.runs import run, stages
from multitask.runs.settings import Settings
from multitask.system import checkpoint
from multitask.training.step import SurgeryTrainer
from optim import SURGERY, Method

ROOT = Path(__file__).parent.parent
# place → the files, or functions of a file, whose lines belong to it
PLACES = {
    "data": ("multitask/data/tables.py", "multitask/data/examples.py", "multitask/data/multinli.py",
             "multitask/data/batching.py", "multitask/data/sampling.py",
             "multitask/pretraining/corpus.py", "multitask/pretraining/segments.py"),
    "forward": ("minbert/model.py", "minbert/layer.py", "minbert/attention.py", "minbert/mlm.py",
                "heads/layers.py", "minbert/fast/linear.py", "minbert/fast/dropout.py",
                "minbert/fast/blocks.py", "minbert/fast/packed.py",
                "minbert/fast/attention.py:attend", "minbert/fast/layer.py:_forward"),
    "backward": ("minbert/fast/layer.py:_backward", "minbert/fast/attention.py:attend_backward",
                 "multitask/training/all_at_once.py:backward", "multitask/training/step.py:_backward_task",
                 "optim/flat.py:adding", "multitask/training/final_layers.py:step",
                 "multitask/pretraining/step.py:step"),
    "surgery": ("optim/surgery.py",),
    "optimizer": ("optim/adamw.py", "optim/fast.py", "multitask/training/optimizing.py:scaled_step"),
    "evaluation": ("multitask/evaluation.py", "multitask/metrics.py",
                   "multitask/pretraining/step.py:evaluate"),
    "checkpoint": ("multitask/system/checkpoint.py", "minbert/files.py:replacing",
                   "minbert/files.py:sync"),
    "publishing": ("multitask/model.py:save_pretrained", "multitask/runs/stages.py:_publish",
                   "minbert/checkpoints/pretrained.py:write_checkpoint"),
    "log": ("multitask/system/runlog.py", "multitask/runs/stages.py:_log_step"),
}
HALF, CLOCK, TERM, STEP = "half a checkpoint", "any moment", "SIGTERM", "a step's beginning"
OUTSIDE = ("before", "after")  # of the stages, where one place is as good as another
AGAIN = 1 / 3                  # of the resumed runs are killed too
MOST_KILLS = 4                 # of one run
FAILED = 70                    # the status of a fork that ends in a traceback
# Epochs have 4 steps. The point is the third one's last: DWA weighs by two epochs that ended, the
# last checkpoint is within the epoch, one step behind, and the fourth epoch weighs by the third.
METHOD_POINT, LAST_SAVED = 12, "resumed in epoch 3, step 10"
TASK = "KILL_POINTS_TASK"      # in the environment of what torchrun starts


class Point(NamedTuple):
    """Where a process dies: the number-th line of a place in a stage, checkpoint, step or second."""

    where: str
    number: float
    rank: int = 0


# ----------------------------------------------------------------------------------------- the jobs


@dataclass(frozen=True)
class Job:
    """A command: its main function and arguments."""

    main: Callable[[list[str]], int]
    arguments: list[str]
    processes: int = 1

    def start(self, folder: Path) -> list[str]:
        return [*self.arguments, "--out", str(folder)]

    def resume(self, folder: Path) -> list[str]:
        return ["--resume", str(folder)]


def jobs(folder: Path) -> dict[str, Job]:
    """All stages, the same by two processes, the baseline, pretraining, and methods by name."""
    shared = ["--data", f"{folder}/data", "--model", f"{folder}/encoder", "--lr", "1e-3",
              "--epochs", "2", "--batch-size", "8", "--checkpoint-every", "2", "--warmup", "0.1",
              "--schedule", "linear", "--clip", "1", "--weight-decay", "0.01"]
    all_stages = [*shared, "--arch", "concatB_al", "--nli", "--gs", "wrap", "--fl"]
    text = ["--text", f"{folder}/text.txt", "--layers", "1", "--hidden", "16", "--heads", "2",
            "--vocab-size", "150", "--length", "24", "--batch-size", "8", "--steps", "12",
            "--checkpoint-every", "4", "--dropout", "0.1", "--held-out", "0.1"]
    return {
        "stages": Job(train_multitask.main, all_stages),
        "processes": Job(train_multitask.main, [*all_stages, "--batch-size", "4"], processes=2),
        "baseline": Job(train_multitask.main, [*shared, "--gs", "none"]),
        "pretraining": Job(pretrain.main, text),
        **{name: Job(train_multitask.main, [*shared, "--epochs", "4", "--surgery", name,
                                            "--surgery-by", "layer"]) for name in stateful()},
    }


def stateful() -> list[str]:
    """The surgery methods that a run cannot resume without their state or their generator's."""
    methods = {name: Method(name) for name in SURGERY}
    return [name for name, method in methods.items() if method.remembers or draws(method)]


def draws(method: Method) -> bool:
    """Whether it takes random numbers from the generator that it is given."""
    generator = torch.Generator()
    before = generator.get_state()
    try:
        method(torch.eye(3), generator=generator, losses=torch.ones(3))
    except ValueError:  # `constant` without its weights
        return False
    return not torch.equal(generator.get_state(), before)


def prepare(folder: Path) -> int:
    """Writes what the jobs read: some dozens of examples, a tiny encoder, and a text."""
    data = write_sample(folder / "data")
    for path in [*data.glob("*.csv"), *data.glob("multinli/*.jsonl")]:
        path.write_text("\n".join(path.read_text().splitlines()[:33]) + "\n")

    texts = [example.sentences[0] for example in load_dataset(data)["sst"]["train"]]
    (folder / "text.txt").write_text("\n\n".join(texts * 3))

    torch.manual_seed(0)
    tokenizer = BertTokenizer.train(texts, 200)
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return 0


# ------------------------------------------------------------------------------------------ one run


def execute(job: Job, arguments: list[str], output: Path, point: Point | None = None,
            count: bool = False) -> int:
    """Runs the job; returns its exit status, or -SIGKILL if it was killed at the point.

    count: also writes down how often each place is reached, which `counts_of` reads.
    """
    struck = output.with_name("struck")
    struck.unlink(missing_ok=True)
    task = {"point": point, "struck": str(struck),
            "counts": str(output.with_name("counts")) if count else None}

    if job.processes == 1:
        status = fork(lambda: work(job.main, arguments, task, rank=0), output)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc_per_node={job.processes}", __file__, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), TASK: json.dumps(task)}
        with output.open("w") as file:
            status = subprocess.run(command, stdout=file, stderr=file, env=environment,
                                    check=False).returncode

    return -signal.SIGKILL if struck.exists() else status


def fork(function: Callable[[], int], output: Path) -> int:
    """Calls the function in a fork; what it prints goes to `output`. Returns its exit status."""
    child = os.fork()
    if not child:
        status = FAILED
        try:
            with output.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                warnings.simplefilter("ignore")
                status = function()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def work(main: Callable[[list[str]], int], arguments: list[str], task: dict, rank: int) -> int:
    """The command in this process, which dies at its point and leaves a sign that it did."""
    def die() -> None:
        Path(task["struck"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    point = Point(*task["point"]) if task["point"] else None
    lines = Lines(die)
    if point is None or point.rank != rank:
        pass
    elif point.where == HALF:
        die_half_way(point.number, die)
    elif point.where == STEP:
        die_before_step(point.number, die)
    elif point.where in (CLOCK, TERM):
        end = die if point.where == CLOCK else lambda: os.kill(os.getpid(), signal.SIGTERM)
        timer = threading.Timer(point.number, end)
        timer.daemon = True
        timer.start()
    else:
        lines.point = point

    if task["counts"] is None and lines.point is None:
        return main(arguments)
    status = lines.watch(lambda: main(arguments))
    if task["counts"] is not None:
        Path(f"{task['counts']}.{rank}").write_text(json.dumps(lines.counts))
    return status


def counts_of(output: Path, rank: int) -> dict[str, int]:
    """"stage: place" → how many lines are executed there."""
    return json.loads(output.with_name(f"counts.{rank}").read_text())


class Lines:
    """Counts the lines executed in each place of each stage, and dies at the point's."""

    def __init__(self, die: Callable[[], None]) -> None:
        self.die = die
        self.point: Point | None = None
        self.counts: collections.Counter[str] = collections.Counter()
        self.stage = OUTSIDE[0]
        self.places: dict = {}  # code → its place

    def watch(self, function: Callable[[], int]) -> int:
        self._follow(stages.Stage, "fit")
        self._follow(pretraining.Pretraining, "run")
        sys.settrace(self._call)
        try:
            return function()
        finally:
            sys.settrace(None)

    def _follow(self, owner: type, name: str) -> None:
        """Makes the method tell which stage is under way."""
        inner = getattr(owner, name)

        def followed(job):
            self.stage = getattr(job, "name", "pretraining")
            result = inner(job)
            self.stage = OUTSIDE[1]
            return result

        setattr(owner, name, followed)

    def _call(self, frame, event: str, argument: object) -> Callable | None:
        code = frame.f_code
        if code not in self.places:
            self.places[code] = self._place(code.co_filename.removeprefix(f"{ROOT}/"), code.co_name)
        place = self.places[code]
        return None if place is None else lambda *_: self._line(place)

    def _place(self, path: str, function: str) -> str | None:
        for place, parts in PLACES.items():
            if path in parts or f"{path}:{function}" in parts:
                return place
        return None

    def _line(self, place: str) -> Callable:
        key = f"{self.stage}: any line" if self.stage in OUTSIDE else f"{self.stage}: {place}"
        self.counts[key] += 1
        point = self.point
        if point is not None and (point.where, point.number) == (key, self.counts[key]):
            self.die()
        return lambda *_: self._line(place)


def die_half_way(number: float, die: Callable[[], None]) -> None:
    """Makes the process die when half of the number-th checkpoint's tensors are on the disk."""
    written, write_tensors = 0, checkpoint.write_tensors

    def half(path: Path, tensors: dict[str, torch.Tensor]) -> None:
        nonlocal written
        written += 1
        write_tensors(path, tensors)
        if written == number:
            os.truncate(path, path.stat().st_size // 2)
            die()

    checkpoint.write_tensors = half


def die_before_step(number: float, die: Callable[[], None]) -> None:
    """Makes the process die where the number-th step of surgery begins."""
    taken, step = 0, SurgeryTrainer.step

    def counted(self, *arguments):
        nonlocal taken
        taken += 1
        if taken == number:
            die()
        return step(self, *arguments)

    SurgeryTrainer.step = counted


# -------------------------------------------------------------------------------- what a run leaves


def left_by(folder: Path) -> dict[str, str]:
    """Checksums of everything a run leaves, except when, how long, by which command and commit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # .lock: of a run that was killed when all was done
        if (not path.is_file() or name.startswith(("checkpoint/", ".lock"))
                or path.suffix in (".html", ".jsonl")):
            continue
        content = path.read_bytes()
        if name == "metrics.json":
            values = json.loads(content)
            for key in ("date", "command", "commit"):  # somebody may commit meanwhile
                values["environment"].pop(key, None)
            content = without(values, "train_seconds", "examples_per_second", "tokens_per_second")
        found[name] = checksum(content)

    for number, line in enumerate((folder / "log.jsonl").read_text().splitlines()):
        found[f"log {number}"] = checksum(without(json.loads(line), "seconds"))

    last = checkpoint.load(folder)
    found["checkpoint values"] = checksum(without(last.values, "seconds", "log"))
    for name, value in last.tensors.items():
        memory = value.reshape(-1).view(torch.uint8)  # numpy has no bfloat16
        found[f"checkpoint {name}"] = checksum(memory.numpy().tobytes())
    return found


def differing(left: dict[str, str], expected: dict[str, str]) -> list[str]:
    return sorted(name for name in left.keys() | expected.keys()
                  if left.get(name) != expected.get(name))


def without(values: dict, *names: str) -> bytes:
    return json.dumps({name: value for name, value in values.items() if name not in names}).encode()


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------------- trials


class Known(NamedTuple):
    """An uninterrupted run: its files, executed lines, checkpoints and seconds."""

    left: dict[str, str]
    counts: list[dict[str, int]]
    checkpoints: int
    seconds: float


def learn(job: Job, folder: Path, output: Path) -> Known:
    """Runs the job twice without a kill: for its time and what it leaves, and for its lines."""
    started = time.monotonic()
    assert execute(job, job.start(folder / "alone"), output) == 0, output.read_text()
    seconds = time.monotonic() - started

    assert execute(job, job.start(folder / "counted"), output, count=True) == 0, output.read_text()
    left = left_by(folder / "alone")
    assert left == left_by(folder / "counted"), "two uninterrupted runs differ"

    [last] = checkpoint.numbered(folder / "alone")
    return Known(left, [counts_of(output, rank) for rank in range(job.processes)], int(last.name),
                 seconds)


def draw(job: Job, known: Known, rng: random.Random) -> Point:
    """Each place of each stage is as likely as any other."""
    rank = rng.randrange(job.processes)
    anywhere = (HALF, CLOCK, TERM) if job.processes == 1 else (CLOCK,)
    where = rng.choice([*sorted(known.counts[rank]), *anywhere])

    if where == HALF:
        return Point(where, rng.randint(1, known.checkpoints))
    if where in (CLOCK, TERM):
        return Point(where, rng.uniform(0, known.seconds), rank)
    return Point(where, rng.randint(1, known.counts[rank][where]), rank)


def try_one(job: Job, known: Known, folder: Path, output: Path,
            rng: random.Random) -> tuple[list, list[str]]:
    """Kills a run, perhaps twice, lets it end, and returns the points and what differs."""
    point = draw(job, known, rng)
    history = [(point, execute(job, job.start(folder), output, point))]

    while history[-1][1] or not (folder / run.METRICS_FILE).is_file():
        point, status = history[-1]
        if status == FAILED or (point is None and status):
            return history, [f"status {status}: {output.read_text()[-500:]}"]
        arguments = job.resume(folder) if checkpoint.numbered(folder) else job.start(folder)
        is_killed = len(history) < MOST_KILLS and rng.random() < AGAIN
        point = draw(job, known, rng) if is_killed else None
        history.append((point, execute(job, arguments, output, point)))

    return history, differing(left_by(folder), known.left)


def try_all(points: int, seed: int, folder: Path, names: list[str]) -> int:
    """Tries until so many points have been hit; returns how many runs ended with other bytes."""
    output, rng = folder / "output.txt", random.Random(seed)
    assert fork(lambda: prepare(folder), output) == 0, output.read_text()

    all_jobs, known = jobs(folder), {}
    for name in names:
        (folder / name).mkdir()
        known[name] = learn(all_jobs[name], folder / name, output)
    # the three stages have many more than the others
    places = [len(known[name].counts[0]) for name in names]

    hits: collections.Counter[str] = collections.Counter()
    trials = spoilt = 0
    while sum(hits.values()) < points:
        name = rng.choices(names, places)[0]
        trials += 1
        history, differs = try_one(all_jobs[name], known[name], folder / name / str(trials), output,
                                   rng)

        spoilt += bool(differs)
        hits.update(f"{name:12} {point.where}" for point, status in history
                    if point is not None and status in (-signal.SIGKILL, 130))
        told = ", ".join(f"{point.where} {point.number:g}: {status}"
                         for point, status in history if point is not None)
        print(f"{name}: {told}; {described(differs)}", flush=True)

    for where, count in sorted(hits.items()):
        print(f"{where:40} {count}")
    print(f"{sum(hits.values())} points hit in {trials} runs; {spoilt} of these ended with other "
          f"bytes")
    return spoilt


def try_methods(folder: Path) -> int:
    """Kills a run with each stateful method once; returns how many ended with other bytes."""
    output, spoilt = folder / "output.txt", 0
    assert fork(lambda: prepare(folder), output) == 0, output.read_text()

    all_jobs = jobs(folder)
    for name in stateful():
        job, whole, killed = all_jobs[name], folder / name / "whole", folder / name / "killed"
        whole.parent.mkdir()
        point = Point(STEP, METHOD_POINT)
        for arguments, at, status in ((job.start(whole), None, 0),
                                      (job.start(killed), point, -signal.SIGKILL),
                                      (job.resume(killed), None, 0)):
            assert execute(job, arguments, output, at) == status, output.read_text()
        assert LAST_SAVED in output.read_text(), output.read_text()
        assert Settings.load(killed / "config.json").surgery == name

        differs = differing(left_by(killed), left_by(whole))
        spoilt += bool(differs)
        print(f"{name}: killed before step {METHOD_POINT}, {LAST_SAVED}; {described(differs)}",
              flush=True)
    return spoilt


def described(differs: list[str]) -> str:
    return f"differs in {len(differs)}, such as {differs[:5]}" if differs else "the same bytes"


def main(argv: list[str] | None = None) -> int:
    torch.set_num_threads(1)
    # drawing takes longer than all the rest
    run.write_report = pretraining.write_pretraining_report = lambda path, *_: path.write_text("")
    if TASK in os.environ:
        task = json.loads(os.environ[TASK])
        return work(train_multitask.main, sys.argv[1:], task, int(os.environ["RANK"]))

    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50, metavar="N",
                        help="to be hit (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the points (default: %(default)s)")
    parser.add_argument("--jobs", default="stages,baseline,pretraining",
                        help="of stages, processes, baseline, pretraining, or stateful surgery "
                             "methods by name (default: %(default)s)")
    parser.add_argument("--methods", action="store_true",
                        help="instead, kill a run with each stateful surgery method at one step")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.methods:
            spoilt = try_methods(Path(folder))
        else:
            spoilt = try_all(arguments.points, arguments.seed, Path(folder),
                             arguments.jobs.split(","))
    return 1 if spoilt else 0


if __name__ == "__main__":
    sys.exit(main())
