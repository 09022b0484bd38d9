"""The course's files as they really are, scores, and the files of predictions."""

import numpy as np
import pytest

from multitask.data import Example, load_dataset
from multitask.data.sample import write_sample
from multitask.evaluation import prediction_file, write_predictions
from multitask.metrics import accuracy, average, overall, pearson
from multitask.tasks import PARA, SST, STS


def test_missing_files(tmp_path):
    write_sample(tmp_path)
    (tmp_path / "sts-test-student.csv").unlink()
    assert "test-student" not in load_dataset(tmp_path)["sts"]
    (tmp_path / "quora-dev.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"quora-dev\.csv is missing \(1 of 6"):
        load_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_dataset(tmp_path / "nowhere")


def test_the_real_files(course_data):
    with pytest.warns(UserWarning, match=r"quora-dev\.csv: left out 2 rows"):
        dataset = load_dataset(course_data)
    counts = {name: [len(splits[split]) for split in ("train", "dev", "test-student")]
              for name, splits in dataset.items()}
    assert counts["sst"] == [8544, 1101, 2210]
    assert counts["para"][1] == 20212
    assert counts["sts"] == [6040, 863, 1725]
    labels = np.array([example.label for example in dataset["sts"]["train"]])
    assert (labels % 1 != 0).mean() > 0.3


# --------------------------------------------------------------------------- scores and files


def test_scores_by_hand():
    assert accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 0])) == 0.75
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(1)
    x, y = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    dx, dy = x - x.mean(), y - y.mean()
    by_hand = (dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum())
    assert pearson(x, y) == pytest.approx(by_hand)
    scores = {"sst": ("accuracy", 0.5), "para": ("accuracy", 0.8), "sts": ("pearson", 0.2)}
    assert average(scores) == pytest.approx(0.5)
    assert overall(scores) == pytest.approx((0.5 + 0.8 + 0.6) / 3)  # the course's formula


def test_undefined_pearson():
    with pytest.warns(UserWarning, match="undefined"):
        assert pearson(np.ones(4), np.arange(4)) is None
    scores = {"sst": ("accuracy", 0.3), "para": ("accuracy", 0.6), "sts": ("pearson", None)}
    assert average(scores) == pytest.approx(0.3)
    assert overall(scores) == pytest.approx((0.3 + 0.6 + 0.5) / 3)


def test_prediction_files(tmp_path):
    examples = [Example("abc", (), None), Example("def", (), None)]
    for task, values, header, lines in (
        (SST, [3, 0], "id \t Predicted_Sentiment \n", "abc , 3 \ndef , 0 \n"),
        (PARA, [1.0, 0.0], "id \t Predicted_Is_Paraphrase \n", "abc , 1.0 \ndef , 0.0 \n"),
        (STS, [2.25, 5.0], "id \t Predicted_Similiary \n", "abc , 2.25 \ndef , 5 \n"),
    ):
        path = prediction_file(tmp_path, task, "dev")
        assert path.name == f"{task.name}-dev-output.csv"
        assert write_predictions(path, task, examples, np.array(values)) == path
        assert path.read_text() == header + lines
