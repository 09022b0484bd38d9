"""minbert study train: a student's parts train."""

import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from handed_in import SOLUTIONS, hand_in

from minbert import BertModel
from minbert.files import sha256_of
from minbert_study import __main__ as study
from minbert_study import checking, training
from minbert_study.exercise import FILES, NAMES, load
from minbert_study.judging import Result
from minbert_study.watching import batches_of, tiny_model

NUMBER = re.compile(r"[-+]?\d+\.\d+")


@pytest.fixture
def folder(tmp_path):
    """A student's folder with all solutions."""
    return shutil.copytree(SOLUTIONS, tmp_path / "my-bert", ignore=lambda *_: ["__pycache__"])


def note_as_done(folder: Path) -> None:
    for name in NAMES:
        passed = tuple(Result(check.claim) for check in load(name).checks)
        digest = sha256_of(folder / FILES[name])
        checking.Progress(folder).note(checking.Verdict(name, passed, sha256=digest))


def numbers(lines: list[str]) -> list[float]:
    """Losses and cosines in the lines of a training; not its pace."""
    found = [line.rpartition(",")[0] or line for line in lines if line.startswith("  ")]
    return [float(number) for line in found for number in NUMBER.findall(line)]


def told(folder: Path, data: Path, own: tuple[str, ...]) -> list[str]:
    """The lines of one training of two steps."""
    lines = []
    training.run(training.Training(folder, own, str(data), steps=2), lines.append)
    return lines


def test_solutions_train_alike(folder, small_data, capsys):
    """With every exercise done, the losses and scores are those of the library's parts."""
    note_as_done(folder)
    assert study.main(["train", str(folder), "--steps", "2", "--data", str(small_data)]) == 0

    printed = capsys.readouterr().out
    yours, library = printed.split("training with the library's parts:")
    library, scores = library.split("dev scores")
    assert f"yours are {NAMES[0]}" in yours
    losses = numbers(library.splitlines())
    assert len(losses) >= 9
    # three decimals are printed, and float32 sums in another order round otherwise
    assert numbers(yours.splitlines()) == pytest.approx(losses, abs=2e-3)
    rows = {line[:17].strip(): NUMBER.findall(line) for line in scores.splitlines()}
    assert [float(value) for value in rows["yours"]] == pytest.approx(
        [float(value) for value in rows["the library's"]], abs=0.03)  # one example of forty


@pytest.fixture(scope="module")
def library(small_data):
    """Losses and cosines of a training with the library's parts."""
    return numbers(told(SOLUTIONS, small_data, ()))


def test_a_wrong_part_shows(folder, small_data, library):
    """A part that runs but computes something else is used, and changes the losses."""
    hand_in(folder, "adamw", ("theta -= alpha", "theta += alpha"))
    wrong = numbers(told(folder, small_data, ("adamw",)))
    assert wrong[:3] == library[:3]  # in the first step nothing has moved yet
    assert wrong[6:9] != pytest.approx(library[6:9], abs=0.01)


def test_own_round_robin(folder, small_data, library):
    """It chooses the examples of every step."""
    hand_in(folder, "round_robin", ("list(islice(examples[name], size))", "[0] * size"))
    assert numbers(told(folder, small_data, ("round_robin",)))[:3] != library[:3]


@pytest.mark.parametrize(("name", "find", "replace", "says"), [
    ("attention", "    weights =", "    raise ValueError('not for so many heads')\n    weights =",
     ["ex02_attention.py, line 17: raise ValueError('not for so many heads')",
      "ValueError: not for so many heads"]),
    ("attention", "weights, dropout) @ value", "weights, dropout) @ value / 0",
     ["the loss of sst is nan in step 1"]),
])
def test_failures_are_told(name, find, replace, says, folder, small_data):
    """An exception is told with its line, a loss that is not finite with its task and step."""
    hand_in(folder, name, (find, replace))
    lines = []
    theirs = training.Training(folder, (name,), str(small_data), steps=2)
    status = training.compare(theirs, lines.append)
    assert status == 1
    assert all(any(text in line for line in lines) for text in says)
    assert f"check {folder} names parts that do not fit each other" in lines[-1]
    assert not any("dev scores" in line for line in lines)


def test_undefined_score(folder, small_data, tmp_path, capsys):
    """Pearson's correlation with constant labels is undefined, and counts 0."""
    data = shutil.copytree(small_data, tmp_path / "data")
    head, *rows = (data / "sts-dev.csv").read_text().splitlines()
    assert head.endswith("similarity")
    rows = [row.rpartition("\t")[0] + "\t3.0" for row in rows]
    (data / "sts-dev.csv").write_text("\n".join([head, *rows]) + "\n")
    assert study.main(["train", str(folder), "--steps", "1", "--data", str(data)]) == 0
    columns, scores = capsys.readouterr().out.splitlines()[-2:]
    assert dict(zip(columns.split(), scores.split()[2:], strict=True))["sts"] == "0.000"


def test_who_does_what():
    """Exercises that a training has no use for are named."""
    def lines(own, surgery="pcgrad"):
        return training.who_does_what(training.Training(Path("x"), own, None, surgery=surgery))

    assert lines(()) == ["parts: all are the library's; yours take over once their checks pass"]
    both = ("pcgrad", "paper")
    assert lines(both) == ["parts: yours are pcgrad; the library does the rest",
                           "       ex14_paper.py is not used here: only --surgery paper uses it"]
    assert "yours are paper" in lines(both, "paper")[0]


def test_idle_parts(monkeypatch):
    """Where the training has no use for what is done, it runs once, with the library's parts."""
    trained, lines = [], []
    monkeypatch.setattr(training, "run", lambda each, say: trained.append(each.own) or {"sst": 0.5})
    assert training.compare(training.Training(Path("x"), ("wordpiece",), None), lines.append) == 0
    assert trained == [()]
    assert lines[1].splitlines() == [
        "parts: all are the library's",
        "       ex09_wordpiece.py is not used here: the tokenizers library is faster"]
    assert not any("your" in line for line in lines)


@pytest.mark.parametrize(("flag", "value", "says"), [
    ("--steps", "0", "--steps 0"), ("--data", "nosuch", "--data nosuch: there is no such folder")])
def test_wrong_flags(flag, value, says, folder, capsys):
    assert study.main(["train", str(folder), flag, value]) == 2
    assert says in capsys.readouterr().err


def test_no_scores(monkeypatch):
    """If the training with the library's parts fails, too, its lines are the last ones."""
    lines = []
    monkeypatch.setattr(training, "run", lambda each, say: say("  it failed"))
    assert training.compare(training.Training(Path("x"), (), None), lines.append) == 1
    assert lines[-1] == "  it failed"


@pytest.mark.filterwarnings("default")
def test_warnings_of_a_training(monkeypatch, capsys):
    """A warning in the training's process is one line."""
    monkeypatch.setattr(training.signal, "signal", lambda *_: None)
    monkeypatch.setenv("MINBERT_PLAIN", "0")  # for the test alone; _work sets it
    monkeypatch.setattr(training, "train", lambda *_: warnings.warn("odd\ndata", stacklevel=1))
    training._work(training.Training(Path("x"), (), None), SimpleNamespace(send=lambda _: None))
    assert capsys.readouterr().err == "warning: odd data\n"


def test_plain_batches_are_padded(monkeypatch):
    """Where plain forms are asked for, MultitaskBert calls BertModel.forward on padded batches."""
    monkeypatch.setenv("MINBERT_PLAIN", "1")
    masks, forward = [], BertModel.forward

    def spy(self, input_ids, attention_mask=None, *others, **named):
        masks.append(attention_mask)
        return forward(self, input_ids, attention_mask, *others, **named)

    monkeypatch.setattr(BertModel, "forward", spy)
    model = tiny_model()
    model("sst", batches_of("sst")["sst"])
    [mask] = masks
    assert mask.shape[0] == 3
    assert (mask == 0).any()
