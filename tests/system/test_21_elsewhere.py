"""Lesson 21: what users of other tools ran into must not happen here.

Each test names the public report that it comes from, if there is one.
"""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import commands_page
import numpy as np
import programs
import pytest
import torch
import transformers
from programs import ROOT, python
from safetensors.torch import load_file, save_file
from test_10_training import build
from torch import nn

from minbert import BertForMaskedLM, BertModel, BertTokenizer
from minbert.files import replacing, write_text
from multitask import TASKS, MultitaskBert, hand_in, predict, pretrain
from multitask.commands import COMMANDS, SHORT_SPIN, spin_briefly_in_commands
from multitask.data.examples import load_dataset
from multitask.runs import run as main_job
from multitask.system import command
from multitask.system.runlog import read_events
from multitask.training.final_layers import HeadTrainer
from multitask.training.step import SurgeryTrainer
from optim import AdamW, FlatParameters, TaskGradients, project_conflicting, project_paper

TEXTS = ["a good film", "it was dull", "two dogs run on the grass", "no"]


@pytest.fixture
def model() -> MultitaskBert:
    return build().eval()


@pytest.fixture
def tok(model) -> BertTokenizer:
    return model.tokenizer


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder of one's own, and another working folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


# ------------------------------------------------------------------------------ 1: paths with ~


def test_home_in_flags():
    """--out=~/runs/a reaches argparse as it stands (transformers #10628, Lightning #19058)."""
    kinds = {"folder", "folder_or_html", "file", "file.csv", "run", "name_or_folder", "out"}
    for name, listed in COMMANDS.items():
        parser = importlib.import_module(listed.module).build_parser()
        actions = commands_page.actions_of(parser)
        parsers = [parser] if actions is None else actions.choices.values()
        paths = [action for each in parsers for action in each._actions
                 if (action.metavar or action.dest).lower() in kinds]
        assert paths, name
        for action in paths:
            assert str(action.type("~/x")) == os.path.expanduser("~/x"), (name, action.dest)


def test_home_in_api(home, model, small_data):
    model.encoder.save_pretrained("~/enc")
    model.tokenizer.save_pretrained("~/enc")
    BertForMaskedLM(model.encoder.config).save_pretrained("~/mlm")
    model.save_pretrained("~/multi")
    BertModel.from_pretrained("~/enc")
    BertTokenizer.from_pretrained("~/enc")
    MultitaskBert.from_pretrained("~/multi")

    (home / "data").symlink_to(small_data)
    assert load_dataset("~/data").keys() == TASKS.keys()
    assert {path.name for path in home.iterdir()} == {"enc", "mlm", "multi", "data"}
    assert not list(Path.cwd().iterdir())


# ----------------------------------------------------------------------- 2: read once, checked


def test_collections_are_read_once(model, tok):
    pairs = [("a good film", "a film"), ("no", "two dogs")]
    expected = model.predict_paraphrase(pairs)
    firsts, seconds = zip(*pairs, strict=True)
    for given in (zip(firsts, seconds, strict=True), (pair for pair in pairs), tuple(pairs),
                  [list(pair) for pair in pairs]):
        np.testing.assert_array_equal(model.predict_paraphrase(given), expected)

    assert len(model.predict_sentiment(text for text in TEXTS)) == 4
    assert len(model.encoder.encode((text for text in TEXTS), tok)) == 4
    ids = tok(list(firsts), list(seconds))["input_ids"]
    assert torch.equal(tok((text for text in firsts), (text for text in seconds))["input_ids"],
                       ids)
    assert torch.equal(tok(pairs)["input_ids"], ids)
    with pytest.raises(ValueError, match="max_length is 2"):
        tok(pairs, max_length=2)


def test_order_is_read_once():
    """A generator of orders gives what the same list gives, not the plain sum."""
    rows = torch.tensor([[1.0, 0, 0], [-1, 1, 0], [-2, 0, 1]])
    order = [[1, 2], [0, 2], [1, 0]]
    given = (iter(others) for others in order)
    assert torch.equal(project_conflicting(rows, given), project_conflicting(rows, order))
    assert not torch.equal(project_conflicting(rows, order), rows.sum(0))


@pytest.mark.parametrize(("items", "message"), [
    ([{"a": 1, "b": 2}], "item 0"), ([{"a", "b"}], "item 0"), ([("a", "b"), ("a",)], "item 1"),
    ([("a", None)], "item 0"), ({"a": "b"}, "got dict"), ("ab", "one string"), (None, "NoneType"),
    (["ab"], "item 0")])
def test_what_is_no_pair(model, items, message):
    with pytest.raises(ValueError, match=message):
        model.predict_similarity(items)


@pytest.mark.parametrize("items", [["a", None], ["a", 3], ["a", b"b"], ["a", "\ud800"]])
def test_item_number(tok, model, items):
    """The error names the item; half a character is no text (issue 21, 12)."""
    for call in (tok, tok.encode, model.predict_sentiment,
                 lambda given: model.encoder.encode(given, tok)):
        with pytest.raises(ValueError, match="item 1 is"):
            call(items)


# ------------------------------------------------------------------------------ 3: threads


class Slow:
    """A tokenizers.Tokenizer that pauses after each change of its state, so that races are met."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> object:
        value = getattr(self.inner, name)
        if not name.endswith("_truncation"):
            return value

        def change(*args: object, **named: object) -> None:
            value(*args, **named)
            time.sleep(0.001)

        return change


def test_threads(model, tok):
    """One tokenizer, several threads (tokenizers #537, transformers #47085)."""
    long = ["a good film and " * 20, *TEXTS] * 5
    expected = {None: [e.ids for e in tok.encode(long)],
                16: [e.ids for e in tok.encode(long, max_length=16)]}
    vectors, classes = model.encoder.encode(TEXTS, tok), model.predict_sentiment(TEXTS)

    def work(limit: int | None) -> None:
        for _ in range(15):
            assert [e.ids for e in tok.encode(long, max_length=limit)] == expected[limit]
            assert torch.equal(model.encoder.encode(TEXTS, tok), vectors)
            assert np.array_equal(model.predict_sentiment(TEXTS), classes)

    tok._tokenizer = Slow(tok._tokenizer)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (None, 16) * 2))


# --------------------------------------------------------------- 5: files that are not regular


def test_links_are_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_pipes_and_devices_stay(tmp_path):
    """A device is written to, never replaced (bazel #31038)."""
    os.mkfifo(tmp_path / "pipe")
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "answers")
    reader.join()
    assert received == ["answers"]
    assert (tmp_path / "pipe").is_fifo()

    before = os.stat("/dev/null")
    write_text(Path("/dev/null"), "gone")
    assert os.stat("/dev/null").st_rdev == before.st_rdev


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm on this system")
def test_files_in_memory_are_replaced():
    """Below /dev there may be ordinary files, too."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for text in ("old", "new"):
            write_text(Path(folder) / "answers", text)
        assert (Path(folder) / "answers").read_text() == "new"


def test_errors_name_the_users_path(tmp_path):
    with (pytest.raises(OSError, match="answers") as caught, replacing(tmp_path / "no" / "answers")
          as partial):
        partial.write_text("x")
    assert "partial" not in str(caught.value)


# ----------------------------------------------------------------------------- 6: counts


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_counts(tok, model, count):
    with pytest.raises(ValueError, match="batch_size is"):
        model.encoder.encode(TEXTS, tok, batch_size=count)
    with pytest.raises(ValueError, match="count is"):
        BertForMaskedLM(model.encoder.config).fill_masks(["a [MASK]"], tok, count=count)
    with pytest.raises(ValueError, match="vocab_size is"):
        BertTokenizer.train(TEXTS, count)


def test_batch_beyond_the_data(small_data, brief_run, tmp_path, capsys):
    """Each step takes all examples once, and a note states this."""
    run = brief_run(tmp_path / "run", "--batch-size", 5000, "--max-steps", 1)
    assert "fewer than a batch of 5,000" in capsys.readouterr().out
    [step] = read_events(run, "step")
    dataset = load_dataset(small_data)
    assert step["examples"] == sum(len(splits["train"]) for splits in dataset.values())


# --------------------------------------------------------------------- 7, 8: flat parameters


def flat_loop(net: nn.Module, loss, steps: int = 1, change=lambda net: None) -> None:
    """The loop of docs/how-to/surgery.md."""
    flat = FlatParameters(net.named_parameters())
    gradients = TaskGradients(flat, tasks=1)
    vector = nn.Parameter(flat.vector)
    optimizer = AdamW([vector], lr=0.1, weight_decay=0.1)
    change(net)
    with gradients.row(0):
        loss(net).backward()
    vector.grad = project_conflicting(gradients.matrix)
    optimizer.step()


def two_layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})


def loss_of_both(net: nn.Module) -> torch.Tensor:
    x = torch.ones(1, 3)
    return (net["a"](x) + net["b"](x)).square().sum()


@pytest.mark.parametrize(("loss", "change", "message"), [
    (loss_of_both, lambda net: net["b"].requires_grad_(False), "b.weight is frozen"),
    (lambda net: net["a"](torch.ones(1, 3)).sum(), lambda net: None,
     "no loss has reached b.weight"),
    (loss_of_both, lambda net: net.load_state_dict(two_layers().state_dict(), assign=True),
     "no loss has reached a.weight"),
    (loss_of_both, lambda net: setattr(net["b"], "weight", nn.Parameter(torch.ones(2, 3))),
     "no loss has reached b.weight"),
    (loss_of_both, lambda net: net["b"].double().float(), "b.weight is no longer a part"),
])
def test_frozen_unused_replaced(loss, change, message):
    """Weights that get no gradient never move in silence (diffusers #1009, pytorch #38581)."""
    with pytest.raises(ValueError, match=message):
        flat_loop(two_layers(), loss, change=change)


def test_release(tmp_path):
    """After `release` one layer saves alone, and safetensors takes the model."""
    net = two_layers()
    flat = FlatParameters(net.named_parameters())
    torch.save(net["a"].state_dict(), tmp_path / "shared")
    flat.release()
    torch.save(net["a"].state_dict(), tmp_path / "own")
    assert torch.load(tmp_path / "own")["weight"].untyped_storage().nbytes() == 6 * 4
    save_file(dict(net.state_dict()), tmp_path / "all.safetensors")


# ------------------------------------------------------------------------- 9: half precision


@pytest.mark.parametrize(("rows", "expected"), [
    ([[40000.0, 10000], [-30000, 10000]], [2882, 37471]),
    ([[60000.0, 100], [-60000, 100]], None)])
def test_half_precision(rows, expected):
    exact = project_conflicting(torch.tensor(rows, dtype=torch.float64))
    found = project_conflicting(torch.tensor(rows, dtype=torch.float16))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, exact.half(), rtol=1e-3, atol=0)
    if expected:
        torch.testing.assert_close(exact, torch.tensor(expected, dtype=torch.float64), rtol=1e-3,
                                   atol=0)


@pytest.mark.parametrize("method", [project_conflicting, project_paper])
def test_near_the_limit_of_float32(method):
    rows = torch.tensor([[3e38, 1e38], [-2e38, 1e38]])
    torch.testing.assert_close(method(rows), method(rows.double()).float(), rtol=1e-5, atol=0)


def test_overflow_reaches_the_scaler():
    """GradScaler's first overflow is normal: it skips the step and lowers its scale."""
    for method in (project_conflicting, project_paper):
        found = method(torch.tensor([[float("inf"), 1.0], [1.0, 1.0]]))
        assert not torch.isfinite(found).all()


# ----------------------------------------------------------------------------- 10: modes


def test_modes_are_kept(model, tok):
    model.train()
    model.encoder.layers[0].eval()
    before = [part.training for part in model.modules()]
    model.predict_sentiment(TEXTS)
    model.encoder.encode(TEXTS, tok)
    assert [part.training for part in model.modules()] == before


# ------------------------------------------------------------------- 11, 12: terminals, bytes


def test_any_terminal(brief_run, tmp_path, monkeypatch):
    """Neither --help nor a Greek folder ends the main job on a terminal that lacks the letters."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit, match="0"):
        programs.run("--help")
    brief_run(tmp_path / "δοκιμή", "--max-steps", 1)
    assert b"/??????/report.html" in terminal.buffer.getvalue()


def test_bytes_that_are_not_text(trained, refused, empty_folder):
    given = b"bad \xff byte".decode("utf-8", "surrogateescape")  # as in sys.argv
    assert "not text" in refused(trained, "--task", "sst", given, main=predict.main)


def test_reader_that_has_gone(trained):
    """predict … | head -1 ends without a word."""
    command = (f"{sys.executable} -m multitask.predict {trained} --task sst 'A film.' "
               "| true")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, check=False,
                          capture_output=True)
    assert b"Errno" not in done.stderr
    assert done.returncode == 0


# ------------------------------------------------------------------------ 13: moved data


def test_moved_run_and_data(small_data, interrupted, refused, empty_folder, no_report):
    """A run and its data may move; other data are refused, and config.json stays."""
    shutil.copytree(small_data, "data")
    with interrupted(SurgeryTrainer, 6):
        assert programs.run("--data", "data", "--model", "scratch", "--epochs", 2, "--out",
                            "run") == 130
    Path("run").rename("moved")
    Path("data").rename("elsewhere")

    shutil.copytree("elsewhere", "other")
    path = Path("other/ids-sst-train.csv")
    header, first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, second, first, *rest]) + "\n")
    config = Path("moved/config.json").read_bytes()
    assert "other training examples" in refused("--resume", "moved", "--data", "other")
    assert Path("moved/config.json").read_bytes() == config
    assert programs.run("--resume", "moved", "--data", "elsewhere") == 0
    assert main_job.is_finished(Path("moved"))


# ------------------------------------------------------------------------- 15: no memory


def test_out_of_memory(small_data, tmp_path, interrupted, capsys, no_report):
    """One line with --accumulate, --batch-size and how to resume, which that flag may join."""
    run = tmp_path / "run"
    with interrupted(SurgeryTrainer, 2, torch.cuda.OutOfMemoryError("CUDA out of memory.")):
        assert programs.run("--data", small_data, "--model", "scratch", "--max-steps", 3,
                            "--checkpoint-every", 1, "--out", run) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory" in line
    assert "--batch-size" in line
    assert line.endswith(f"--resume {run} --accumulate 2")
    assert programs.run("--resume", run, "--accumulate", 2) == 0


@pytest.mark.parametrize("flags", [(), ("--fl",)])
def test_out_of_memory_with_a_frozen_encoder(flags, small_data, tmp_path, interrupted, capsys,
                                             no_report):
    """Shorter inputs help, and --accumulate does not."""
    run = tmp_path / "run"
    with interrupted(HeadTrainer, 2, MemoryError()):
        assert programs.run("--data", small_data, "--model", "scratch", "--gs", "none", *flags,
                            "--max-steps", 3, "--checkpoint-every", 1, "--out", run) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory: in a new run, cut inputs with --max-length; resume with: " in line
    assert line.endswith(f"--resume {run}")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")])
def test_memory_errors(error, capsys):
    """Not every command has --batch-size."""
    assert command.answer("x", Mock(side_effect=error)) == 1
    assert capsys.readouterr().err == "x: out of memory\n"


def test_other_errors_are_raised(trained, monkeypatch, capsys):
    monkeypatch.setattr(MultitaskBert, "predict_logits", Mock(side_effect=MemoryError))
    assert predict.main([str(trained), "--task", "sst", "A film."]) == 1
    assert "out of memory: take a smaller --batch-size\n" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        command.answer("x", Mock(side_effect=RuntimeError("a bug")))


def test_a_bug_while_training(small_data, tmp_path, interrupted):
    """Wrong input is one line with status 2, before training; the same error later is a bug."""
    with interrupted(SurgeryTrainer, 1, ValueError("a bug")), pytest.raises(AssertionError):
        programs.run("--data", small_data, "--model", "scratch", "--out", tmp_path / "run")


# ------------------------------------------------------------------------ 16, 17: the rest


@contextmanager
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def test_default_dtype(model, tok):
    expected = model.encoder.encode(TEXTS, tok), model.predict_sentiment(TEXTS)
    with double_by_default():
        found = model.encoder.encode(TEXTS, tok), model.predict_sentiment(TEXTS)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] == expected[1]).all()


def test_loading_under_another_default_dtype(model, tok, tmp_path):
    """Loaded models are float32 throughout, also what a file lacks."""
    BertForMaskedLM(model.encoder.config, model.encoder).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensors[name] for name in tensors if "pooler" not in name}, file)

    model.save_pretrained(tmp_path / "run")
    with double_by_default():
        several = MultitaskBert.from_pretrained(tmp_path / "run")
        with pytest.warns(UserWarning, match="has no pooler"):
            encoder = BertModel.from_pretrained(tmp_path)
        masked = BertForMaskedLM.from_pretrained(tmp_path)
        outputs = [encoder(**tok(TEXTS)).pooler_output, masked(**tok(TEXTS)).logits]
    found = [*outputs, *encoder.parameters(), *masked.parameters(), *several.parameters()]
    assert {tensor.dtype for tensor in found} == {torch.float32}


@pytest.mark.parametrize(("files", "name", "error", "message"), [
    (["bert_config.json", "bert_model.ckpt.index", "vocab.txt"], "x", FileNotFoundError,
     "weights of another framework"),
    ([], "x", FileNotFoundError, "remove it if a name on the hub was meant"),
    (["model.safetensors"], "x/model.safetensors", ValueError, "is a file: name the folder"),
])
def test_no_checkpoint(files, name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for file in files:
        Path("x", file).write_text("{}")
    with pytest.raises(error, match=message):
        BertModel.from_pretrained(name)


def test_warnings_are_left_alone(trained):
    before = warnings.showwarning
    programs.run("--resume", trained)
    assert warnings.showwarning is before


def test_torch_optimizer_state():
    """AdamW takes over the state of torch.optim.AdamW."""
    weight = nn.Parameter(torch.ones(3))
    theirs = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    weight.grad = torch.tensor([1.0, 2.0, 3.0])
    theirs.step()

    ours = AdamW([weight], lr=0.5)
    ours.load_state_dict(theirs.state_dict())
    ours.step()
    assert ours.state[weight]["step"] == 2
    assert ours.param_groups[0]["lr"] == 0.1
    with pytest.raises(ValueError, match="amsgrad"):
        ours.load_state_dict(torch.optim.AdamW([weight], amsgrad=True).state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrapper_prefixes(prefix, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {prefix + name: value.clone() for name, value in load_file(path).items()}
    save_file(tensors, path)
    ids = torch.tensor([[2, 5, 3]])
    assert torch.equal(BertModel.from_pretrained(tmp_path)(ids)[0], tiny_model(ids)[0])


def test_output_by_place(model, tok):
    out = model.encoder(**tok(["a film"]))
    last, pooled = out
    assert last is out[0] is out.last_hidden_state
    assert pooled is out[1] is out["pooler_output"]
    assert out[-1] is pooled


def test_decode_takes_tensors(tok):
    ids = tok(["a good film"])["input_ids"][0]
    assert tok.decode(ids) == tok.decode(ids.tolist()) == "[CLS] a good film [SEP]"


def test_added_mask_is_refused(model, tok):
    batch = tok(["a film", "no"])
    batch["attention_mask"] = (1.0 - batch["attention_mask"]) * -10000.0
    with pytest.raises(ValueError, match="negative numbers"):
        model.encoder(**batch)


def test_layers_cut_off(tiny_model, tmp_path):
    """A model that has lost layers saves the number that it has."""
    tiny_model.layers = tiny_model.layers[:1]
    tiny_model.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 3]])
    assert torch.equal(BertModel.from_pretrained(tmp_path)(ids)[0], tiny_model(ids)[0])


def test_pretrain_into_a_name_of_ours(tmp_path, monkeypatch, capsys):
    """The printed advice opens the model that was trained, not the bundled one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("\n\n".join(f"{text} and {text}" for text in TEXTS))
    assert pretrain.main(["--text", "text", "--out", "minbert-mini", "--steps", "1", "--layers",
                          "1", "--hidden", "8", "--heads", "1", "--length", "16"]) == 0
    assert capsys.readouterr().out.strip().endswith("--model ./minbert-mini")
    for name in ("./minbert-mini", Path("minbert-mini")):
        assert BertModel.from_pretrained(name).config.hidden_size == 8
        assert BertForMaskedLM.from_pretrained(name).config.hidden_size == 8


# ------------------------------------------------------- 20: a machine that does something else


def test_openmp(monkeypatch):
    """Commands set how long threads spin, unless the user did; the library's import does not."""
    for argv, given, expected in (
            ("-m", {}, "1500"), ("/some/where/train_multitask.py", {}, "1500"),
            ("my_program.py", {}, None), ("-m", {"GOMP_SPINCOUNT": "9"}, "9"),
            ("-m", {"OMP_WAIT_POLICY": "PASSIVE"}, None)):
        variables = dict(given)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [argv])
            patch.setattr(os, "environ", variables)
            spin_briefly_in_commands()
        assert variables.get("GOMP_SPINCOUNT") == expected

    for name in (*SHORT_SPIN, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    found = python("-c", "import os, sys; sys.argv = ['-m']; import multitask; "
                         "print(os.environ['GOMP_SPINCOUNT'])")
    assert found.stdout == "1500\n"


# ------------------------------------------------------------------------------ 19: claims


def test_incomplete_is_not_called_ready(small_data, brief_run, tmp_path, capsys):
    """Predictions cut by --eval-limit are not called a hand-in.

    hand_in predicts all of the run's data.
    """
    run = brief_run(tmp_path / "run", "--max-steps", 1, "--eval-limit", 5)
    out = capsys.readouterr().out
    assert "hand in: " not in out
    assert "cut by --eval-limit" in out

    assert hand_in.main([str(run), "--out", str(tmp_path / "hand-in")]) == 0
    assert f"on {small_data.resolve()}" in capsys.readouterr().out
    lines = (tmp_path / "hand-in" / "sst-dev-output.csv").read_text().splitlines()
    assert len(lines) == 1 + len(load_dataset(small_data)["sst"]["dev"])


# ----------------------------------------------------------- 4: a tokenizer's settings

ADDED = {"8192": {"content": "NEWTOK", "normalized": False, "special": False}}


def edited(name: str, **changes: object):
    """An edit of a JSON file in a folder."""
    def edit(folder: Path) -> None:
        path = folder / name
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**values, **changes}))
    return edit


def two_files(folder: Path) -> None:
    edited("special_tokens_map.json", additional_special_tokens=["NEWTOK"])(folder)
    edited("tokenizer_config.json", additional_special_tokens=["NEWTOK"])(folder)


def blank_line(folder: Path) -> None:
    """The package gives an added token then the id of another piece."""
    (folder / "tokenizer.json").unlink()
    pieces = (folder / "vocab.txt").read_text().split("\n")
    (folder / "vocab.txt").write_text("\n".join([*pieces[:5], "", *pieces[6:]]))
    edited("added_tokens.json", NEWTOK=8192)(folder)


SETTINGS = {
    "none": lambda folder: None,
    "cased": edited("tokenizer_config.json", do_lower_case=False),
    "json says cased": lambda folder: programs.edit_json(
        folder / "tokenizer.json", lambda values: values["normalizer"].update(lowercase=False)),
    "accents kept": edited("tokenizer_config.json", strip_accents=False),
    "cased without accents": edited("tokenizer_config.json", do_lower_case=False,
                                    strip_accents=True),
    "Chinese not split": edited("tokenizer_config.json", tokenize_chinese_chars=False),
    "added_tokens.json": edited("added_tokens.json", NEWTOK=8192),
    "added_tokens_decoder": edited("tokenizer_config.json", added_tokens_decoder=ADDED),
    "further special tokens": edited("special_tokens_map.json",
                                     additional_special_tokens=["NEWTOK"]),
    "the same token in two files": two_files,
    "a special token of the vocabulary": edited("special_tokens_map.json",
                                                additional_special_tokens=["door"]),
    "fast class": edited("tokenizer_config.json", tokenizer_class="BertTokenizerFast"),
}


@pytest.fixture(scope="module")
def saved_mini(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    BertModel.from_pretrained("minbert-mini").save_pretrained(folder)
    BertTokenizer.from_pretrained("minbert-mini").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("name", SETTINGS)
def test_tokenizer_settings(name, form, saved_mini, tmp_path):
    """Ids equal transformers' (#10650, #12416, sentence-transformers #1150)."""
    if form == "vocab.txt" and name == "json says cased":
        pytest.skip("of tokenizer.json only")
    folder = shutil.copytree(saved_mini, tmp_path / "model")
    SETTINGS[name](folder)
    if form == "vocab.txt":
        (folder / "tokenizer.json").unlink()

    texts = ["A Good Film, Café NEWTOK newtok aNEWTOKb", "doors unaffable 中文 [MASK] [CLS]",
             "½ e\u0301 ﬁ"]
    ours = [encoding.ids for encoding in BertTokenizer.from_pretrained(folder).encode(texts)]
    assert ours == transformers.AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]


@pytest.mark.parametrize(("edit", "message"), [
    (edited("tokenizer_config.json", tokenizer_class="RobertaTokenizer"), "RobertaTokenizer"),
    (edited("tokenizer_config.json", cls_token="<s>"), "cls_token is '<s>'"),
    (edited("tokenizer_config.json", do_lower_case="false"),
     r"tokenizer_config\.json: do_lower_case must be true or false, got 'false'"),
    (edited("special_tokens_map.json", mask_token={"content": "<mask>"}), "mask_token is '<mask>'"),
    (edited("added_tokens.json", NEWTOK=9000), "'NEWTOK' has the id 9000"),
    (edited("added_tokens.json", NEWTOK="8192"), "expected a whole number"),
    (edited("tokenizer_config.json", added_tokens_decoder=["NEWTOK"]), "must be an object"),
    (edited("special_tokens_map.json", additional_special_tokens=[3]), "expected a token"),
    (blank_line, "the vocabulary leaves out numbers"),
])
def test_settings_refused(edit, message, saved_mini, tmp_path):
    folder = shutil.copytree(saved_mini, tmp_path / "model")
    edit(folder)
    with pytest.raises(ValueError, match=message) as caught:
        BertTokenizer.from_pretrained(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*left out 2 rows")
@pytest.mark.parametrize("lower", [True, False])
def test_real_text_agrees(lower, real_checkpoint, course_data, tmp_path):
    """The dev sentences of SST and Quora, lower-cased or not: the same ids."""
    folder = shutil.copytree(real_checkpoint, tmp_path / "model")
    edited("tokenizer_config.json", do_lower_case=lower)(folder)
    dataset = load_dataset(course_data)
    texts = [text for name in ("sst", "para") for example in dataset[name]["dev"][:3000]
             for text in example.sentences]
    found = [encoding.ids for encoding in BertTokenizer.from_pretrained(folder).encode(texts)]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert found == theirs(texts, truncation=False)["input_ids"]
