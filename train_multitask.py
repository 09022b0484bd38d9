#!/usr/bin/env python3
"""Train BERT on several tasks at once, with gradient surgery: the paper's three, or your own.

A run is a folder: the model, predictions, scores, and a report.

    python train_multitask.py --arch concatB --gs wrap
    python train_multitask.py --arch concatB --gs wrap --data data --model bert-base-uncased
    python train_multitask.py --arch concatB_al --nli --gs wrap --fl --data data
    python train_multitask.py --gs none --fl --start runs/concatB-wrap-1
    python train_multitask.py --tasks reviews.toml --mode full --model bert-base-uncased
    python train_multitask.py --resume runs/concatB-wrap-1
    torchrun --nproc_per_node=2 train_multitask.py --batch-size 8
"""

import argparse
import dataclasses
import sys
import warnings
from os.path import expanduser
from pathlib import Path
from shlex import quote

import multitask  # noqa: F401 - first: it sets OpenMP's variables before torch is loaded
from minbert.checkpoints.hub import EMBEDDED
from minbert.files import one_line
from multitask.commands import command_line
from multitask.data.sampling import BATCH_DIFFERENT, ROUND_ROBINS, WRAP
from multitask.evaluation import PREDICTIONS_FOLDER
from multitask.runs import recipes
from multitask.runs import run as main_job
from multitask.runs.folder import MODE_NAMES, REPORT_FILE, load_settings, load_starting_settings
from multitask.runs.inputs import DEFAULT_MODEL, default_data, moved_tasks
from multitask.runs.plans import STAGES, Run
from multitask.runs.settings import (
    CHANGEABLE,
    CHOICES,
    DEFAULT_ARCH,
    NO_SURGERY_STAGE,
    NONFINITE_ADVICE,
    SKIP,
    Settings,
    is_on_sample,
    parse_batch_sizes,
)
from multitask.runs.stages import DivergedError
from multitask.system import command, console, distributed
from multitask.system.command import Parser
from multitask.system.device import PRECISION_HELP
from multitask.system.distributed import on_sigterm
from multitask.task_file import choose_tasks
from multitask.tasks import BUILT_IN, TASKS, are_the_papers
from optim import SurgeryError

NAME = "train_multitask.py"
MODES = {"full": {"gs": WRAP, "fl": False}, "last-layer": {"gs": NO_SURGERY_STAGE, "fl": True}}
NOT_SETTINGS = ("out", "resume", "mode", "imports", "quiet")  # flags


def build_parser() -> Parser:
    parser = Parser(NAME, __doc__)
    add = parser.add_argument

    add("--tasks", metavar="LIST_OR_TOML",
        help=f"built-in tasks ({', '.join(BUILT_IN)}) and .toml files that describe tasks of your "
             f"own, see docs/how-to/own-tasks.md (default: {','.join(TASKS)})")
    add("--mode", choices=MODES,
        help="full fine-tunes everything (--gs wrap); last-layer trains the heads on the frozen "
             "encoder (--gs none --fl) (default: full)")
    add("--recipe", choices=recipes.RECIPES,
        help="named settings; other flags override them. best is for the three tasks, and takes "
             "the 22.7 M encoder all-MiniLM-L6-v2 on real data, see docs/explanation/results.md "
             "(default: paper's on real data, the sample's own)")
    add("--arch", choices=CHOICES["arch"],
        help="how pairs enter the encoder, what the heads read and how deep they are (default: "
             "concatB; concatA for the baseline)")
    add("--gs", choices=CHOICES["gs"],
        help="round robin of gradient-surgery fine-tuning: equal batches (wrap) or batches of "
             "different size (bd); anneal trains one task per step, drawn more and more evenly; "
             "none leaves the stage out; alone, it is the paper's baseline (default: wrap)")
    add("--surgery", metavar="METHOD[:OPTION=VALUE,…]",
        help="how the tasks' gradients are combined: pcgrad, the paper's Eq. 2-5 (paper), sum, "
             "cagrad:c=0.4, … (docs/explanation/methods.md), or a method of your own "
             "(docs/how-to/extend.md) (default: pcgrad)")
    add("--surgery-by", metavar="GROUP",
        help="encoder: one decision for all of it; layer or block=K: one for each layer, or for "
             "each K layers (default: encoder)")
    add("--nli", action="store_true", help="pretrain the encoder on MultiNLI first (default: off)")
    add("--fl", action="store_true",
        help="finally, train only the heads on the frozen encoder (default: off)")
    add("--start", type=expanduser, metavar="RUN",
        help="start from the model of a run, its encoder and heads, on its data (default: --model)")
    add("--model", type=expanduser, metavar="NAME_OR_FOLDER",
        help=f"a checkpoint in HuggingFace's layout, or 'scratch' (default: {DEFAULT_MODEL} on "
             f"real data, {EMBEDDED} on the sample)")
    add("--data", type=expanduser, metavar="FOLDER",
        help="the course's files (default: those of --start; else ./data if it holds them, else "
             "the sample)")
    add("--max-length", type=int, metavar="N",
        help="cut inputs at N tokens, for less time and memory (default: what the encoder takes, "
             "mostly 512)")
    add("--out", type=expanduser, metavar="FOLDER",
        help="the run's folder (default: runs/ARCH-GS-N; other stages, another surgery method and "
             "other tasks are in the name too, as in concatB-nli+wrap+fl-1 or sst-last-layer-1)")
    add("--resume", type=expanduser, metavar="RUN",
        help="resume an interrupted run; needs no other flag (default: a new run)")
    add("--epochs", type=int, metavar="N",
        help="epochs of each stage (default: 10; on the sample 5; without a data folder, "
             f"{EMBEDDED} takes 1 and scratch 5)")
    add("--lr", type=float, metavar="X",
        help="learning rate (default: 1e-5; on the sample 5e-5; without a data folder, "
             f"{EMBEDDED} takes 4e-4 and scratch 5e-4)")
    add("--head-lr", type=float, metavar="X",
        help="learning rate of the heads (default: that of --lr)")
    add("--batch-size", type=int, metavar="N",
        help="examples of each task per step, for wrap, anneal, NLI and FL (default: 16; for FL "
             "8); under torchrun, of each process")
    add("--batch-sizes", metavar="sst=1,para=24,sts=1",
        help="examples of each task per step, for bd (default: by the paper's Eq. 6); under "
             "torchrun, processes share them")
    add("--accumulate", type=int, metavar="N",
        help="compute the encoder's batches in N pieces whose gradients add up, for less memory "
             "(default: 1)")
    add("--warmup", type=float, metavar="SHARE",
        help="share of steps for linear warm-up (default: 0)")
    add("--schedule", choices=CHOICES["schedule"],
        help="learning rate after the warm-up (default: constant)")
    add("--clip", type=float, metavar="NORM",
        help="clip the gradient's norm (default: 0, off)")
    add("--weight-decay", type=float, metavar="X",
        help="decoupled, not on biases and LayerNorm (default: 0)")
    add("--seed", type=int, metavar="N", help="(default: 11711)")
    add("--max-steps", type=int, metavar="N",
        help="end each stage after N steps (default: no limit)")
    add("--eval-limit", type=int, metavar="N",
        help="at most N dev and test examples per task (default: all)")
    add("--on-nonfinite", choices=CHOICES["on_nonfinite"],
        help="on a loss or gradient that is not finite, end the run or skip the step "
             "(default: stop)")
    add("--checkpoint-every", type=int, metavar="N",
        help="steps between checkpoints within an epoch (default: spaced to take 1 %% of the "
             "time)")
    add("--tensorboard", action="store_true",
        help="write losses, scores and conflicts for TensorBoard too; look at them with "
             "tensorboard --logdir runs (default: off)")
    add("--device", choices=CHOICES["device"], help="(default: auto)")
    add("--precision", choices=CHOICES["precision"], help=PRECISION_HELP)
    command.add_import_flag(parser)
    add("--quiet", action="store_true",
        help="print warnings and errors only (default: lines, and a progress bar on a terminal)")
    add("--plain", action="store_true",
        help="use the plain forms only (written-out attention, plain layer, plain AdamW, one task "
             "after another): for reading, debugging and experiments; slower (default: off)")
    parser.set_defaults(nli=None, fl=None, tensorboard=None, plain=None)  # if they are not given
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The flags as settings, with the defaults that depend on the data."""
    arguments = with_stages(recipes.with_recipe(arguments))
    check_flags(arguments)
    before = None if arguments.start is None else load_starting_settings(Path(arguments.start))
    tasks = before.tasks if before else tuple(TASKS.values())
    if arguments.tasks is not None:
        tasks = choose_tasks(arguments.tasks)
    recipes.check_tasks(arguments.recipe, tasks)
    data = (default_data(tasks, before) if arguments.data is None
            else str(Path(arguments.data).resolve()))
    on_sample = is_on_sample(data, tasks)
    model = arguments.model or recipes.default_model(arguments.recipe, on_sample)

    values = {name: value for name, value in vars(arguments).items()
              if name not in NOT_SETTINGS and value is not None}
    values |= {"data": data, "model": model, "tasks": tasks}
    if arguments.batch_sizes is not None:
        values["batch_sizes"] = parse_batch_sizes(arguments.batch_sizes)

    is_baseline = arguments.gs == NO_SURGERY_STAGE and not (arguments.nli or arguments.fl)
    inherited: dict[str, object] = {"arch": "concatA" if is_baseline else DEFAULT_ARCH}
    if before is not None:
        values |= {"start": str(Path(arguments.start).resolve()), "model": None}
        model = before.model
        inherited |= {"arch": before.arch, "max_length": before.max_length}

    rates = recipes.defaults(model, on_sample or (data is None and model in recipes.ON_SAMPLE))
    settings = Settings(**{**rates, **inherited, **values})
    if before is not None:
        shares = {task.name: task.dev_share for task in before.tasks}
        larger = [task.name for task in settings.tasks
                  if task.dev_share > shares.get(task.name, task.dev_share)]
        if larger:
            warnings.warn(f"{', '.join(larger)}: dev_share is larger than in the run that --start "
                          "names, which was trained on some of these dev examples", stacklevel=2)
    return settings


def with_stages(arguments: argparse.Namespace) -> argparse.Namespace:
    """The flags with --gs and --fl filled in, by --mode or by default."""
    stages = MODES[arguments.mode or "full"]
    if arguments.mode is not None and (arguments.gs or arguments.fl or arguments.nli):
        raise ValueError(f"--mode {arguments.mode} stands for a choice of --gs, --fl and --nli: "
                         "give --mode or those flags, not both")
    gs = arguments.gs or stages["gs"]
    return argparse.Namespace(**{**vars(arguments), "gs": gs, "fl": arguments.fl or stages["fl"]})


def check_flags(arguments: argparse.Namespace) -> None:
    """Raises ValueError for flags that contradict each other or would have no effect."""
    gs, other_stages = arguments.gs, arguments.nli or arguments.fl
    if arguments.batch_sizes is not None and gs != BATCH_DIFFERENT:
        raise ValueError(f"--batch-sizes is for --gs {BATCH_DIFFERENT}, not for --gs {gs}")
    if arguments.batch_size is not None and gs == BATCH_DIFFERENT and not other_stages:
        raise ValueError("--batch-size is for --gs wrap and anneal, --nli and --fl; --gs "
                         f"{BATCH_DIFFERENT} takes --batch-sizes")
    for flag, value in (("--surgery", arguments.surgery), ("--surgery-by", arguments.surgery_by)):
        if value is not None and gs not in ROUND_ROBINS:
            raise ValueError(f"{flag} is for --gs {' and '.join(ROUND_ROBINS)}: with --gs {gs} "
                             "no step has several tasks' gradients")
    if (arguments.accumulate or 1) > 1 and gs == NO_SURGERY_STAGE and not arguments.nli:
        raise ValueError("--accumulate is for --gs and --nli: final layers have no large "
                         "batches to split")
    if arguments.start is not None and arguments.model is not None:
        raise ValueError("--start and --model both name what to start from; give one of them")


def work(arguments: argparse.Namespace) -> int:
    """Trains a new run, or the rest of the one that --resume names; returns the exit status."""
    if arguments.quiet:
        console.be_quiet()
    imports = "".join(f" --import {quote(file)}" for file in arguments.imports or ())
    ranks = distributed.start()
    if arguments.resume is None:
        settings = ranks.run_on_all(lambda: settings_of(arguments))
        return train(main_job.start(settings, arguments.out, ranks.say, ranks=ranks), imports)

    folder = Path(arguments.resume)
    changes = ranks.run_on_all(lambda: changes_of(folder, arguments))
    run = main_job.resume(folder, ranks.say, ranks=ranks, changes=changes)
    if run is not None:
        return train(run, imports)
    ranks.say(f"{folder} is finished; its scores are in metrics.json, its report in report.html")
    ranks.wait_for_writer()
    return 0


def changes_of(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """The settings that flags beside --resume change; other flags raise ValueError."""
    given = {name: value for name, value in vars(arguments).items()
             if value is not None and name not in ("imports", "quiet")}
    changes = {name: given.pop(name) for name in CHANGEABLE if name in given}
    if "data" in changes:
        changes["data"] = str(Path(changes["data"]).resolve())
    settings = load_settings(folder)
    if "tasks" in given:
        changes["tasks"] = moved_tasks(settings, str(given.pop("tasks")))
    started = dataclasses.asdict(settings)
    sizes = ",".join(f"{name}={size}" for name, size in started["batch_sizes"].items())
    started |= {"batch_sizes": sizes, "out": str(folder.resolve()),
                "mode": MODE_NAMES.get(settings.chain)}
    command.refuse_other_settings(given, started)
    return changes


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    with console.variables_kept(console.QUIET_VARIABLE, console.PROGRESS_VARIABLE):
        try:
            return command.run(build_parser(), work, argv, "interrupted before training began")
        finally:
            distributed.leave()


def train(run: Run, imports: str = "") -> int:
    """Runs to the end and prints where the results are; returns the exit status.

    Args:
        imports: the --import flags, for the commands that are printed.
    """
    ranks = run.ranks

    def stopped(reason: object, status: int, flags: str = "") -> int:
        process = f"process {ranks.rank}: " if ranks.size > 1 else ""
        program = command_line("train")
        if ranks.size > 1:
            program = f"{ranks.command} {program.removeprefix('python ')}"
        resume = f"{program} --resume {quote(str(run.folder))}{imports}{flags}"
        return command.stopped(NAME, f"{process}{reason}", status, run.folder, resume)

    def stop_and_close() -> None:
        stopped("stopped by SIGTERM, which torchrun sends to all processes when one has ended", 1)
        run.log.close()

    with on_sigterm(ranks, stop_and_close):
        try:
            main_job.execute(run)
        except KeyboardInterrupt:
            # in each process at another step, so they can no longer communicate
            return stopped("interrupted", 130) if ranks.writes else 130
        except (FloatingPointError, SurgeryError) as error:  # in all processes at the same step
            if not ranks.writes:
                ranks.wait_for_writer()
                return 1
            if isinstance(error, SurgeryError):
                return stopped(one_line(f"--surgery {run.settings.surgery}: {error}"), 1)
            if isinstance(error, DivergedError):
                return command.failed(NAME, f"{error}; start a new run with a lower --lr", 1)
            return stopped(f"{error}; {NONFINITE_ADVICE}", 1, f" --on-nonfinite {SKIP}")
        except OSError as error:
            return stopped(error, 1)
        except ValueError as error:  # input was read before, so it is a bug
            raise AssertionError(error) from error
        except (MemoryError, RuntimeError) as error:
            accumulate, reason = 2 * run.settings.accumulate, command.out_of_memory(error)
            stage = run.stage.name if run.stage else run.settings.stages[-1]
            if STAGES[stage].trains_heads_only:  # --accumulate leaves their batches alone
                return stopped(f"{reason}: in a new run, cut inputs with --max-length", 1)
            return stopped(f"{reason}: take a smaller --batch-size, or compute each batch in "
                           f"pieces (--accumulate {accumulate})", 1, f" --accumulate {accumulate}")

        ranks.say(f"report: {run.folder / REPORT_FILE}\n{advice(run, imports)}")
        ranks.wait_for_writer()
    return 0


def advice(run: Run, imports: str) -> str:
    """What to do with a finished run."""
    folder = f"{quote(str(run.folder))}{imports}"
    if run.settings.stages == ("nli",):
        return f"its heads are untrained; continue with: {command_line('train')} --start {folder}"

    is_papers = are_the_papers(task.name for task in run.settings.tasks)
    what = "hand in" if is_papers else "predictions"
    where = f"{what}: {run.folder / PREDICTIONS_FOLDER}"
    if run.settings.eval_limit is not None:
        where = (f"predictions: {run.folder / PREDICTIONS_FOLDER}, cut by --eval-limit; for whole "
                 f"ones: {command_line('hand-in')} {folder}")
    task = run.settings.tasks[0]
    examples = " ".join(f'"{text}"' for text in task.example)
    return (f"{where}\ntry it: {command_line('predict')} {folder} --task {task.name} "
            f"{examples}")


if __name__ == "__main__":
    sys.exit(main())
