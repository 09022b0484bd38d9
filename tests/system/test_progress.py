"""Progress: a bar on a terminal, a line a minute elsewhere, nothing when asked."""

import io
import os
import sys
import time

import programs

from minbert import BertModel, BertTokenizer
from minbert.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def count(stream: io.StringIO, monkeypatch, seconds: float) -> str:
    """What three updates print, each `seconds` after the one before."""
    now = [time.time()]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(total=3, desc="count", file=stream, mininterval=0) as bar:
        bar._time = lambda: now[0]
        for _ in range(3):
            now[0] += seconds
            bar.update()
    return stream.getvalue()


def test_a_bar_on_a_terminal(monkeypatch):
    assert "\r" in count(Terminal(), monkeypatch, 5)


def test_lines_elsewhere(monkeypatch):
    text = count(io.StringIO(), monkeypatch, 70)
    assert "\r" not in text
    assert len(text.splitlines()) == 3
    assert text.splitlines()[0].startswith("count: 1/3")


def test_no_line_within_a_minute(monkeypatch):
    assert count(io.StringIO(), monkeypatch, 10) == ""


def test_tqdm_disable(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert count(Terminal(), monkeypatch, 100) == ""


def test_without_a_console(tiny_checkpoint, monkeypatch):
    """A program without a console has no sys.stderr, and needs no progress."""
    model = BertModel.from_pretrained(tiny_checkpoint)
    tokenizer = BertTokenizer.from_pretrained(tiny_checkpoint)
    monkeypatch.setattr(sys, "stderr", None)
    assert model.encode(["a film"], tokenizer).shape == (1, 24)
    with Progress(total=1, mininterval=0) as bar:
        bar.update()


def test_quiet(brief_run, tmp_path, capfd):
    """It is for one call: the next one in the same process prints again."""
    before = os.environ.get("TQDM_DISABLE")
    run = brief_run(tmp_path / "run", "--max-steps", 2, "--quiet")
    assert programs.run("--resume", run, "--quiet") == 0
    assert capfd.readouterr().out == ""
    assert os.environ.get("TQDM_DISABLE") == before
    assert programs.run("--resume", run) == 0
    assert "is finished" in capfd.readouterr().out
