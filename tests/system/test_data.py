"""The course's files as they really are, and what a user reads when one is not as it should be."""

import numpy as np
import pytest

from multitask.data import Example, load_dataset, read_examples
from multitask.data.sample import write_sample
from multitask.evaluation import prediction_file, write_predictions
from multitask.metrics import accuracy, average, overall, pearson
from multitask.tasks import PARA, SST, STS


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_columns_and_fractions(tmp_path):
    path = write(tmp_path / "sts-train.csv", "\tid\tsentence1\tsentence2\tsimilarity",
                 "7\tx1\tA dog.\tA cat.\t3.8", '8\tx2\t"He said ""no""."\tB\t0')
    examples = read_examples(path, STS)
    # an integer label here is a well-known mistake
    assert [example.label for example in examples] == [3.8, 0.0]
    assert examples[1].sentences == ('He said "no".', "B")
    path = write(tmp_path / "other.csv", "similarity\tsentence2\tid\tsentence1\tnote",
                 "1\tB\tx\tA\thello")
    assert read_examples(path, STS)[0].sentences == ("A", "B")


def test_windows_files(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfid\tsentence\tsentiment\r\nx\tgood\t4\r\n")
    assert read_examples(path, SST)[0].label == 4


def test_blank_labels(tmp_path):
    path = write(tmp_path / "q.csv", "id\tsentence1\tsentence2\tis_duplicate",
                 "1\ta\tb\t1.0", "2\ta\tb\t", "3\ta\tb\t ")
    with pytest.warns(UserWarning, match=r"q\.csv: left out 2 rows with a blank is_duplicate"):
        assert [example.id for example in read_examples(path, PARA)] == ["1"]


def test_test_files(tmp_path):
    path = write(tmp_path / "t.csv", "\t0\tid\tsentence", "1\t0.0\tx\tgood")
    assert read_examples(path, SST, labelled=False)[0].label is None


@pytest.mark.parametrize(("lines", "message"), [
    (["id\tsentence\tlabel", "x\tgood\t4"],
     r"line 1: no column 'sentiment'.*found 'id', 'sentence', 'label'"),
    (["id,sentence,sentiment", "x,good,7"], r"line 2: sentiment is '7'"),
    (["id\tsentence\tsentiment", "x\tgood\t4", "y\tbad\t5"],
     r"line 3: sentiment is '5', expected .*a whole number from 0 to 4"),
    (["id\tsentence\tsentiment", "x\tgood\tgood"], r"line 2: sentiment is 'good'"),
    (["id\tsentence\tsentiment", "x\tgood\tnan"], r"line 2: sentiment is 'nan'"),
    (["id\tsentence\tsentiment", "x\tgood\t2.5"], r"line 2: sentiment is '2\.5'"),
    (["id\tsentence\tsentiment", "x\tgood"], r"line 2: no field for column 'sentiment'"),
    (["id\tsentence\tsentiment", "x\tgood\t4\tmore"], "line 2: more fields"),
    (["id\tsentence\tsentiment"], "no usable rows"),
])
def test_unusable_files(tmp_path, lines, message):
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        read_examples(write(tmp_path / "bad.csv", *lines), SST)


def test_empty_and_not_text(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=r"empty\.csv is empty"):
        read_examples(tmp_path / "empty.csv", SST)
    (tmp_path / "latin.csv").write_bytes("id\tsentence\tsentiment\nx\tcafé\t4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv.*not UTF-8"):
        read_examples(tmp_path / "latin.csv", SST)


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
