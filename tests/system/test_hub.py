"""From a name to a folder.

What the reader learns: where a checkpoint is looked for and in which order, which of its files are taken, and what is
done so that a folder is either whole or not there: in spite of a branch that moves on, a process that is killed, and
several that ask at once. The server is a hub in miniature on 127.0.0.1.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pytest
from hub_server import NAME, TINY_BERT, VOCABULARY, WEB_PAGE, WEIGHTS, redirects, sentence, sha256, status, weights_path

from minbert import BertTokenizer
from minbert.checkpoints import hub
from minbert.checkpoints.hub import HubError, resolve

COMMIT, OTHER_COMMIT = "0123456789abcdef" * 2, "fedcba9876543210" * 2
FOLDER_HINT = "without a network, pass a folder that holds config.json, model.safetensors and vocab.txt"


def index_of(*parts):
    return json.dumps({"weight_map": {f"tensor{i}": part for i, part in enumerate(parts)}}).encode()


ZIP = b"PK\x03\x04 as torch.save writes it"
SHARDED = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors.index.json": index_of(*(f"model-{i}.safetensors" for i in (1, 2, 1))),
    "model-1.safetensors": hub_server.safetensors(2_000, seed=1),
    "model-2.safetensors": hub_server.safetensors(3_000, seed=2),
}


@pytest.fixture
def server(monkeypatch):
    with hub_server.Server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture(autouse=True)
def naps(monkeypatch, tmp_path):
    return hub_server.isolate(monkeypatch, tmp_path)


@pytest.fixture
def cached(tmp_path):
    """Where our cache keeps NAME."""
    return tmp_path / "ours" / "org--tiny-bert" / "main"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != hub.COMMIT_NOTE}


def test_a_folder_is_returned_as_it_is(tmp_path, monkeypatch):
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path
    (tmp_path / "home" / "bert").mkdir(parents=True)
    assert resolve("~/bert") == tmp_path / "home" / "bert"
    monkeypatch.chdir(tmp_path / "home")
    assert resolve("bert") == Path("bert")  # it could be a hub name too: the folder comes first


def test_a_name_is_fetched_once_and_then_found(server, cached):
    server.publish({**TINY_BERT, "README.md": b"hello", "tf_model.h5": b"x", "pytorch_model.bin": ZIP})
    assert resolve(NAME) == cached
    assert contents(cached) == TINY_BERT  # nothing else: not the other weights, no partial files
    asked = len(server.log)
    assert resolve(Path(NAME)) == cached
    assert len(server.log) == asked


BAD_NAMES = ["", " ", "../x", "a/../b", "/no/such/folder", "no\\such", "C:\\bert", "a/b/c", "a//b", "a/", "/a", "-a"]
BAD_NAMES += [".a", "a.", "a--b", "a..b", "a b", "a\n", "a\0b", "ä/b", "~/nothing", "x" * 200, "https://hf.co/a/b"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_what_is_neither_a_folder_nor_a_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="is not an existing folder, nor is it a hub name") as caught:
        resolve(name)
    assert repr(name) in sentence(caught)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("revision", ["", "../main", "/main", "a//b", "a\nb", "-x", ".x"])
def test_a_revision_that_cannot_be_one_is_refused(revision):
    with pytest.raises(ValueError, match="is no branch, tag or commit"):
        resolve(NAME, revision=revision)


def test_a_revision_with_a_slash_is_one_part_of_the_url_and_one_folder(server, tmp_path):
    server.publish(revision="refs%2Fpr%2F1")
    assert resolve(NAME, revision="refs/pr/1") == tmp_path / "ours" / "org--tiny-bert" / "refs%2Fpr%2F1"


@pytest.mark.parametrize("endpoint", ["huggingface.co", "ftp://huggingface.co", "file:///etc"])
def test_an_endpoint_that_is_no_web_address_is_refused(monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match=r"HF_ENDPOINT is .* expected an address such as https:"):
        resolve(NAME)


def fill_their_cache(root, folder="models--org--tiny-bert", files=TINY_BERT, ref="main"):
    """HuggingFace's layout: refs/<revision> holds a commit, snapshots/<commit> the files, linked to blobs."""
    snapshot, blobs, reference = (root / folder / part for part in (f"snapshots/{COMMIT}", "blobs", f"refs/{ref}"))
    for made in (snapshot, blobs, reference.parent):
        made.mkdir(parents=True)
    for file, content in files.items():
        (blobs / sha256(content)).write_bytes(content)
        (snapshot / file).symlink_to(Path("../../blobs") / sha256(content))
    reference.write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize(("revision", "ref"), [("main", "main"), (COMMIT, "main"), ("refs/pr/1", "refs/pr/1")])
@pytest.mark.parametrize("name", [NAME, "bert-base-uncased"])
def test_hugging_faces_cache_is_used_before_ours_and_the_network(server, tmp_path, name, revision, ref):
    flat = name.replace("/", "--")
    ours = tmp_path / "ours" / flat / revision.replace("/", "%2F")
    ours.mkdir(parents=True)
    for file, content in TINY_BERT.items():
        (ours / file).write_bytes(content)
    assert resolve(name, revision) == ours
    assert fill_their_cache(tmp_path / "theirs", f"models--{flat}", ref=ref) == resolve(name, revision)
    assert not server.log


def test_the_variables_that_name_hugging_faces_cache_are_honoured_in_order(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    places = {"HF_HUB_CACHE": "theirs", "HF_HOME": "hf/hub", "XDG_CACHE_HOME": "xdg/huggingface/hub",
              "HOME": "home/.cache/huggingface/hub"}
    found = {variable: fill_their_cache(tmp_path / place) for variable, place in places.items()}
    for variable in places:
        assert resolve(NAME) == found[variable]
        monkeypatch.delenv(variable)


def test_the_variables_that_name_our_cache_are_honoured_in_order(server, monkeypatch, tmp_path):
    server.publish()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    places = {"MINBERT_CACHE": "ours", "XDG_CACHE_HOME": "xdg/minbert", "HOME": "home/.cache/minbert"}
    for variable, place in places.items():
        assert resolve(NAME).is_relative_to(tmp_path / place)
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(("files", "missing"),
                         [(TINY_BERT, file) for file in TINY_BERT] + [(SHARDED, file) for file in (*SHARDED, None)])
def test_a_snapshot_counts_only_if_nothing_is_missing(monkeypatch, tmp_path, files, missing):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = fill_their_cache(tmp_path / "theirs", files=files)
    if missing is None:
        assert resolve(NAME) == snapshot
    else:
        (snapshot / missing).resolve().unlink()  # the blob: a link to nothing stays behind
        with pytest.raises(HubError, match="not complete"):
            resolve(NAME)


@pytest.mark.parametrize("index", [b"no json", b"[]", b'{"weight_map": 3}', index_of(), index_of("../vocab.txt")])
def test_a_snapshot_whose_index_is_broken_is_passed_over(server, tmp_path, cached, index):
    fill_their_cache(tmp_path / "theirs", files={**SHARDED, "model.safetensors.index.json": index})
    server.publish()
    assert resolve(NAME) == cached


@pytest.mark.parametrize("missing", TINY_BERT)
def test_a_folder_of_our_cache_that_lacks_a_file_is_fetched_anew(server, cached, missing):
    server.publish()
    resolve(NAME)
    (cached / missing).unlink()
    assert contents(resolve(NAME)) == TINY_BERT


@pytest.mark.parametrize("value", ["1", "true", "YES", "On"])
def test_offline_the_caches_are_still_found_and_the_network_is_never_touched(server, monkeypatch, cached, value):
    server.publish()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # this does not mean offline
    resolve(NAME)
    server.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert resolve(NAME) == cached
    with pytest.raises(HubError) as caught:
        resolve("org/other")
    for piece in ("HF_HUB_OFFLINE is set", "'org/other'", "theirs", "ours", FOLDER_HINT):
        assert piece in sentence(caught)
    assert not server.log


def test_without_a_network_one_sentence_says_what_to_do(naps):
    with pytest.raises(HubError) as caught:
        resolve("bert-base-uncased")
    for piece in ("bert-base-uncased", "tried 4 times", "Connection refused"):
        assert piece in sentence(caught)
    assert sentence(caught).endswith(FOLDER_HINT)
    assert naps == [1, 2, 4]


WEIGHT_FORMS = [
    {"model.safetensors": WEIGHTS},
    {file: SHARDED[file] for file in list(SHARDED)[2:]},
    {"pytorch_model.bin": ZIP},
    {"pytorch_model.bin.index.json": index_of("a.bin", "b.bin"), "a.bin": ZIP, "b.bin": b"\x80\x02 older"},
]


@pytest.mark.parametrize("best", range(4), ids=["safetensors", "safetensors shards", "bin", "bin shards"])
def test_of_several_forms_of_the_weights_the_best_is_taken(server, best):
    for form in WEIGHT_FORMS[best:]:
        server.publish({"config.json": b"{}", "vocab.txt": VOCABULARY, **form})
    assert contents(resolve(NAME)) == {"config.json": b"{}", "vocab.txt": VOCABULARY, **WEIGHT_FORMS[best]}


@pytest.mark.parametrize("lacking", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_either_vocabulary_will_do_and_what_else_there_is_comes_along(server, lacking):
    files = {**TINY_BERT, "tokenizer.json": b'{"version": "1.0"}', "tokenizer_config.json": b"{}"}
    del files[lacking]
    server.publish(files)
    assert contents(resolve(NAME)) == files


@pytest.mark.parametrize(("files", "lacking", "said"), [
    (TINY_BERT, "config.json", f"has no model '{NAME}' with a config.json at revision 'main'"),
    (TINY_BERT, "vocab.txt", "has no vocabulary, vocab.txt or tokenizer.json"),
    (TINY_BERT, "model.safetensors", "has no weights, model.safetensors or model.safetensors.index.json"),
    (SHARDED, "model-2.safetensors", "lacks model-2.safetensors, which its model.safetensors.index.json names"),
])
def test_a_model_that_lacks_a_file_is_refused_before_its_weights_come(server, cached, files, lacking, said):
    server.publish({file: content for file, content in files.items() if file != lacking})
    with pytest.raises(HubError) as caught:
        resolve(NAME)
    assert said in sentence(caught)
    assert lacking.startswith("model") or not server.asked("model.safetensors")
    assert not cached.exists()


EVIL = ["../../evil.safetensors", "/etc/evil.safetensors", "sub/x.safetensors", "a\\b.safetensors", "..", "",
        ".safetensors", "C:x.safetensors", "x.safetensors\n", "config.json"]


@pytest.mark.parametrize("part", EVIL, ids=ascii)
def test_an_index_that_names_anything_but_plain_files_is_refused(server, cached, part):
    server.publish({**SHARDED, "model.safetensors.index.json": index_of("model-1.safetensors", part)})
    with pytest.raises(HubError) as caught:
        resolve(NAME)
    assert f"refused: it names {part!r}, where a plain file name" in sentence(caught)
    assert not cached.exists()
    assert not server.asked("model-1.safetensors")


GARBAGE = [("config.json", b"[1, 2]"), ("config.json", b""), ("config.json", WEB_PAGE), ("vocab.txt", b" \n"),
           ("vocab.txt", b"\n" + WEB_PAGE), ("tokenizer.json", WEB_PAGE), ("model.safetensors", WEB_PAGE),
           ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), ("model.safetensors", b""),
           ("pytorch_model.bin", WEB_PAGE), ("model.safetensors.index.json", WEB_PAGE),
           ("model.safetensors.index.json", b'{"a":' * 100_000)]


@pytest.mark.parametrize(("file", "content"), GARBAGE, ids=lambda value: ascii(value[:20]))
def test_content_that_is_not_what_its_name_says_is_refused(server, naps, tmp_path, file, content):
    """With status 200 and no text/html that would give a web page away."""
    server.publish({**TINY_BERT, file: content})
    if file in hub.WEIGHTS[1:]:
        del server.files[weights_path()]
    with pytest.raises(HubError, match="is refused: it") as caught:
        resolve(NAME)
    assert file in sentence(caught)
    assert not list(tmp_path.rglob(file + "*"))  # nor a partial one, which would be resumed
    assert not naps


def test_all_files_are_of_one_commit_even_if_the_branch_moves_on(server):
    server.headers["X-Repo-Commit"] = COMMIT
    server.publish({"config.json": b"{}"})
    server.publish({"vocab.txt": VOCABULARY, "model.safetensors": WEIGHTS}, revision=COMMIT)
    assert contents(resolve(NAME)) == TINY_BERT
    assert [path for path, _ in server.log if "/main/" in path] == [weights_path("config.json")]


@pytest.mark.parametrize("moved", [False, True])
def test_a_second_attempt_keeps_finished_files_of_the_same_commit_only(server, cached, moved):
    server.headers["X-Repo-Commit"] = COMMIT
    server.publish({"config.json": b"{}"})
    server.publish({**SHARDED, "vocab.txt": VOCABULARY}, revision=COMMIT)
    server.fail(weights_path("model-2.safetensors", COMMIT), status(403))
    with pytest.raises(HubError):
        resolve(NAME)
    assert not cached.exists()
    now = OTHER_COMMIT if moved else COMMIT
    server.headers["X-Repo-Commit"] = now
    changed = {**SHARDED, "model-1.safetensors": hub_server.safetensors(2_000, seed=9)}
    server.publish(changed, revision=now)
    assert contents(resolve(NAME)) == (changed if moved else {**SHARDED, "vocab.txt": VOCABULARY})
    assert len(server.asked("model-1.safetensors")) == (2 if moved else 1)


def test_the_size_and_sha256_that_the_hub_states_are_what_the_file_must_be(server, cached):
    server.publish()
    server.etags[weights_path()] = f'W/"{"0" * 64}"'  # of a large file, the ETag is its sha256
    with pytest.raises(HubError, match=f"sha256 was {sha256(WEIGHTS)}, where {'0' * 64} was expected"):
        resolve(NAME)
    away = server.put("/blob", WEIGHTS)  # and so is this, told before a redirect to the storage
    server.fail(weights_path(), *[redirects(away, {"X-Linked-Etag": f'"{"1" * 64}"'})] * 4)
    with pytest.raises(HubError, match=f"sha256 was {sha256(WEIGHTS)}, where {'1' * 64} was expected"):
        resolve(NAME)
    server.fail(weights_path(), redirects(away, {"X-Linked-Size": "12"}))
    with pytest.raises(HubError, match="bytes, where 12 were expected"):
        resolve(NAME)
    assert not list(cached.parent.rglob("model.safetensors*"))
    assert not cached.exists()


@pytest.mark.parametrize(("code", "advice"), [(404, "check the spelling"), (401, "HF_TOKEN"), (403, "HF_TOKEN")])
def test_a_refusal_says_what_to_do_and_is_not_asked_again(server, naps, code, advice):
    server.fail(weights_path("config.json"), status(code))
    with pytest.raises(HubError, match=advice) as caught:
        resolve(NAME)
    assert repr(NAME) in sentence(caught)
    assert server.url in sentence(caught)
    assert caught.value.status == code
    assert not naps


def test_the_token_goes_to_the_endpoint_and_stays_out_of_messages(server, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")  # must not win
    monkeypatch.setenv("HF_TOKEN", "hf_abc\n")
    server.publish()
    server.fail(weights_path(), status(403))
    with pytest.raises(HubError) as caught:
        resolve(NAME)
    assert {headers["Authorization"] for headers in server.asked()} == {"Bearer hf_abc"}
    monkeypatch.setenv("HF_TOKEN", "hf_abc\nhf_def")
    with pytest.raises(ValueError, match="HF_TOKEN holds blanks or control characters") as refused:
        resolve(NAME)
    assert "hf_abc" not in sentence(caught) + sentence(refused)


def test_the_token_does_not_travel_to_another_host(server, naps, monkeypatch):
    """As on the real hub: a large file is a redirect to a storage host, whose ETag means something else."""
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    server.publish()
    with hub_server.Server() as storage:
        away = storage.put("/blob", WEIGHTS)
        here = server.put("/moved/vocab.txt", VOCABULARY)
        storage.etags["/blob"] = f'"{"0" * 64}"'
        server.fail(weights_path(), redirects(away))
        server.fail(weights_path("vocab.txt"), redirects(here))
        assert contents(resolve(NAME)) == TINY_BERT
        assert len(storage.log) == 1
        assert not naps
        assert "Authorization" not in storage.asked("/blob")[0]
        assert server.asked("/moved/vocab.txt")[0]["Authorization"] == "Bearer hf_abc"


def test_a_proxy_named_by_the_environment_is_used(server, monkeypatch):
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", server.url)
    for file, content in TINY_BERT.items():
        server.put(f"http://hub.invalid{weights_path(file)}", content)
    assert contents(resolve(NAME)) == TINY_BERT


def test_a_disk_that_cannot_be_written_is_named_and_so_is_the_way_out(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "file"))
    with pytest.raises(HubError, match=f"cannot write to {tmp_path / 'file'}.*MINBERT_CACHE"):
        resolve(NAME)


CHILD = """
import sys, types
sys.modules["minbert"] = package = types.ModuleType("minbert")  # without its __init__: importing torch takes seconds
package.__path__ = [sys.argv[1]]
from minbert.hub import resolve
print(resolve(sys.argv[2]))
"""


def start_process():
    command = [sys.executable, "-c", CHILD, os.path.dirname(hub.__file__), NAME]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_of_several_processes_one_downloads_and_the_others_wait(server, cached):
    def slow(handler):
        time.sleep(0.5)  # long enough for the others to arrive
        handler.serve()

    server.publish()
    server.fail(weights_path(), slow)
    processes = [start_process() for _ in range(3)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [str(cached)] * 3
    assert len(server.asked("model.safetensors")) == 1
    assert contents(cached) == TINY_BERT
    assert sorted(path.name for path in cached.parent.iterdir()) == [".main.lock", "main"]


OPENERS = """
import os, sys, hashlib
import torch
from minbert import BertModel, BertTokenizer

def opened():
    model, tokenizer = BertModel.from_pretrained(sys.argv[1]), BertTokenizer.from_pretrained(sys.argv[1])
    digest = hashlib.sha256(repr(tokenizer.encode(["a good film"])[0].ids).encode())
    for value in model.parameters():
        digest.update(value.detach().numpy().tobytes())
    return digest.hexdigest()

# forked, so that torch is imported once; a line in one write, lest two be mixed
children = [os.fork() or os._exit(os.write(1, f"{opened()}\\n".encode()) and 0) for _ in range(8)]
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_eight_processes_open_one_name_at_once(server, cached, tiny_model, tmp_path):
    """From an empty cache: one fetches, all open the same weights and vocabulary, and the folder is whole."""
    tiny_model.save_pretrained(tmp_path / "published")
    BertTokenizer.train(["a good film"], 50).save_pretrained(tmp_path / "published")
    server.publish({path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()})

    def slow(handler):
        time.sleep(0.5)  # long enough for the others to arrive
        handler.serve()

    server.fail(weights_path(), slow)
    done = subprocess.run([sys.executable, "-c", OPENERS, NAME], capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 8
    assert len(set(digests)) == 1
    assert len(server.asked("model.safetensors")) == 1
    assert (cached / "model.safetensors").read_bytes() == (tmp_path / "published" / "model.safetensors").read_bytes()
    assert sorted(path.name for path in cached.parent.iterdir()) == [".main.lock", "main"]


def test_a_killed_process_leaves_no_folder_and_no_lock_that_holds(server, cached):
    server.publish()
    server.fail(weights_path(), hub_server.stalls(200_000))
    process = start_process()
    part = cached.parent / ".main.unfinished" / "model.safetensors.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not cached.exists()
    assert contents(resolve(NAME)) == TINY_BERT
    assert "Range" in server.asked("model.safetensors")[-1]
