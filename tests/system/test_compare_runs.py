"""`minbert runs compare`: differences on dev, what cannot be compared, the page's curves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multitask.analysis.comparisons import paired_bootstrap
from multitask.data.examples import Example, load_dataset
from multitask.evaluation import read_predictions, write_predictions
from multitask.reports.figures import styles_of
from multitask.runs import __main__ as runs
from multitask.runs.compare import Answers, why_not
from multitask.runs.comparison_report import Course, course_of, dev_plot
from multitask.tasks import CFIMDB, PARA, SST, STS, TASKS, Task

OWN = Task("own", "classes", ("text",), "label", str(Path("/own.csv").absolute()), dev_share=0.1,
           labels=("good, or\nso", "bad\u2028"))
OWN_SCALE = Task("points", "scale", ("text",), "label", str(Path("/own.csv").absolute()),
                 dev_share=0.1, range=(-1, 1))


@pytest.fixture(scope="module")
def trained(small_data, brief_run, tmp_path_factory) -> Path:
    """Runs a and b; other has other labels for SST's dev set, single has SST alone, film CFIMDB.

    begun is b without its end.
    """
    folder = tmp_path_factory.mktemp("runs")
    data = shutil.copytree(small_data, folder / "data")
    dev = data / "ids-sst-dev.csv"
    first, *rest = dev.read_text().splitlines()
    rest[0] = rest[0][:-1] + str(4 - int(rest[0][-1]))
    dev.write_text("\n".join([first, *rest]))

    for name, source, more in (
            ("a", small_data, []), ("b", small_data, ["--surgery", "sum", "--seed", "5", "--fl"]),
            ("other", data, []), ("single", small_data, ["--tasks", "sst"]),
            ("film", data, ["--tasks", "cfimdb"])):
        brief_run(folder / name, "--data", source, "--epochs", 2, "--max-steps", 8, "--lr", 1e-2,
                  *more)
    shutil.copytree(folder / "b", folder / "begun")
    (folder / "begun" / "metrics.json").unlink()
    return folder


@pytest.fixture
def compare(trained, monkeypatch, capsys):
    """(names and flags) → status, standard output, standard error."""
    monkeypatch.chdir(trained)

    def call(*words: str) -> tuple[int, str, str]:
        status = runs.main(["compare", *words])
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(("task", "values"), [
    (SST, [0, 4]), (PARA, [0, 1]), (STS, np.float32([0.1, 4.7])), (CFIMDB, [1, 0]), (OWN, [1, 0]),
    (OWN_SCALE, np.float32([-0.3, 1])),
    (replace(OWN_SCALE, range=(0, 0.1)), np.float32([0, 0.1])),
    (replace(CFIMDB, labels=("1", "2", "3")), [1, 2]),
], ids=lambda value: getattr(value, "name", ""))
def test_predictions_read_back(task, values, tmp_path):
    """What a run writes is read to the last digit, ids with commas too."""
    examples = [Example("7", ("x",), None), Example("a , b", ("y",), None)]
    path = write_predictions(tmp_path / "file.csv", task, examples, np.array(values))
    ids, found = read_predictions(path, task)
    assert ids == ["7", "a , b"]
    assert found.tolist() == np.float64(values).tolist()
    whole = path.read_text()
    for wrong in ("a line that is none\n", "x,nan\n" if task.has_own_files else "x , nan\n"):
        path.write_text(whole + wrong)
        with pytest.raises(ValueError, match=r"file\.csv is not a prediction file of "):
            read_predictions(path, task)


def test_differences(trained, compare, small_data):
    """Scores are those of metrics.json, and the interval is that of the question."""
    status, out, _ = compare("a", "b", "--json")
    assert status == 0
    found = json.loads(out)
    assert [one["task"] for one in found] == list(TASKS)
    first, second = (json.loads((trained / run / "metrics.json").read_text())["dev"]
                     for run in ("a", "b"))
    for one in found:
        task, metric = one["task"], one["metric"]
        scores = first[task][metric], second[task][metric]
        assert (one["reference"], one["run"]) == ("a", "b")
        assert (one["reference_score"], one["score"]) == scores
        assert one["difference"] == scores[1] - scores[0]

    examples = load_dataset(small_data)["sst"]["dev"]
    labels = np.array([example.label for example in examples])
    a, b = (np.loadtxt(trained / run / "predictions" / "sst-dev-output.csv", delimiter=",",
                       skiprows=1, usecols=1) for run in ("a", "b"))
    sst = found[0]
    assert sst["n"] == len(labels) == len(a)
    assert (sst["gained"], sst["lost"]) == (sum((b == labels) & (a != labels)),
                                            sum((a == labels) & (b != labels)))
    interval = paired_bootstrap(SST.measure, b, a, labels, 1000, 11711)
    assert (sst["low"], sst["high"]) == interval[:2]
    assert found[2]["gained"] is None


def test_runs_of_one_epoch():
    """The axis has that epoch, not its hundredths."""
    course = Course({}, {"sst": {1: 0.5}}, 1)
    [axes] = dev_plot({"a": course}, "sst", styles_of("a")).axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_table(compare):
    """The first run named is the reference.

    Each difference is a run's score minus the reference's.
    """
    status, out, _ = compare("a", "b", "single")
    assert status == 0
    lines = out.splitlines()
    assert lines[:3] == ["A: a  (concatB wrap pcgrad, seed 11711)",
                         "B: b  (concatB wrap+fl sum, seed 5)",
                         "C: single  (concatB wrap, seed 11711)"]
    rows = [line.split() for line in lines[5:9]]
    assert [row[:2] for row in rows] == [["sst", "B"], ["sst", "C"], ["para", "B"], ["sts", "B"]]
    turned = compare("b", "a")[1].splitlines()[6].split()
    assert turned[2:4] == rows[3][3:1:-1]
    assert turned[4] == rows[3][4].translate(str.maketrans("+−", "−+"))


def test_unequal_examples(compare):
    """A task with another dev set is left out, in one line; the others are compared."""
    status, out, err = compare("a", "other", "--json")
    assert status == 0
    assert [one["task"] for one in json.loads(out)] == ["para", "sts"]
    assert err == ("warning: sst is left out for other: its 40 dev examples are not the 40 of a "
                   "(other ids or labels)\n")
    status, _, err = compare("other", "single")
    assert (status, err.count("\n")) == (2, 1)
    assert "nothing can be compared: sst is left out for single" in err
    assert compare("a", "other", "--data", "data")[0] == 0  # the files' ids are the same


@pytest.mark.parametrize(("names", "message"), [
    ("a", "compare takes two runs or more"),
    ("a a", "compare takes 2 to 26 runs, each once"),
    ("a nowhere", "compare nowhere: no config.json there, so it is not a run"),
    ("a data", "compare data: no config.json there"),
    ("a film", "there is no task in common: a has sst, para, sts and film has cfimdb"),
    ("a begun", "the run is not finished; resume it with: python train_multitask.py --resume begun"),
    ("a b --data nowhere", "nowhere: there is no such folder"),
    ("a b --tasks sst", "--tasks sst describes other tasks than those of the run"),
])
def test_refusals(names, message, compare):
    status, out, err = compare(*names.split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_flags_of_compare(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    for words in (["a", "b"], ["a", "--tasks", "sst"]):
        assert runs.main(words) == 2
        assert "did you mean compare?" in capsys.readouterr().err
    assert runs.main(["--json", "a"]) == 0  # flags may come first
    assert [one["run"] for one in json.loads(capsys.readouterr().out)] == ["a"]


@pytest.mark.parametrize(("changes", "message"), [
    ({}, ""),
    ({"ids": ["2"]}, "sst is left out for b: its 1 dev examples are not the 1 of a"),
    ({"labels": np.array([3.0])}, "its 1 dev examples are not the 1 of a"),
    ({"predictions": None}, "b has no dev predictions of it"),
    ({"task": replace(SST, metric="f1")}, "a and b disagree on its metric"),
    ({"task": replace(SST, labels=SST.labels[::-1])}, "a and b disagree on its labels"),
])
def test_what_must_agree(changes, message):
    a = Answers("a", SST, ["1"], np.array([2.0]), np.array([2.0]))
    reason = why_not(a, replace(a, run="b", **changes))
    assert message in reason
    assert bool(message) == bool(reason)


def test_changed_data(trained, compare):
    path = shutil.copytree(trained / "a", trained / "cut") / "predictions" / "sst-dev-output.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    status, _, err = compare("b", "cut")
    assert status == 2
    assert "is of other examples than the run's data have now" in err


def test_page(compare, trained):
    """--out takes a file or a folder; the page has the table's numbers and a curve per task."""
    status, out, _ = compare("a", "b", "single", "--out", "pages")
    assert status == 0
    assert "page: pages/compare.html" in out
    page = (trained / "pages" / "compare.html").read_text()
    for text in ("A: a", "B: b", "C: single", *(f'id="{kind}-{task}"' for task in TASKS
                                                for kind in ("loss", "dev"))):
        assert text in page, text
    cells = out.splitlines()[5].split()
    assert f"<td>{cells[3]}</td><td>{cells[4]}</td>" in page
    assert compare("a", "b", "--out", "one.html")[0] == 0
    assert (trained / "one.html").is_file()


def test_curves_count_over_stages(tmp_path):
    """MultiNLI's stage is left out; final layers continue where surgery ended."""
    events = []
    for stage, task, steps in (("nli", "nli", 3), ("gs", "sst", 2), ("fl", "sst", 1)):
        for step in range(1, steps + 1):
            events.append({"event": "step", "stage": stage, "epoch": 1, "step": step,
                           "losses": {task: step / 10}})
        events.append({"event": "epoch", "stage": stage, "epoch": 1, "step": steps,
                       "dev": {task: {"accuracy": steps / 10}, "average": 0}})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (tmp_path / "metrics.json").write_text('{"best_epoch": 1}')
    course = course_of(tmp_path)
    assert course.losses == {"sst": {1: 0.1, 2: 0.2, 3: 0.1}}
    assert course.scores == {"sst": {1: 0.2, 2: 0.1}}
    assert course.kept == 2
