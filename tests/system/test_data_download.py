"""Fetching the course's files and MultiNLI, into folders that hold somebody's work.

You learn that a downloaded data set is right only when it has been compared with what is known of
it (a checksum) and read (columns, labels, JSON), and that files in the folder belong to the user
and are never overwritten. A server on 127.0.0.1 plays the public homes.
"""

import dataclasses
import json
import zipfile

import pytest
from hub_server import WEB_PAGE, Server, breaks_off, sha256, status
from mutations import zipped
from programs import ROOT, python

from multitask.data import __main__ as command
from multitask.data import load_dataset, load_multinli, multinli
from multitask.data.sources import SOURCES

PAIR = json.dumps({"gold_label": "neutral", "sentence1": "A dog runs.",
                   "sentence2": "A dog is tired."}) + "\n"
HEADERS = {"sst": "\tid\tsentence", "para": "\tid\tsentence1\tsentence2",
           "sts": "\tid\tsentence1\tsentence2", "cfimdb": "\tid\tsentence"}
LABELS = {"sst": "sentiment", "cfimdb": "sentiment", "para": "is_duplicate", "sts": "similarity"}
ZIP = "/multinli_1.0.zip"
TRAIN = "multinli_1.0/multinli_1.0_train.jsonl"
DEV = "multinli_1.0/multinli_1.0_dev_matched.jsonl"
COURSE = [row.file for row in SOURCES if row.group == "course"]
MULTINLI = [row.file for row in SOURCES if row.group == "multinli"]


def course_file(row, rows=3):
    header, label = HEADERS[row.task], [] if "-test" in row.file else [LABELS[row.task]]
    texts = "\t".join(["A film."] * (header.count("\t") - 1))
    lines = ["\t".join([header, *label])]
    for number in range(rows):
        lines.append("\t".join([str(number), f"{row.file}{number}", texts, *["1" for _ in label]]))
    return ("\n".join(lines) + "\n").encode()


FILES = {row.file: course_file(row) for row in SOURCES if row.group == "course"}
FILES["quora-dev.csv"] = course_file(SOURCES[4], rows=10_000)  # large enough to break off
ENTRIES = {"multinli_1.0/README.txt": "readme", TRAIN: PAIR * 1000, f"__MACOSX/{TRAIN}": "",
           DEV: PAIR * 10}


@pytest.fixture
def server():
    with Server() as running:
        for name, content in FILES.items():
            running.put(f"/{name}", content)
        running.put(ZIP, zipped(ENTRIES))
        yield running


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def fetch(monkeypatch, server, data, capsys):
    """The command, pointed at the server: (*flags) → exit status, lines on stdout, lines on stderr.

    Its table is the real one with the checksums of the server's files, or of those in `promised`;
    the two unknown ones stay unknown, and with known=False all are.
    """

    def run(*flags, known=True, promised=()):
        table = []
        for row in SOURCES:
            served = server.files["/" + row.file.rpartition("/")[2]]
            content = dict(promised).get(row.file, served)
            table.append(dataclasses.replace(
                row, sha256=sha256(content) if row.sha256 and known else None,
                size=len(content) if row.size and known else None))
        monkeypatch.setattr(command, "SOURCES", tuple(table))

        code = command.main(["--download", str(data), "--base-url", server.url, *flags])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


def visible(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_everything(fetch, data):
    """All is fetched, verified and read; the zip is read in place."""
    code, out, err = fetch()
    assert (code, err) == (0, [])
    assert visible(data) == sorted(COURSE + MULTINLI)
    for name in COURSE:
        assert (data / name).read_bytes() == FILES[name]
    assert f"{data}/ids-sst-dev.csv: fetched, sha256 verified (3 examples)" in out
    unknown = f"{data}/quora-train.csv: fetched, no checksum is known for it (3 examples)"
    assert unknown in out
    size = len(zipped(ENTRIES))
    assert f"{data}/{MULTINLI[0]}: fetched, sha256 verified ({size:,} bytes)" in out

    splits = {split for splits in load_dataset(data).values() for split in splits}
    assert splits == {"train", "dev", "test-student"}
    assert {split: len(pairs) for split, pairs in load_multinli(data).items()} == {
        "train": 1000, "dev": 10}


def test_a_second_run(fetch, server, data):
    """It keeps everything and asks nobody."""
    fetch()
    server.log.clear()
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*.*")}
    code, out, err = fetch()
    assert (code, err, server.log) == (0, [], [])
    assert len(out) == len(SOURCES)
    assert all(": kept, " in line for line in out)
    assert f"{data}/ids-sst-dev.csv: kept, sha256 verified (3 examples)" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(("only", "expected"), [
    (["course"], COURSE), (["multinli"], MULTINLI), (["sts-dev.csv"], ["sts-dev.csv"]),
    (["sts-dev.csv", MULTINLI[0]], ["sts-dev.csv", MULTINLI[0]])])
def test_only(fetch, data, only, expected):
    code, out, _ = fetch(*[word for name in only for word in ("--only", name)])
    assert (code, len(out)) == (0, len(expected))
    assert visible(data) == sorted(expected)


@pytest.mark.parametrize(("path", "code", "fetched", "asked"), [
    (ZIP, 404, COURSE, 13), ("/ids-sst-train.csv", 503, [], 1)])
def test_one_file_fails(fetch, server, data, path, code, fetched, asked):
    """The others are fetched all the same, unless the server itself is in trouble."""
    server.fail(path, status(code))
    failed, _, err = fetch()
    assert (failed, len(err), len(server.log)) == (1, 1, asked)
    assert visible(data) == sorted(fetched)
    assert f"answered HTTP {code}" in err[0]


@pytest.mark.parametrize("known", [True, False])
def test_an_interrupted_file(fetch, server, data, known):
    """It resumes where it stopped if a checksum can prove the whole, else it begins again."""
    server.fail("/quora-dev.csv", breaks_off(200_000))
    code, out, err = fetch("--only", "course", known=known)
    assert (code, len(err)) == (1, 1)
    assert ("what has arrived is kept" in err[0]) == known
    assert len(out) == 4  # the server is not asked for the next file
    assert "quora-dev.csv.partial" in visible(data)

    server.log.clear()
    code, out, _ = fetch("--only", "course", known=known)
    assert code == 0
    expected = f"bytes={200_000 // 65536 * 65536}-" if known else None
    assert server.asked("/quora-dev.csv")[0].get("Range") == expected
    assert (data / "quora-dev.csv").read_bytes() == FILES["quora-dev.csv"]
    assert visible(data) == sorted(COURSE)


def test_a_stale_partial(fetch, server, data):
    """The checksum finds bytes of another version, or too many; the next run is clean."""
    data.mkdir()
    for leftover in (b"?" * 20, b"?" * 10_000_000):
        (data / "sts-dev.csv.partial").write_bytes(leftover)
        code, _, err = fetch("--only", "sts-dev.csv")
        assert code == 1
        assert "run again" in err[0]
        assert visible(data) == []
    assert fetch("--only", "sts-dev.csv")[0] == 0


@pytest.mark.parametrize(("name", "content"), [
    ("sts-dev.csv.partial", FILES["sts-dev.csv"]),  # killed just before the rename
    ("sts-dev.csv", b""),                           # cannot be anybody's work
])
def test_other_leftovers(fetch, data, name, content):
    data.mkdir()
    (data / name).write_bytes(content)
    assert fetch("--only", "sts-dev.csv")[0] == 0
    assert visible(data) == ["sts-dev.csv"]
    assert (data / "sts-dev.csv").read_bytes() == FILES["sts-dev.csv"]


@pytest.mark.parametrize(("name", "content", "expected"), [
    ("sts-dev.csv", FILES["sts-dev.csv"].replace(b"film", b"fill"),
     f"expected {sha256(FILES['sts-dev.csv'])};"),
    ("sts-dev.csv", FILES["sts-dev.csv"] + b"more",
     f"bytes, expected {len(FILES['sts-dev.csv'])}"),
    ("quora-train.csv", WEB_PAGE,
     "quora-train.csv, line 1: no column 'id'; expected columns"),
], ids=["same size", "more bytes", "a web page"])
def test_another_file(fetch, server, data, name, content, expected):
    server.put(f"/{name}", content)
    code, _, err = fetch("--only", name, promised=FILES)
    assert code == 1
    assert expected in err[0]
    assert err[0].endswith(f"put into {data} by hand (docs/how-to/data.md): {name}")
    assert ".partial" not in err[0]
    assert visible(data) == []


def test_what_claims_to_be_a_web_page(fetch, server, data):
    server.headers["Content-Type"] = "Text/HTML; charset=utf-8"
    code, _, err = fetch("--only", "quora-train.csv", "--only", "multinli")
    assert (code, len(err)) == (1, 2)
    assert all("answered with a web page" in line for line in err)
    assert visible(data) == []


def test_no_network(fetch, server, data):
    """One line says what was asked, what came, and what to do."""
    server.__exit__()  # nobody listens there any more
    code, _, [line] = fetch()
    assert code == 1
    asked = f"could not download {server.url}/ids-sst-train.csv"
    assert f"{asked} (Connection refused): check the network" in line
    assert f"put into {data} by hand (docs/how-to/data.md): {', '.join(COURSE + MULTINLI)}" in line
    assert visible(data) == []


@pytest.mark.parametrize(("content", "expected"), [
    (FILES["sts-dev.csv"].replace(b"film", b"flop"),
     "kept, though its sha256 is not that of the file at https://raw"),
    (FILES["sts-dev.csv"][:-2] + b"7\n", "line 4: similarity is '7'"),
])
def test_nothing_is_overwritten(fetch, server, data, content, expected):
    data.mkdir()
    (data / "sts-dev.csv").write_bytes(content)
    code, out, err = fetch("--only", "sts-dev.csv")
    assert expected in (out + err)[0]
    assert "move" in (out + err)[0]
    assert code == (0 if out else 2)
    assert (data / "sts-dev.csv").read_bytes() == content
    assert server.log == []


# ------------------------------------------------------------------------------------- the zip


def test_unpacked_files(fetch, server, data):
    """With both files of MultiNLI in the folder, its zip is not fetched."""
    (data / "multinli").mkdir(parents=True)
    for name in multinli.FILES.values():
        (data / "multinli" / name).write_text(PAIR)
    code, out, _ = fetch("--only", "multinli")
    assert code == 0
    assert f"not needed, {data}/multinli holds its two files" in out[0]
    assert server.log == []


@pytest.mark.parametrize("place", ["multinli/multinli_1.0.zip", "multinli_1.0.zip"])
@pytest.mark.parametrize("good", [True, False])
def test_a_zip_placed_by_hand(fetch, server, data, place, good):
    (data / "multinli").mkdir(parents=True)
    content = server.files[ZIP] if good else b"half of it"
    (data / place).write_bytes(content)
    code, out, err = fetch("--only", "multinli")
    assert (code, server.log) == (0 if good else 2, [])
    assert ("kept, sha256 verified" if good else "is not a zip file") in (out + err)[0]
    assert (data / place).read_bytes() == content


@pytest.mark.parametrize(("entries", "expected"), [
    ({"multinli_1.0/README.txt": "x", DEV: PAIR}, "holds 0 files multinli_1.0_train.jsonl"),
    ({f"a/{TRAIN}": PAIR, f"b/{TRAIN}": PAIR, DEV: PAIR}, "holds 2 files multinli_1.0_train.jsonl"),
    ({TRAIN: PAIR, DEV: ""}, "multinli_1.0_dev_matched.jsonl is empty"),
    ({TRAIN: PAIR, DEV: "not json\n"}, "line 1: not one JSON object per line"),
    ({TRAIN: bytes(2 << 20), DEV: PAIR}, f"would unpack to {2 << 20:,} bytes, where at most"),
], ids=["missing", "twice", "empty", "text", "bomb"])
def test_a_zip_of_something_else(fetch, server, monkeypatch, data, entries, expected):
    monkeypatch.setattr(multinli, "MEMBER_LIMIT", 1 << 20)
    server.put(ZIP, zipped(entries))
    code, _, err = fetch("--only", "multinli")
    assert (code, len(err)) == (1, 1)
    assert expected in err[0]
    assert visible(data) == []


def test_a_damaged_zip(fetch, server, data):
    """Damage that only a reading of the whole can find is named when the file is read."""
    content = bytearray(zipped(ENTRIES, zipfile.ZIP_STORED))
    content[content.index(b"A dog") + 50_000] ^= 1
    server.put(ZIP, bytes(content))
    assert fetch("--only", "multinli", known=False)[0] == 0
    with pytest.raises(ValueError, match=r"multinli_1\.0_train\.jsonl is damaged .*CRC"):
        load_multinli(data)

    (data / MULTINLI[0]).unlink()
    server.put(ZIP, bytes(content[:-30]))
    code, _, err = fetch("--only", "multinli", known=False)
    assert (code, visible(data)) == (1, [])
    assert "is not a zip file" in err[0]


# ----------------------------------------------------------------------- the table, the command


def test_the_real_checksums(course_data):
    compared = 0
    for row in SOURCES:
        path = course_data / row.file
        if row.group == "course" and row.sha256 and path.is_file():
            content = path.read_bytes()
            assert (len(content), sha256(content)) == (row.size, row.sha256), row.file
            compared += 1
    assert compared >= 5


def test_the_docs():
    """docs/how-to/data.md has every file, its address and its checksum."""
    text = (ROOT / "docs" / "how-to" / "data.md").read_text(encoding="utf-8")
    for row in SOURCES:
        address = row.url.removesuffix(row.file)
        for word in (row.file.rpartition("/")[2], address, row.sha256 or "unknown"):
            assert word in text, word


@pytest.mark.parametrize(("flags", "expected"), [
    ([], "required: --download"),
    (["--download", "x", "--only", "imdb"],
     "argument --only: invalid choice: 'imdb' (choose from"),
    (["--download", "x", "--base-url", "mirror/data"],
     "--base-url mirror/data: expected an http"),
    (["--download", __file__], "this is a file, where a folder was expected"),
])
@pytest.mark.usefixtures("empty_folder")
def test_wrong_usage(refused, flags, expected):
    assert expected in refused(*flags, main=command.main)


def test_the_command():
    """It runs as the README says, without runpy's warning about a module imported already."""
    answer = python("-W", "error", "-m", "multitask.data", "--help")
    assert "--download FOLDER" in answer.stdout
    assert answer.stderr == ""
