#!/usr/bin/env python3
"""Train BERT on sentiment, paraphrase and similarity at once, with gradient surgery.

    python train_multitask.py --arch concatB --gs wrap
    python train_multitask.py --arch concatB --gs wrap --data data --model bert-base-uncased
    python train_multitask.py --arch concatB_al --nli --gs wrap --fl --data data
    python train_multitask.py --gs none --fl --start runs/concatB-wrap-1
    python train_multitask.py --resume runs/concatB-wrap-1
    torchrun --nproc_per_node=2 train_multitask.py --batch-size 8
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from shlex import quote

from heads import ARCHITECTURES
from minbert.checkpoints.hub import EMBEDDED
from multitask.data.sampling import BATCH_DIFFERENT, WRAP
from multitask.runs import run as main_job
from multitask.runs.settings import CHANGEABLE, GS_CHOICES, NO_SURGERY_STAGE, SKIP, STOP, Settings, parse_batch_sizes
from multitask.runs.stages import Run
from multitask.system import command, distributed
from multitask.system.checkpoint import numbered
from multitask.system.command import Parser
from multitask.system.device import DEVICES, PRECISION_HELP, PRECISIONS
from multitask.system.distributed import ProcessLost, last_words
from optim import SCHEDULES, SURGERY

NAME = "train_multitask.py"
PAPER_DEFAULTS = {"epochs": 10, "lr": 1e-5}
# The sample is small: fewer epochs, larger steps, and larger still where the encoder is small, or starts from noise.
SAMPLE_DEFAULTS = {main_job.SCRATCH: {"epochs": 5, "lr": 5e-4}, EMBEDDED: {"epochs": 1, "lr": 4e-4}}
OTHERS_ON_SAMPLE_DEFAULTS = {"epochs": 5, "lr": 5e-5}


def build_parser() -> Parser:
    parser = Parser(NAME, __doc__)
    add = parser.add_argument
    add("--arch", choices=ARCHITECTURES,
        help="how pairs meet the encoder, and the heads' depth (default: concatB; concatA for the baseline)")
    add("--gs", choices=GS_CHOICES, default="wrap",
        help="round robin of gradient-surgery fine-tuning: equal batches, batches of different size, or no such "
             "stage; none alone is the paper's baseline (default: wrap)")
    add("--surgery", choices=SURGERY,
        help="Yu et al. 2020 Algorithm 1, the paper's Eq. 2-5, or the plain sum (default: pcgrad)")
    add("--nli", action="store_true", help="pretrain the encoder on MultiNLI first (default: off)")
    add("--fl", action="store_true", help="fine-tune the final layers last, the encoder frozen (default: off)")
    add("--start", metavar="RUN", help="start from the model of a run, its encoder and heads (default: --model)")
    add("--model", metavar="NAME_OR_FOLDER",
        help=f"a checkpoint in HuggingFace's layout, or 'scratch' (default: {main_job.DEFAULT_MODEL} on real data, "
             f"{EMBEDDED} on the sample)")
    add("--data", metavar="FOLDER", help="the course's files (default: ./data if it holds them, else the sample)")
    add("--out", metavar="FOLDER", help="the run's folder (default: runs/ARCH-GS-N)")
    add("--resume", metavar="RUN", help="go on with an interrupted run; needs no other flag (default: a new run)")
    add("--epochs", type=int, metavar="N", help="epochs of each stage (default: 10; on the sample 5, "
        f"with {EMBEDDED} {SAMPLE_DEFAULTS[EMBEDDED]['epochs']})")
    add("--lr", type=float, metavar="X", help="learning rate (default: 1e-5; on the sample 5e-5, "
        f"with {EMBEDDED} {SAMPLE_DEFAULTS[EMBEDDED]['lr']:g}, from scratch 5e-4)")
    add("--head-lr", type=float, metavar="X", help="learning rate of the heads (default: that of --lr)")
    add("--batch-size", type=int, metavar="N",
        help="examples of each task a step, wrap, NLI and FL (default: 16, 16 and 8); under torchrun, of each process")
    add("--batch-sizes", metavar="sst=1,para=24,sts=1",
        help="examples of each task a step, bd (default: by the paper's Eq. 6); under torchrun, processes share them")
    add("--accumulate", type=int, default=1, metavar="N",
        help="compute the encoder's batches in N pieces whose gradients add up, for less memory (default: 1)")
    add("--warmup", type=float, default=0.0, metavar="SHARE", help="share of steps for linear warm-up (default: 0)")
    add("--schedule", choices=SCHEDULES, default="constant", help="learning rate afterwards (default: constant)")
    add("--clip", type=float, default=0.0, metavar="NORM", help="clip the gradient's norm (default: 0, off)")
    add("--weight-decay", type=float, default=0.0, metavar="X",
        help="decoupled, not on biases and LayerNorm (default: 0)")
    add("--seed", type=int, default=11711, metavar="N", help="(default: 11711)")
    add("--max-steps", type=int, metavar="N", help="end each stage after N steps (default: no limit)")
    add("--eval-limit", type=int, metavar="N", help="at most N dev and test examples a task (default: all)")
    add("--on-nonfinite", choices=(STOP, SKIP), default=STOP,
        help="a step with a loss or gradient that is not finite ends the run, or is left out (default: stop)")
    add("--checkpoint-every", type=int, metavar="N",
        help="steps between checkpoints within an epoch (default: as often as it costs 1 %% of the time)")
    add("--device", choices=DEVICES, default="auto", help="(default: auto)")
    add("--precision", choices=PRECISIONS, default="auto", help=PRECISION_HELP)
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The flags, with defaults that depend on the data filled in. Raises ValueError for what cannot be run."""
    if arguments.batch_sizes is not None and arguments.gs != BATCH_DIFFERENT:
        raise ValueError(f"--batch-sizes is for --gs {BATCH_DIFFERENT}, not for --gs {arguments.gs}")
    if arguments.batch_size is not None and arguments.gs == BATCH_DIFFERENT and not (arguments.nli or arguments.fl):
        raise ValueError(f"--batch-size is for --gs wrap, --nli and --fl; --gs {BATCH_DIFFERENT} takes --batch-sizes")
    if arguments.surgery is not None and arguments.gs == NO_SURGERY_STAGE:
        raise ValueError(f"--surgery is for --gs {WRAP} and {BATCH_DIFFERENT}: without that stage there is none")
    if arguments.accumulate > 1 and arguments.gs == NO_SURGERY_STAGE and not arguments.nli:
        raise ValueError("--accumulate is for --gs and --nli: final layers have no large batches to cut")
    if arguments.start is not None and arguments.model is not None:
        raise ValueError("--start and --model both name what to start from; give one of them")
    data = main_job.default_data() if arguments.data is None else str(Path(arguments.data).resolve())
    before = None if arguments.start is None else main_job.run_started_from(Path(arguments.start))
    model = arguments.model or (EMBEDDED if data is None else main_job.DEFAULT_MODEL)
    if data is not None:
        defaults = PAPER_DEFAULTS
    else:
        defaults = SAMPLE_DEFAULTS.get(model if before is None else before.model, OTHERS_ON_SAMPLE_DEFAULTS)
    given = {name: value for name, value in vars(arguments).items()
             if name not in ("out", "resume", "data") and value is not None}
    if arguments.batch_sizes is not None:
        given["batch_sizes"] = parse_batch_sizes(arguments.batch_sizes)
    is_baseline = arguments.gs == NO_SURGERY_STAGE and not (arguments.nli or arguments.fl)
    arch = "concatA" if is_baseline else "concatB"
    if before is not None:
        given["start"], model, arch = str(Path(arguments.start).resolve()), None, before.arch
    return Settings(**{**defaults, "arch": arch, **given, "data": data, "model": model})


def prepare(arguments: argparse.Namespace, argv: list[str]) -> Run | None:
    """A run ready to train; None if --resume names a finished one. Raises ValueError or OSError for bad input."""
    ranks = distributed.start()
    if arguments.resume is None:
        settings = ranks.together(lambda: settings_of(arguments))
        return main_job.start(settings, arguments.out, ranks.say, ranks=ranks)
    folder = Path(arguments.resume)
    changes = ranks.together(lambda: changes_of(folder, argv))
    run = main_job.resume(folder, ranks.say, ranks=ranks, changes=changes)
    if run is None:
        ranks.say(f"{arguments.resume} is finished; its scores are in metrics.json, its report in report.html")
        distributed.stop(ranks)
    return run


def changes_of(folder: Path, argv: list[str]) -> dict[str, object]:
    """What the flags beside --resume change; raises ValueError for those that would make it another run."""
    given = command.given_flags(build_parser(), argv)
    changes = {name: given.pop(name) for name in CHANGEABLE if name in given}
    started = dataclasses.asdict(main_job.settings_of_run(folder))
    sizes = ",".join(f"{name}={size}" for name, size in started["batch_sizes"].items())
    command.refuse_other_settings(given, {**started, "batch_sizes": sizes, "out": str(folder)})
    return changes


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        return command.prepare_and_train(NAME, lambda: prepare(arguments, argv), train)
    finally:
        distributed.leave()


def train(run: Run) -> int:
    """Runs to the end and says where the results are; returns the exit status."""
    folder, ranks = run.folder, run.ranks
    told_to_stop = "told to stop (SIGTERM), as all processes are when one has ended"
    with last_words(ranks, lambda: (stopped(run, told_to_stop, 1), run.log.close())):
        try:
            main_job.execute(run)
        except KeyboardInterrupt:  # in each process at another step, so they have no more to say to one another
            return stopped(run, "interrupted", 130) if ranks.writes else 130
        except FloatingPointError as error:  # in all processes at the same step
            if not ranks.writes:
                ranks.wait_for_writer()
                return 1
            return not_finite(run, error)
        except ProcessLost as error:
            return stopped(run, error, 1)
        except OSError as error:
            return failed(error, 1)
        finally:
            run.log.close()
        ranks.say(f"report: {folder / main_job.REPORT_FILE}")
        if run.settings.stages == ("nli",):
            ranks.say(f"its heads are untrained; go on with: python train_multitask.py --start {folder}")
        else:
            ranks.say(f"hand in: {folder / main_job.PREDICTIONS_FOLDER}\n"
                      f"try it: python -m multitask.predict {folder} --task sst \"A film worth seeing twice.\"")
        distributed.stop(ranks)
    return 0


def not_finite(run: Run, error: FloatingPointError) -> int:
    saved = numbered(run.folder)
    good = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint"
    return failed(f"{error}; {good}; --on-nonfinite {SKIP} leaves such steps out, a lower --lr may avoid them", 1)


def stopped(run: Run, reason: object, status: int) -> int:
    """Says why training stopped, and how it goes on."""
    if numbered(run.folder):
        how = f"go on with: {run.ranks.command} train_multitask.py --resume {quote(str(run.folder))}"
    else:
        how = "there is no checkpoint yet; start again"
    process = f"process {run.ranks.rank}: " if run.ranks.size > 1 else ""
    return failed(f"{process}{reason}; {how}", status)


def failed(reason: object, status: int) -> int:
    return command.failed(NAME, reason, status)


if __name__ == "__main__":
    sys.exit(main())
