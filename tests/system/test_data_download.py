"""Fetching the course's files and MultiNLI from servers that misbehave, into folders that hold somebody's work.

What the reader learns: a downloaded data set is right only when it has been compared with what is known of it (a
checksum) and read (columns, labels, JSON); what is in the folder already belongs to the user and is never overwritten;
a zip is a list of claims, its names and sizes are not to be believed. A server on 127.0.0.1 plays the public homes.
"""

import dataclasses
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import hub_server
import pytest
from hub_server import WEB_PAGE, Server, breaks_off, sha256, status

from multitask.data import sources
from multitask.data.__main__ import main
from multitask.data.course import load_dataset
from multitask.data.sources import SOURCES

ROOT = Path(__file__).parents[2]
PAIR = json.dumps({"gold_label": "neutral", "sentence1": "A dog runs.", "sentence2": "A dog is tired."}) + "\n"
HEADERS = {"ids-sst": "\tid\tsentence", "quora": "\tid\tsentence1\tsentence2", "sts": "\tid\tsentence1\tsentence2"}
LABELS = {"ids-sst": "sentiment", "quora": "is_duplicate", "sts": "similarity"}
ZIP = "/multinli_1.0.zip"
TRAIN, DEV = "multinli_1.0/multinli_1.0_train.jsonl", "multinli_1.0/multinli_1.0_dev_matched.jsonl"
COURSE = [row.file for row in SOURCES if row.group == "course"]
MULTINLI = [row.file for row in SOURCES if row.group == "multinli"]


def course_file(name, rows=3):
    stem, _, split = name.removesuffix(".csv").partition("-test") if "-test" in name else name[:-4].rpartition("-")
    header, *label = HEADERS[stem], *([LABELS[stem]] if split in ("train", "dev") else [])
    texts = "\t".join(["A film."] * (header.count("\t") - 1))
    lines = ["\t".join([header, *label])]
    lines += ["\t".join([str(i), f"{name}{i}", texts, *["1" for _ in label]]) for i in range(rows)]
    return ("\n".join(lines) + "\n").encode()


def zipped(entries, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


FILES = {name: course_file(name) for name in COURSE}
FILES["quora-train.csv"] = course_file("quora-train.csv", rows=10_000)  # large enough to break off
ENTRIES = {"multinli_1.0/README.txt": "readme", TRAIN: PAIR * 1000, "__MACOSX/x": "", DEV: PAIR * 10}


@pytest.fixture
def server():
    with Server() as running:
        for name, content in FILES.items():
            running.put(f"/{name}", content)
        running.put(ZIP, zipped(ENTRIES))
        yield running


@pytest.fixture(autouse=True)
def naps(monkeypatch, tmp_path):
    return hub_server.isolate(monkeypatch, tmp_path)


@pytest.fixture
def fetch(monkeypatch, server, tmp_path, capsys):
    """The command, pointed at the server: (*flags) → exit status, lines on stdout, lines on stderr.

    Its table is the real one with the checksums of the server's files, or of those in `promised`; the two that nobody
    knows stay unknown, and with known=False the others too.
    """

    def run(*flags, known=True, promised=()):
        served = {row: server.files[ZIP if row.member else f"/{row.file}"] for row in SOURCES}
        content = {row: dict(promised).get(row.file, served[row]) for row in SOURCES}
        monkeypatch.setattr(sources, "SOURCES", tuple(
            dataclasses.replace(row, sha256=sha256(content[row]) if row.sha256 and known else None,
                                size=len(content[row]) if row.size and known else None) for row in SOURCES))
        code = main(["--download", str(tmp_path / "data"), "--base-url", server.url, *flags])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), [line for line in printed.err.splitlines() if "trying again" not in line]

    return run


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def visible(folder):
    """What is in the folder, the empty lock files and empty folders left out."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if path.is_file() and not path.name.endswith(".lock"))


def test_everything_is_fetched_verified_and_read(fetch, data):
    code, out, err = fetch()
    assert (code, err) == (0, [])
    assert visible(data) == sorted(COURSE + MULTINLI)  # the zip is gone
    for name in COURSE:
        assert (data / name).read_bytes() == FILES[name]
    assert (data / MULTINLI[0]).read_text() == ENTRIES[TRAIN]
    assert (data / MULTINLI[1]).read_text() == ENTRIES[DEV]
    assert f"{data}/ids-sst-dev.csv: fetched, sha256 verified (3 examples)" in out
    assert f"{data}/quora-train.csv: fetched, no checksum is known for it (10,000 examples)" in out
    assert f"{data}/{MULTINLI[1]}: fetched, sha256 verified ({10 * len(PAIR):,} bytes)" in out
    assert {split for splits in load_dataset(data).values() for split in splits} == {"train", "dev", "test-student"}


def test_a_second_run_keeps_everything_and_asks_nobody(fetch, server, data):
    fetch()
    server.log.clear()
    before = {path: path.stat() for path in data.rglob("*.*sv")}
    code, out, err = fetch()
    assert (code, err, server.log) == (0, [], [])
    assert len(out) == len(SOURCES)
    assert all(": kept, " in line for line in out)
    assert f"{data}/ids-sst-dev.csv: kept, sha256 verified (3 examples)" in out
    assert {path: path.stat().st_mtime_ns for path in before} == {path: old.st_mtime_ns for path, old in before.items()}


@pytest.mark.parametrize(("only", "expected"), [
    (["course"], COURSE), (["multinli"], MULTINLI), (["sts-dev.csv"], ["sts-dev.csv"]),
    (["sts-dev.csv", MULTINLI[1]], ["sts-dev.csv", MULTINLI[1]])])
def test_only_confines_it(fetch, data, only, expected):
    code, out, _ = fetch(*[word for name in only for word in ("--only", name)])
    assert (code, len(out)) == (0, len(expected))
    assert visible(data) == sorted(expected)


def test_one_home_that_fails_does_not_block_the_other(fetch, server, data):
    server.fail(ZIP, status(404))
    code, _, err = fetch()
    assert code == 1
    assert visible(data) == sorted(COURSE)
    assert len(err) == 1  # one line, though two files are missing
    assert "answered HTTP 404" in err[0]
    assert all(name in err[0] for name in MULTINLI)


def test_an_interrupted_file_goes_on_where_it_stopped_and_the_rest_is_kept(fetch, server, data):
    server.fail("/quora-train.csv", *[breaks_off(200_000)] * 4)
    code, out, err = fetch("--only", "course")
    assert code == 1
    assert "bytes have arrived and are kept" in err[0]
    assert [line.split("/")[-1].partition(":")[0] for line in out] == COURSE[:3]  # what came before it
    server.log.clear()
    code, out, _ = fetch("--only", "course")
    assert code == 0
    assert [": kept" in line for line in out] == [True] * 3 + [False] * 6
    assert "Range" in server.asked("/quora-train.csv")[0]
    assert (data / "quora-train.csv").read_bytes() == FILES["quora-train.csv"]


def test_a_wrong_checksum_refuses_one_file_and_names_it(fetch, server, data):
    same_size = FILES["sts-dev.csv"].replace(b"film", b"fill")
    server.put("/sts-dev.csv", same_size)
    code, out, err = fetch("--only", "course", promised=FILES)
    assert (code, len(out), len(err)) == (1, 8, 1)
    assert f"sha256 was {sha256(same_size)}, where {sha256(FILES['sts-dev.csv'])} was expected" in err[0]
    assert err[0].endswith(f"put into {data} by hand (docs/data.md): sts-dev.csv")
    assert "sts-dev.csv" not in visible(data)


def test_a_web_page_in_place_of_a_file_is_refused_whatever_it_says_it_is(fetch, server, data):
    server.put("/quora-train.csv", WEB_PAGE)
    code, _, err = fetch("--only", "quora-train.csv")
    assert code == 1
    assert "quora-train.csv, line 1: no column 'id'; expected tab-separated columns" in err[0]
    assert ".part" not in err[0]
    server.headers["Content-Type"] = "text/html"
    code, _, err = fetch("--only", "quora-train.csv", "--only", "multinli")
    assert (code, len(err)) == (1, 2)
    assert all("answered with a web page" in line for line in err)
    assert visible(data) == []


def test_a_file_of_another_task_is_named_at_once(fetch, server, data):
    server.put("/quora-train.csv", FILES["sts-train.csv"])
    code, _, err = fetch("--only", "quora-train.csv")
    assert code == 1
    assert "no column 'is_duplicate'" in err[0]
    assert visible(data) == []


def test_without_a_network_one_line_says_what_was_asked_what_came_and_what_to_do(server, naps, tmp_path, capsys):
    url, data = server.url, tmp_path / "data"
    server.__exit__()  # nobody listens there any more
    assert main(["--download", str(data), "--base-url", url]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"could not download {url}/ids-sst-train.csv: tried 4 times in a row, at last Connection refused" in line
    assert "check the network" in line
    assert f"put into {data} by hand (docs/data.md): {', '.join(COURSE + MULTINLI)}" in line
    assert naps == [1, 2, 4]  # the server is not tried again for each file
    assert visible(data) == []


def test_a_server_in_trouble_is_not_asked_for_every_file(fetch, server):
    server.fail("/ids-sst-train.csv", *[status(503)] * 4)
    code, out, err = fetch()
    assert (code, out, len(err)) == (1, [], 1)
    assert "HTTP 503" in err[0]
    assert len(server.log) == 4


def test_told_to_stay_offline_it_asks_nobody_but_still_says_what_is_there(fetch, server, monkeypatch):
    fetch("--only", "sts-dev.csv")
    server.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = fetch()
    assert (code, len(out), len(err), server.log) == (1, 1, 1, [])
    assert "HF_HUB_OFFLINE is set" in err[0]


@pytest.mark.parametrize(("content", "told"), [
    (FILES["sts-dev.csv"].replace(b"film", b"flop"), "kept, though its sha256 is not that of the file at https://raw"),
    (FILES["sts-dev.csv"][:-2] + b"7\n", "line 4: similarity is '7'"),
    (WEB_PAGE, "line 1: no column 'id'"),
])
def test_nobodys_work_is_overwritten(fetch, server, data, content, told):
    data.mkdir()
    (data / "sts-dev.csv").write_bytes(content)
    code, out, err = fetch("--only", "sts-dev.csv")
    assert told in (out + err)[0]
    assert "move" in (out + err)[0]
    assert code == (0 if out else 2)
    assert (data / "sts-dev.csv").read_bytes() == content
    assert server.log == []


def test_an_empty_file_is_no_work_and_is_fetched(fetch, data):
    data.mkdir()
    (data / "sts-dev.csv").touch()
    assert fetch("--only", "sts-dev.csv")[0] == 0
    assert (data / "sts-dev.csv").read_bytes() == FILES["sts-dev.csv"]


# ----------------------------------------------------------------------------------------------------------- the zip


def test_only_the_missing_file_is_taken_from_the_zip(fetch, data):
    (data / "multinli").mkdir(parents=True)
    (data / MULTINLI[0]).write_text(PAIR)
    code, out, _ = fetch("--only", "multinli")
    assert code == 0
    assert out[0].endswith(f"kept, no checksum is known for it ({len(PAIR)} bytes)")
    assert (data / MULTINLI[0]).read_text() == PAIR
    assert (data / MULTINLI[1]).read_text() == ENTRIES[DEV]


def test_a_zip_placed_by_hand_is_used_and_stays(fetch, server, data):
    (data / "multinli").mkdir(parents=True)
    (data / "multinli" / "multinli_1.0.zip").write_bytes(server.files[ZIP])
    assert fetch("--only", "multinli")[0] == 0
    assert server.log == []
    assert visible(data) == sorted([*MULTINLI, "multinli/multinli_1.0.zip"])


def test_another_zip_placed_by_hand_is_refused_and_stays(fetch, server, data):
    (data / "multinli").mkdir(parents=True)
    (data / "multinli" / "multinli_1.0.zip").write_bytes(b"half of it")
    code, _, err = fetch("--only", "multinli")
    assert (code, len(err), server.log) == (2, 1, [])
    assert "multinli_1.0.zip is not the file at" in err[0]
    assert (data / "multinli" / "multinli_1.0.zip").read_bytes() == b"half of it"


def understated(content, size, claimed):
    """The zip with a smaller unpacked size in its headers."""
    old, new = size.to_bytes(4, "little"), claimed.to_bytes(4, "little")
    assert content.count(old) >= 2
    return content.replace(old, new)


@pytest.mark.parametrize(("entries", "told"), [
    ({"multinli_1.0/README.txt": "x", DEV: PAIR}, f"has no {TRAIN}; it has multinli_1.0/README.txt, {DEV}"),
    ({}, f"has no {TRAIN}; it has nothing"),
    ({f"../{TRAIN}": PAIR, DEV: PAIR}, f"has no {TRAIN}; it has ../"),
    ({f"/{TRAIN}": PAIR, DEV: PAIR}, f"has no {TRAIN}; it has /"),
], ids=["missing", "empty", "above", "absolute"])
def test_a_zip_without_the_very_entries_is_refused(fetch, server, data, tmp_path, entries, told):
    server.put(ZIP, zipped(entries))
    code, _, err = fetch("--only", "multinli")
    assert (code, len(err)) == (1, 1)
    assert told in err[0]
    assert visible(data) == []
    assert not list(tmp_path.rglob("*.jsonl"))


def test_hostile_entries_beside_the_wanted_ones_are_not_unpacked(fetch, server, data, tmp_path):
    outside = tmp_path / "outside.txt"
    server.put(ZIP, zipped({"../outside.txt": "evil", str(outside): "evil", "multinli/../../outside.txt": "evil",
                            "../ids-sst-dev.csv": "evil", **ENTRIES}))
    assert fetch("--only", "multinli")[0] == 0
    assert visible(data) == sorted(MULTINLI)
    assert not outside.exists()


def test_a_zip_bomb_is_refused_by_what_it_says_and_cut_off_if_it_lies(fetch, server, monkeypatch, data):
    bomb = bytes(10 << 20)
    monkeypatch.setattr(sources, "MEMBER_LIMIT", 5 << 20)
    honest = zipped({TRAIN: bomb, DEV: PAIR})
    assert len(honest) < 20_000
    server.put(ZIP, honest)
    code, _, err = fetch("--only", "multinli")
    assert (code, visible(data)) == (1, [])
    assert f"would unpack to {10 << 20:,} bytes, where at most {5 << 20:,} are expected" in err[0]
    server.put(ZIP, understated(honest, 10 << 20, 1 << 20))
    code, _, err = fetch("--only", "multinli")
    assert (code, visible(data)) == (2, ["multinli/multinli_1.0.zip"])
    assert "Bad CRC-32" in err[0]
    assert err[0].endswith("delete the archive and run again")


def test_a_damaged_zip_leaves_no_half_file(fetch, server, data):
    content = bytearray(zipped(ENTRIES, zipfile.ZIP_STORED))
    content[content.index(b"A dog") + 500] ^= 1
    server.put(ZIP, bytes(content))
    code, _, err = fetch("--only", "multinli", known=False)
    assert code == 2
    assert "Bad CRC-32" in err[0]
    assert visible(data) == ["multinli/multinli_1.0.zip"]
    server.put(ZIP, content[:-30])
    (data / "multinli" / "multinli_1.0.zip").unlink()
    code, _, err = fetch("--only", "multinli", known=False)
    assert (code, visible(data)) == (1, [])
    assert "is no zip archive" in err[0]


@pytest.mark.parametrize("wrong", ["", "no json\n", '["neutral"]\n', '{"gold_label": "neutral", "sentence1": "A"}\n',
                                   PAIR + PAIR[:-20]])
def test_what_is_no_multinli_is_named_at_once(fetch, server, data, wrong):
    server.put(ZIP, zipped({TRAIN: PAIR, DEV: wrong}))
    code, _, err = fetch("--only", "multinli")
    assert code == 2
    assert "line is no JSON object with gold_label, sentence1, sentence2" in err[0]
    assert DEV in err[0]
    assert MULTINLI[1] not in visible(data)


# -------------------------------------------------------------------------------------------- the table, the command


def test_the_table_names_pinned_files_over_https_and_no_url_counts_as_tried():
    assert len(COURSE) == 9
    assert len({row.file for row in SOURCES}) == 11
    for row in SOURCES:
        assert row.url.startswith("https://")
        assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256)
        assert row.group != "course" or re.search(rf"/[0-9a-f]{{40}}/data/{row.file}$", row.url)
        assert not row.tried


def test_the_checksums_are_those_of_the_courses_own_files(course_data):
    compared = 0
    for row in SOURCES:
        path = course_data / row.file
        if row.group == "course" and row.sha256 and path.is_file():
            assert (path.stat().st_size, sha256(path.read_bytes())) == (row.size, row.sha256), row.file
            compared += 1
    assert compared >= 5


def test_the_docs_have_every_file_its_address_and_its_checksum():
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for row in SOURCES:
        for word in (row.file.rpartition("/")[2], row.url.removesuffix(row.file), row.terms, row.sha256 or "unknown"):
            assert word in text, word


@pytest.mark.parametrize(("flags", "told"), [
    ([], "required: --download"),
    (["--download", "x", "--only", "imdb"], "--only imdb: choose from course, multinli, ids-sst-train.csv"),
    (["--download", "x", "--base-url", "mirror/data"], "--base-url mirror/data: expected an http"),
    (["--download", __file__], "this is a file, where a folder was expected"),
])
def test_wrong_usage_is_answered_in_one_line_with_status_2(monkeypatch, tmp_path, capsys, flags, told):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(flags)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert told in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_the_command_runs_as_the_readme_says():
    """Without runpy's warning that the package has imported the module already."""
    answer = subprocess.run([sys.executable, "-W", "error", "-m", "multitask.data", "--help"], cwd=ROOT,
                            capture_output=True, text=True, check=True)
    assert "--download FOLDER" in answer.stdout
    assert answer.stderr == ""
