"""Peak memory of reading and tokenizing N pairs, and of answering N pairs.

    python benchmarks/memory.py [--rows 10000 1000000] [--pairs 1000 100000]

Each count is measured in a fresh process. Memory held before the file is opened does not count. The
cost of a row is the growth from the smaller count to the larger, divided by the rows between them.
The pairs are made up, 11 words per sentence; the model is a random one of 1 layer, hidden 32, so
that its own memory hides nothing.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from minbert import BertConfig, BertModel, BertTokenizer
from multitask import MultitaskBert, predict
from multitask.data.examples import read_examples
from multitask.tasks import PARA

WORDS = ["why", "would", "anyone", "see", "it", "twice", "when", "nobody", "has", "to"]


def write_pairs(path: Path, rows: int, labelled: bool) -> Path:
    """Row k has its number among its words, so that no two sentences are one object."""
    with path.open("w", encoding="utf-8") as file:
        file.write("id\tsentence1\tsentence2" + ("\tis_duplicate\n" if labelled else "\n"))
        for k in range(rows):
            sentence = " ".join(WORDS[k % 7:] + WORDS[:k % 7])
            file.write(f"q{k}\t{sentence} {k}\t{k} {sentence}"
                       + (f"\t{k % 2}.0\n" if labelled else "\n"))
    return path


def read_and_tokenize(folder: Path, rows: int) -> int:
    """Returns the file's bytes; examples and ids are held at the end, as in a run."""
    path = write_pairs(folder / "quora-train.csv", rows, labelled=True)
    examples = read_examples(path, PARA)
    tokens = MultitaskBert.from_pretrained(folder).tokenize(examples)
    assert len(tokens) == len(examples) == rows
    return path.stat().st_size


def answer(folder: Path, rows: int) -> int:
    path = write_pairs(folder / "pairs.tsv", rows, labelled=False)
    assert predict.main([str(folder), "--task", "para", "--input", str(path), "--output",
                         str(folder / "out.tsv")]) == 0
    with (folder / "out.tsv").open(encoding="utf-8") as file:
        for k, line in enumerate(file):
            turn = (k - 1) % 7
            sentence = " ".join(WORDS[turn:] + WORDS[:turn])
            assert k == 0 or line.startswith(f"q{k - 1}\t{sentence} {k - 1}\t")
    assert k == rows
    return path.stat().st_size


def _measured(job: Callable[[Path, int], int], folder: Path,
              rows: int) -> tuple[int, int, float]:
    """Bytes of memory above the start, bytes of the file, seconds of processor time."""
    torch.set_num_threads(1)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    size = job(folder, rows)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return grown * 1024, size, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=(10_000, 1_000_000), metavar="N")
    parser.add_argument("--pairs", type=int, nargs=2, default=(1_000, 100_000), metavar="N")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = BertTokenizer.train([" ".join(WORDS), "0 1 2 3 4 5 6 7 8 9 " * 2], 200)
        torch.manual_seed(0)
        shape = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=1,
                           num_attention_heads=2, intermediate_size=64)
        MultitaskBert(BertModel(shape), tokenizer, "concatB").save_pretrained(folder)
        for title, job, counts in (("read and tokenize", read_and_tokenize, arguments.rows),
                                   ("answer", answer, arguments.pairs)):
            peaks = []
            for rows in counts:
                with context.Pool(1) as process:
                    peak, size, seconds = process.apply(_measured, (job, folder, rows))
                peaks.append(peak)
                print(f"{title}: {rows:,} pairs, a file of {size / 2**20:.1f} MiB: peak "
                      f"{peak / 2**20:.0f} MiB above "
                      f"the start, {seconds:.0f} s of processor time", flush=True)
            print(f"{title}: {(peaks[1] - peaks[0]) / (counts[1] - counts[0]):.0f} bytes per pair",
                  flush=True)


if __name__ == "__main__":
    main()
