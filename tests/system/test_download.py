"""One file from servers that misbehave.

What the reader learns: a download is right only when somebody proves it. Servers break off, stall, are busy, change
their mind between two attempts, send a login page in place of a file. Each test makes a real server on 127.0.0.1 do one
of these things, and shows what is done about it: ask for the missing bytes only (Range and If-Range), compare with what
was promised (length, sha256), rename only what is whole, wait longer each time, and at last give up with one sentence
that says what to do.
"""

import gzip
import os
import threading
import time
from pathlib import Path

import hub_server
import pytest
from hub_server import VOCABULARY, WEB_PAGE, WEIGHTS, Server, breaks_off, safetensors, sentence, sha256, status

from minbert.checkpoints import download as module
from minbert.checkpoints.download import HubError, download

CHANGED = safetensors(300_000, seed=1)


@pytest.fixture
def server():
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def naps(monkeypatch, tmp_path):
    """Pauses between attempts are written down, in seconds, and not waited for."""
    return hub_server.isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize("code", [408, 425, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again_after_longer_and_longer_pauses(server, naps, caplog, tmp_path, code):
    url = server.put("/x", b"content")
    server.fail("/x", *[status(code)] * 3)
    assert download(url, tmp_path / "x").read_bytes() == b"content"
    assert naps == [1, 2, 4]
    assert caplog.text.count(f"x: HTTP {code} ") == 3


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("99999", 120), ("0", 0), ("-5", 1), ("soon", 1)])
def test_retry_after_is_honoured_up_to_a_limit(server, naps, tmp_path, asked, waited):
    url = server.put("/x", b"content")
    server.fail("/x", status(429, {"Retry-After": asked}))
    download(url, tmp_path / "x")
    assert naps == [waited]


def test_a_connection_that_is_cut_before_the_answer_is_tried_again(server, tmp_path):
    url = server.put("/x", b"content")
    server.fail("/x", *[hub_server.hangs_up] * 3)
    assert download(url, tmp_path / "x").read_bytes() == b"content"
    server.fail("/x", *[hub_server.hangs_up] * 4)
    with pytest.raises(HubError, match="at last Remote end closed connection"):
        download(url, tmp_path / "y")


@pytest.mark.parametrize(("fault", "noticed"), [(breaks_off(200_000), "the connection was closed"),
                                                (hub_server.stalls(200_000), "timed out")], ids=["cut", "stalled"])
def test_a_body_that_stops_is_resumed_by_range(server, naps, caplog, monkeypatch, tmp_path, fault, noticed):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.3))
    url = server.put("/x", WEIGHTS)
    server.fail("/x", fault)
    assert download(url, tmp_path / "x").read_bytes() == WEIGHTS
    assert noticed in caplog.text
    first, second = server.asked("/x")
    assert "Range" not in first
    assert first["Accept-Encoding"] == "identity"
    start = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 200_000 - 2 * module.CHUNK_BYTES <= start <= 200_000  # at most the last chunk comes again
    assert second["If-Range"] == f'"{sha256(WEIGHTS)}"'
    assert naps == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.lock", "x"]


def test_patience_ends_with_one_sentence_and_what_has_arrived_is_kept_for_a_later_call(server, tmp_path):
    url = server.put("/x", WEIGHTS)
    (tmp_path / "x").write_bytes(b"old")
    server.fail("/x", *[breaks_off(200_000)] * 4)
    with pytest.raises(HubError, match=r"tried 4 times .* after [\d,]+ of 300,009 bytes .* are kept") as caught:
        download(url, tmp_path / "x", size=len(WEIGHTS))
    assert url in sentence(caught)
    assert (tmp_path / "x").read_bytes() == b"old"
    assert download(url, tmp_path / "x", size=len(WEIGHTS)).read_bytes() == WEIGHTS
    assert ["Range" in headers for headers in server.asked()] == [False, True, True, True, True]


def test_patience_is_renewed_as_long_as_the_file_grows(server, monkeypatch, tmp_path):
    content = bytes(6 << 20)
    url = server.put("/x", content)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    server.fail("/x", *[breaks_off((2 << 20) * i) for i in (1, 2, 3)])
    assert download(url, tmp_path / "x").read_bytes() == content
    server.fail("/x", *[breaks_off(100_000)] * 9)  # and no longer than that
    with pytest.raises(HubError, match="tried 2 times"):
        download(url, tmp_path / "y")


def breaks_off_and_changes(handler):
    handler.serve(200_000)
    handler.server.owner.put("/x", CHANGED)


@pytest.mark.parametrize("faults", [
    [breaks_off_and_changes],
    [breaks_off_and_changes, hub_server.ignores_if_range],
    [breaks_off(200_000), hub_server.sends_another_range],
], ids=["If-Range known", "If-Range ignored", "another range"])
def test_bytes_that_do_not_belong_together_are_never_joined(server, tmp_path, faults):
    url = server.put("/x", WEIGHTS)
    server.fail("/x", *faults)
    assert download(url, tmp_path / "x").read_bytes() == server.files["/x"]
    assert len(server.log) == len(faults) + 1


def test_a_stop_at_the_worst_moment_never_joins_two_versions(server, monkeypatch, tmp_path):
    """A new ETag is noted, old bytes are still there, the process dies: the note must not vouch for them."""
    url = server.put("/x", WEIGHTS)
    with monkeypatch.context() as unlucky:
        unlucky.setattr(module, "ATTEMPTS", 1)
        server.fail("/x", breaks_off(200_000))
        with pytest.raises(HubError):
            download(url, tmp_path / "x")
        server.put("/x", CHANGED)
        unlucky.setattr(module, "_write_body", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            download(url, tmp_path / "x")
    assert download(url, tmp_path / "x").read_bytes() == CHANGED


@pytest.mark.parametrize("etag", [None, f'W/"{sha256(WEIGHTS)}"'], ids=["no etag", "weak etag"])
def test_without_an_etag_or_a_checksum_nothing_is_resumed(server, tmp_path, etag):
    url = server.put("/x", WEIGHTS)
    server.fail("/x", breaks_off(200_000, {"ETag": etag}))
    download(url, tmp_path / "x")
    assert "Range" not in server.asked("/x")[-1]
    server.fail("/x", breaks_off(200_000, {"ETag": etag}))
    download(url, tmp_path / "y", sha256=sha256(WEIGHTS))
    assert "Range" in server.asked("/x")[-1]
    assert "If-Range" not in server.asked("/x")[-1]


@pytest.mark.parametrize("length", [100_000, len(WEIGHTS), 400_000])
def test_a_part_that_was_never_ours_is_found_out_by_the_checksum(server, naps, tmp_path, length):
    url = server.put("/x", WEIGHTS)
    (tmp_path / "x.part").write_bytes(b"?" * length)
    assert download(url, tmp_path / "x", sha256=sha256(WEIGHTS)).read_bytes() == WEIGHTS
    assert naps == [1]


def test_a_checksum_or_size_that_we_know_is_compared(server, tmp_path):
    url = server.put("/x", b"content")
    with pytest.raises(HubError, match=f"sha256 was {sha256(b'content')}, where {'0' * 64} was expected"):
        download(url, tmp_path / "x", sha256="0" * 64)
    with pytest.raises(HubError, match="the server states 7 bytes, where 8 were expected") as caught:
        download(url, tmp_path / "x", size=8)
    sentence(caught)
    assert [path.name for path in tmp_path.iterdir()] == [".x.lock"]
    download(url, tmp_path / "x", sha256=sha256(b"content").upper(), size=7)


def test_a_web_page_is_refused_at_once(server, naps, tmp_path):
    url = server.put("/x", WEB_PAGE)
    server.headers["Content-Type"] = "Text/HTML; charset=utf-8"
    with pytest.raises(HubError, match="answered with a web page") as caught:
        download(url, tmp_path / "x")
    sentence(caught)
    assert not list(tmp_path.glob("x*"))
    assert not naps


def test_a_body_of_unknown_length_is_measured_against_the_size_we_know(server, tmp_path):
    url = server.put("/x", WEIGHTS)
    server.headers["Content-Length"] = None
    server.fail("/x", breaks_off(200_000))
    assert download(url, tmp_path / "x", size=len(WEIGHTS)).read_bytes() == WEIGHTS
    assert server.asked("/x")[-1]["Range"] == "bytes=200000-"
    server.put("/x", WEIGHTS + b"more")
    with pytest.raises(HubError, match=r"the answer had [\d,]+ of [\d,]+ bytes"):
        download(url, tmp_path / "y", size=len(WEIGHTS))
    assert not list(tmp_path.glob("y*"))


def test_the_length_of_a_compressed_body_is_not_the_files(server, tmp_path):
    url = server.put("/x", gzip.compress(VOCABULARY * 100))
    server.headers["Content-Encoding"] = "gzip"  # though we have asked for "identity"
    assert download(url, tmp_path / "x", size=len(VOCABULARY) * 100).read_bytes() == VOCABULARY * 100


def test_a_file_that_is_there_is_left_alone_unless_it_contradicts(server, tmp_path):
    url = server.put("/x", b"content")
    (tmp_path / "x").write_bytes(b"Content")
    download(url, tmp_path / "x", size=7, sha256=sha256(b"Content"))
    assert download(url, tmp_path / "x").read_bytes() == b"Content"
    assert not server.log
    assert download(url, tmp_path / "x", sha256=sha256(b"content")).read_bytes() == b"content"
    (tmp_path / "x").write_bytes(b"short")
    assert download(url, str(tmp_path / "x"), size=7).read_bytes() == b"content"


def test_the_bytes_are_on_the_disk_before_the_file_gets_its_name(server, monkeypatch, tmp_path):
    """Else a power cut may leave the name and not the bytes."""
    calls, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(Path(new).name), replace(old, new)))
    target = download(server.put("/x", b"content"), tmp_path / "x")
    assert calls == [target.stat().st_ino, "x"]


def test_a_second_caller_waits_and_says_so_and_finds_the_file(server, caplog, tmp_path):
    url = server.put("/x", b"content")
    with module.locked(tmp_path / "x"):
        second = threading.Thread(target=download, args=(url, tmp_path / "x"))
        second.start()
        deadline = time.monotonic() + 10
        while "another process is fetching" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "another process is fetching" in caplog.text
        (tmp_path / "x").write_bytes(b"by the first")
    second.join(10)
    assert (tmp_path / "x").read_bytes() == b"by the first"
    assert not server.log


def test_offline_nothing_is_asked(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        download(server.put("/x", b"content"), tmp_path / "x")
    assert not server.log


@pytest.mark.parametrize("url", ["ftp://a/b", "/etc/passwd", "http://"])
def test_what_is_no_web_address_is_refused_before_anything_is_written(tmp_path, url):
    with pytest.raises(ValueError, match="expected an http"):
        download(url, tmp_path / "new" / "x")
    assert list(tmp_path.iterdir()) == []


def test_only_large_files_show_a_progress_bar(server, tmp_path, capsys):
    download(server.put("/vocab.txt", VOCABULARY), tmp_path / "vocab.txt")
    assert capsys.readouterr() == ("", "")
    download(server.put("/model.safetensors", safetensors(2 << 20)), tmp_path / "model.safetensors")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "model.safetensors: 100%" in printed.err
    assert "2.00M/2.00M" in printed.err
