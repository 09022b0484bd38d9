"""The main job for some steps, with a student's own parts and with the library's.

Each training runs in its own process, so the student's parts never reach the library's training.
The loop takes every part from the place where exercise.install puts it: the modules are imported
here, their functions are looked up when they are called.
"""

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from shlex import quote

import torch

import minbert
import multitask
from multitask.commands import command_line
from multitask.data.examples import Dataset
from multitask.data.sampling import WRAP
from multitask.runs.inputs import load_data
from multitask.runs.settings import Settings
from multitask.system.console import one_line_warnings
from multitask.tasks import TASKS
from optim import AdamW, split_decayed, surgery

from .exercise import FILES
from .exercises import final_layers, round_robin, training_step
from .worker import Fault, explain, install_own, processes

MODEL, ARCH = "minbert-mini", "concatB"
STEPS = 60            # with surgery; the heads alone train a sixth as many more
BATCH = 8             # examples of each task in a step
LR, WEIGHT_DECAY = 3e-4, 0.01
EVALUATED = 200       # examples of each task's dev set
LINES = 6             # progress lines per training
SURGERY = ("pcgrad", "paper")
PAIRS = ((0, 1), (0, 2), (1, 2))  # of tasks, whose gradients' cosines are shown

SAMPLE = "the embedded sample; --data FOLDER takes the course's files"
SAME = "The scores are the same: your parts compute what the library's do."
OTHER = ("Numbers added in a different order are rounded differently, and training amplifies this.",
         "--seed 1 shows how much scores vary by chance.")
# Exercises that this training has no use for, and why.
NO_PART = {
    "wordpiece": "the tokenizers library is faster",
    "masking": "only pretraining masks tokens",
}


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        folder: the student's.
        own: exercises whose parts stand in for the library's.
        data: the folder with the course's files; None is the embedded sample.
        surgery: "pcgrad" or "paper".
    """

    folder: Path
    own: tuple[str, ...]
    data: str | None
    steps: int = STEPS
    seed: int = 0
    surgery: str = "pcgrad"

    @property
    def final_steps(self) -> int:
        """Of the heads alone."""
        return max(1, self.steps // 6)


def compare(theirs: Training, say: Callable[[str], None]) -> int:
    """Trains with a student's finished parts, then with the library's; tells the dev scores.

    Returns:
        1 if a training fails on the way, else 0.

    Raises:
        FileNotFoundError, ValueError: the data; the message names the file.
    """
    if theirs.data is not None:
        load_data(Settings(ARCH, WRAP, data=theirs.data))  # wrong files are refused here, at once
    say(f"data:  {theirs.data or SAMPLE}")
    say("\n".join(who_does_what(theirs)))
    tasks = list(TASKS)
    say("steps: losses, cosines of the gradients ("
        + ", ".join(f"{tasks[i]}·{tasks[j]}" for i, j in PAIRS) + "), pace")

    scores = {}
    if set(theirs.own) - why_idle(theirs).keys():
        say("training with your parts:")
        scores["yours"] = run(theirs, say)
        if scores["yours"] is None:
            say("Each of your parts passes its checks, but together they do not train. "
                f"{command_line('study')} check {quote(str(theirs.folder))} names parts that do "
                "not fit each other.")
            return 1
    say("training with the library's parts:")
    scores["the library's"] = run(dataclasses.replace(theirs, own=()), say)
    if scores["the library's"] is None:
        return 1
    say("\n".join(table(scores)))
    return 0


def who_does_what(training: Training) -> list[str]:
    """Whose parts the training uses, and which take no part."""
    idle = why_idle(training)
    if used := [name for name in training.own if name not in idle]:
        lines = [f"parts: yours are {', '.join(used)}; the library does the rest"]
    elif training.own:
        lines = ["parts: all are the library's"]
    else:
        lines = ["parts: all are the library's; yours take over once their checks pass"]
    return lines + [f"       {FILES[name]} is not used here: {idle[name]}"
                    for name in training.own if name in idle]


def why_idle(training: Training) -> dict[str, str]:
    """Exercises that this training has no use for, and why."""
    return NO_PART | {name: f"only --surgery {name} uses it" for name in SURGERY
                      if name != training.surgery}


def table(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Dev scores, one row per training, and what to think of a difference."""
    columns = list(next(iter(scores.values())))
    lines = ["", f"dev scores, on at most {EVALUATED} examples per task:",
             f"  {'':15}" + "".join(f"{column:>9}" for column in columns)]
    for name, values in scores.items():
        row = "".join(f"{value:9.3f}" for value in values.values())
        lines.append(f"  {name:15}{row}")
    if len(scores) == 2:
        pairs = zip(*(values.values() for values in scores.values()), strict=True)
        gap = max(abs(a - b) for a, b in pairs)
        lines += ["", SAME] if gap < 5e-4 else ["", f"The largest difference is {gap:.3f}.", *OTHER]
    return lines


# ------------------------------------------------------------------------ a process for a training


def run(training: Training, say: Callable[[str], None]) -> dict[str, float] | None:
    """One training in its own process: its lines as they come, then its scores.

    Returns:
        Task → dev score, and "average"; None if it failed, after lines that say why.
    """
    context = processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(training, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while isinstance(message := receiver.recv(), str):
            say(f"  {message}")
        return message
    except EOFError:
        process.join()
        say(f"  the process crashed (status {process.exitcode})")
        return None
    finally:
        process.join(1)  # it ends by itself, but for an interruption here
        process.kill()
        process.join()


def _work(training: Training, sender: Connection) -> None:
    """In the process: trains; sends lines, then scores, or None after what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    os.environ["MINBERT_PLAIN"] = "1"  # the fast forms would do a student's part in its place
    try:
        with one_line_warnings():
            install_own(training.folder, training.own)
            scores = train(training, sender.send)
    except Exception as error:
        scores = None
        for line in explain(error, training.folder):
            sender.send(line)
    sender.send(scores)


# ---------------------------------------------------------------------------------- the plain loop


def train(training: Training, say: Callable[[str], None]) -> dict[str, float]:
    """The main job: steps with surgery, some of the heads alone, dev scores.

    Raises:
        Fault: a loss is not finite.
    """
    dataset = load_data(Settings(ARCH, WRAP, data=training.data, eval_limit=EVALUATED))
    torch.manual_seed(training.seed)
    model = multitask.MultitaskBert(minbert.BertModel.from_pretrained(MODEL),
                                    minbert.BertTokenizer.from_pretrained(MODEL), ARCH)
    tokens = {name: model.tokenize(splits["train"]) for name, splits in dataset.items()}
    decayed, undecayed = split_decayed(model)
    optimizer = AdamW([{"params": list(decayed.values()), "weight_decay": WEIGHT_DECAY},
                       {"params": list(undecayed.values())}], lr=LR)
    generator, cosines = torch.Generator().manual_seed(training.seed), torch.zeros(0, 0)

    def project(gradients: torch.Tensor) -> torch.Tensor:
        """(tasks, params) → (params,), by the method of this training; notes the cosines."""
        nonlocal cosines
        cosines = surgery.cosines(surgery.gram_matrix(gradients))
        if training.surgery == "paper":
            return surgery.project_paper(gradients)
        order = surgery.random_order(len(gradients), generator)
        return surgery.project_conflicting(gradients, order)

    torch.manual_seed(training.seed)  # dropout, whatever was drawn so far
    model.train()

    batches = batches_of({name: len(some) for name, some in tokens.items()})
    every, start = max(1, training.steps // LINES), time.perf_counter()
    for step in range(1, training.steps + training.final_steps + 1):
        batch = {name: tokens[name].batch(rows) for name, rows in next(batches).items()}
        if step <= training.steps:
            losses = training_step.train_step(model, batch, optimizer, project)
        else:
            losses = final_layers.final_layer_step(model, batch, optimizer)
        check_finite(losses, step)

        if step == training.steps or (step < training.steps and step % every == 0):
            pace = step / (time.perf_counter() - start)
            shown = " ".join(f"{float(cosines[pair]):+.2f}" for pair in PAIRS)
            say(f"step {step:3}: {describe(losses)}, cosines {shown}, {pace:.1f} steps/s")
    say(f"then {training.final_steps} steps of the heads alone: {describe(losses)}")
    return evaluate(model, dataset)


def batches_of(lengths: Mapping[str, int]) -> Iterator[dict[str, list[int]]]:
    """Step after step, task → indices of its batch, without end: one `wrap` after another."""
    while True:
        yield from round_robin.wrap(lengths, BATCH, round_robin.random(lengths))


def evaluate(model: multitask.MultitaskBert, dataset: Dataset) -> dict[str, float]:
    """Task → dev score, 0 where it is undefined; and their average."""
    scores = {}
    for name, task in model.tasks.items():
        tokens = model.tokenize(dataset[name]["dev"])
        found = task.decode(model.predict_logits(name, tokens)).numpy()
        scores[name] = task.measure(found, tokens.labels) or 0.0
    return {**scores, "average": sum(scores.values()) / len(scores)}


def check_finite(losses: Mapping[str, float], step: int) -> None:
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise Fault(f"the loss of {name} is {loss} in step {step}")


def describe(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
