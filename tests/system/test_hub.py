"""From a name to a folder.

You learn where a checkpoint is looked for, in which order, and which of its files are taken. The
server is a hub in miniature on 127.0.0.1.
"""

import json
from pathlib import Path

import hub_server
import pytest
from hub_server import COMMIT, NAME, breaks_off, status
from huggingface_hub import constants
from programs import python
from sound_files import read

from minbert import BertModel, BertTokenizer
from minbert.checkpoints.hub import HubError, resolve

VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n"
TINY_BERT = {"config.json": b"{}", "vocab.txt": VOCABULARY, "model.safetensors": bytes(300_000)}


def index_of(*parts):
    places = {f"tensor{number}": part for number, part in enumerate(parts)}
    return json.dumps({"weight_map": places}).encode()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, the network allowed, nobody's token. Returns the cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


def point_to(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(monkeypatch):
    with hub_server.Server() as running:
        point_to(monkeypatch, running.url)
        yield running


def snapshot(cache):
    return cache / "models--org--tiny-bert" / "snapshots" / COMMIT


def refused(*arguments):
    """The error's message, after making sure that it is one line."""
    with pytest.raises(HubError) as caught:
        resolve(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_is_itself(tmp_path, monkeypatch):
    assert resolve(tmp_path) == resolve(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    assert resolve("~/bert") == tmp_path / "bert"
    monkeypatch.chdir(tmp_path)
    assert resolve("bert") == Path("bert")  # it could be a hub name too: the folder comes first
    assert resolve(Path("minbert-mini")) == resolve("minbert-mini")


BAD_NAMES = ["", " ", "../x", "a/../b", "/no/such/folder", "C:\\bert", "a/b/c", "a//b", "a/", "-a",
             ".a", "a.", "a--b", "a..b", "a b", "a\n", "a\0b", "ä/b", "~/nothing", "x" * 200,
             "https://hf.co/a/b"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name(cache, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no folder is called ../x
    expected = "is not an existing folder, nor is it a hub name"
    with pytest.raises(ValueError, match=expected) as caught:
        resolve(name)
    assert repr(name) in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize("revision", ["", "../main", "/main", "a//b", "a\nb", "-x", ".x"])
def test_bad_revision(revision):
    with pytest.raises(ValueError, match="is not a branch, tag or commit"):
        resolve(NAME, revision)


def test_fetched_once(server, cache):
    """Only the small files and one form of weights come; a second call asks nobody."""
    server.publish({**TINY_BERT, "README.md": b"hello", "tf_model.h5": b"x", "model.onnx": b"x",
                    "pytorch_model.bin": b"x", "flax_model.msgpack": b"x"})
    assert resolve(NAME) == snapshot(cache)
    assert read(snapshot(cache)) == TINY_BERT

    asked = len(server.log)
    assert resolve(Path(NAME)) == snapshot(cache)
    assert len(server.log) == asked


def test_a_fetched_model_opens(server, cache, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "published")
    BertTokenizer.train(["a good film"], 50).save_pretrained(tmp_path / "published")
    server.publish(read(tmp_path / "published"))
    model = BertModel.from_pretrained(NAME)
    assert model.pooler_dense.weight.equal(tiny_model.pooler_dense.weight)
    assert BertTokenizer.from_pretrained(NAME)(["a film"])["input_ids"].shape == (1, 4)


def test_a_revision(server, cache):
    server.publish(TINY_BERT, revision="refs/pr/1")
    assert resolve(NAME, "refs/pr/1") == resolve(NAME, COMMIT) == snapshot(cache)


def test_offline(server, cache, monkeypatch):
    """A cached model is found.

    Any other is refused without asking the server, and the error names a way out.
    """
    server.publish(TINY_BERT)
    resolve(NAME)
    server.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(NAME) == snapshot(cache)

    message = refused("org/other")
    for piece in ("HF_HUB_OFFLINE is set", "'org/other'", str(cache), "name a folder"):
        assert piece in message
    assert not server.log


def test_no_network(monkeypatch, cache):
    point_to(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    message = refused("bert-base-uncased")
    for piece in ("'bert-base-uncased'", "127.0.0.1:9", "check the network", "name a folder"):
        assert piece in message


@pytest.mark.parametrize(("code", "headers", "expected"), [
    (404, {"X-Error-Code": "RepoNotFound"}, "has no model 'org/tiny-bert'"),
    (401, {"X-Error-Code": "RepoNotFound"}, "set HF_TOKEN if it is private"),
    (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'main'"),
    (403, {"X-Error-Code": "GatedRepo"}, "is gated: ask for access"),
    (501, {}, "check the network and the disk and run again"),
])
def test_a_refusal_says_what_to_do(server, code, headers, expected):
    server.fail(f"/api/models/{NAME}/revision/main", *[status(code, headers)] * 20)
    message = refused(NAME)
    assert expected in message
    assert repr(NAME) in message
    assert server.url in message


WEIGHT_FORMS = [
    {"model.safetensors": b"1"},
    {"model.safetensors.index.json": index_of("model-1.safetensors", "model-2.safetensors"),
     "model-1.safetensors": b"2", "model-2.safetensors": b"3"},
    {"pytorch_model.bin": b"4"},
    {"pytorch_model.bin.index.json": index_of("a.bin", "b.bin"), "a.bin": b"5", "b.bin": b"6"},
]


@pytest.mark.parametrize("best", range(4), ids=["safetensors", "shards", "bin", "bin shards"])
def test_one_form_of_weights(server, best):
    """Of several forms, the first of the list is taken, and no other file."""
    published = {"config.json": b"{}", "tokenizer.json": b"{}", "model-3.safetensors": b"7"}
    for form in WEIGHT_FORMS[best:]:
        published |= form
    server.publish(published)
    expected = {"config.json": b"{}", "tokenizer.json": b"{}", **WEIGHT_FORMS[best]}
    assert read(resolve(NAME)) == expected


@pytest.mark.parametrize(("lacking", "expected"), [
    ("config.json", "has no config.json"),
    ("vocab.txt", "has no vocabulary, vocab.txt or tokenizer.json"),
    ("model.safetensors", "has no weights, model.safetensors or model.safetensors.index.json"),
])
def test_a_lacking_file(server, lacking, expected):
    """Such a model is refused before anything is downloaded."""
    server.publish({file: content for file, content in TINY_BERT.items() if file != lacking})
    assert expected in refused(NAME)
    assert not server.asked("config.json")


@pytest.mark.parametrize(("part", "expected"), [
    ("gone.safetensors", "lacks gone.safetensors, which its model.safetensors.index.json names"),
    ("../../evil.safetensors", "is not a file's name"),
    ("/etc/evil.safetensors", "is not a file's name"),
    ("config.json", "is not a file's name"),
])
def test_an_index_that_names_no_parts(server, part, expected):
    index = index_of("model-1.safetensors", part)
    server.publish({"config.json": b"{}", "vocab.txt": VOCABULARY, "model-1.safetensors": b"x",
                    "model.safetensors.index.json": index})
    assert expected in refused(NAME)
    assert not server.asked("model-1.safetensors")


def test_half_a_download(server):
    """A download that failed is not taken for whole: the next one fetches the file."""
    server.publish(TINY_BERT)
    weights = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    server.fail(weights, breaks_off(200_000), *[status(403)] * 20)
    refused(NAME)
    server.fail(weights)
    assert read(resolve(NAME)) == TINY_BERT


@pytest.mark.parametrize("missing", TINY_BERT)
def test_a_damaged_snapshot(server, cache, monkeypatch, missing):
    """A link whose target was deleted does not count as a file; online, it is fetched again."""
    server.publish(TINY_BERT)
    (resolve(NAME) / missing).resolve().unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not complete in the cache" in refused(NAME)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert read(resolve(NAME)) == TINY_BERT


def test_the_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    server.publish(TINY_BERT)
    resolve(NAME)
    assert {headers["Authorization"] for headers in server.asked()} == {"Bearer hf_abc"}


def test_the_import_is_lazy():
    """The hub's client is imported when a name is looked up, so `import minbert` stays fast."""
    code = ("import sys; from minbert import BertTokenizer; "
            "BertTokenizer.from_pretrained('minbert-mini'); "
            "sys.exit('huggingface_hub' in sys.modules)")
    assert python("-c", code).returncode == 0
