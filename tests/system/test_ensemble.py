"""Several runs as one: the mean of raw outputs, in prediction files, scores and a page."""

import json
import shutil
from pathlib import Path

import numpy as np
import programs
import pytest

from multitask import MultitaskBert, ensemble, predict
from multitask.data import load_dataset
from multitask.evaluation import read_predictions
from multitask.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")


def train(out, *flags):
    assert programs.run("--out", out, "--epochs", 1, "--batch-size", 8, "--eval-limit", 10,
                        "--lr", 1e-2, *flags) == 0
    return out


@pytest.fixture(scope="module")
def runs(small_data, tiny_checkpoint, tmp_path_factory):
    """Two architectures, two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    given = ("--data", small_data, "--model", tiny_checkpoint)
    return [train(folder / "a", *given, "--seed", 1),
            train(folder / "b", *given, "--seed", 2, "--arch", "concatA")]


@pytest.fixture(scope="module")
def together(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble")
    assert ensemble.main([*map(str, runs), "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("task", TASKS)
def test_predictions_by_hand(task, runs, together, small_data):
    """Each file holds the mean of the runs' raw outputs, decoded; of all examples, not a part."""
    examples = load_dataset(small_data)[task]["dev"]
    texts = [example.sentences for example in examples]
    logits = [MultitaskBert.from_pretrained(run).logits(task, texts) for run in runs]
    assert not np.allclose(logits[0], logits[1])

    ids, found = read_predictions(together / f"{task}-dev-output.csv", TASKS[task])
    assert ids == [example.id for example in examples]
    assert len(ids) > 10
    expected = TASKS[task].decode((logits[0] + logits[1]) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # float32, other batches
    assert (together / f"{task}-test-output.csv").is_file()


def test_scores(runs, together, small_data):
    """ensemble.json has the scores of the files, and those of each run."""
    found = json.loads((together / "ensemble.json").read_text())
    _, predictions = read_predictions(together / "sst-dev-output.csv", TASKS["sst"])
    labels = [example.label for example in load_dataset(small_data)["sst"]["dev"]]
    assert found["dev"]["sst"]["accuracy"] == np.mean(predictions == labels)
    assert list(found["runs"]) == list(map(str, runs))
    assert all(set(TASKS) < set(scores) for scores in found["runs"].values())


def test_an_ensemble_is_not_asked(together, capsys):
    assert predict.main([str(together), "--task", "sst", "a film"]) == 2
    assert "is an ensemble, without a model: name one of its runs" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "message"), [
    (["a"], "name at least two different runs"),
    (["a", "a"], "name at least two different runs"),
    (["a", "missing"], "missing: there is no such folder"),
    (["a", "b", "--out", "./a"], "--out a holds a finished run; name another folder"),
    (["a", "b", "--out", "c"], "--out c holds a model; name another folder"),
    (["a", "other"], "other has other tasks than a, or other labels: sst against para, sst, sts"),
])
@pytest.mark.usefixtures("empty_folder")
def test_refused(flags, message, runs, small_data, tiny_checkpoint, refused):
    shutil.copytree(runs[0], "a")
    shutil.copytree(runs[0] / "model", "c/model")
    if "other" in flags:
        train("other", "--data", small_data, "--model", tiny_checkpoint, "--tasks", "sst")
    assert message in refused(*flags, main=ensemble.main)


OWN = """
[mine]
kind = "classes"
text = "sentence"
label = "sentiment"
labels = ["0", "1", "2", "3", "4"]
train = "{}/ids-sst-train.csv"
dev_share = 0.25
"""


@pytest.mark.usefixtures("empty_folder")
def test_other_dev_examples(small_data, tiny_checkpoint, refused):
    """Runs that drew different dev examples may have trained on one another's."""
    share, file = "dev_share = 0.25", f'dev = "{small_data}/ids-sst-dev.csv"'
    for name, dev in (("own", share), ("half", "dev_share = 0.5"), ("file", file)):
        Path(f"{name}.toml").write_text(OWN.format(small_data).replace(share, dev))
    for seed, name in enumerate(("own", "half", "file")):
        train(name, "--tasks", f"{name}.toml", "--model", tiny_checkpoint, "--seed", seed)
    train("again", "--tasks", "own.toml", "--model", tiny_checkpoint, "--seed", 3)
    assert ensemble.main(["own", "again"]) == 0
    for name in ("half", "file"):
        said = refused("own", name, main=ensemble.main)
        assert f"{name} and own have different dev_share" in said
