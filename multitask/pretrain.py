"""Pretrain a BERT on a text, as a masked-language model, or go on with a checkpoint on a text of your own domain.

    python -m multitask.pretrain --text books.txt.xz --out my-bert
    python -m multitask.pretrain --text reviews.txt --out my-bert --from bert-base-uncased --epochs 5
    python -m multitask.pretrain --text data --out my-bert --from minbert-mini --second-segment again --epochs 1
    python -m multitask.pretrain --resume my-bert
    python train_multitask.py --model my-bert

The text is plain UTF-8, .gz or .xz, blank lines between its passages (chapters, articles, …).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from shlex import quote

from multitask.pretraining.run import SAVE_DTYPES, Pretraining, PretrainingSettings, resume, settings_of_run, start
from multitask.pretraining.segments import SECOND_SEGMENTS
from multitask.runs.settings import SKIP, STOP
from multitask.system.checkpoint import numbered
from multitask.system.command import Parser
from multitask.system.device import DEVICES, PRECISION_HELP, PRECISIONS

from .system import command

NAME = "multitask.pretrain"
FROM_DEFAULTS = {"lr": 5e-5}  # a checkpoint is not to forget what it knows
SHAPE = ("layers", "hidden", "heads", "vocab_size")


def build_parser() -> Parser:
    parser = Parser(f"python -m {NAME}", __doc__)
    add = parser.add_argument
    add("--text", metavar="FILE", help="plain text, .gz or .xz, or a folder with the course's data, whose training "
        "sentences are then the text; required for a new run")
    add("--out", metavar="FOLDER", help="the run's folder, which then serves as --model; required for a new run")
    add("--resume", metavar="FOLDER", help="go on with an interrupted run; needs no other flag (default: a new run)")
    add("--from", dest="start", metavar="NAME_OR_FOLDER", help="a checkpoint to go on from (default: from scratch)")
    add("--layers", type=int, metavar="N", help="from scratch (default: 4)")
    add("--hidden", type=int, metavar="N", help="width, from scratch; feed-forward is 4 times it (default: 256)")
    add("--heads", type=int, metavar="N", help="from scratch (default: 4)")
    add("--vocab-size", type=int, metavar="N", help="pieces to learn, from scratch (default: 8192)")
    add("--length", type=int, metavar="N", help="tokens of a sequence, [CLS] and [SEP] included (default: 128)")
    add("--batch-size", type=int, metavar="N", help="sequences a step (default: 64)")
    add("--epochs", type=int, metavar="N", help="passes over the text (default: 3)")
    add("--steps", type=int, metavar="N", help="in place of --epochs (default: none)")
    add("--max-minutes", type=float, metavar="X",
        help="stop after so long, before the last step; --resume goes on as long again (default: no limit)")
    add("--lr", type=float, metavar="X", help="highest learning rate (default: 1e-3; 5e-5 with --from)")
    add("--warmup", type=float, metavar="SHARE", help="of the steps, linear; then a line down to 0 (default: 0.05)")
    add("--weight-decay", type=float, metavar="X", help="not on biases and LayerNorm (default: 0.01)")
    add("--clip", type=float, metavar="NORM", help="of the whole gradient; 0 is off (default: 1)")
    add("--dropout", type=float, metavar="SHARE",
        help="while pretraining; fine-tuning takes config.json's own (default: 0)")
    add("--whole-words", action="store_true", default=None, help="mask all pieces of a word together (default: off)")
    add("--second-segment", choices=SECOND_SEGMENTS, help="none: a sequence is one piece of running text. again: half "
        "of them are two segments, nearly the same text twice, which helps with pairs of sentences. next: all are two "
        "segments, the second from another passage half of the time, and [CLS] with the pooler learns to tell which "
        "belong together (default: none)")
    add("--mask-share", type=float, metavar="SHARE", help="of the tokens, to be guessed (default: 0.15)")
    add("--held-out", type=float, metavar="SHARE", help="of the passages, never trained on (default: 0.01)")
    add("--checkpoint-every", type=int, metavar="N",
        help="steps from one evaluation and checkpoint to the next (default: 500)")
    add("--on-nonfinite", choices=(STOP, SKIP),
        help="a step with a loss or gradient that is not finite ends the run, or is left out (default: stop)")
    add("--seed", type=int, metavar="N", help="(default: 11711)")
    add("--device", choices=DEVICES, help="(default: auto)")
    add("--precision", choices=PRECISIONS, help=PRECISION_HELP)
    add("--save-dtype", choices=SAVE_DTYPES, help="of the saved model's weights (default: fp32)")
    return parser


def settings_of(arguments: argparse.Namespace) -> PretrainingSettings:
    """The flags that were given over the defaults. Raises ValueError for what does not go together."""
    given = {name: value for name, value in vars(arguments).items()
             if name not in ("out", "resume") and value is not None}
    for name in ("text", "out"):
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is missing: a new run takes --text FILE and --out FOLDER")
    if arguments.start is not None:
        shape = [f"--{name.replace('_', '-')}" for name in SHAPE if name in given]
        if shape:
            raise ValueError(f"{shape[0]} is for a model from scratch; with --from the checkpoint says it")
        given = {**FROM_DEFAULTS, **given}
    if "steps" in given and "epochs" in given:
        raise ValueError("--steps and --epochs both say when to end; give one of them")
    return PretrainingSettings(**given)


def prepare(arguments: argparse.Namespace, argv: list[str]) -> Pretraining | None:
    """A run ready to train; None if --resume names a finished one. Raises ValueError or OSError for bad input."""
    if arguments.resume is None:
        return start(settings_of(arguments), Path(arguments.out))
    folder, given = Path(arguments.resume), command.given_flags(build_parser(), argv)
    command.refuse_other_settings(given, {**dataclasses.asdict(settings_of_run(folder)), "out": arguments.resume})
    run = resume(folder)
    if run is None:
        print(f"{arguments.resume} is finished; its scores are in metrics.json")
    return run


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    return command.prepare_and_train(NAME, lambda: prepare(arguments, argv), train)


def train(run: Pretraining) -> int:
    """Runs to the end and says what to do with the folder; returns the exit status."""
    folder = run.folder
    try:
        finished = run.run()
    except KeyboardInterrupt:
        if numbered(folder):
            return failed(f"interrupted; go on with: python -m multitask.pretrain --resume {quote(str(folder))}", 130)
        return failed("interrupted before the first checkpoint; start again", 130)
    except FloatingPointError as error:
        good = f"the last good checkpoint is {numbered(folder)[-1]}" if numbered(folder) else "there is no checkpoint"
        return failed(f"{error}; {good}; --on-nonfinite {SKIP} leaves such steps out, a lower --lr may avoid them", 1)
    except OSError as error:
        return failed(error, 1)
    finally:
        run.log.close()
    if not finished:
        print(f"stopped by --max-minutes after step {run.step:,} of {run.steps:,}; go on with: "
              f"python -m multitask.pretrain --resume {folder}")
    print(f"use it: python train_multitask.py --model {folder}")
    return 0


def failed(reason: object, status: int) -> int:
    return command.failed(NAME, reason, status)


if __name__ == "__main__":
    sys.exit(main())
