"""The main job as a user meets it: what it writes and prints, how it resumes, what it refuses."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import programs
import pytest
from programs import ROOT, run

from minbert import fast
from multitask import MultitaskBert
from multitask.data.examples import load_dataset
from multitask.data.sample import write_sample
from multitask.evaluation import read_predictions
from multitask.metrics import pearson
from multitask.runs import run as main_job
from multitask.runs.folder import make_run_folder
from multitask.runs.recipes import RECIPES
from multitask.runs.settings import Settings, parse_batch_sizes
from multitask.system.checkpoint import numbered
from multitask.system.runlog import read_events
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import SURGERY

pytestmark = pytest.mark.usefixtures("empty_folder", "no_report")

PLAIN_NOTE = "note:  plain forms only (--plain)"


def small_run(folder, data, *more) -> int:
    return run("--data", data, "--model", "scratch", "--lr", 1e-3, "--out", folder, *more)


# ---------------------------------------------------------------- what it leaves


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert small_run(folder, small_data, "--epochs", 2) == 0
    return folder


def test_files_of_a_run(finished, capsys):
    """A run leaves these files, and these metrics."""
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "metrics.json", "log.jsonl", "checkpoint", "model",
                     "predictions", "analysis.json", "report.html"}
    metrics = json.loads((finished / "metrics.json").read_text())
    dev = metrics["dev"]
    assert dev["average"] == pytest.approx(
        (dev["sst"]["accuracy"] + dev["para"]["accuracy"] + (dev["sts"]["pearson"] or 0)) / 3)
    assert metrics["steps"] == 8  # 64 question pairs in batches of 16, twice
    assert metrics["examples_per_second"] > 0
    assert set(metrics["surgery"]["conflict_rate"]) == {"sst-para", "sst-sts", "para-sts"}
    assert all(weight >= 1 for weight in metrics["surgery"]["mean_weights"].values())
    page = (finished / "report.html").read_text()
    assert "Gradient conflicts" in page
    assert run("--resume", finished) == 0
    assert "is finished" in capsys.readouterr().out


def test_scores_of_the_files(finished, small_data):
    """Scores recomputed from the handed-in files alone."""
    dev = json.loads((finished / "metrics.json").read_text())["dev"]
    for name, task in TASKS.items():
        examples = load_dataset(small_data)[name]["dev"]
        ids, values = read_predictions(finished / "predictions" / f"{name}-dev-output.csv", task)
        assert ids == [example.id for example in examples]
        labels = np.array([example.label for example in examples])
        score = pearson(values, labels) if name == "sts" else (values == labels).mean()
        # the files hold float32 to the last digit; labels are float32 in training
        assert score == pytest.approx(dev[name][task.metric], abs=1e-5)


def test_log_of_conflicts(finished):
    steps = list(read_events(finished, "step"))
    assert [step["step"] for step in steps] == list(range(1, 9))
    for step in steps:
        assert step["conflicts"] == [pair for pair, cosine in step["cosines"].items() if cosine < 0]
        assert all(-1 <= cosine <= 1 for cosine in step["cosines"].values())
        assert (max(step["weights"].values()) > 1) == bool(step["conflicts"])
        assert step["lr"] == 1e-3


def test_another_arm(small_data):
    assert small_run("arm", small_data, "--arch", "concatB_al", "--surgery", "sum", "--max-steps",
                     4, "--eval-limit", 10, "--warmup", 0.5, "--schedule", "linear", "--clip", 1,
                     "--weight-decay", 0.01) == 0
    metrics = json.loads(Path("arm/metrics.json").read_text())
    assert metrics["steps"] == 4
    assert metrics["surgery"]["method"] == "sum"
    assert metrics["examples"]["para"]["dev"] == 10
    rates = [step["lr"] for step in read_events(Path("arm"), "step")]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


# ---------------------------------------------------------------- reproducing, resuming


def test_another_seed(small_data, finished):
    assert small_run("other", small_data, "--max-steps", 1, "--seed", 1) == 0
    first, other = (programs.events(run, "step")[0]["losses"] for run in (finished, Path("other")))
    assert first != other


def test_resume_damaged_run(refused, small_data, interrupted):
    """Stopped after the checkpoint of its first epoch."""
    with interrupted(SurgeryTrainer, 5):
        assert small_run("stopped", small_data, "--epochs", 2) == 130
    Path("stopped/log.jsonl").write_text("")
    assert "log.jsonl has lost its end" in refused("--resume", "stopped")
    [folder] = numbered(Path("stopped"))
    (folder / "state.safetensors").write_bytes(b"1")
    assert f"{folder / 'state.safetensors'} is damaged" in refused("--resume", "stopped")


def test_ctrl_c_before_training(capsys, monkeypatch):
    monkeypatch.setattr("multitask.runs.run.load_data", Mock(side_effect=KeyboardInterrupt))
    assert run() == 130
    assert capsys.readouterr().err == "train_multitask.py: interrupted before training began\n"


def test_a_folder_per_run():
    """Runs that start at the same time get different folders."""
    settings = programs.settings()
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_run_folder(settings, None), range(8)))
    assert sorted(path.name for path in folders) == [f"concatB-wrap-{number}"
                                                     for number in range(1, 9)]


@pytest.mark.parametrize(("flags", "name"), [
    ("", "concatB-wrap"), ("--arch concatA --gs bd", "concatA-bd"),
    ("--nli", "concatB-nli+wrap"), ("--nli --fl", "concatB-nli+wrap+fl"),
    ("--gs none --fl", "concatB-fl"), ("--gs none", "concatA-none"),
    ("--mode last-layer", "concatB-fl"), ("--surgery paper", "concatB-wrap-paper"),
    ("--recipe best", "best"),
    ("--tasks sts,sst,para", "concatB-wrap"), ("--tasks sst", "sst-full"),
    ("--tasks sst --surgery sum", "sst-full"), ("--tasks sst --fl", "sst-wrap+fl"),
    ("--tasks sst,sts --surgery sum", "sst+sts-full-sum"),
    ("--tasks sst --mode last-layer --arch concatB_al", "sst-concatB_al-last-layer"),
    ("--tasks sst,para,sts,cfimdb --data data", "4-tasks-full"),
])
def test_names_of_runs(flags, name):
    """A name has the stages and the method, and what is not default; each name counts from 1."""
    settings = programs.settings(*flags.split())
    folders = [make_run_folder(settings, None).as_posix() for _ in range(2)]
    assert folders == [f"runs/{name}-1", f"runs/{name}-2"]


def test_name_of_own_method(monkeypatch):
    """--import may define a method of any name: the run's folder is still one folder in runs/."""
    monkeypatch.setitem(SURGERY, "../my method, 1/2 " + 300 * "n", SURGERY["sum"])
    folder = make_run_folder(Settings("concatB", "wrap", surgery=[*SURGERY][-1]), None)
    assert folder.name.startswith("concatB-wrap-_my_method_1_2_nnn")
    assert [folder] == list(Path("runs").iterdir())


def test_bf16_run_read_back(small_data, tmp_path):
    assert small_run(tmp_path / "half", small_data, "--max-steps", 2, "--precision", "bf16") == 0
    model = MultitaskBert.from_pretrained(tmp_path / "half")
    assert model.precision == "bf16"
    items = [example.sentences for example in load_dataset(small_data)["sts"]["dev"]]
    path = tmp_path / "half" / "predictions" / "sts-dev-output.csv"
    _, found = read_predictions(path, TASKS["sts"])
    assert found.tolist() == pytest.approx(model.predict_similarity(items).tolist())


@pytest.mark.parametrize(("flags", "variable"), [(["--plain"], "0"), ([], "1"), ([], "true")])
def test_plain_is_recorded(flags, variable, small_data, tmp_path, interrupted, monkeypatch, capsys):
    """By flag or by environment; --resume then needs neither. Each call restores the variable."""
    step, seen = SurgeryTrainer.step, []
    monkeypatch.setattr(SurgeryTrainer, "step", lambda *given: (
        seen.append(os.environ["MINBERT_PLAIN"]), step(*given))[1])
    monkeypatch.setenv("MINBERT_PLAIN", variable)
    with interrupted(SurgeryTrainer, 2):
        assert small_run(tmp_path / "plain", small_data, "--max-steps", 2, "--checkpoint-every", 1,
                         *flags) == 130
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    first, *_ = capsys.readouterr().out.splitlines()
    assert (config["plain"], first, os.environ["MINBERT_PLAIN"]) == (True, PLAIN_NOTE, variable)

    monkeypatch.setenv("MINBERT_PLAIN", "0")
    assert run("--resume", tmp_path / "plain") == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert (first, os.environ["MINBERT_PLAIN"]) == (PLAIN_NOTE, "0")
    assert seen == ["1", "1"]  # two steps, one of each call


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(("flags", "message"), [
    ("--arch concatC", "invalid choice: 'concatC'"),
    ("--epochs 0", "--epochs 0: must be at least 1"),
    ("--accumulate 0", "--accumulate 0: must be at least 1"),
    ("--accumulate 2 --gs none --fl", "--accumulate is for --gs and --nli"),
    ("--lr -1", "--lr -1.0: must be 0 or more"),
    ("--warmup 1.5", "--warmup 1.5: must be a share of all steps"),
    ("--gs bd --batch-sizes sst=1,para", "--batch-sizes sst=1,para: expected for example"),
    ("--gs bd --batch-sizes sst=1", "each of sst, para, sts"),
    ("--batch-sizes sst=1,para=24,sts=1", "--batch-sizes is for --gs bd"),
    ("--start runs/x --model scratch", "--start and --model both"),
    ("--start nowhere", "--start nowhere: no config.json there"),
    ("--gs none --surgery sum", "--surgery is for --gs wrap and bd"),
    ("--recipe best --tasks sts,sst,para", "--recipe best is for --tasks sst,para,sts, not for"),
    ("--mode full --recipe best", "--mode and --recipe best both choose the stages"),
    ("--gs none --tasks sts --model scratch", "a head for sst, and this run has no such task"),
    ("--weight 0.1", "unrecognized arguments: --weight 0.1"),  # not --weight-decay
    ("--gs bd --batch-size 4", "--batch-size is for --gs wrap and anneal, --nli"),
])
def test_unusable_flags(flags, message, refused):
    assert message in refused(*flags.split())


def test_unusable_data(refused):
    write_sample(Path("data"))
    lines = Path("data/sts-dev.csv").read_text().splitlines()
    lines[4] = lines[4].rsplit("\t", 1)[0] + "\t5.5"
    Path("data/sts-dev.csv").write_text("\n".join(lines))
    message = refused("--data", "data", "--model", "scratch")
    assert "sts-dev.csv, line 5: similarity is '5.5', expected a number from 0 to 5" in message


def test_folder_in_use(refused, finished, tmp_path):
    assert "holds a finished run" in refused("--out", finished)
    unfinished = tmp_path / "unfinished"
    (unfinished / "checkpoint" / "4").mkdir(parents=True)
    assert f"--resume {unfinished}" in refused("--out", unfinished)
    assert "no config.json there" in refused("--resume", unfinished)
    assert "--lr 1.0 would change the run" in refused("--resume", finished, "--lr", "1")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("--out", tmp_path / "file")


def test_model_is_not_written_over(refused, small_data, tiny_checkpoint):
    """A model of another origin in --out is neither removed nor written over."""
    model = shutil.copytree(tiny_checkpoint, Path("p/model"))
    before = {path: path.read_bytes() for path in model.iterdir()}
    given = ("--data", small_data, "--model", model)
    for out in ("p", model):
        assert f"--out {out} holds a model" in refused(*given, "--out", out)
    Path("other").mkdir()
    Path("other/config.json").write_text('{"hidden_size": 3}')
    assert "holds a config.json of something else" in refused(*given, "--out", "other")
    assert {path: path.read_bytes() for path in model.iterdir()} == before
    assert Path("other/config.json").read_text() == '{"hidden_size": 3}'


def test_remains_are_reused(small_data, finished, tmp_path):
    remains = tmp_path / "remains"
    remains.mkdir()
    shutil.copy(finished / "config.json", remains)
    (remains / "log.jsonl").write_text('{"event": "step"}\n')
    assert small_run(remains, small_data, "--max-steps", 2, "--eval-limit", 8) == 0
    assert len(list(read_events(remains, "step"))) == 2


def test_defaults(small_data):
    """Real data take the paper's, the sample its own."""
    paper, sample = programs.settings("--data", small_data), programs.settings()
    assert (paper.lr, paper.epochs, paper.batch_size) == (1e-5, 10, None)
    assert (paper.weight_decay, paper.clip, paper.warmup, paper.schedule) == (0, 0, 0, "constant")
    assert (paper.model, paper.surgery, paper.seed) == ("bert-base-uncased", "pcgrad", 11711)
    assert (sample.data, sample.model, sample.lr, sample.epochs) == (None, "minbert-mini", 4e-4, 1)
    scratch = programs.settings("--model", "scratch")
    assert (scratch.lr, scratch.epochs) == (5e-4, 5)
    assert programs.settings("--model", "bert-base-uncased").lr == 5e-5
    assert programs.settings("--lr", "3e-4").lr == 3e-4


def test_recipe(small_data, tmp_path, capsys):
    """A recipe's settings are printed and saved; flags change them."""
    recipe = RECIPES["best"]
    best = programs.settings("--data", small_data, "--recipe", "best")
    assert {name: getattr(best, name) for name in recipe} == {
        **recipe, "batch_sizes": parse_batch_sizes(recipe["batch_sizes"])}
    other = programs.settings("--data", small_data, "--recipe", "best", "--lr", 1, "--gs", "wrap")
    assert (other.lr, other.gs, other.surgery, other.batch_sizes) == (1, "wrap", "pcgrad", {})
    assert (other.arch, other.epochs) == (recipe["arch"], recipe["epochs"])
    encoder = "sentence-transformers/all-MiniLM-L6-v2"  # on real data, if no other is named
    assert (best.model, other.model, programs.settings("--recipe", "best").model) == (
        encoder, encoder, "minbert-mini")
    assert programs.settings("--data", small_data, "--recipe", "best", "--model", "x").model == "x"
    paper = programs.settings("--recipe", "paper")  # on the sample too
    assert (paper.epochs, paper.lr) == (10, 1e-5)

    out = tmp_path / "best"
    assert small_run(out, small_data, "--recipe", "best", "--max-steps", 1, "--eval-limit", 8) == 0
    assert (f"recipe: best (--arch {recipe['arch']} --gs bd --batch-sizes {recipe['batch_sizes']} "
            in capsys.readouterr().out)
    saved = json.loads((out / "config.json").read_text())
    assert (saved["recipe"], saved["warmup"], saved["lr"]) == ("best", recipe["warmup"], 1e-3)


def test_in_a_program():
    """Settings without a model take the default; at the end the folder is free.

    Plain forms end with the run.
    """
    job = main_job.start(Settings("concatB", "wrap", max_steps=1, eval_limit=8, plain=True), "run",
                         say=lambda line: None)
    assert job.settings.model == "minbert-mini"
    assert main_job.execute(job)["steps"] == 1
    assert not fast.is_plain()
    assert not [*Path("run").glob(".lock*")]


# ---------------------------------------------------------------- the sample


def test_first_lines(tmp_path):
    """As a user starts it: a process of its own, in an empty folder."""
    done = programs.python(ROOT / "train_multitask.py", "--max-steps", 2, "--eval-limit", 20,
                           folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first.startswith("data:  the embedded sample")
    assert "--data FOLDER" in first
    assert second.startswith("model: minbert-mini, a small BERT pretrained on books that comes "
                             "with minbert")
    assert "--model takes a larger one: bert-base-uncased or a checkpoint's folder" in second
    assert (tmp_path / "runs" / "concatB-wrap-1" / "report.html").is_file()


def test_sample_is_learnt():
    """250 steps from random weights; trivial scores are .25 (most frequent), .57 and 0."""
    assert run("--model", "scratch", "--epochs", 1, "--out", "epoch") == 0
    dev = json.loads(Path("epoch/metrics.json").read_text())["dev"]
    assert 0.35 < dev["sst"]["accuracy"] < 0.98
    assert 0.70 < dev["para"]["accuracy"] < 0.98
    assert 0.50 < dev["sts"]["pearson"] < 0.98
