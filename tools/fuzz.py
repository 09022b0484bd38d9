"""Mutated files, by the hundred thousand, for everything that reads files from outside.

    python tools/fuzz.py --inputs 100000 --out fuzz.json
    python tools/fuzz.py --inputs 2000 --only config --only course

TARGETS is the table: a sound file, how it is mutated, and what reads it. Each input must be
accepted, and the result usable, or refused by one line that names the file: a ValueError or
OSError. Anything else is a finding and is kept with its input: another exception, a message of
several lines or without the file's name, more than SECONDS of processor time, more memory than
MEMORY_BYTES, a file outside its folder, a pickle that ran. Each target runs in a process of its own
with limited memory. tests/system/test_20_nothing_let_in.py runs a few inputs per target.
"""

import argparse
import base64
import collections
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import sound_files as sound
import torch
from mutations import (
    mutate_json,
    mutate_jsonl,
    mutate_lines,
    mutate_pickle,
    mutate_safetensors,
    mutate_table,
    mutate_zip,
)

from minbert import BertForMaskedLM, BertModel, BertTokenizer
from minbert.files import parse
from multitask import MultitaskBert
from multitask.data.examples import Example, read_examples, read_rows
from multitask.data.multinli import read_multinli
from multitask.runs import run as main_job
from multitask.task_file import read_task_file
from multitask.tasks import PARA, SST, STS, Task

SECONDS = 5                    # of processor time per input
MEMORY_BYTES = 256 << 20       # above what the process took at its start
ADDRESS_BYTES = 4 << 30        # an allocation of more than this fails
OURS = ("minbert", "multitask", "heads", "optim")
TEXTS = ["", "a good film", "the [MASK] [SEP] plot", "Crème\u0301 漢字 \ufffd\x00", "a" * 300,
         "a b " * 200]


# ----------------------------------------------------------------------------- what reads the files


def use_model(folder: Path) -> None:
    """Opens the encoder, alone and with its language-model head, and runs both."""
    model = BertModel.from_pretrained(folder)
    assert all(value.device.type == "cpu" and value.dtype == torch.float32
               for value in model.parameters())
    model(torch.tensor([[0]]))

    BertForMaskedLM.from_pretrained(folder)(torch.tensor([[0]]))


def use_tokenizer(folder: Path) -> None:
    found = BertTokenizer.from_pretrained(folder)

    for pairs in (None, TEXTS[::-1]):
        for encoding in found.encode(TEXTS, pairs, max_length=16):
            assert encoding.tokens[0] == "[CLS]"
            assert encoding.tokens[-1] == "[SEP]"
            assert len(encoding.ids) <= 16
            assert max(encoding.ids) < found.vocab_size
            assert set(encoding.type_ids) <= {0, 1}
    found(["a", "b"])


def use_collection(folder: Path) -> None:
    """What a program hands over in place of sentences and pairs; from two threads at once."""
    path = folder / "items.json"
    items = parse(path.read_bytes(), str(path))
    found = sound.tokenizer()
    try:
        expected = [encoding.ids for encoding in found.encode(items)]
        with ThreadPoolExecutor(2) as pool:
            short, long = [pool.submit(found.encode, items, max_length=limit)
                           for limit in (4, None)]
        assert [encoding.ids for encoding in long.result()] == expected
        assert all(len(encoding.ids) <= 4 for encoding in short.result())

        model = MultitaskBert(BertModel(sound.config()), found, "concatB")
        assert len(model.predict_similarity(items)) == len(expected)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def use_heads(folder: Path) -> None:
    answers = MultitaskBert.from_pretrained(folder).predict_similarity([("a good film", "a film")])
    assert answers.shape == (1,)


def use_description(folder: Path) -> None:
    """A changed task may be sound: then it is asked in its own terms."""
    try:
        model = MultitaskBert.from_pretrained(folder)
    except ValueError as error:
        raise ValueError(str(error).replace("heads.safetensors", "tasks.json")) from None
    for name, task in model.tasks.items():
        labels, probabilities = model.predict(name, [("a good film", "a film")[:len(task.text)]])
        assert labels.shape == (1,)
        assert probabilities is None or probabilities.shape == (1, len(task.labels))


def use_task_file(folder: Path) -> None:
    for task in read_task_file(folder / "my.toml"):
        assert Task(**json.loads(json.dumps(asdict(task)))) == task
        assert task.loss(torch.zeros(2, task.outputs), torch.ones(2)).isfinite()


def use_run(folder: Path) -> None:
    run = main_job.resume(folder, lambda text: None, dataset=sound.dataset())
    if run is not None:
        try:
            # a learning rate of 1e15 is allowed, and its training stopped by name
            with suppress(FloatingPointError):
                run.stage.fit()
        finally:
            run.log.close()


def check_examples(examples: list[Example], high: float, sentences: int,
                   labelled: bool = True) -> None:
    assert examples
    for example in examples:
        assert len(example.sentences) == sentences
        assert len(example.id.splitlines()) < 2
        assert not labelled or 0 <= example.label <= high

    texts = [text for example in examples for text in example.sentences]
    sound.tokenizer().encode(texts, max_length=16)


def use_course(folder: Path) -> None:
    header = (folder / "course.csv").read_bytes()[:300]
    task, high = SST, 4
    for other, its_high in ((STS, 5), (PARA, 1)):
        if other.label.encode() in header:
            task, high = other, its_high

    check_examples(read_examples(folder / "course.csv", task), high, len(task.text))


def use_test_file(folder: Path) -> None:
    check_examples(read_examples(folder / "course.csv", STS, labelled=False), 0, 2, labelled=False)
    list(read_rows(folder / "course.csv", ["sentence1"]))


def use_multinli(folder: Path) -> None:
    check_examples(read_multinli(folder, "multinli_1.0_train.jsonl"), 2, 2)


# ---------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Target:
    """What is mutated, and what reads it.

    share: of all inputs, relative to the others'.
    file: the mutated file's place in the folder.
    mutate: changes a sound content of that file.
    use: reads the folder and uses what it found.
    files: returns the folder's sound files; by default there are none beside `file`.
    without: names among these that are left out.
    contents: returns the sound contents of `file`; by default the one that `files` has.
    writes: whether `use` changes the folder, which is then made again for each input.
    """

    share: int
    file: str
    mutate: Callable[[random.Random, bytes], bytes]
    use: Callable[[Path], None]
    files: Callable[[], dict[str, bytes]] = dict
    without: tuple[str, ...] = ()
    contents: Callable[[], list[bytes]] | None = None
    writes: bool = False

    def make(self) -> tuple[dict[str, bytes], list[bytes]]:
        """The sound files beside `file`, and the contents that are mutated."""
        files = self.files()
        around = {name: content for name, content in files.items() if name not in self.without}
        return around, [files[self.file]] if self.contents is None else self.contents()


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
TEXT_FILES = (*WEIGHTS, "tokenizer.json")
PART_NAMES = ["../x.safetensors", "model-1.safetensors", "model-2.safetensors", "config.json",
              "a\\b.bin", ".."]

TARGETS = {
    "safetensors": Target(50, "model.safetensors", mutate_safetensors, use_model,
                          sound.model_files, WEIGHTS),
    "index": Target(8, "model.safetensors.index.json", partial(mutate_json, pool=PART_NAMES),
                    use_model, sound.model_files, WEIGHTS),
    "pickle": Target(25, "pytorch_model.bin", mutate_pickle, use_model, sound.model_files, WEIGHTS,
                     sound.pickles),
    "config": Target(70, "config.json", mutate_json, use_model, sound.model_files,
                     ("model.safetensors.index.json",)),
    "tokenizer": Target(70, "tokenizer.json", partial(mutate_json, pool=sound.TOKENIZER_PARTS),
                        use_tokenizer, sound.model_files, WEIGHTS),
    "vocabulary": Target(70, "vocab.txt", mutate_lines, use_tokenizer, sound.model_files,
                         TEXT_FILES),
    "tokenizer_config": Target(22, "tokenizer_config.json", mutate_json, use_tokenizer,
                               sound.model_files, TEXT_FILES),
    "special_tokens_map": Target(10, "special_tokens_map.json", mutate_json, use_tokenizer,
                                 sound.model_files, TEXT_FILES),
    "added_tokens": Target(10, "added_tokens.json", mutate_json, use_tokenizer, sound.model_files,
                           TEXT_FILES),
    "collection": Target(10, "items.json", mutate_json, use_collection,
                         contents=sound.collections),
    "heads": Target(8, "model/heads.safetensors", mutate_safetensors, use_heads, sound.run_files),
    "run_config": Target(14, "config.json", mutate_json, use_run, sound.run_files, writes=True),
    "tasks_json": Target(10, "model/tasks.json", mutate_json, use_description, sound.run_files),
    "task_file": Target(20, "my.toml", mutate_lines, use_task_file, contents=sound.task_files),
    "course": Target(290, "course.csv", mutate_table, use_course, contents=sound.course_files),
    "test_file": Target(120, "course.csv", mutate_table, use_test_file,
                        contents=sound.test_files),
    "multinli": Target(200, "multinli/multinli_1.0_train.jsonl", mutate_jsonl, use_multinli,
                       contents=sound.multinli_files),
    "multinli_zip": Target(13, "multinli_1.0.zip", mutate_zip, use_multinli,
                           contents=sound.multinli_zips),
}


# -------------------------------------------------------------------------------------- the verdict


class Hang(BaseException):
    """Not an Exception: code that catches every Exception must not catch this."""


@contextmanager
def limited_seconds():
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(target: Target, folder: Path, around: dict[str, bytes], content: bytes) -> str:
    """Returns "accepted", "refused", or what is wrong in one line: the same line for the same
    fault.
    """
    if target.writes or not folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        sound.write(folder, around)
    sound.write(folder, {target.file: content})

    before = peak_bytes()
    try:
        with limited_seconds(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.use(folder)
        result = "accepted"
    except Hang:
        return f"hang: more than {SECONDS} s"
    except (ValueError, OSError) as error:
        result = check_message(error, {target.file, *around})
    except BaseException as error:
        result = describe(error)

    if any(path.exists() for path in (sound.OUTSIDE, folder.parent / "outside", Path("outside"))):
        return "a file outside the folder"
    if peak_bytes() - before > MEMORY_BYTES:
        return f"memory: more than {MEMORY_BYTES >> 20} MiB"
    return result


def check_message(error: Exception, files: set[str]) -> str:
    message = str(error)
    names = {Path(name).name for name in files} | {Path(name).parent.as_posix() for name in files}
    if not any(name in message for name in names - {"."}):
        return f"no file named: {describe(error)}"
    if not message.isprintable():
        return f"several lines or control characters: {describe(error)}"
    if len(message) >= 2000:
        return f"{len(message)} characters: {describe(error)}"
    return "refused"


def describe(error: BaseException) -> str:
    where = "fuzz.py"
    for frame in traceback.extract_tb(error.__traceback__):
        if any(f"/{package}/" in frame.filename for package in OURS):
            where = f"{Path(frame.filename).name}:{frame.name}"
    return f"{type(error).__name__} in {where}: {ascii(str(error))[:90]}"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fuzz(name: str, inputs: int, folder: Path, seed: int = 0, last: Path | None = None) -> dict:
    """Reads so many mutated files of one target; returns counts, and one input per finding.

    last: a file that holds the current input, in case it ends the process.
    """
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    around, contents = target.make()
    sound_result = judge(target, folder, around, contents[0])
    assert sound_result == "accepted", f"the sound file of {name}: {sound_result}"

    counts, kept = collections.Counter(), {}
    started, before, slowest = time.process_time(), peak_bytes(), 0.0

    for _ in range(inputs):
        content = target.mutate(rng, rng.choice(contents))
        if last is not None:
            last.write_bytes(content)

        begun = time.process_time()
        result = judge(target, folder, around, content)
        slowest = max(slowest, time.process_time() - begun)

        counts[result] += 1
        if result not in ("accepted", "refused"):
            kept.setdefault(result, content)
            sound.OUTSIDE.unlink(missing_ok=True)

    return {"inputs": inputs, "accepted": counts["accepted"], "refused": counts["refused"],
            "findings": {result: finding(counts[result], content)
                         for result, content in kept.items()},
            "seconds": round(time.process_time() - started, 1),
            "slowest_seconds": round(slowest, 3),
            "memory_mib": (peak_bytes() - before) >> 20}


def finding(count: int, content: bytes) -> dict:
    return {"count": count, "input": base64.b64encode(content[:4000]).decode()}


# -------------------------------------------------------------------------------------- the command


def fuzz_in_process(name: str, inputs: int, seed: int) -> dict:
    """The same, in a process of its own. A process that dies is a finding, with the input that
    ended it.
    """
    with tempfile.TemporaryDirectory() as folder:
        last, result = Path(folder) / "last", Path(folder) / "result"
        arguments = (name, inputs, seed, last, result)
        process = multiprocessing.get_context("fork").Process(target=_inside, args=arguments)
        process.start()
        process.join()
        if result.exists():
            return json.loads(result.read_text())

        content = last.read_bytes() if last.exists() else b""
        died = f"the process ended with status {process.exitcode}"
        return {"inputs": 0, "accepted": 0, "refused": 0, "findings": {died: finding(1, content)},
                "seconds": 0, "slowest_seconds": 0, "memory_mib": 0}


def _inside(name: str, inputs: int, seed: int, last: Path, result: Path) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ADDRESS_BYTES, taken + ADDRESS_BYTES))
    os.chdir(last.parent)
    result.write_text(json.dumps(fuzz(name, inputs, last.parent / "case", seed, last)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000,
                        help="in all, divided as TARGETS says")
    parser.add_argument("--only", action="append", choices=TARGETS, default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keeps the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    names = arguments.only or list(TARGETS)
    total = sum(TARGETS[name].share for name in names)
    results = {}
    for name in names:
        inputs = -(-arguments.inputs * TARGETS[name].share // total)  # rounded up
        results[name] = found = fuzz_in_process(name, inputs, arguments.seed)
        print(f"{name:20} {found['inputs']:7,} inputs {found['accepted']:7,} accepted "
              f"{found['refused']:7,} refused {len(found['findings']):3} findings "
              f"{found['seconds']:7.1f} s, slowest {found['slowest_seconds']:.2f} s, "
              f"{found['memory_mib']} MiB", flush=True)
        for result, about in found["findings"].items():
            print(f"    {about['count']:6} × {result}", flush=True)

    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(found["findings"] for found in results.values()))


if __name__ == "__main__":
    sys.exit(main())
