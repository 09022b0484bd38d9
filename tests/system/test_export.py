"""A trained run in other hands: transformers' pipeline, CrossEncoder, SentenceTransformer."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
import transformers

from minbert import BertModel, BertTokenizer
from minbert.files import read_object
from multitask import MultitaskBert, export
from multitask.exporting import classifier

PAIRS = [("A dog runs.", "A dog is running."), ("No.", "The bank is closed, as far as I know.")]
TEXTS = ["A film worth seeing twice.", "No.", "so dull " * 20]


@pytest.fixture(scope="module")
def runs(brief_run, tmp_path_factory) -> Path:
    """A run of each architecture, and one on a scale from −10 to 90."""
    folder = tmp_path_factory.mktemp("runs")
    for arch in ("concatA", "concatB", "concatB_al", "concatB_mean"):
        brief_run(folder / arch, "--arch", arch, "--max-steps", 3)
    rows = [f"film {number}\t{number * 5 - 10}" for number in range(20)]
    (folder / "wide.tsv").write_text("\n".join(["text\tscore", *rows]) + "\n")
    (folder / "wide.toml").write_text('[wide]\nkind = "scale"\nrange = [-10, 90]\ntext = "text"\n'
                                      'label = "score"\ntrain = "wide.tsv"\ndev_share = 0.3\n')
    assert programs.run("--tasks", folder / "wide.toml", "--model", "scratch", "--max-steps", 3,
                        "--out", folder / "wide") == 0
    return folder


def exported(runs: Path, out: Path, *flags: str) -> Path:
    run, *more = flags
    assert export.main([str(runs / run), str(out), *more]) == 0
    return out


@pytest.mark.parametrize(("task", "texts"), [("sst", TEXTS), ("para", PAIRS)])
def test_pipeline(runs, tmp_path, task, texts, capsys):
    out = exported(runs, tmp_path / "out", "concatB", "--task", task)
    assert "largest difference" in capsys.readouterr().out
    classify = transformers.pipeline("text-classification", str(out), top_k=None)
    inputs = [{"text": text[0], "text_pair": text[1]} if task == "para" else text for text in texts]
    found = [{each["label"]: each["score"] for each in answer}
             for answer in (classify([one])[0] for one in inputs)]

    model = MultitaskBert.from_pretrained(runs / "concatB")
    _, probabilities = model.predict(task, texts)
    for answer, expected in zip(found, probabilities, strict=True):
        assert set(answer) == set(model.tasks[task].labels)
        np.testing.assert_allclose([answer[label] for label in model.tasks[task].labels], expected,
                                   atol=1e-5)


def test_cross_encoder(runs, tmp_path):
    from sentence_transformers import CrossEncoder

    out = exported(runs, tmp_path / "out", "concatB", "--task", "sts")
    found = CrossEncoder(str(out), device="cpu").predict(PAIRS)
    expected = MultitaskBert.from_pretrained(runs / "concatB").predict_similarity(PAIRS)
    np.testing.assert_allclose(found.clip(0, 5), expected, atol=1e-5)
    config = read_object(out / "config.json")  # sentence-transformers 3 reads this key
    assert config["sbert_ce_default_activation_function"] == "torch.nn.modules.linear.Identity"


def test_own_scale(runs, tmp_path):
    """Single texts, through transformers' own class."""
    out = exported(runs, tmp_path / "out", "wide")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.problem_type == "regression"
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        found = model(**tokenizer(TEXTS[:2], padding=True, return_tensors="pt")).logits[:, 0]
    expected = MultitaskBert.from_pretrained(runs / "wide").predict("wide", TEXTS[:2]).labels
    np.testing.assert_allclose(found.clamp(-10, 90), expected, atol=1e-3)
    assert 'classify("Your text.", truncation=True)' in (out / "README.md").read_text()


@pytest.mark.parametrize(("run", "pooling", "flags"), [
    ("concatB_al", "pooler", []), ("concatB_al", "cls", ["--pooling", "cls"]),
    ("concatB_al", "mean", ["--pooling", "mean"]), ("concatB_mean", "mean", [])])
def test_sentence_transformer(runs, tmp_path, run, pooling, flags):
    """By default, the pooling that the heads were trained on."""
    from sentence_transformers import SentenceTransformer

    out = exported(runs, tmp_path / "out", run, "--task", "sts", "--to", "sentence-transformers",
                   *flags)
    found = SentenceTransformer(str(out), device="cpu").encode(TEXTS)
    model = MultitaskBert.from_pretrained(runs / run)
    expected = model.encoder.encode(TEXTS, model.tokenizer, pooling=pooling)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("run", "task", "texts"), [
    ("concatA", "para", PAIRS), ("concatB", "sst", TEXTS), ("concatB_al", "sts", PAIRS),
    ("concatB_mean", "sst", TEXTS)])
def test_onnx(runs, tmp_path, run, task, texts, capsys):
    """Any architecture, number of texts and length; the card's program prints the answer."""
    import onnxruntime

    out = exported(runs, tmp_path / "out", run, "--task", task, "--to", "onnx")
    assert "model-int8.onnx: " in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out / "model.onnx")
    model = MultitaskBert.from_pretrained(runs / run)
    for some in (texts, texts[:1]):
        labels, probabilities = model.predict(task, some)
        expected = labels[:, None] if probabilities is None else probabilities
        rows = [text for pair in some for text in pair] if run == "concatA" else some
        inputs = {name: value.numpy() for name, value in model.tokenizer(rows).items()}
        np.testing.assert_allclose(session.run(None, inputs)[0], expected, atol=2e-6)

    program = re.search("```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    assert program.count(", np.int64)") == 3  # else int32 by numpy 1 on Windows
    exec(program.replace('"out/', f'"{out}/'), {})
    printed = capsys.readouterr().out
    text = TEXTS[0] if task == "sst" else PAIRS[0]
    labels, probabilities = model.predict(task, [text])
    expected = labels if probabilities is None else probabilities[0]
    np.testing.assert_allclose(np.fromstring(printed.strip("[] \n"), sep=" "), expected, atol=1e-5)


def test_long_inputs(brief_run, tmp_path):
    """Inputs are cut where the run cuts them, in the comparison and in transformers."""
    run = brief_run(tmp_path / "short", "--max-steps", 2, "--max-length", 8)
    exported(tmp_path, tmp_path / "embedder", "short", "--task", "sts", "--to",
             "sentence-transformers", "--pooling", "mean")
    out = exported(tmp_path, tmp_path / "out", "short", "--task", "sst")
    classify = transformers.pipeline("text-classification", str(out), top_k=None)
    text = "so dull " * 300
    theirs = transformers.AutoTokenizer.from_pretrained(run / "model")
    ids = theirs(text, truncation=True)["input_ids"]
    assert len(ids) == 8
    found = {each["label"]: each["score"] for each in classify([text], truncation=True)[0]}
    model = MultitaskBert.from_pretrained(run)
    _, probabilities = model.predict("sst", [text])
    np.testing.assert_allclose([found[label] for label in model.tasks["sst"].labels],
                               probabilities[0], atol=1e-5)


def test_this_folder(runs, tmp_path, monkeypatch):
    """An empty folder is filled, and stays the same one: it may be a disk of its own."""
    monkeypatch.chdir(tmp_path)
    left = Path(".minbert-export/junk")  # by a killed export
    left.parent.mkdir()
    left.touch()
    before, around = tmp_path.stat().st_ino, tmp_path.parent.stat().st_mtime_ns
    exported(runs, Path(), "wide")
    assert (tmp_path.stat().st_ino, tmp_path.parent.stat().st_mtime_ns) == (before, around)
    assert Path("model.safetensors").is_file()
    assert not left.parent.exists()
    assert "junk" not in {path.name for path in tmp_path.iterdir()}
    assert f'"{tmp_path.name}"' in Path("README.md").read_text()


def test_other_numbers(runs, tmp_path, monkeypatch, capsys):
    """An export that does not agree with the run is refused, and nothing is left behind."""
    wrong = classifier.classifier_of

    monkeypatch.setattr(classifier, "classifier_of", lambda model, task: (
        wrong(model, task)[0], wrong(model, task)[1] + torch.arange(5.0)))
    out = tmp_path / "out"
    assert export.main([str(runs / "concatB"), str(out), "--task", "sst"]) == 2
    assert "model.safetensors differs from the run by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("always:not compared with the run")
def test_data_are_missing(runs, tmp_path, capsys):
    """A run in other hands is exported all the same, from its model/ folder too."""
    run = shutil.copytree(runs / "wide", tmp_path / "run")
    config = run / "config.json"
    config.write_text(config.read_text().replace("wide.tsv", "gone.tsv"))
    unknown = shutil.copytree(runs / "wide", tmp_path / "unknown")
    config = unknown / "config.json"
    config.write_text(config.read_text().replace('"pcgrad"', '"own"'))
    compared = exported(runs, tmp_path / "compared", "wide")
    for number, (folder, reason) in enumerate(((run, "gone.tsv is missing"),
                                               (run / "model", "model"), (unknown, "--import"))):
        out = exported(folder, tmp_path / f"out{number}", "")
        assert re.search(f"warning: not compared with the run: .*{reason}", capsys.readouterr().err)
        assert "- not compared with the run" in (out / "README.md").read_text()
        for name in ("model.safetensors", "config.json"):
            assert (out / name).read_bytes() == (compared / name).read_bytes()
    assert export.main([str(run), str(tmp_path / "out"), "--data", str(tmp_path)]) == 2
    assert f"--data {tmp_path}" in capsys.readouterr().err


@pytest.mark.usefixtures("empty_folder")
def test_onnx_is_missing(runs, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = refused(runs / "wide", "out", "--to", "onnx", main=export.main)
    assert "pip install 'minbert[onnx]'" in said


def test_torch_traces_the_encoder(tmp_path):
    """One graph for any batch: torch.compile needs no second form of the model."""
    encoder = BertModel.from_pretrained("minbert-mini")
    tokenizer = BertTokenizer.from_pretrained("minbert-mini")
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    for texts in (TEXTS, TEXTS[:1]):
        inputs = tokenizer(texts)
        torch.testing.assert_close(compiled(**inputs).pooler_output,
                                   encoder(**inputs).pooler_output)
    torch.export.save(torch.export.export(encoder, (), inputs), tmp_path / "encoder.pt2")
    program = torch.export.load(tmp_path / "encoder.pt2")
    torch.testing.assert_close(program.module()(**inputs).pooler_output,
                               encoder(**inputs).pooler_output)


@pytest.mark.usefixtures("empty_folder")
@pytest.mark.parametrize(("arch", "flags", "message"), [
    ("concatA", "--task para", "encodes the two sentences of a pair apart"),
    ("concatB_al", "--task sst", "has more than one layer"),
    ("concatB_mean", "--task sst", "read the mean of all tokens"),
    ("concatB", "--task none", "the model has no task 'none'"),
    ("concatB", "--pooling pooler",
     "--pooling is for --to sentence-transformers, not for --to transformers"),
    ("concatB", "--pooling pooler --to onnx", "not for --to onnx"),
])
def test_what_does_not_fit(runs, refused, arch, flags, message):
    assert message in refused(runs / arch, "out", *flags.split(), main=export.main)


@pytest.mark.usefixtures("empty_folder")
def test_a_full_folder(runs, refused):
    """Nothing is written over. (With concatA, a single sentence can be exported.)"""
    given = runs / "concatA", exported(runs, Path("single"), "concatA", "--task", "sst")
    assert "already exists and is not empty" in refused(*given, "--task", "sst", main=export.main)
    assert "caf?: the name is not UTF-8" in refused(given[0], "caf\udce9", main=export.main)
