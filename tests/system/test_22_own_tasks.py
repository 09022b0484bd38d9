"""Lesson 22: any task, one or many, from a file."""

import csv
import dataclasses
import io
import json
import shutil
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import other_encoder
import programs
import pytest
import scipy
import torch
import transformers
from programs import edit_json, run
from safetensors.torch import load_file
from sklearn import metrics as sklearn_metrics

from heads import ARCHITECTURES
from minbert import BertModel, BertTokenizer
from minbert.files import write_tensors
from multitask import MultitaskBert, export, hand_in, metrics, predict
from multitask.analysis import __main__ as analysis
from multitask.analysis.dev_set import DevPredictions
from multitask.data import load_dataset, read_examples
from multitask.data.examples import Example, Examples, draw_dev
from multitask.data.sampling import WRAP, RoundRobin
from multitask.evaluation import scores_of
from multitask.explanations import explained
from multitask.kinds import KINDS
from multitask.runs import __main__ as runs
from multitask.runs import run as main_job
from multitask.system.runlog import read_events
from multitask.task_file import choose_tasks, read_task_file
from multitask.tasks import CFIMDB, PARA, SST, STS, Task
from multitask.training.step import SurgeryTrainer
from optim import SURGERY

pytestmark = pytest.mark.usefixtures("empty_folder")

SCRATCH = ("--model", "scratch", "--epochs", 1, "--batch-size", 8)
WORDS = ["dull", "fine", "great"]


def make_file(path: Path, kind: str, pairs: bool = False, count: int = 48, start: int = 0) -> None:
    """Synthetic examples of one kind, in the format of the file's ending."""
    rows = []
    for number in range(start, start + count):
        label = {"classes": WORDS[number % 3], "yes_no": ["no", "yes"][number % 2],
                 "scale": 1 + number % 5}[kind]
        row = {"key": f"k{number}", "first": f'a "{WORDS[number % 3]}", film {number}'}
        if pairs:
            row["second"] = f"film; number {number % 5}"
        rows.append({**row, "verdict": label})

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def table(name: str, kind: str, train: str, pairs: bool = False, **more: object) -> str:
    """One table of a task file."""
    values: dict = {"kind": kind, "text": ["first", "second"][:1 + pairs], "label": "verdict",
                    "train": train, "dev_share": 0.25}
    if kind == "classes":
        values["labels"] = WORDS
    if kind == "scale":
        values["range"] = [1, 5]
    values |= more
    if "dev" in more:
        del values["dev_share"]
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n"
                                   for key, value in values.items())


@pytest.fixture
def reviews() -> Path:
    return write_reviews()


def write_reviews() -> Path:
    """reviews.toml: three classes from a CSV, with files for all splits."""
    for split, count, start in (("train", 48, 0), ("dev", 15, 48), ("test", 6, 70)):
        make_file(Path(f"reviews-{split}.csv"), "classes", count=count, start=start)
    Path("reviews.toml").write_text(table(
        "reviews", "classes", "reviews-train.csv", dev="reviews-dev.csv", test="reviews-test.csv",
        id="key", title="<i>reviews</i>"))
    return Path("reviews.toml")


# ---------------------------------------------------------------------------------- the task file


def test_relative_to_the_file(reviews, tmp_path):
    shutil.copytree(tmp_path, "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    [task] = read_task_file(Path("elsewhere/reviews.toml"))
    assert task.train == str(tmp_path / "elsewhere" / "reviews-train.csv")
    assert (task.kind, task.labels, task.text, task.metric) == (
        "classes", tuple(WORDS), ("first",), "accuracy")
    assert [each.name for each in choose_tasks("sst,reviews.toml,cfimdb")] == [
        "sst", "reviews", "cfimdb"]


@pytest.mark.parametrize(("text", "message"), [
    ("", "describes no task"),
    ("# C:\\x\n[reviews\n", "not a TOML file.*line 2.*are strings quoted"),
    ('[reviews]\ntrain = "C:\\Users\\x.csv"\n', "not a TOML file.*put paths in single quotes"),
    ('[reviews]\nkind = "scale"\ntext = "x"\nlabel = "y"\ntrain = "C:\\new.csv"\n',
     r"train is 'C:\\new.csv'; a backslash in double quotes begins an escape"),
    ('kind = "classes"', "kind is outside a table"),
    (table("reviews", "class", "x.csv"),
     r"\[reviews\]: kind is 'class'; choose from classes, yes_no, scale, or name .* --import .* "
     r"in Python, import"),
    (table("reviews", "classes", "x.csv", lables=["a"]), "unknown key lables; is labels meant"),
    (table("reviews", "classes", "x.csv", prediction_column="a"), "unknown key prediction_column"),
    (table("reviews", "classes", "x.csv", labels=["a"]), "expected two names or more"),
    (table("reviews", "classes", "x.csv", labels=["a", "a"]), "names that differ"),
    (table("reviews", "yes_no", "x.csv", labels=["a", "b", "c"]), "the words for no and for yes"),
    (table("reviews", "scale", "x.csv", range=[5, 1]), "the lower first"),
    (table("reviews", "scale", "x.csv", metric="accuracy"), "choose from pearson, spearman"),
    (table("reviews", "classes", "x.csv", weight=0), "weight is 0"),
    (table("reviews", "classes", "x.csv", text=["a", "b", "c"]), "expected the name of one column"),
    (table("reviews", "classes", "x.csv", label=3), "label is 3; expected a text in quotes"),
    (table("reviews", "classes", "x.csv", dev_share=1.5), "a share between 0 and 1"),
    (table("reviews", "classes", "x.csv", dev="dev.csv") + "dev_share = 0.1", "not both"),
    ('[reviews]\nkind = "classes"\n', "text is missing; required are kind, text, label and train"),
    (table("sst", "classes", "x.csv"), "the name of a built-in task"),
    (table("average", "classes", "x.csv"), "choose another"),
    (table("keys", "classes", "x.csv"), "choose another"),
    (table("my-task", "classes", "x.csv"), "expected letters, digits and _"),
])
def test_unusable_task_files(text, message):
    Path("my.toml").write_text(text)
    with pytest.raises(ValueError, match=f"my.toml.*{message}"):
        read_task_file(Path("my.toml"))


def test_unusable_lists():
    Path("my.toml").write_text(table("Topic", "yes_no", "x") + table("topic", "yes_no", "x"))
    for text, message in (("sst,nothing", "choose from sst, para, sts, cfimdb"),
                          ("sst,sst", "two tasks are called sst"),
                          ("my.toml", "two tasks are called Topic"), (",", "names no task"),
                          ("nowhere.toml", "there is no such file")):
        with pytest.raises((ValueError, OSError), match=message):
            choose_tasks(text)


# ------------------------------------------------------------------------------------- its files


FORMS = {
    "comma.csv": 'review,verdict\n"Good, ""really""",great\n"two\nlines",dull\n,fine\n',
    "semicolon.csv": 'review;verdict\n"Good, ""really""";great\n"two\nlines";dull\n;fine\n',
    "tab.txt": 'review\tverdict\n"Good, ""really"""\tgreat\n"two\nlines"\tdull\n\tfine\n',
    "numbers.csv": 'review,verdict\n"Good, ""really""",2\n"two\nlines",0.0\n,1\n',
    "lines.jsonl": '{"review": "Good, \\"really\\"", "verdict": "great"}\n\n'
                   '{"review": "two\\nlines", "verdict": 0, "more": [1]}\n'
                   '{"review": "", "verdict": 1.0}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_one_content_many_forms(name):
    Path(name).write_bytes(FORMS[name].encode())
    task = Task("reviews", "classes", ("review",), "verdict", name, labels=WORDS, dev_share=0.5)
    found = [(example.id, example.sentences, example.label)
             for example in read_examples(name, task)]
    assert found == [("1", ('Good, "really"',), 2.0), ("2", ("two\nlines",), 0.0), ("3", ("",), 1)]


def test_booleans_of_json():
    """true is the label of that name, or yes; it says nothing about two other names."""
    Path("b.jsonl").write_text('{"x": "a", "y": true}\n{"x": "b", "y": false}\n')

    def labels(kind: str, *names: str) -> list[float]:
        task = Task("t", kind, ("x",), "y", "b.jsonl", labels=names, dev_share=0.5)
        return [example.label for example in read_examples("b.jsonl", task)]

    assert labels("classes", "true", "false") == [0, 1]
    assert labels("yes_no") == labels("classes", "0", "1") == labels("yes_no", "bad", "good") == [
        1, 0]
    for names, message in ((("True", "False"), "expected True"), (("real", "fake"), "one of real")):
        with pytest.raises(ValueError, match=message):
            labels("classes", *names)


def test_paths_of_another_system():
    for train in (r"C:\data\r.csv", "/data/r.csv"):
        assert Task("t", "scale", ("x",), "y", train, dev_share=0.5).has_own_files
    assert not STS.has_own_files


def test_a_kind_like_yes_no(monkeypatch):
    """It needs labels, and its own probabilities are explained."""
    monkeypatch.setitem(KINDS, "warm", dataclasses.replace(
        KINDS["yes_no"], probabilities=lambda logits: KINDS["yes_no"].probabilities(logits / 2)))
    with pytest.raises(ValueError, match="expected two names or more"):
        Task("t", "warm", ("x",), "y", "f", dev_share=0.5)
    task = Task("t", "warm", ("x",), "y", "f", labels=("no", "yes"), dev_share=0.5)
    logits = torch.tensor([[3.0]])
    assert explained(task, logits, 0).exp().item() == pytest.approx(
        task.probabilities(logits)[0, 0].item())


@pytest.mark.filterwarnings("ignore:.*left out 1 row")
@pytest.mark.parametrize(("content", "message"), [
    ("review,verdict\ngood,great\nbad,awful\n",
     "line 3: verdict is 'awful', expected one of dull, fine, great, or a whole number from 0 to 2"),
    ("review,verdict\ngood,3\n", "line 2: verdict is '3'"),
    ("review,judgement\ngood,great\n", "no column 'verdict'.*found 'review', 'judgement'"),
    ("review,verdict\ngood,\n", "no usable rows"),
    ("review,verdict\ngood,Great\n", "expected great; labels are case-sensitive"),
])
def test_unusable_examples(content, message):
    Path("bad.csv").write_text(content)
    task = Task("reviews", "classes", ("review",), "verdict", "bad.csv", labels=WORDS,
                dev_share=0.5)
    with pytest.raises(ValueError, match=f"bad.csv.*{message}"):
        read_examples("bad.csv", task)


def test_blank_and_repeated(tmp_path):
    Path("odd.csv").write_text("key,review,verdict\na,x,dull\nb,y, \na,z,dull\na,z,dull\n")
    task = Task("reviews", "classes", ("review",), "verdict", str(tmp_path / "odd.csv"),
                labels=WORDS, dev="odd.csv", id="key")
    with pytest.warns(UserWarning, match="odd.csv") as caught:
        dataset = load_dataset(None, [task])
    said = "\n".join(str(warning.message) for warning in caught)
    assert "left out 1 row with a blank verdict" in said
    assert "1 id more than once, among them 'a' in lines 2 and 4; all rows are kept" in said
    assert "no training example of reviews has the label 'fine', 'great'" in said
    assert [example.sentences[0] for example in dataset["reviews"]["train"]] == ["x", "z", "z"]


def test_dev_share(tmp_path):
    task = Task("reviews", "classes", ("first",), "verdict", str(tmp_path / "all.csv"),
                labels=WORDS, dev_share=0.25)
    make_file(Path("all.csv"), "classes", count=400)
    before = load_dataset(None, [task])["reviews"]
    assert len(before["train"]) + len(before["dev"]) == 400
    assert 80 < len(before["dev"]) < 120
    for split in before.values():
        assert [int(example.id) for example in split] == sorted(int(each.id) for each in split)

    # sorted otherwise, with copies and new texts: each stays on its side
    header, *rows = Path("all.csv").read_text().splitlines()
    more = [row.replace("film", "book") for row in rows]
    Path("all.csv").write_text("\n".join([header, *rows[::-1], *rows, *more]) + "\n")
    after = load_dataset(None, [task])["reviews"]
    for split, other in (("train", "dev"), ("dev", "train")):
        texts = {example.sentences for example in before[split]}
        assert texts <= {example.sentences for example in after[split]}
        assert not texts & {example.sentences for example in after[other]}
    examples = Examples(Example(str(number), (f"text {number}",), 0.0) for number in range(2))
    task = dataclasses.replace(task, dev_share=1e-9)  # a small file has a dev example, too
    assert [len(split) for split in draw_dev(examples, task)] == [1, 1]
    with pytest.raises(ValueError, match="1 examples leaves none for training"):
        draw_dev(Examples(examples[:1]), task)


def test_names_that_are_numbers():
    """Ratings 1, 2, 3 are names: 0 is none of them, and 1.0 is the first."""
    task = Task("stars", "classes", ("x",), "y", "f", labels=("1", "2", "3"), dev_share=0.5)
    assert [task.parse_label(text) for text in ("1", "2.0", "3")] == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"expected one of 1, 2, 3$"):
        task.parse_label("0")


@pytest.mark.parametrize(("text", "hint"), [
    ("7", ""), ("5.5", ""), ("1,2,3", ""), ("2,5", "; write a decimal point"),
    ("0,0", "; write a decimal point")])
def test_labels_off_the_scale(text, hint):
    with pytest.raises(ValueError, match=f"^expected a number from 0 to 5{hint}$"):
        STS.parse_label(text)


# -------------------------------------------------------------------------------- losses, metrics


def test_scale_is_mapped_to_points():
    """A head answers in STS's 0 to 5, whatever the range: equal losses, answers in the range."""
    wide = Task("wide", "scale", ("x",), "y", "f", range=(-100, 300), dev_share=0.5)
    logits, labels = torch.randn(9, 1), torch.rand(9) * 5
    torch.testing.assert_close(wide.loss(logits, labels * 80 - 100), STS.loss(logits, labels))
    torch.testing.assert_close(wide.decode(logits * 3), STS.decode(logits * 3) * 80 - 100)
    # STS itself is untouched, to the bit
    assert STS.loss(logits, labels) == ((logits[:, 0] - labels)**2).mean()
    assert torch.equal(STS.decode(logits), logits[:, 0].clamp(0, 5))


def test_weight_multiplies_the_loss():
    heavy = Task("heavy", "yes_no", ("x",), "y", "f", weight=3, dev_share=0.5)
    logits, labels = torch.randn(5, 1), torch.tensor([0, 1, 1, 0, 1.0])
    assert heavy.loss(logits, labels) == 3 * PARA.loss(logits, labels)


def test_f1_and_spearman_against_sklearn():
    random = np.random.default_rng(0)
    found, labels = random.integers(0, 4, 50), random.integers(0, 3, 50)
    assert metrics.macro_f1(found, labels) == pytest.approx(
        sklearn_metrics.f1_score(labels, found, average="macro"))
    assert metrics.f1(found > 1, labels > 1) == pytest.approx(
        sklearn_metrics.f1_score(labels > 1, found > 1))
    assert metrics.spearman(found, labels) == pytest.approx(
        scipy.stats.spearmanr(found, labels).statistic)
    with pytest.warns(UserWarning, match="undefined"):
        assert metrics.f1(np.zeros(3), np.zeros(3)) is None


@pytest.mark.parametrize(("value", "score"), [
    (np.float32(0.5), 0.5), (np.nan, None), (-np.inf, None), (None, None)])
def test_own_metric(value, score, monkeypatch):
    """Whatever type it returns, JSON holds it; what is not finite counts as undefined."""
    own = dataclasses.replace(KINDS["scale"], metrics={"own": lambda *_: value})
    monkeypatch.setitem(KINDS, "own", own)
    task = Task("mine", "own", ("x",), "y", "f", dev_share=0.5)
    ones = np.ones(2)
    assert DevPredictions(task, ones, ones, None, ones, ones).score() == score
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = scores_of({"mine": task}, {"mine": ones}, {"mine": ones})
    assert json.loads(json.dumps(scores, allow_nan=False)) == {
        "mine": {"own": score}, "average": score or 0.0}
    assert [str(warning.message) for warning in caught] == (
        [] if score or value is None else [f"the own of mine is {value}; it counts as 0"])


# -------------------------------------------------------------------------------------- one task


@pytest.fixture(scope="module")
def trained_reviews(tmp_path_factory) -> tuple[Path, str]:
    """A folder with reviews.toml, its files and a run on them; what the run printed."""
    folder, printed = tmp_path_factory.mktemp("reviews"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.chdir(folder)
        task_file = write_reviews()
        assert run("--tasks", task_file, "--mode", "full", *SCRATCH, "--out", "one") == 0
    return folder, printed.getvalue()


@pytest.fixture
def one_task(trained_reviews) -> Path:
    shutil.copytree(trained_reviews[0], ".", dirs_exist_ok=True)
    return Path("one")


def test_one_task(one_task, trained_reviews):
    assert "one task, so gradient surgery is off" in trained_reviews[1]
    dev = json.loads((one_task / "metrics.json").read_text())
    assert "surgery" not in dev
    assert list(dev["dev"]) == ["reviews", "average"]
    assert dev["examples"] == {"reviews": {"train": 48, "dev": 15, "test-student": 6}}
    page = (one_task / "report.html").read_text()
    assert "&lt;i&gt;reviews&lt;/i&gt;, accuracy" in page
    for absent in ("the paper: gets", "overall", "Gradient conflicts", "average: mean"):
        assert absent not in page

    files = sorted(path.name for path in (one_task / "predictions").iterdir())
    assert files == ["reviews-dev-output.csv", "reviews-test-output.csv"]
    lines = (one_task / "predictions" / files[1]).read_text().splitlines()
    assert lines[0] == "id,prediction"
    assert [line.split(",")[0] for line in lines[1:]] == [f"k{number}" for number in range(70, 76)]
    assert {line.split(",")[1] for line in lines[1:]} <= set(WORDS)


def test_a_run_describes_itself(one_task, tmp_path):
    """The folder alone, without the task file: all that a command needs."""
    shutil.move(one_task, tmp_path / "moved")
    Path("reviews.toml").unlink()
    about = json.loads(Path("moved/model/tasks.json").read_text())
    assert about["arch"] == "concatB"
    assert about["tasks"][0]["labels"] == WORDS
    model = MultitaskBert.from_pretrained("moved")
    labels, probabilities = model.predict("reviews", ["a dull film", "a great film"])
    assert set(labels) <= set(WORDS)
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert [WORDS[number] for number in probabilities.argmax(1)] == labels.tolist()
    assert analysis.main(["moved"]) == 0
    found = json.loads(Path("moved/analysis.json").read_text())["tasks"]["reviews"]
    dev = json.loads(Path("moved/metrics.json").read_text())["dev"]["reviews"]
    assert found["score"] == pytest.approx(dev["accuracy"], abs=1e-5)
    assert hand_in.main(["moved", "--out", "files"]) == 0
    for path in Path("files").iterdir():
        assert path.read_bytes() == (Path("moved/predictions") / path.name).read_bytes()


def test_a_model_folder_alone(trained, small_data, refused):
    """Without the run's config.json, --data says where the examples are."""
    shutil.copytree(trained / "model", "given/model")
    assert hand_in.main(["given", "--data", str(small_data), "--out", "files"]) == 0
    for path in Path("files").iterdir():
        assert path.read_bytes() == (trained / "predictions" / path.name).read_bytes()
    assert "name them with --data" in refused("given", "--out", "files", main=hand_in.main)


def test_data_beside_own_files(one_task, refused, capsys):
    """Nothing is read from --data, and the advice is --tasks."""
    for main, words in ((hand_in.main, ["one"]), (analysis.main, ["one"]),
                        (runs.main, ["compare", "one", "one/../one"]),
                        (export.main, ["one", "to"])):
        assert "--data .: no task reads from it" in refused(*words, "--data", ".", main=main)
    assert "no task reads from it" in refused("--tasks", "reviews.toml", "--data", ".", *SCRATCH)
    # the sample's MultiNLI is not taken in its place
    assert "--nli: the tasks' own files hold no MultiNLI" in refused(
        "--tasks", "reviews.toml", *SCRATCH, "--nli")

    # what an earlier version recorded is not read either
    edit_json(Path("one/config.json"), lambda config: config.update(data="/nowhere"))
    assert hand_in.main(["one", "--out", "files"]) == 0
    assert "one on the tasks' own files: dev" in capsys.readouterr().out

    Path("reviews-dev.csv").write_text("\n".join(
        Path("reviews-dev.csv").read_text().splitlines()[:-1]) + "\n")
    shutil.copytree("one", "two")
    for main, words in ((analysis.main, ["one"]), (runs.main, ["compare", "one", "two"])):
        assert "with --tasks\n" in refused(*words, "--tasks", "reviews.toml", main=main)


def test_a_model_folder_of_own_files(one_task, refused, capsys):
    shutil.copytree("one/model", "given/model")
    assert hand_in.main(["given", "--out", "files"]) == 0
    assert "given on the tasks' own files: dev" in capsys.readouterr().out
    assert "one/model holds only the model of a run: name the run's folder, one" in (
        refused("one/model", main=hand_in.main))


def test_tasks_named_again(one_task, refused):
    """A test file may be new; a key that differs is named."""
    text = Path("reviews.toml").read_text()
    shutil.copy("reviews-test.csv", "new.csv")
    Path("reviews.toml").write_text(text.replace("reviews-test.csv", "new.csv"))
    edit_json(Path("one/config.json"), lambda config: config["tasks"][0].update(
        test="", prediction_column="mine"))
    words = ["one", "--tasks", "reviews.toml", "--out", "files"]
    assert hand_in.main(words) == 0
    assert Path("files/reviews-test-output.csv").is_file()

    Path("reviews.toml").write_text(text.replace('"dull", "fine"', '"fine", "dull"'))
    assert refused(*words, main=hand_in.main).endswith(
        "labels of reviews is ('fine', 'dull', 'great'), but it was ('dull', 'fine', 'great') when "
        "the run was trained\n")


def test_drawn_dev_examples(refused, no_report):
    """A model folder has the run's own, whatever the seed; those of an earlier minbert are lost."""
    make_file(Path("all.csv"), "classes", count=40)
    Path("all.toml").write_text(table("reviews", "classes", "all.csv", dev_share=0.25))
    run(*SCRATCH, "--tasks", "all.toml", "--max-steps", 1, "--seed", 7, "--out", "drawn")
    shutil.copytree("drawn/model", "given/model")
    assert hand_in.main(["given", "--out", "files"]) == 0
    name = "reviews-dev-output.csv"
    assert Path("files", name).read_text() == Path("drawn/predictions", name).read_text()

    # without the key, as an earlier minbert left it, a run is not scored; it predicts as ever
    edit_json(Path("drawn/metrics.json"), lambda metrics: metrics.pop("dev_share_by"))
    for said in (refused("drawn", "--out", "files", main=hand_in.main),
                 refused("--start", "drawn")):
        assert said.endswith(
            "dev examples of reviews: today's were trained on in part; train it again\n")
    assert predict.main(["drawn", "a film"]) == 0


def test_same_as_a_program(one_task):
    """The run's losses are those of a loop over MultitaskBert with a Task made by hand."""
    logged = [step["losses"]["reviews"] for step in read_events(one_task, "step")]

    rows = list(csv.DictReader(Path("reviews-train.csv").read_text().splitlines()))
    task = Task("mine", "classes", ("first",), "verdict", "-", labels=WORDS, dev_share=0.5)
    encoder = BertModel.from_pretrained("one/model")
    torch.manual_seed(11711)
    tokenizer = BertTokenizer.from_pretrained("one/model")
    model = MultitaskBert(BertModel(encoder.config), tokenizer, "concatB", tasks=[task])
    trainer = SurgeryTrainer(model, "sum", lr=5e-4, seed=11711)
    tokens = model.tokenize(model.examples_of("mine", [row["first"] for row in rows]))
    tokens.labels[:] = [WORDS.index(row["verdict"]) for row in rows]
    torch.manual_seed(11711)
    sampler = RoundRobin({"mine": len(rows)}, {"mine": 8}, WRAP, 11711)
    sampler.start_epoch()
    model.train()
    found = [trainer.step({"mine": tokens.batch(sampler.next_step()["mine"])}).losses["mine"]
             for _ in logged]
    assert found == pytest.approx(logged, rel=1e-6)


def test_resume(reviews, interrupted, refused, no_report):
    """The task file may be gone and its files elsewhere; other tasks are refused."""
    assert run("--tasks", reviews, *SCRATCH, "--epochs", 2, "--out", "whole") == 0

    with interrupted(SurgeryTrainer, 9):
        assert run("--tasks", reviews, *SCRATCH, "--epochs", 2, "--out", "stopped") == 130

    Path("elsewhere").mkdir()
    for path in (*Path().glob("reviews-*.csv"), reviews):
        path.rename(Path("elsewhere") / path.name)
    assert "reviews-train.csv is missing" in refused("--resume", "stopped")
    assert "describes other tasks than those of the run, which are reviews" in refused(
        "--resume", "stopped", "--tasks", "sst")
    assert "--data" in refused("--resume", "stopped", "--data", "elsewhere")
    assert run("--resume", "stopped", "--tasks", "elsewhere/reviews.toml") == 0
    for name in ("model/heads.safetensors", "model/model.safetensors"):
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes()


# -------------------------------------------------------------------------------- several, of all


@pytest.mark.filterwarnings("always:--start .*the heads of sst are new")
def test_one_of_each_kind(capsys):
    """A pair task in JSON lines, a scale in tabs, classes in commas; one is the course's."""
    make_file(Path("c.csv"), "classes")
    make_file(Path("y.jsonl"), "yes_no", pairs=True)
    make_file(Path("s.tsv"), "scale")
    Path("my.toml").write_text(table("films", "classes", "c.csv", metric="f1")
                               + table("same", "yes_no", "y.jsonl", pairs=True)
                               + table("stars", "scale", "s.tsv", metric="spearman"))
    assert run("--tasks", "my.toml", *SCRATCH, "--gs", "bd", "--batch-sizes",
               "films=4,same=4,stars=4", "--fl", "--out", "three") == 0
    metrics_ = json.loads(Path("three/metrics.json").read_text())
    assert [list(metrics_["dev"][name]) for name in ("films", "same", "stars")] == [
        ["f1"], ["accuracy"], ["spearman"]]
    assert set(metrics_["surgery"]["conflict_rate"]) == {"films-same", "films-stars", "same-stars"}
    assert "the paper: gets" not in Path("three/report.html").read_text()
    assert "overall" not in metrics_["dev"]

    capsys.readouterr()
    assert predict.main(["three", "--task", "same", "one film", "another film"]) == 0
    number, name, probability = capsys.readouterr().out.split()
    assert (number, name) in (("0", "no"), ("1", "yes"))
    assert .5 <= float(probability) <= 1
    assert predict.main(["three", "--task", "stars", "a film"]) == 0
    assert 1 <= float(capsys.readouterr().out) <= 5

    # from that run: the trained head of one task, a fresh one of another
    assert run("--start", "three", "--tasks", "my.toml,sst", "--mode", "last-layer", "--max-steps",
               1, "--out", "four") == 0
    said = capsys.readouterr()
    assert "three: the heads of sst are new, since that run has no such task" in said.err
    assert "its encoder, and its heads for the same tasks" in said.out
    assert list(MultitaskBert.from_pretrained("four").tasks) == ["films", "same", "stars", "sst"]


def test_an_earlier_run(trained, no_report):
    """Before tasks.json, heads.safetensors told the architecture, and the tasks were the paper's."""
    shutil.copytree(trained, "run")
    before = MultitaskBert.from_pretrained("run").predict_sentiment(["a film", "no"])
    Path("run/model/tasks.json").unlink()
    heads = load_file("run/model/heads.safetensors")
    write_tensors(Path("run/model/heads.safetensors"), heads,
                  {"multitask": json.dumps({"arch": "concatB", "precision": "fp32"})})
    edit_json(Path("run/config.json"),
              lambda config: [config.pop(name) for name in ("tasks", "max_length")])
    model = MultitaskBert.from_pretrained("run")
    assert list(model.tasks) == ["sst", "para", "sts"]
    assert model.predict_sentiment(["a film", "no"]).tolist() == before.tolist()
    assert analysis.main(["run"]) == 0
    assert run("--start", "run", "--gs", "none", "--fl", "--max-steps", 1, "--out", "next") == 0


def test_built_in_tasks_alone(brief_run, refused):
    brief_run(Path("two"), "--tasks", "sts,sst", "--max-steps", 2)
    dev = json.loads(Path("two/metrics.json").read_text())["dev"]
    assert list(dev) == ["sts", "sst", "average"]
    assert "the embedded sample has sst, para, sts, but not cfimdb" in refused(
        "--tasks", "cfimdb", *SCRATCH)
    assert "--batch-sizes: give a size of 1 or more for each of sst, para" in refused(
        "--tasks", "sst,para", "--gs", "bd", "--batch-sizes", "sst=1,sts=1")
    with pytest.raises(ValueError, match="no task 'para'; its tasks are sts, sst"):
        MultitaskBert.from_pretrained("two").predict_paraphrase([("a", "b")])


# ----------------------------------------------------------------------------------------- --mode


def test_start_with_other_dev_examples():
    """A warning if the first run was trained on some, for tasks that both runs have."""
    for name, task, share in (("quarter", "reviews", 0.25), ("half", "reviews", 0.5),
                              ("more", "films", 0.25)):
        Path(f"{name}.toml").write_text(table(task, "classes", "all.csv", dev_share=share))
    Path("first").mkdir()
    programs.settings("--tasks", "quarter.toml").save(Path("first/config.json"))
    Path("first/metrics.json").write_text('{"dev_share_by": "text"}')  # it is finished
    with pytest.warns(UserWarning, match="reviews: dev_share is larger than in the run that"):
        programs.settings("--start", "first", "--tasks", "half.toml")
    # without a warning, which would be an error here
    programs.settings("--start", "first", "--seed", 8)
    programs.settings("--start", "first", "--tasks", "more.toml")


def test_modes(one_task, refused, no_report):
    assert run("--tasks", "reviews.toml", "--mode", "last-layer", *SCRATCH, "--max-steps", 1,
               "--out", "last-layer") == 0
    for folder, stage in ((one_task, "gs"), (Path("last-layer"), "fl")):
        assert list(json.loads((folder / "metrics.json").read_text())["stages"]) == [stage]
    for flags in (("--fl",), ("--gs", "wrap"), ("--nli",)):
        assert "not both" in refused("--mode", "full", *flags)
    assert "--surgery is for --gs" in refused("--mode", "last-layer", "--surgery", "sum")
    before, after = (BertModel.from_pretrained(folder / "model").state_dict()
                     for folder in (one_task, Path("last-layer")))
    assert not torch.equal(before["pooler_dense.weight"], after["pooler_dense.weight"])


def test_part_1_of_the_course(small_data, refused, capsys, no_report):
    Path("data").symlink_to(small_data)
    runs = []
    for mode in ("full", "last-layer"):
        for task in ("sst", "cfimdb"):
            runs.append(f"{task}-{mode}")
            assert run("--tasks", task, "--mode", mode, *SCRATCH, "--max-steps", 1, "--out",
                       runs[-1]) == 0

    assert str(small_data) in capsys.readouterr().out
    assert hand_in.main(["--course", "part1", runs[0], "--out", "files"]) == 0
    missing = capsys.readouterr().out
    assert "still missing: last-linear-layer-sst-dev-out.csv" in missing
    data = Path("data").resolve()
    for flags in ("--tasks sst --mode last-layer --lr 1e-3", "--tasks cfimdb --mode full"):
        assert f"train_multitask.py --data {data} {flags}\n" in missing
    assert hand_in.main(["--course", "part1", *runs, "--out", "files"]) == 0
    assert "missing" not in capsys.readouterr().out
    expected = {f"{mode}-{task}-{split}-out.csv" for mode in ("full-model", "last-linear-layer")
                for task in ("sst", "cfimdb") for split in ("dev", "test")}
    assert {path.name for path in Path("files").iterdir()} == expected
    first = Path("files/full-model-cfimdb-dev-out.csv").read_text().splitlines()
    assert first[0] == "id \t Predicted_Sentiment "
    assert {line.split(" , ")[1].strip() for line in first[1:]} <= {"0", "1"}
    assert refused(*runs, "--out", "files", main=hand_in.main)

    shutil.copytree(f"{runs[0]}/model", "alone/model")
    assert "--course part1 alone: no config.json there" in refused(
        "--course", "part1", "alone", "--data", "data", "--out", "files", main=hand_in.main)
    assert run("--tasks", "sst,cfimdb,sts", "--surgery", "constant:weights=1+1+1", *SCRATCH,
               "--max-steps", 1, "--out", "three") == 0
    assert hand_in.main(["--course", "part1", "three", "--out", "files"]) == 0


# ---------------------------------------------------------------------------------------- predict


def ask(*arguments: object, stdin: bytes = b"") -> int:
    """The exit status of the command, with these bytes on the standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return predict.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_rows_in_rows_out(one_task, ending):
    Path("in.csv").write_text('note,first\n"a, b","a ""great"" film"\n,\nx,dull\n')
    assert ask(one_task, "--input", "in.csv", "--output", f"out.{ending}") == 0
    with open(f"out.{ending}", newline="") as file:
        rows = ([json.loads(line) for line in file] if ending == "jsonl" else
                list(csv.DictReader(file, delimiter=",\t"[ending == "tsv"])))
    assert [(row["note"], row["first"]) for row in rows] == [
        ("a, b", 'a "great" film'), ("", ""), ("x", "dull")]
    model = MultitaskBert.from_pretrained(one_task)
    labels, probabilities = model.predict("reviews", ['a "great" film', "", "dull"])
    assert [row["prediction"] for row in rows] == labels.tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], probabilities.max(1),
                               atol=6e-5)

    # half a character in another column is no reason to lose the answers
    Path("half.jsonl").write_text('{"first": "x", "note": "\\ud83d"}\n')
    assert ask(one_task, "--input", "half.jsonl", "--output", f"half-out.{ending}") == 0
    assert r"\ud83d" in Path(f"half-out.{ending}").read_text()

    # the same through a pipe
    assert ask(one_task, "--input", "-", "--output", f"piped.{ending}",
               stdin=Path("in.csv").read_bytes()) == 0
    assert Path(f"piped.{ending}").read_bytes() == Path(f"out.{ending}").read_bytes()


@pytest.mark.parametrize(("lines", "output", "message"), [
    ('{"first": "a"}\n{"first": "b"}\n{"first": "c", "more": 1}\n', "out.csv",
     "input, line 3: the first row has no 'more', and a table written from a pipe"),
    ('{"first": "a"}\n{"first": "b"}\n{"none": "c"}\n', "out.jsonl", "input, line 3: expected"),
    ('{"first": "a"}\n{"first": "b"}\n{"none": "c"}\n', "", "input, line 3: expected")])
def test_a_pipe_keeps_its_answers(lines, output, message, one_task, capsys):
    """A row that cannot be used comes late; those before it are answered."""
    flags = ["--output", output] if output else []
    capsys.readouterr()
    assert ask(one_task, "--input", "-", *flags, stdin=lines.encode()) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.endswith("; answered before it: 2 rows\n")
    written = Path(output).read_text() if output else said.out
    assert len(written.splitlines()) == (3 if output == "out.csv" else 2)


def test_no_rows(one_task):
    for number, header in enumerate(("note,first,x\n", "first;x\n")):
        Path("in.csv").write_text(header)
        assert ask(one_task, "--input", "in.csv", "--output", f"{number}.csv") == 0
        assert Path(f"{number}.csv").read_text() == (
            header.strip().replace(";", ",") + ",prediction,probability\n")


@pytest.mark.parametrize("source", ["in.csv", "-"])
def test_without_text(source, one_task, capsys):
    Path("in.csv").write_text('first,x\na great film,1\n"",2\n  ,3\n')
    assert ask(one_task, "--input", source, stdin=Path("in.csv").read_bytes()) == 0
    place = source.replace("-", "standard input")
    assert (f"warning: 2 inputs without text, the first in {place}, line 3; such an answer means "
            "nothing\n") in capsys.readouterr().err
    assert ask(one_task, " ") == 0
    assert "warning: 1 input without text; such" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["in.csv", "-"])
def test_to_the_standard_output(source, one_task, capsys):
    Path("in.csv").write_text("first\na great film\n")
    capsys.readouterr()
    assert ask(one_task, "--input", source, "--output", "-",
               stdin=Path("in.csv").read_bytes()) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == "first\tprediction\tprobability"
    assert len(said.out.splitlines()) == 2
    assert "wrote 1 row to -" in said.err
    assert not Path("-").exists()


def test_the_standard_output_is_utf_8(one_task, monkeypatch):
    Path("in.csv").write_text("first,note\na great film,映画\n", encoding="utf-8")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert ask(one_task, "--input", "in.csv", "--output", "-") == 0
    assert "\t映画\t" in terminal.buffer.getvalue().decode()


def test_json_lines_keep_their_values(one_task):
    Path("in.jsonl").write_text('{"first": "x", "deep": {"a": [1]}}\n{"first": "y"}\n')
    assert ask(one_task, "--input", "in.jsonl", "--output", "out.jsonl") == 0
    first, second = map(json.loads, Path("out.jsonl").read_text().splitlines())
    assert first["deep"] == {"a": [1]}
    assert list(second) == ["first", "prediction", "probability"]


def test_several_tasks_at_once(trained, refused, capsys):
    capsys.readouterr()
    assert ask(trained, "--task", "para,sts", "A dog runs.", "A dog is running.") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("para  ")
    assert second.startswith("sts  ")
    for words, message in ((["a"], "is missing; the run's tasks are sst, para, sts"),
                           (["--task", "cfimdb", "a"], "no task 'cfimdb'"),
                           (["--task", "sts", "a"], "sts takes a pair, two sentences")):
        assert message in refused(trained, *words, main=predict.main)
    Path("in.csv").write_text("sentence1,sentence2\na,b\n")
    assert ask(trained, "--task", "para,sts", "--input", "in.csv", "--output", "out.csv") == 0
    assert Path("out.csv").read_text().splitlines()[0] == (
        "sentence1,sentence2,para_prediction,para_probability,sts_prediction")
    assert ask(trained, "--task", "para,sts", "a " * 600, "b") == 0
    assert "note: cut 1 input longer than" in capsys.readouterr().err  # one for both tasks


def test_predict_says_what_is_wrong(one_task, refused):
    Path("taken.csv").write_text("first,prediction\na,b\n")
    Path("none.csv").write_text("text\na\n")
    Path("folder.csv").mkdir()

    def ask_pipe(words: list[str]) -> int:
        return ask(*words, stdin=Path("taken.csv").read_bytes())

    for arguments, message in (
        (("--input", "taken.csv", "--output", "o.csv"), "line 2: there is a column 'prediction'"),
        (("--input", "-", "--output", "o.csv"), "input, line 2: there is a column 'prediction'"),
        (("--input", "none.csv"), "no column 'first'"),
        (("--input", "none.csv", "a"), "give sentences or --input FILE, not both"),
        (("--input", "nowhere.csv"), "nowhere.csv: there is no such file"),
        (("--input", "none.csv", "--output", "none.csv"), "is the input: name another file"),
        (("--output", "folder.csv", "a"), "folder.csv is a folder: name a file in it"),
        (("--output", "nowhere/o.csv", "a"), "there is no folder nowhere"),
        (("--output", "o.xlsx", "a"), "choose from .csv, .tsv, .txt, .jsonl"),
        (("a", "b"), "reviews takes one sentence at a time"),
        (("--batch-size", 0, "a"), "--batch-size is 0"),
    ):
        assert message in refused(one_task, *arguments, main=ask_pipe)


def test_sample_and_cut_inputs_are_said(reviews, capsys, no_report):
    """A task with files of its own has not been trained on the sample, though the run has."""
    assert run(*SCRATCH, "--tasks", f"sst,{reviews}", "--max-steps", 1, "--eval-limit", 10,
               "--max-length", 16, "--out", "run") == 0
    capsys.readouterr()
    assert ask("run", "--task", "sst", "a film " * 20) == 0
    said = capsys.readouterr().err
    assert "note: sst: trained on the embedded sample" in said
    assert "cut 1 input longer than 16 tokens" in said

    assert ask("run", "--task", "reviews", "a film") == 0
    assert "sample" not in capsys.readouterr().err
    assert MultitaskBert.from_pretrained("run").sample_tasks == ["sst"]
    for task, is_on_sample in (("sst", True), ("reviews", False)):
        assert export.main(["run", task, "--task", task]) == 0
        card = Path(task, "README.md").read_text()
        assert ("the embedded sample" in card) is ("made up by rule" in card) is is_on_sample


# ------------------------------------------------------------------------------------ max length


def test_max_length(reviews, capsys, refused, no_report):
    assert run("--tasks", reviews, *SCRATCH, "--max-length", 8, "--max-steps", 1, "--out",
               "short") == 0
    assert "8 tokens and will be cut (reviews train" in capsys.readouterr().out
    assert json.loads(Path("short/metrics.json").read_text())["truncated"]["reviews"]["train"] > 0
    model = MultitaskBert.from_pretrained("short")
    long = "great " * 30
    assert torch.equal(model.logits("reviews", [long]), model.logits("reviews", [long + "dull"]))
    assert "has only 512 positions" in refused("--tasks", reviews, *SCRATCH, "--max-length", 1000)
    assert "--max-length 2: must be at least 3" in refused("--tasks", reviews, "--max-length", 2)


# --------------------------------------------------------------------------------------- --import


@pytest.fixture
def own_code(monkeypatch):
    """own.py adds an architecture, a surgery method and a task; the tables are restored."""
    monkeypatch.setitem(ARCHITECTURES, "wide", None)
    monkeypatch.setitem(SURGERY, "halves", None)
    Path("own.py").write_text(
        "from heads import ARCHITECTURES, Architecture, OneLayerHead\n"
        "from optim import SURGERY\n"
        "ARCHITECTURES['wide'] = Architecture(pairs_joined=True, head=OneLayerHead)\n"
        "SURGERY['halves'] = lambda gram, generator=None: gram.new_full(gram.shape[:1], .5)\n"
        "import sys\n"
        "class Mine: pass\n"
        "assert vars(sys.modules[Mine.__module__])['Mine'] is Mine\n"  # as for any imported class
        "print('own code runs')\n")


def test_import(own_code, small_data, interrupted, capsys, monkeypatch, no_report):
    own = ["--import", "own.py"]
    with interrupted(SurgeryTrainer, 2):
        assert run(*own, "--arch", "wide", "--surgery", "halves", "--data", small_data, *SCRATCH,
                   "--max-steps", 2, "--checkpoint-every", 1, "--out", "run") == 130
    said = capsys.readouterr()
    assert "own code runs" in said.out
    assert said.err.endswith("--resume run --import own.py\n")
    edit_json(Path("run/config.json"), lambda config: config.pop("precision"))  # chosen again
    assert run("--resume", "run", *own) == 0
    assert "predict run --import own.py --task" in capsys.readouterr().out
    weights = json.loads(Path("run/metrics.json").read_text())["surgery"]["mean_weights"]
    assert set(weights.values()) == {.5}
    monkeypatch.delitem(ARCHITECTURES, "wide")
    monkeypatch.delitem(SURGERY, "halves")

    # opening the run executes nothing by itself, and says what is missing
    for main, flags in ((predict.main, ["--task", "sst", "a"]), (analysis.main, [])):
        assert main(["run", *flags]) == 2
        said = capsys.readouterr()
        assert "--import" in said.err
        assert "own code runs" not in said.out
    assert ask("run", "--import", "own.py", "--task", "sst", "a film") == 0
    assert run("--import", "own.py", "--resume", "run") == 0


@pytest.mark.parametrize(("text", "message"), [
    ("x = 1\nraise KeyError('y')\n", "own.py, line 2: KeyError: 'y'"),
    ("x = (\n", "own.py, line 1: SyntaxError"),
])
def test_import_fails_in_one_line(text, message, refused):
    Path("own.py").write_text(text)
    assert message in refused("--import", "own.py")
    assert "expected a Python file" in refused("--import", "nowhere.py")


# -------------------------------------------------------------------------------- another encoder


def test_other_encoder(small_data):
    """transformers' BERT through the protocol learns what minbert's learns, to rounding."""
    dataset = load_dataset(small_data)
    settings = main_job.Settings("concatB", "wrap", model="scratch", data=str(small_data))
    main_job.build_model(settings, dataset).save_pretrained("scratch")
    edit_json(Path("scratch/config.json"), lambda config: config.update(
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))

    tokenizer = BertTokenizer.from_pretrained("scratch")
    theirs = transformers.AutoModel.from_pretrained("scratch")
    ours = BertModel.from_pretrained("scratch")
    model, losses = other_encoder.train(theirs, tokenizer, dataset, steps=4)
    reference, expected = other_encoder.train(ours, tokenizer, dataset, steps=4)
    for step, other in zip(losses, expected, strict=True):
        assert step == pytest.approx(other, rel=1e-4)

    scores, by_ours = (other_encoder.evaluate(each, dataset) for each in (model, reference))
    assert scores["average"] == pytest.approx(by_ours["average"], abs=0.05)
    model.save_pretrained("saved")
    again = MultitaskBert.from_pretrained(
        "saved", encoder=transformers.AutoModel.from_pretrained("saved").eval())
    texts = ["A film.", "No."]
    torch.testing.assert_close(again.logits("sst", texts), model.logits("sst", texts))
    # and minbert's own encoder opens it too
    torch.testing.assert_close(MultitaskBert.from_pretrained("saved").logits("sst", texts),
                               model.logits("sst", texts), atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------------- the real files


def test_the_real_reviews(course_data):
    if not (course_data / CFIMDB.train).is_file():
        pytest.skip(f"{course_data} does not hold {CFIMDB.train}")
    dataset = load_dataset(course_data, [CFIMDB, SST])
    assert {split: len(rows) for split, rows in dataset["cfimdb"].items()} == {
        "train": 1707, "dev": 245, "test-student": 488}
    assert {example.label for example in dataset["cfimdb"]["train"]} == {0.0, 1.0}
