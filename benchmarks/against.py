"""This checkout against another one, in turn: a training step, evaluation, encode, and peak memory.

    python benchmarks/against.py ../minbert-before --data data --model CHECKPOINT

Two processes, one per checkout, take turns, so that both meet the same machine. Each has the same
weights, batches and settings. Printed are medians, and the ratio of medians, here / there.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = ("step", "evaluation", "encode", "start-up")
BATCH = 16


def work(arguments: argparse.Namespace) -> None:
    """The child: do what a line of standard input names, answer with the seconds that it took."""
    import torch

    from minbert import BertModel, BertTokenizer
    from multitask import MultitaskBert
    from multitask.data import load_dataset
    from multitask.training.step import SurgeryTrainer

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    dataset = load_dataset(arguments.data)
    model = MultitaskBert(BertModel.from_pretrained(arguments.model),
                          BertTokenizer.from_pretrained(arguments.model), "concatB",
                          arguments.precision).train()
    tokens = {name: model.tokenize(splits["train"][:2000]) for name, splits in dataset.items()}
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-5)
    pairs = [example.sentences for example in dataset["para"]["dev"][:512]]
    sentences = [example.sentences[0] for example in dataset["sst"]["dev"][:1000]]

    def step(number: int) -> None:
        rows = [(number * BATCH + k) % 2000 for k in range(BATCH)]
        trainer.step({name: examples.batch(rows) for name, examples in tokens.items()})

    kinds = {"step": step, "evaluation": lambda _: model.predict("para", pairs),
             "encode": lambda _: model.encoder.encode(sentences, model.tokenizer)}
    for line in sys.stdin:
        kind, number = line.split()
        if kind == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        else:
            started = time.perf_counter()
            kinds[kind](int(number))
            answer = time.perf_counter() - started
        print(json.dumps(answer), flush=True)


def start_up(folder: Path) -> float:
    """Seconds for the main job's --help."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "train_multitask.py", "--help"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the folder of another checkout")
    parser.add_argument("--data", required=True, help="the course's files")
    parser.add_argument("--model", required=True, help="a checkpoint's folder")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12, help="per kind; the first two warm up")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work(arguments)
        return

    sides = {"here": ROOT, "there": arguments.other.resolve()}
    children = {}
    for side, folder in sides.items():
        children[side] = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], "--child"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(folder), "TQDM_DISABLE": "1"})

    def ask(side: str, kind: str, number: int) -> float:
        child = children[side]
        child.stdin.write(f"{kind} {number}\n")
        child.stdin.flush()
        return json.loads(child.stdout.readline())

    print(f"{'':12}{'here':>10}{'there':>10}{'ratio':>8}")
    for kind in KINDS:
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(arguments.rounds):
            for side, folder in sides.items():
                took = start_up(folder) if kind == "start-up" else ask(side, kind, number)
                seconds[side].append(took)
        here, there = (statistics.median(seconds[side][2:]) for side in sides)
        print(f"{kind:12}{here:9.3f}s{there:9.3f}s{here / there:8.2f}", flush=True)
    here, there = (ask(side, "memory", 0) for side in sides)
    print(f"{'peak memory':12}{here:8.0f}MB{there:8.0f}MB{here / there:8.2f}")
    for child in children.values():
        child.stdin.close()
        child.wait()


if __name__ == "__main__":
    main()
