"""Write one task of a trained run for transformers, sentence-transformers or onnxruntime.

    python -m multitask.export RUN OUT --task sst --to transformers
    python -m multitask.export RUN OUT --task sts --to sentence-transformers --pooling mean
    python -m multitask.export RUN OUT --task para --to onnx

OUT is then what AutoModelForSequenceClassification, pipeline() and CrossEncoder open, or
SentenceTransformer, or two graphs for onnxruntime, in float32 and int8. What was written is
compared with the run on dev examples, if its data are there. OUT/README.md is a model card.
"""

import argparse
import dataclasses
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from minbert.files import check_utf8, user_path, write_text
from minbert.sentences import POOLINGS
from multitask.data.examples import Example
from multitask.description import SAMPLE
from multitask.exporting import FORMATS
from multitask.model import MultitaskBert
from multitask.runs.folder import is_run
from multitask.runs.hand_in import trained_model
from multitask.runs.inputs import load_data, settings_of_run
from multitask.runs.settings import Settings
from multitask.system import command
from multitask.system.command import Parser
from multitask.tasks import Task

COMPARED = 500  # dev examples at most
MOST_DIFFERENT = 1e-3  # largest difference that rounding may cause in float32 numbers of size 1
ANSWERS = "text-classification"  # what is exported answers the task, so it has a score


def build_parser() -> Parser:
    parser = Parser("python -m multitask.export", __doc__)
    parser.add_argument("run", type=user_path, help="a run's folder")
    parser.add_argument("out", type=user_path, help="the folder to write; it must be empty or new")
    parser.add_argument("--task", metavar="NAME", help="a task of the run (default: its only task)")
    parser.add_argument("--to", choices=FORMATS, default="transformers",
                        help="(default: transformers)")
    parser.add_argument("--pooling", choices=POOLINGS,
                        help="of sentence-transformers (default: what the heads were trained on, "
                             "pooler, or mean for concatB_mean)")
    command.add_data_flags(parser)
    command.add_import_flag(parser)
    return parser


def export(arguments: argparse.Namespace) -> int:
    if arguments.pooling and arguments.to != "sentence-transformers":
        raise ValueError("--pooling is for --to sentence-transformers, not for --to "
                         f"{arguments.to}")
    run, out = arguments.run, arguments.out.resolve()
    check_utf8(out)
    # Written and compared under another name: a failed export leaves nothing behind.
    fresh = out / ".minbert-export" if out.exists() else out.with_name(f".{out.name}.new")
    if out.exists() and (not out.is_dir() or any(path != fresh for path in out.iterdir())):
        raise ValueError(f"{arguments.out} already exists and is not empty: name a new "
                         "folder")
    model = trained_model(run)
    task = model.task(arguments.task)
    settings, dev = None, []
    try:
        settings = settings_of_run(run, arguments.data, arguments.tasks)
        wanted = tuple(each for each in settings.tasks if each.name == task.name)
        settings = dataclasses.replace(settings, tasks=wanted, eval_limit=COMPARED)
        dev = load_data(settings)[task.name]["dev"]
    except (ValueError, OSError) as error:
        if arguments.data or arguments.tasks:
            raise
        warnings.warn(f"not compared with the run: {error}", stacklevel=2)

    shutil.rmtree(fresh, ignore_errors=True)
    try:
        facts = write_and_compare(fresh, model, task, dev, arguments)
        write_text(fresh / "README.md", card(arguments, model, task, settings, facts))
        if out.exists():  # it stays: a shell may stand in it, or it is a disk of its own
            for path in fresh.iterdir():
                path.replace(out / path.name)
        else:
            fresh.replace(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    for fact in facts:
        print(fact)
    print(f"written: {arguments.out}")
    return 0


def write_and_compare(folder: Path, model: MultitaskBert, task: Task, dev: list[Example],
                      arguments: argparse.Namespace) -> list[str]:
    """Facts about the written files on dev examples; without examples, nothing is compared.

    Raises:
        ValueError: what was written gives other numbers than the run.
    """
    form = FORMATS[arguments.to]
    pooling = arguments.pooling or ("mean" if model.architecture.mean_pooling else "pooler")
    form.write(model, task, folder, pooling)
    if not dev:
        return ["not compared with the run: its data were missing"]
    model.precision = "fp32"  # as the written files are computed
    ours = form.ours(model, task, dev, pooling)
    facts = [f"{len(dev):,} dev examples"]
    if form.tag == ANSWERS:
        facts.append(f"the run: {task.metric} {score_of(task, ours, dev)}")
    for name, theirs in form.theirs(folder, model, task, dev, pooling).items():
        difference = (theirs - ours).abs().max()
        is_near = difference <= MOST_DIFFERENT * ours.abs().max().clamp(min=1)
        if not is_near and "int8" not in name:  # NaN is not near
            raise ValueError(f"{name} differs from the run by {difference:.1e}, so nothing is "
                             "written; a kind of task of your own may decode differently")
        score = f"{task.metric} {score_of(task, theirs, dev)}, " if form.tag == ANSWERS else ""
        facts.append(f"{name}: {score}largest difference {difference:.1e}")
        if form.tag == ANSWERS and task.classes:
            others = int((theirs.argmax(1) != ours.argmax(1)).sum())
            facts[-1] += f", {others:,} other labels"
    return facts


def score_of(task: Task, answers: torch.Tensor, dev: list[Example]) -> str:
    found = answers.argmax(1) if task.classes else answers[:, 0]
    score = task.score(found.numpy(), np.array([example.label for example in dev], np.float32))
    return "undefined" if score is None else f"{score:.3f}"


def card(arguments: argparse.Namespace, model: MultitaskBert, task: Task,
         settings: Settings | None, facts: list[str]) -> str:
    """The model card: what it is, how to use it, data, settings, scores, limits."""
    form = FORMATS[arguments.to]
    files = [Path(name).name for name in (task.train, task.dev) if name]
    is_on_sample = task.name in model.sample_tasks
    data = SAMPLE if is_on_sample else ", ".join(files)
    limits = [f"- Inputs are cut at {model.max_length} tokens.",
              "- The epoch was selected on the dev set, which flatters the score."]
    if is_on_sample:
        limits.append("- It was trained on sentences made up by rule: its answers say little about "
                      "real ones.")
    about = f"A BERT encoder fine-tuned with minbert ({', '.join(model.tasks)})"
    if settings is not None and is_run(arguments.run):
        base = settings.model or settings.start
        limit = f", at most {settings.max_steps:,} steps" if settings.max_steps else ""
        about += (f", from {Path(base).name}: --arch {settings.arch}, --gs {settings.gs}, "
                  f"--surgery {settings.surgery}, lr {settings.lr:g}, {settings.epochs} "
                  f"epochs{limit}, seed {settings.seed}")
    return "\n".join([
        "---", f"library_name: {arguments.to}", f"pipeline_tag: {form.tag}", "---", "",
        f"# {task.title}", "", f"{about}.", f"Labels: {task.meaning}.", "", "```python",
        form.use(model, task, arguments.out.resolve().name), "```", "",
        "## Data", "", f"{data}.", "",
        "## Scores", "", *(f"- {fact}" for fact in facts), "", "## Limits", "", *limits]) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted."""
    return command.run(build_parser(), export, argv)


if __name__ == "__main__":
    sys.exit(main())
