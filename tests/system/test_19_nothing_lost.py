"""Lesson 19: nothing lost.

You learn how a run that is killed anywhere still ends with the bytes of an uninterrupted one. You
learn why a checkpoint is read back before its predecessor is removed, how gradients too long for
float32 are refused, and why a folder has one writer.
"""

import errno
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import kill_points
import programs
import pytest
import torch
from oracle import with_loss
from safetensors import SafetensorError
from safetensors.torch import save_file
from test_10_training import build

import train_multitask
from minbert import BertConfig, BertTokenizer
from minbert.files import rename_folder, replacing, write_text
from multitask.model import MultitaskBert
from multitask.runs import run as main_job
from multitask.runs.stages import Stage
from multitask.system import checkpoint
from multitask.system.interruption import Interruption, defer_signals, interruptible
from multitask.system.lock import FolderLock, check_free
from multitask.system.state import check_like, load_optimizer_state, optimizer_state
from multitask.training.step import SurgeryTrainer
from optim import SURGERY, AdamW

pytestmark = pytest.mark.usefixtures("empty_folder", "no_report")


@pytest.fixture(scope="module")
def train(small_data, tiny_checkpoint):
    """(folder, flags …) → exit status of two epochs of four steps."""
    flags = ["--data", small_data, "--model", tiny_checkpoint, "--lr", 1e-3, "--epochs", 2]
    return lambda folder, *more: programs.run(*flags, "--out", folder, *more)


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory) -> dict[str, str]:
    """What a run leaves that is not stopped."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train(folder) == 0
    return kill_points.left_by(folder)


# ------------------------------------------------------------------------------- resume


def tried(*flags: str) -> str:
    """What tools/kill_points.py prints, in a process that has computed nothing yet.

    It ends with status 1 if a resumed run has other bytes.
    """
    result = programs.python(kill_points.__file__, *flags, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_killed_runs():
    """Three points drawn at random."""
    tried("--points", "3", "--seed", "4", "--jobs", "stages")


def test_kill_places():
    """Every place is a file, or a function of a file."""
    for part in itertools.chain(*kill_points.PLACES.values()):
        path, _, function = part.partition(":")
        text = (programs.ROOT / path).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, part


def test_half_a_checkpoint(train, monkeypatch):
    """A process that dies half-way leaves no checkpoint of that number."""
    monkeypatch.setattr(checkpoint, "write_tensors", checkpoint.write_tensors)

    def die() -> None:
        raise KeyboardInterrupt

    kill_points.die_half_way(1, die)
    assert train(Path("run")) == 130
    [half] = Path("run/checkpoint").glob("*")
    assert half.suffix == ".partial"


def test_killed_methods():
    """With every surgery method that remembers or draws, between two checkpoints of epoch three."""
    printed = tried("--methods").splitlines()
    assert [line.split(":")[0] for line in printed] == kill_points.stateful()
    assert {"pcgrad", "gradvac", "dwa", "famo", "rgw"} < set(kill_points.stateful())


def test_interrupted_step(train, alone, monkeypatch, capsys):
    """The step is finished and saved, and the resumed run ends with the same bytes."""
    log_step = Stage._log_step

    def interrupted(self, *arguments):
        if self.steps == 6:
            signal.raise_signal(signal.SIGINT)  # amidst a step, which is finished first
        log_step(self, *arguments)

    folder = Path("mein Lauf, été")
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "_log_step", interrupted)
        assert train(folder) == 130
    assert f"resume with: python train_multitask.py --resume '{folder}'" in capsys.readouterr().err
    assert len(programs.events(folder, "step")) == 6
    torch.rand(5)
    assert programs.run("--resume", folder) == 0
    assert "resumed in epoch 2, step 6" in capsys.readouterr().out
    assert kill_points.left_by(folder) == alone


def test_interrupted_evaluation(train, alone, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(MultitaskBert, "predict_logits",
                      lambda *_: signal.raise_signal(signal.SIGTERM))
        assert train(Path("run")) == 130
    saved = checkpoint.load(Path("run"))
    assert (saved.values["steps"], saved.values["epoch"], saved.values["evaluated"]) == (4, 1, 0)
    assert programs.run("--resume", "run") == 0
    assert kill_points.left_by(Path("run")) == alone


@pytest.mark.parametrize(("patience", "count"), [(1e9, 3), (0.0, 8)])
def test_checkpoint_interval(patience, count, train, alone, monkeypatch):
    """After the first of two times four steps and at the epochs' ends; or after every step."""
    monkeypatch.setattr(checkpoint, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "PATIENCE", patience)
    save = Mock(wraps=checkpoint.save)
    monkeypatch.setattr(checkpoint, "save", save)

    assert train(Path("run")) == 0
    assert save.call_count == count
    assert kill_points.left_by(Path("run")) == alone


def test_deferred_signals():
    """An interruption waits for the end of the block; a second one does not."""
    done = []

    def work(signals: int) -> None:
        with defer_signals():
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
            with defer_signals():
                done.append("inner")
            done.append("outer")

    with interruptible():
        with pytest.raises(Interruption):
            work(1)
        assert done == ["inner", "outer"]
        with pytest.raises(KeyboardInterrupt) as caught:
            work(2)
        assert done == ["inner", "outer"]
        assert not isinstance(caught.value, Interruption)
    with interruptible(), pytest.raises(Interruption):
        signal.raise_signal(signal.SIGINT)


def test_flags_beside_resume(train, interrupted, refused):
    """Those that would change the run are named."""
    with interrupted(SurgeryTrainer, 5):
        assert train(Path("run")) == 130
    assert "--gs bd, --epochs 3 would change the run: run resumes" in refused(
        "--resume", "run", "--lr", 1e-3, "--epochs", 3, "--seed", 11711, "--gs", "bd")
    assert "--mode last-layer would change the run" in refused(
        "--resume", "run", "--mode", "last-layer")
    assert programs.run("--resume", "run", "--lr", 1e-3, "--out", "./run/", "--mode", "full",
                        "--checkpoint-every", 3, "--precision", "auto") == 0
    assert json.loads(Path("run/config.json").read_text())["checkpoint_every"] == 3


def test_resume_without_the_gpu(train, interrupted, refused, monkeypatch):
    """The error's advice works, and the precision that the GPU had stays."""
    with interrupted(SurgeryTrainer, 5):
        assert train(Path("run"), "--precision", "bf16") == 130
    config = Path("run/config.json")
    programs.edit_json(config, lambda values: values.update(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch sees no such device here; use --device cpu" in refused(
        "--resume", "run")
    assert programs.run("--resume", "run", "--device", "cpu") == 0
    values = json.loads(config.read_text())
    assert (values["device"], values["precision"]) == ("cpu", "bf16")


def keep_in_place(monkeypatch) -> None:
    """From now on no folder that exists can be renamed, as in a container's image."""
    there = {path.absolute() for path in Path().rglob("*") if path.is_dir()}
    rename = os.rename

    def rename_no_folder(source, target):
        if Path(source).absolute() in there:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_no_folder)
    monkeypatch.setattr(os, "replace", rename_no_folder)


def test_killed_while_publishing(train, monkeypatch):
    """Killed between a checkpoint and its model: the model is written from the checkpoint."""
    publish = Stage._publish

    def killed(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        publish(self)

    scores = iter([0.1, 0.2] * 2)
    monkeypatch.setattr("multitask.runs.stages.scores_of", lambda *_: {"average": next(scores)})
    assert train(Path("whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Stage, "_publish", killed)
        assert train(Path("run")) == 130
    first = Path("run/model/model.safetensors").read_bytes()
    run = main_job.resume(Path("run"), say=lambda line: None)
    run.log.close()
    second = Path("run/model/model.safetensors").read_bytes()
    assert first != second
    assert second == Path("whole/model/model.safetensors").read_bytes()
    # without the newest checkpoint, the model is again the best epoch of the one before it
    flip(Path("run/checkpoint/2/state.safetensors"), 10_000)
    with pytest.warns(UserWarning, match="damaged"):
        run = main_job.resume(Path("run"), say=lambda line: None)
    run.log.close()
    assert Path("run/model/model.safetensors").read_bytes() == first


@pytest.mark.parametrize("in_image", [False, True])
def test_best_epoch_before_a_lost_one(in_image, train, monkeypatch):
    """Its model, which the better epoch had moved to the checkpoint before, is taken back."""
    scores = iter([0.2, 0.1, 0.3])
    monkeypatch.setattr("multitask.runs.stages.scores_of", lambda *_: {"average": next(scores)})
    models = []
    publish = Stage._publish

    def noted(self):
        publish(self)
        models.append(Path("run/model/model.safetensors").read_bytes())
        if self.epoch == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stage, "_publish", noted)
    assert train(Path("run"), "--epochs", 3) == 130
    assert len({*models}) == 2
    damaged = Path("run/checkpoint/3/state.safetensors")
    flip(damaged, 10_000)
    if in_image:
        keep_in_place(monkeypatch)
    with pytest.warns(UserWarning, match="damaged"):
        run = main_job.resume(Path("run"), say=lambda line: None)
    run.log.close()
    assert Path("run/model/model.safetensors").read_bytes() == models[0]
    assert not damaged.exists()


@pytest.mark.parametrize("name", ["copytree", "rmtree"])
def test_killed_in_an_image(name, monkeypatch):
    """Killed while a model is copied, or then removed: one is whole, and saving goes on."""
    model, folder, aside = build(), Path("model").absolute(), Path("aside")
    model.save_pretrained(folder)
    keep_in_place(monkeypatch)
    call = getattr(shutil, name)

    def killed(source, *others, **options):
        if source != folder:
            return call(source, *others, **options)
        if name == "copytree":
            others[0].mkdir()
        else:
            (folder / "heads.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, name, killed)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(folder, aside=aside)
    MultitaskBert.from_pretrained(folder if name == "copytree" else aside)
    assert aside.exists() == (name == "rmtree")
    model.save_pretrained(folder)
    MultitaskBert.from_pretrained(folder)


def test_folder_that_cannot_be_moved(tmp_path, monkeypatch):
    """Windows moves no folder with an open file. It is left whole; no copy is made."""
    for name in ("folder", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Mock(side_effect=PermissionError("in use")))
        with pytest.raises(PermissionError):
            rename_folder(tmp_path / "folder", tmp_path / "place")
    assert (tmp_path / "folder" / "folder").is_file()
    rename_folder(tmp_path / "folder", tmp_path / "place")
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "folder"]


def test_model_on_another_disk():
    """The model's folder is a link: it stays one, and the model is where it leads."""
    model, folder = build(), Path("model")
    Path("disk").mkdir()
    folder.symlink_to("disk")
    for _ in range(2):
        model.save_pretrained(folder)
        assert {path.name for path in Path().iterdir()} == {"disk", "model"}
    shutil.copytree(folder, "kept")
    rename_folder(Path("kept"), folder)
    assert folder.is_symlink()
    MultitaskBert.from_pretrained("disk")


def test_model_in_place_of_another(monkeypatch):
    """The earlier one is there until the new one is, whatever happened before."""
    model, folder, aside = build(), Path("model"), Path(".model.old")
    model.save_pretrained(folder)
    folder.rename(aside)  # killed here the last time
    with monkeypatch.context() as patch:
        patch.setattr("multitask.model.write_tensors", Mock(side_effect=OSError("full")))
        with pytest.raises(OSError, match="full"):
            model.save_pretrained(folder)
    MultitaskBert.from_pretrained(aside)
    model.save_pretrained(folder)
    keep_in_place(monkeypatch)
    model.save_pretrained(folder)
    MultitaskBert.from_pretrained(folder)
    assert [*Path().iterdir()] == [folder]


# ------------------------------------------------------------------------------- checkpoints


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.fixture
def save(tiny_checkpoint):
    """(run, tensors, values) saves a checkpoint of them."""
    config = BertConfig.from_file(tiny_checkpoint / "config.json")
    tokenizer = BertTokenizer.from_pretrained(tiny_checkpoint)
    return lambda run, tensors=None, values=None: checkpoint.save(run, tensors or {}, values or {},
                                                                  config, tokenizer)


@pytest.fixture
def saved(save, tmp_path) -> Path:
    """A run with two checkpoints; each holds its own number."""
    for number in (1.0, 2.0):
        save(tmp_path / "run", {"x": torch.full((1000,), number)}, {"number": number})
    return tmp_path / "run"


def test_damaged_files(saved):
    """A flipped bit, a cut or lost file is named, and the checkpoint before it is taken."""
    rng = random.Random(0)
    names = {path.name for path in checkpoint.numbered(saved)[-1].iterdir()}
    assert names == {"state.safetensors", "state.json", "config.json", "tokenizer.json",
                     "vocab.txt", "tokenizer_config.json", "sha256.json"}
    assert checkpoint.load(saved).values == {"number": 2.0}

    damages = itertools.product(sorted(names), ["flip"] * 8 + ["cut"] * 3 + ["gone"])
    for number, (name, kind) in enumerate(damages):
        run = Path(shutil.copytree(saved, f"copy{number}"))
        path = run / "checkpoint" / "2" / name
        content = path.read_bytes()
        if kind == "flip":
            flip(path, rng.randrange(8 * len(content)))
        elif kind == "cut":
            path.write_bytes(content[:rng.randrange(len(content))])
        else:
            path.unlink()

        named = ".*" if name == "sha256.json" else name  # which may name any file then
        with pytest.warns(UserWarning,
                          match=rf"2/{named} is damaged .*the checkpoint before it, .*1$"):
            loaded = checkpoint.load(run)
        assert loaded.values == {"number": 1.0}
        assert loaded.tensors["x"].eq(1).all()
        assert path.parent.with_name("2.damaged").is_dir()


def test_damaged_in_an_image(saved, save, monkeypatch):
    """It does not count from then on, though its folder cannot be renamed."""
    monkeypatch.chdir(saved)
    flip(saved / "checkpoint/2/state.safetensors", 10_000)
    keep_in_place(monkeypatch)
    with pytest.warns(UserWarning, match="damaged"):
        checkpoint.load(saved)
    assert [path.name for path in checkpoint.numbered(saved)] == ["1"]
    save(saved)
    assert [path.name for path in checkpoint.numbered(saved)] == ["1", "3"]


def test_all_damaged(saved):
    """All are named and none is touched."""
    for number in ("1", "2"):
        flip(saved / "checkpoint" / number / "state.safetensors", 20_000)
    both = r"2/state.safetensors is damaged .*1/state.safetensors is damaged"
    with pytest.raises(ValueError, match=both):
        checkpoint.load(saved)
    assert [path.name for path in checkpoint.numbered(saved)] == ["1", "2"]


@pytest.mark.parametrize("found", [
    {"x": torch.zeros(1000)}, {}, {"x": torch.ones(1000), "y": torch.ones(1)}, SafetensorError("?")
], ids=["other numbers", "nothing", "more", "no such file"])
def test_failing_disk(found, saved, save, monkeypatch):
    monkeypatch.setattr(checkpoint, "load_file", Mock(side_effect=[found]))
    message = r"could not be written.*last good checkpoint is .*2$"
    with pytest.raises(OSError, match=message):
        save(saved, {"x": torch.ones(1000)})
    assert sorted(path.name for path in (saved / "checkpoint").iterdir()) == ["1", "2"]


LIKE = {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.int64)}


@pytest.mark.parametrize(("wrong", "message"), [
    ({"a": LIKE["a"]}, "it lacks b"),
    ({**LIKE, "a": torch.zeros(3)}, r"a has shape \(3,\), expected \(2,\)"),
    ({**LIKE, "a": torch.zeros(2).double()}, "a holds torch.float64"),
    ({**LIKE, "b": torch.zeros(3, dtype=torch.int32)},
     r"b holds torch\.int32, expected torch\.int64"),
    ({**LIKE, "a": torch.tensor([0, torch.inf])}, "all of it finite"),
    ({**LIKE, "a": torch.tensor([0, torch.nan])}, "all of it finite"),
])
def test_tensors_fit(wrong, message):
    check_like({**LIKE, "more": torch.ones(1)}, LIKE)
    with pytest.raises(ValueError, match=message):
        check_like(wrong, LIKE)


def test_state_of_an_edited_optimizer():
    """What a student's AdamW keeps besides its moments, such as AMSGrad's, is restored, too."""
    weights = torch.nn.Parameter(torch.ones(3))
    weights.grad = torch.tensor([1.0, -2.0, 0.0])
    before, after = AdamW([weights]), AdamW([weights])
    before.step()
    before.state[weights] |= {"max_exp_avg_sq": torch.tensor([1.0, 4.0, 0.0]),
                              "sum": torch.tensor(16777217.0, dtype=torch.float64),
                              "is_rare": torch.tensor([True, False, True])}
    load_optimizer_state(after, optimizer_state(before))
    assert after.state[weights].keys() == before.state[weights].keys()
    for name, value in before.state[weights].items():
        torch.testing.assert_close(after.state[weights][name], value, atol=0, rtol=0)


def test_numbering(saved, save):
    """By number, not by letter; parts and damaged ones go; files that are not ours stay."""
    (saved / "checkpoint" / "notes").mkdir()
    for name in ("9", "10", "11.partial", "12.damaged"):
        (saved / "checkpoint" / name).mkdir()
    assert [path.name for path in checkpoint.numbered(saved)] == ["1", "2", "9", "10"]
    save(saved)
    assert {path.name for path in (saved / "checkpoint").iterdir()} == {"notes", "10", "13"}
    (saved / "checkpoint" / "14.partial").mkdir()
    save(saved)
    assert {path.name for path in (saved / "checkpoint").iterdir()} == {"notes", "13", "15"}
    checkpoint.drop_older(saved)
    assert {path.name for path in (saved / "checkpoint").iterdir()} == {"notes", "15"}


def test_order_on_disk(saved, save, monkeypatch):
    """Files and new names are on the disk before an older checkpoint is removed."""
    calls = Mock()
    for owner, name in ((checkpoint, "sync"), (shutil, "rmtree"), (os, "posix_fadvise")):
        if hasattr(owner, name):
            spy = Mock(wraps=getattr(owner, name))
            calls.attach_mock(spy, name)
            monkeypatch.setattr(owner, name, spy)

    values = {"nan": torch.tensor([torch.nan, -0.0]), "flag": torch.tensor(True),
              "none": torch.zeros(0, 3)}
    save(saved, values)

    happened = [(name, args[0]) for name, args, _ in calls.mock_calls if name != "posix_fadvise"]
    assert happened == [("sync", saved / "checkpoint"), ("sync", saved),
                        ("rmtree", saved / "checkpoint" / "1")]  # 2 is the one before
    forgotten = [args[3] for name, args, _ in calls.mock_calls if name == "posix_fadvise"]
    assert forgotten == ([os.POSIX_FADV_DONTNEED] if hasattr(os, "POSIX_FADV_DONTNEED") else [])

    found = checkpoint.load(saved).tensors
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].numpy().tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize(("method", "limit", "message", "kept"), [
    ("_save", 60_000,
     r"checkpoint/2 could not be written .*; the last good checkpoint is run/checkpoint/1", ["1"]),
    ("_publish", 20_000, r"run/\.model.new/model.safetensors: .*File too large", ["1", "2"]),
])
def test_full_disk(method, limit, message, kept, train, alone, monkeypatch, capsys):
    """No file may grow beyond so many bytes: too few for weights and moments, or for weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = getattr(Stage, method)
    scores = itertools.count()
    # each epoch is better
    monkeypatch.setattr("multitask.runs.stages.scores_of", lambda *_: {"average": next(scores)})

    def full(self):
        if self.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        write(self)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Stage, method, full)
            assert train(Path("run")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, said)
    assert "File too large" in said
    assert sorted(path.name for path in Path("run/checkpoint").iterdir()) == kept
    assert programs.run("--resume", "run") == 0

    differs = kill_points.differing(kill_points.left_by(Path("run")), alone)
    assert not [name for name in differs if name.startswith("checkpoint model.")]


def test_file_before_its_name(tmp_path, monkeypatch):
    happened = []
    fsync, replace = os.fsync, os.replace
    has_names = Path("/proc/self/fd").exists()

    def spy_fsync(number):
        happened.append(os.readlink(f"/proc/self/fd/{number}") if has_names else "?")
        fsync(number)

    def spy_replace(source, target):
        happened.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with replacing(tmp_path / "file") as partial:
        partial.write_text("x")
    assert happened in ([str(tmp_path / "file.partial"), "replace", str(tmp_path)],
                        ["?", "replace", "?"])
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as partial:
        print(1 / (partial.write_text("y") - 1))
    assert (tmp_path / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------- numbers gone bad


@pytest.fixture
def poisoned(small_data, tiny_checkpoint):
    """(flags …) → a run of which one STS example has an infinite label."""
    def start(*more):
        settings = programs.settings("--data", small_data, "--model", tiny_checkpoint, "--epochs",
                                     2, *more)
        run = main_job.start(settings, "run", say=lambda line: None)
        run.tokens["sts"]["train"].labels[7] = float("inf")
        return run

    return start


@pytest.mark.parametrize("flags", [(), ("--gs", "none", "--fl")])
def test_infinite_loss(poisoned, flags, capsys):
    """It stops the run and names step, task and examples."""
    run = poisoned(*flags)
    assert train_multitask.train(run) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    bad = run.dataset["sts"]["train"][7].id
    stage, step = run.settings.stages[0], run.stage.steps + 1
    assert f"{stage}, step {step}: the loss of sts is inf" in message
    assert bad in message
    assert "; --on-nonfinite skip skips such steps" in message
    assert message.endswith("; there is no checkpoint yet; start again")


def test_last_good_checkpoint(poisoned, capsys):
    run = poisoned()
    bad = run.tokens["sts"]["train"].labels
    label, bad[7] = bad[7], 3.0
    evaluate = Stage._evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "_evaluate", lambda self: (evaluate(self), bad.__setitem__(7, label)))
        assert train_multitask.train(run) == 1
    assert capsys.readouterr().err.endswith(
        "resume with: python train_multitask.py --resume run --on-nonfinite skip\n")
    assert checkpoint.load(Path("run")).values["epoch"] == 1


def test_skip_bad_steps(poisoned):
    assert train_multitask.train(poisoned("--on-nonfinite", "skip")) == 0
    skipped = programs.events(Path("run"), "skipped")
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["skipped_steps"] == len(skipped) > 0
    assert metrics["steps"] == metrics["stages"]["gs"]["steps"] == 8
    assert len(programs.events(Path("run"), "step")) == 8 - len(skipped)
    assert all(event["reason"] == "the loss of sts is inf" for event in skipped)
    assert all(torch.isfinite(value).all()
               for value in checkpoint.load(Path("run")).part("model").values())


def test_skip_every_step(poisoned):
    run = poisoned("--on-nonfinite", "skip")
    run.tokens["sts"]["train"].labels[:] = float("inf")
    assert train_multitask.train(run) == 0
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert [metrics[key] for key in ("steps", "skipped_steps", "examples_per_second")] == [8, 8, 0]


@pytest.mark.parametrize(("name", "row", "value", "message"), [
    ("encoder.layers.0.output_dense.weight", slice(None), 3e38,
     "gs, epoch 2: outputs of sst on the dev set are not"),
    ("encoder.embeddings.position_embeddings.weight", -1, float("nan"),  # no text is that long
     "gs, step 8: the weights encoder.embeddings.position_embeddings.weight are no longer"),
])
def test_bad_weights_not_saved(name, row, value, message, train, monkeypatch, capsys):
    """The advice is not to resume, which would end the same way."""
    start = Stage._train_epoch

    def spoil(self):
        start(self)
        if self.epoch == 2:
            self.run.model.get_parameter(name).data[row] = value

    monkeypatch.setattr(Stage, "_train_epoch", spoil)
    assert train(Path("run"), "--on-nonfinite", "skip") == 1
    assert capsys.readouterr().err.endswith(
        f"{message} finite; start a new run with a lower --lr\n")
    assert [path.name for path in checkpoint.numbered(Path("run"))] == ["1"]


@pytest.mark.parametrize(("scale", "message"), [
    (1e-30, None), (1e10, None),
    # AdamW's second moment would be infinite, its step zero
    (1e25, "length .* whose square float32 does not hold"),
    (1e39, "is not finite|is inf"),
])
def test_step_taken_or_refused(scale, message, poisoned):
    """The losses of all tasks, made longer or shorter."""
    run = poisoned()
    run.tokens["sts"]["train"].labels[7] = 0.0
    run.log.close()
    trainer, model = run.stage.plan.trainer, run.model.eval()
    for name, task in list(model.tasks.items()):
        def scaled(logits, labels, loss=task.loss):
            return loss(logits, labels) * scale

        model.tasks[name] = with_loss(task, scaled)

    before = trainer.flat.vector.clone()
    batches = {name: tokens["train"].batch(range(4)) for name, tokens in run.tokens.items()}
    if message is None:
        trainer.step(batches)
        # eps swallows what is that short
        assert not torch.equal(before, trainer.flat.vector) or scale < 1e-20
        assert torch.isfinite(trainer.flat.vector).all()
    else:
        with pytest.raises(FloatingPointError, match=message):
            trainer.step(batches)
        assert torch.equal(before, trainer.flat.vector)


def singular():
    raise ValueError("singular\nmatrix")


@pytest.mark.parametrize(("answer", "message"), [
    (lambda: torch.full((3,), torch.nan), "the surgery method own returned [nan, nan, nan]: "
     "weights must be finite"),
    (lambda: torch.ones(2), "the surgery method returned shape (2,), expected one weight for each "
     "of 3 tasks"),
    (singular, "singular matrix"),
    (lambda: torch.linalg.inv(torch.zeros(3, 3)), "linalg.inv: The diagonal element 1 is zero"),
])
def test_own_surgery_fails(answer, message, train, refused, monkeypatch, capsys):
    """Not at the first look, when a wrong flag is refused, but in the second epoch."""
    monkeypatch.setitem(SURGERY, "own",
                        lambda gram, epoch: answer() if epoch == 2 else torch.ones(3))
    assert train(Path("run"), "--surgery", "own") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"train_multitask.py: --surgery own: {message}")
    assert said.endswith("; resume with: python train_multitask.py --resume run\n")
    assert said.count("\n") == 1
    monkeypatch.setitem(SURGERY, "own", lambda gram: answer())
    assert "--surgery own: " in refused("--surgery", "own")


# ------------------------------------------------------------------------------- folders


def test_folder_in_use(refused):
    """Refused under any of its names, with the process that uses it."""
    Path("run").mkdir()
    Path("link").symlink_to("run")
    lock = FolderLock(Path("run"))
    for name in ("run", "link"):
        assert f"{name} is in use by process {os.getpid()} on " in refused("--out", name)
    lock.release()
    assert not list(Path("run").iterdir())
    check_free(Path("run"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_file_mode(tmp_path):
    """Weights may be read by whoever may read other files; safetensors makes them private."""
    (tmp_path / "model.safetensors.partial").touch(0o600)
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "model.safetensors") as partial:
            save_file({"x": torch.ones(1)}, partial)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_disk_without_modes(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", Mock(side_effect=PermissionError(errno.EPERM, "")))
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("what", ["write", "file", "folder"])
def test_errors_of_a_disk_name_the_file(what, tmp_path, monkeypatch):
    """The system names none, because it was opened before."""
    path, fsync = tmp_path / "file", os.fsync
    path.write_text("old")
    fails = OSError(errno.EIO, os.strerror(errno.EIO))

    def sync(number):
        if stat.S_ISDIR(os.fstat(number).st_mode) == (what == "folder"):
            raise fails
        fsync(number)

    if what == "write":
        monkeypatch.setattr(Path, "write_text", Mock(side_effect=fails))
    else:
        monkeypatch.setattr(os, "fsync", sync)
    named = tmp_path if what == "folder" else path
    with pytest.raises(OSError, match=f"Input/output error: '{named}'$"):
        write_text(path, "new")
    assert path.read_text() == ("new" if what == "folder" else "old")  # its name is written last


def test_errors_of_others_keep_their_text(tmp_path):
    with pytest.raises(OSError, match=r"^no answer$"), replacing(tmp_path / "file"):
        raise OSError("no answer")


def test_disk_without_locks(monkeypatch):
    Path("run").mkdir()
    fails = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=fails))
    with pytest.raises(OSError, match=r"^run cannot be locked \(No locks available\): name a folder"):
        FolderLock(Path("run"))
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "run/.lock")
    monkeypatch.setattr("filelock.FileLock.acquire", Mock(side_effect=denied))
    with pytest.raises(PermissionError, match=r"Permission denied: 'run/\.lock'$"):
        FolderLock(Path("run"))


def test_release_by_thread(tmp_path):
    """The thread that answers SIGTERM can release the lock of the main thread."""
    lock = FolderLock(tmp_path)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    FolderLock(tmp_path).release()  # neither refused nor, with a warning, taken over


def test_release_where_open_files_stay(tmp_path, monkeypatch):
    """Windows refuses to remove the open .lock; the lock is given up all the same."""
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.name == ".lock":
            raise PermissionError(13, "Permission denied", str(self))
        unlink(self, missing_ok)

    lock = FolderLock(tmp_path)
    monkeypatch.setattr(Path, "unlink", refuse)
    lock.release()
    FolderLock(tmp_path).release()  # neither refused nor, with a warning, taken over


def test_lock_of_the_dead(tmp_path):
    """It is taken over, with a warning."""
    program = ("import pathlib, sys, time; from multitask.system.lock import FolderLock\n"
               "lock = FolderLock(pathlib.Path(sys.argv[1])); print('held', flush=True)\n"
               "time.sleep(60)")
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=programs.ROOT,
                             stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    for take in (check_free, FolderLock):
        with pytest.raises(ValueError, match=f"in use by process {child.pid} on "):
            take(tmp_path)
    child.kill()
    child.communicate()
    message = f"process {child.pid} on .* ended without giving up its lock; taken over"
    with pytest.warns(UserWarning, match=message):
        FolderLock(tmp_path).release()
    FolderLock(tmp_path).release()  # without a warning, which would be an error here


def test_linked_folders(train, alone, tmp_path):
    for name in ("real", "checkpoints"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "checkpoint").symlink_to(tmp_path / "checkpoints")
    assert train(tmp_path / "link") == 0
    assert kill_points.left_by(tmp_path / "real") == alone


def test_name_that_is_not_utf8(refused):
    assert "caf?: the name is not UTF-8" in refused("--out", "caf\udce9")


def test_closed_folder(refused, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("permissions do not bind the superuser")
    for out in (closed, closed / "run"):
        assert f"Permission denied: '{closed}" in refused("--out", out)
