"""Pretrain a BERT on text as a masked-language model, or continue from a checkpoint.

    python -m multitask.pretrain --text books.txt.xz --out my-bert
    python -m multitask.pretrain --text reviews.txt --out my-bert --from bert-base-uncased
    python -m multitask.pretrain --text data --out mine --from minbert-mini --second-segment again
    python -m multitask.pretrain --resume my-bert
    python train_multitask.py --model my-bert

The text is plain UTF-8, .gz or .xz, with blank lines between passages (chapters, articles).
"""

import argparse
import dataclasses
import sys
from os.path import expanduser
from pathlib import Path
from shlex import quote

from minbert.checkpoints.hub import EMBEDDED
from multitask.commands import command_line
from multitask.pretraining.settings import CHOICES, SHAPE, PretrainingSettings
from multitask.pretraining.start import (
    Pretraining,
    resume_pretraining,
    settings_of_run,
    start_pretraining,
)
from multitask.runs.inputs import SCRATCH
from multitask.runs.settings import NONFINITE_ADVICE
from multitask.system import command, console
from multitask.system.command import Parser
from multitask.system.device import PRECISION_HELP

NAME = "multitask.pretrain"
FROM_DEFAULTS = {"lr": 5e-5}  # low enough to keep what the checkpoint knows


def build_parser() -> Parser:
    parser = Parser(f"python -m {NAME}", __doc__)
    add = parser.add_argument
    add("--text", type=expanduser, metavar="FILE",
        help="plain text, .gz or .xz; or a folder with the course's data, for its training "
             "sentences; required for a new run")
    add("--out", type=expanduser, metavar="FOLDER",
        help="the run's folder, later usable as --model; required for a new run")
    add("--resume", type=expanduser, metavar="FOLDER",
        help="resume an interrupted run; needs no other flag (default: a new run)")
    add("--from", type=expanduser, metavar="NAME_OR_FOLDER",
        help="a checkpoint to continue from (default: from scratch)")
    add("--layers", type=int, metavar="N", help="number of layers, from scratch (default: 4)")
    add("--hidden", type=int, metavar="N",
        help="width, from scratch; the feed-forward layer is 4 times as wide (default: 256)")
    add("--heads", type=int, metavar="N", help="attention heads, from scratch (default: 4)")
    add("--vocab-size", type=int, metavar="N",
        help="vocabulary size to learn, from scratch (default: 8192)")
    add("--length", type=int, metavar="N",
        help="tokens per sequence, [CLS] and [SEP] included (default: 128)")
    add("--batch-size", type=int, metavar="N", help="sequences per step (default: 64)")
    add("--epochs", type=int, metavar="N", help="passes over the text (default: 3)")
    add("--steps", type=int, metavar="N", help="instead of --epochs (default: none)")
    add("--lr", type=float, metavar="X",
        help="peak learning rate (default: 1e-3; 5e-5 with --from)")
    add("--warmup", type=float, metavar="SHARE",
        help="share of steps for linear warm-up; linear decay to 0 follows (default: 0.05)")
    add("--weight-decay", type=float, metavar="X",
        help="decoupled, not on biases and LayerNorm (default: 0.01)")
    add("--clip", type=float, metavar="NORM",
        help="clip the gradient's norm; 0 is off (default: 1)")
    add("--dropout", type=float, metavar="SHARE",
        help="dropout while pretraining; fine-tuning uses config.json's (default: 0)")
    add("--whole-words", action="store_true", default=None,
        help="mask all pieces of a word together (default: off)")
    add("--second-segment", choices=CHOICES["second_segment"],
        help="none: each sequence is one piece of running text. again: half of them are nearly the "
             "same text twice, as two segments, which helps with sentence pairs (default: none)")
    add("--mask-share", type=float, metavar="SHARE",
        help="share of tokens to be guessed (default: 0.15)")
    add("--held-out", type=float, metavar="SHARE",
        help="share of passages never trained on (default: 0.01)")
    add("--checkpoint-every", type=int, metavar="N",
        help="steps between evaluations, each with a checkpoint (default: 500)")
    add("--on-nonfinite", choices=CHOICES["on_nonfinite"],
        help="on a loss or gradient that is not finite, end the run or skip the step "
             "(default: stop)")
    add("--seed", type=int, metavar="N", help="(default: 11711)")
    add("--device", choices=CHOICES["device"], help="(default: auto)")
    add("--precision", choices=CHOICES["precision"], help=PRECISION_HELP)
    add("--save-dtype", choices=CHOICES["save_dtype"],
        help="type of the saved weights (default: fp32)")
    return parser


def settings_of(arguments: argparse.Namespace) -> PretrainingSettings:
    """The given flags over the defaults. Raises ValueError for flags that contradict each other."""
    for name in ("text", "out"):
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is missing: a new run takes --text FILE and --out FOLDER")

    given = {name: value for name, value in vars(arguments).items()
             if name not in ("out", "resume") and value is not None}
    given["start"] = given.pop("from", None)
    if given["start"] is not None:
        for name in SHAPE:
            if name in given:
                raise ValueError(f"{command.flag_of(name)} is for a model from scratch; with "
                                 "--from the checkpoint decides it")
        given = {**FROM_DEFAULTS, **given}

    if "steps" in given and "epochs" in given:
        raise ValueError("--steps and --epochs both say when to end; give one of them")
    return PretrainingSettings(**given)


def work(arguments: argparse.Namespace) -> int:
    if arguments.resume is None:
        return pretrain(start_pretraining(settings_of(arguments), Path(arguments.out)))

    folder = Path(arguments.resume)
    started = {**dataclasses.asdict(settings_of_run(folder)), "out": str(folder.resolve())}
    started["from"] = started.pop("start")
    given = {name: value for name, value in vars(arguments).items() if name != "device"}
    command.refuse_other_settings(given, started)
    run = resume_pretraining(folder, arguments.device)
    if run is not None:
        return pretrain(run)
    console.say(f"{folder} is finished; its scores are in metrics.json")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 usage or input, 130 interrupted, 1 otherwise."""
    return command.run(build_parser(), work, argv, "interrupted before training began")


def pretrain(run: Pretraining) -> int:
    """Trains to the end and prints what to do next; returns the exit status."""
    folder = run.folder
    resume = f"{command_line('pretrain')} --resume {quote(str(folder))}"
    try:
        run.run()
    except KeyboardInterrupt:
        return command.stopped(NAME, "interrupted", 130, folder, resume)
    except FloatingPointError as error:
        return command.failed(NAME, f"{error}; in a new run, {NONFINITE_ADVICE}", 1)
    except OSError as error:
        return command.stopped(NAME, error, 1, folder, resume)
    except ValueError as error:  # input was read before, so it is a bug
        raise AssertionError(error) from error
    except (MemoryError, RuntimeError) as error:
        return command.failed(NAME, f"{command.out_of_memory(error)}: take a smaller "
                                    "--batch-size, in a new run", 1)
    finally:
        run.log.close()

    # a bare name of ours would mean the bundled model
    model = f"./{folder}" if str(folder) in (EMBEDDED, SCRATCH) else str(folder)
    console.say(f"use it: {command_line('train')} --model {quote(model)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
