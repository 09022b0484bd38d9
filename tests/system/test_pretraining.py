"""Pretraining as a command: its text, its sequences, its run, its files and its errors."""

import dataclasses
import gzip
import io
import json
import lzma
import math
import random
import re
import shutil
import signal
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import edit_json, events
from safetensors.torch import load_file, save_file

from minbert import BertConfig, BertForMaskedLM, BertModel, BertTokenizer, Masking
from multitask import pretrain
from multitask.data.examples import read_examples
from multitask.data.multinli import FILES, read_multinli
from multitask.data.sampling import RoundRobin
from multitask.pretraining import run as pretraining
from multitask.pretraining.batches import TrainingBatches, made_ahead
from multitask.pretraining.corpus import Corpus, read_passages, split_passages
from multitask.pretraining.segments import RunningText, TextTwice
from multitask.pretraining.settings import PretrainingSettings
from multitask.pretraining.start import start_pretraining
from multitask.pretraining.step import MaskedTrainer
from multitask.reports.figures import pretraining_curves
from multitask.runs.run import build_model
from multitask.runs.settings import Settings
from multitask.tasks import STS, TASKS

pytestmark = pytest.mark.usefixtures("empty_folder")

PIECES = BertTokenizer.train([". ! ? a"], 20)
FIRST = 100  # ids of the corpora below are this plus the place in the corpus


def test_plain_gz_xz_alike(tmp_path):
    text = "\n\nDer erste Satz.\nEin zweiter: çà et là.\n \n\nAnother passage.\n\n"
    expected = [["Der erste Satz.", "Ein zweiter: çà et là."], ["Another passage."]]
    for ending in (".txt", ".gz", ".xz"):
        path = tmp_path / f"text{ending}"
        opener = {".gz": gzip.open, ".xz": lzma.open}.get(ending, open)
        with opener(path, "wt", encoding="utf-8") as file:
            file.write(text)
        assert read_passages(path) == expected


def test_course_data_as_text(small_data, tmp_path):
    """Each example's sentences are one passage, MultiNLI's too if it is present.

    Dev and test files are not read.
    """
    passages = read_passages(small_data)
    examples = [example for task in TASKS.values()
                for example in read_examples(small_data / task.train, task)]
    of_nli = read_multinli(small_data, FILES["train"])
    every = [sentence for passage in passages for sentence in passage]
    assert set(every) == {sentence for example in [*examples, *of_nli]
                          for sentence in example.sentences}
    assert len(every) == len(set(every))  # what is held out is not trained on in another example
    assert list(examples[-1].sentences) in passages
    assert set(every).isdisjoint(example.sentences[0]
                                 for example in read_examples(small_data / "sts-dev.csv", STS))
    without = shutil.copytree(small_data, tmp_path / "data")
    shutil.rmtree(without / "multinli")
    assert {sentence for passage in read_passages(without) for sentence in passage} == {
        sentence for example in examples for sentence in example.sentences}
    (without / "sts-train.csv").unlink()
    message = r"sts-train\.csv is missing; name a text, or a folder"
    with pytest.raises(FileNotFoundError, match=message):
        read_passages(without)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(8, 20),
       st.floats(0.01, 0.9))
@settings(max_examples=60, deadline=None)
def test_cut_loses_no_token(sizes, length, held_out):
    corpus = Corpus(np.arange(sum(sizes), dtype=np.uint16), np.cumsum(sizes))
    passages = split_passages(len(sizes), held_out)
    assert sorted(passages[0] + passages[1]) == list(range(len(sizes)))
    assert min(len(part) for part in passages) >= 1
    spans = np.concatenate([corpus.cut(part, length) for part in passages])
    assert sorted(token for start, end in spans
                  for token in range(start, end)) == list(range(sum(sizes)))
    passage_of = np.repeat(np.arange(len(sizes)), sizes)
    for start, end in spans:
        assert 1 <= end - start <= length - 2
        assert len(set(passage_of[start:end])) == 1
    # full but for the last of each passage
    assert len(spans) == sum(math.ceil(size / (length - 2)) for size in sizes)


def test_running_text_batch():
    corpus = Corpus(np.array([10, 11, 12, 20, 21], dtype=np.uint16), np.array([3, 5]))
    assert corpus.cut([0, 1], 4).tolist() == [[0, 2], [2, 3], [3, 5]]
    cls, sep = PIECES.vocabulary["[CLS]"], PIECES.vocabulary["[SEP]"]
    text = RunningText(corpus, [0, 1], 4, PIECES)
    row, packing, types = text.batch(np.array([1, 2]), np.random.default_rng(0))
    assert row.tolist() == [cls, 12, sep, cls, 20, 21, sep]
    assert packing.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert not types.any()


def test_corpus_round_trip(tmp_path):
    passages = [["the old dog", "a cat"], ["an old cat"]]
    tokenizer = BertTokenizer.train([*passages[0], *passages[1]], vocab_size=60)
    corpus = Corpus.tokenize(passages, tokenizer)
    corpus.save(tmp_path / "corpus.safetensors")
    again = Corpus.load(tmp_path / "corpus.safetensors")
    for found in (corpus, again):
        for number, passage in enumerate(passages):
            start = found.ends[number - 1] if number else 0
            inner = [piece for line in tokenizer.encode(passage) for piece in line.ids[1:-1]]
            assert found.ids[start:found.ends[number]].tolist() == inner


def numbered_corpus(sizes: list[int]) -> Corpus:
    return Corpus((np.arange(sum(sizes)) + FIRST).astype(np.uint16), np.cumsum(sizes))


@given(st.lists(st.integers(0, 60), max_size=8), st.integers(8, 30), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_text_twice_segments(sizes, length, seed):
    sizes = [7, 1, *sizes, 9]  # others may be empty
    text = TextTwice(numbered_corpus(sizes), range(1, len(sizes)), length, PIECES)
    row, packing, types = text.batch(np.arange(len(text.sequences)), np.random.default_rng(seed))
    sep, lengths = PIECES.vocabulary["[SEP]"], packing.lengths.tolist()
    for sequence, its_types, span in zip(row.split(lengths), types.split(lengths),
                                         text.sequences.tolist(), strict=True):
        pieces, whole = sequence.tolist(), [FIRST + number for number in range(*span)]
        assert len(pieces) <= length
        assert (pieces[0], pieces[-1]) == (PIECES.vocabulary["[CLS]"], sep)
        middle = pieces.index(sep)
        assert its_types.tolist() == [0] * (middle + 1) + [1] * (len(pieces) - middle - 1)
        if middle == len(pieces) - 1:
            assert pieces[1:-1] == whole
            continue
        assert pieces.count(sep) == 2
        windows, widest = (pieces[1:middle], pieces[middle + 1:-1]), (length - 3) // 2
        for window in windows:
            assert window
            # in order, some left out
            assert window == [piece for piece in whole if piece in window]
            assert window[-1] - window[0] < widest
        assert max(map(max, windows)) - min(map(min, windows)) < widest + widest // 2


def test_text_twice_overlap():
    """Windows of w tokens, one w/4 later on average, without a fifth: .75 · .8 are in both."""
    text = TextTwice(numbered_corpus([25_000] * 2), range(2), 500, PIECES)
    both, tokens, first_begins, inside, left_out, pairs, count = 0, 0, [], 0, 0, 0, 0
    for seed in range(20):
        row, packing, _ = text.batch(np.arange(len(text.sequences)), np.random.default_rng(seed))
        for sequence in row.split(packing.lengths.tolist()):
            pieces = sequence.tolist()
            middle = pieces.index(PIECES.vocabulary["[SEP]"])
            first, second = pieces[1:middle], pieces[middle + 1:-1]
            count += 1
            if not second:
                continue
            pairs += 1
            both, tokens = both + len(set(first) & set(second)), tokens + len(first)
            if first[0] != second[0]:
                first_begins.append(first[0] < second[0])
            inside += first[-1] - first[0] - 1  # between its ends, which are there by definition
            left_out += first[-1] - first[0] + 1 - len(first)
    # four standard deviations, of 2,000 sequences and 1,000 pairs; shares deviate by .15 and .12
    assert count > 2000
    assert pairs / count == pytest.approx(0.5, abs=0.045)
    assert statistics.mean(first_begins) == pytest.approx(0.5, abs=0.065)
    assert both / tokens == pytest.approx(0.6, abs=0.02)
    assert left_out / inside == pytest.approx(0.2, abs=0.015)


# ------------------------------------------------------------------------------------------ the run

TINY = ["--layers", "1", "--hidden", "32", "--heads", "2", "--vocab-size", "200", "--length", "24",
        "--batch-size", "16", "--lr", "1e-2", "--held-out", "0.1", "--dropout", "0.05", "--steps",
        "60", "--checkpoint-every", "30"]
SOUNDS = {"cat": "meows", "dog": "barks", "bird": "sings", "cow": "moos"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """40 passages of 12 sentences of 11 words, two to a sequence; word 7 follows from word 5."""
    choose = random.Random(0).choice
    passages = ["\n".join(f"in the garden a {animal} always {SOUNDS[animal]} before it falls asleep"
                          for animal in (choose(list(SOUNDS)) for _ in range(12)))
                for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "animals.txt"
    path.write_text("\n\n".join(passages))
    return path


def train(text, folder, *flags: str) -> int:
    """The exit status of 60 steps with dropout, evaluated and saved every 30."""
    return pretrain.main(["--text", str(text), "--out", str(folder), *TINY, *flags])


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run; what it printed is in printed.txt beside it."""
    folder, printed = tmp_path_factory.mktemp("runs") / "straight", io.StringIO()
    with redirect_stdout(printed):
        assert train(text, folder) == 0
    (folder.parent / "printed.txt").write_text(printed.getvalue())
    return folder


def test_learns_a_repetitive_text(finished):
    """Uniform guessing costs ln 92 = 4.5; all but animal and sound known, 2/11 · ln 4 = 0.25."""
    scores = events(finished, "evaluation")
    assert [score["step"] for score in scores] == [0, 30, 60]
    assert math.log(scores[0]["perplexity"]) > 4
    assert math.log(scores[-1]["perplexity"]) < 0.5
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["masked_accuracy"] == scores[-1]["masked_accuracy"]
    assert metrics["masked_accuracy"] > 3 * metrics["trivial_accuracy"]
    losses = [step["loss"] for step in events(finished, "step")]
    assert len(losses) == metrics["steps"] == 60
    assert max(losses[-10:]) < 0.25 * losses[0]


def test_guesses_in_output_and_report(finished, text):
    """What was hidden is a word of the text, and most guesses are right."""
    lines = (finished.parent / "printed.txt").read_text().splitlines()
    printed = [line for line in lines if "guesses:" in line]
    assert len(printed) == 3
    page = (finished / "report.html").read_text()
    right = 0
    for line in printed:
        hidden, likeliest = re.search(r"<(\w+)> .*guesses: (\w+) ", line).groups()
        assert hidden in text.read_text()
        assert f"<td>{hidden}</td>" in page
        right += hidden == likeliest
    assert right >= 2
    assert page.count("<img") == 1
    assert "On text that was held out, perplexity 1." in page


def test_curve_after_skipped_steps():
    """Of 4 steps the last was left out; evaluation reports at most the third's perplexity."""
    steps = [{"step": step, "loss": 800.0, "tokens": 100} for step in (1, 2, 3)]
    evaluations = [{"step": 0, "perplexity": 50.0}, {"step": 3, "perplexity": math.exp(700)},
                   {"step": 4, "perplexity": 60.0}]
    figure = pretraining_curves(steps, evaluations)
    figure.savefig(io.BytesIO(), format="svg")
    training, held_out = figure.axes[0].lines
    assert held_out.get_xdata().tolist() == pytest.approx([0, 3e-4, 3e-4])  # millions of tokens
    assert held_out.get_ydata().tolist() == pytest.approx([50, math.exp(50), 60])
    assert training.get_xdata().tolist() == pytest.approx([1e-4, 2e-4, 3e-4])


def test_trivial_accuracy(finished, text):
    """Each of a sentence's 11 words is a piece; only the constant ones stand in all sentences."""
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["most_frequent_piece"] in ("in", "the", "garden", "a", "always", "before", "it",
                                              "falls", "asleep")
    # a share of some 80 masked tokens that is 1/11 on average; 4 standard deviations of it
    deviation = math.sqrt(1 / 11 * 10 / 11 / 79)
    assert metrics["trivial_accuracy"] == pytest.approx(1 / 11, abs=4 * deviation)
    assert metrics["held_out_tokens_masked"] == round(0.15 * 4 * 12 * 11)


def test_most_frequent_piece():
    """[UNK] is never hidden, so guessing it would always be wrong."""
    unknown, known = PIECES.vocabulary["[UNK]"], PIECES.vocabulary["a"]
    corpus = Corpus(np.array([unknown, unknown, known], dtype=np.uint16), np.array([3]))
    text = RunningText(corpus, [0], 8, PIECES)
    assert TrainingBatches(text, PIECES, PretrainingSettings("")).most_frequent() == known


def test_learning_rate(finished):
    rates = [step["lr"] for step in events(finished, "step")]
    assert rates[:3] == pytest.approx([1e-2 * k / 3 for k in range(1, 4)])  # 5 % of 60
    assert rates[3:] == pytest.approx([1e-2 * (60 - step) / 57 for step in range(3, 60)])


@pytest.fixture
def stopped(text, interrupted):
    """(flags …) → a run that was stopped in step 40 and has a checkpoint of step 30."""
    def start(*flags: str) -> Path:
        with interrupted(MaskedTrainer, 40):
            assert train(text, "run", *flags) == 130
        return Path("run")

    return start


def test_resume_is_bit_for_bit(finished, text, stopped):
    """The straight run's weights and losses."""
    run = stopped()
    assert train(text, run) == 2  # what is there is not overwritten
    same = ["--out", "./run", "--precision", "auto"]  # in other words
    assert pretrain.main(["--resume", "run/", *same]) == 0
    for name in ("model.safetensors", "vocab.txt", "config.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name
    for kind, key in (("step", "loss"), ("evaluation", "perplexity")):
        assert [event[key] for event in events(run, kind)] == [
            event[key] for event in events(finished, kind)]


def test_files_changed_before_resume(stopped, refused):
    """A run that would end before its checkpoint, and one piece of the corpus."""
    run = stopped()
    edit_json(run / "pretraining.json", lambda values: values.update(steps=20))
    assert "after step 30, but pretraining.json ends the run at step 20" in refused(
        "--resume", run, main=pretrain.main)

    tensors = load_file(run / "corpus.safetensors")
    tensors["ids"].view(torch.int16)[3] += 1
    save_file(tensors, run / "corpus.safetensors")
    assert "run/corpus.safetensors is not the text that" in refused(
        "--resume", run, main=pretrain.main)


def test_resume_on_another_device(stopped, refused):
    run = stopped()
    edit_json(run / "pretraining.json", lambda values: values.update(device="mps"))
    assert "use --device cpu" in refused("--resume", run, main=pretrain.main)
    assert pretrain.main(["--resume", str(run), "--device", "cpu"]) == 0


def test_torchs_default_device():
    """What prepares batches is on the CPU, wherever tensors are made by default."""
    with torch.device("meta"):
        generator = torch.Generator("cpu").manual_seed(0)
        masking = Masking.of(BertTokenizer.from_pretrained("minbert-mini"))
        masked = masking(torch.arange(999, 1030, device="cpu"), generator)
        sampler = RoundRobin({"sst": 9, "sts": 5}, {"sst": 2, "sts": 2}, "anneal", seed=0)
        sampler.start_epoch()
        assert sampler.next_step(0.5)
    assert len(masked.positions) == 5


def test_run_on_text_twice(text, stopped):
    """An interrupted run of it ends with the same bytes."""
    again = ["--second-segment", "again"]
    assert train(text, "straight", *again) == 0
    assert pretrain.main(["--resume", str(stopped(*again))]) == 0
    weights = [Path(run, "model.safetensors").read_bytes() for run in ("straight", "run")]
    assert weights[0] == weights[1]
    scores = events(Path("straight"), "evaluation")
    assert scores[-1]["perplexity"] < scores[0]["perplexity"] / 3
    model = BertForMaskedLM.from_pretrained("straight")
    types = model.encoder.embeddings.token_type_embeddings.weight
    assert not torch.equal(types[0], types[1])
    assert not model.encoder.pooler_dense.bias.any()  # as drawn


def test_interrupted_before_first_score(text, monkeypatch):
    """The checkpoint of an interruption says that nothing has been evaluated yet."""
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "evaluate", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert train(text, "run", "--steps", "1") == 130
    assert pretrain.main(["--resume", "run"]) == 0
    assert [event["step"] for event in events(Path("run"), "evaluation")] == [0, 1]


def started(text, folder, *flags: str) -> pretraining.Pretraining:
    """A run before its first step."""
    settings = pretrain.settings_of(pretrain.build_parser().parse_args(
        ["--text", str(text), "--out", str(folder), *TINY, *flags]))
    run = start_pretraining(settings, folder)
    run.log.close()
    return run


@pytest.mark.parametrize("flags", [["--steps", "1"], ["--steps", "3", "--on-nonfinite", "skip"]])
def test_diverged_at_the_end(flags, text, capsys):
    """The weights are finite and no step has failed, but the held-out loss is NaN."""
    assert train(text, "run", "--lr", "1e10", *flags) == 1
    assert f"step {flags[1]}: the loss of held-out tokens is nan" in capsys.readouterr().err
    assert not Path("run/metrics.json").exists()


def test_epochs_and_held_out_text(text, tmp_path):
    run = started(text, tmp_path)
    _, held_out = split_passages(40, 0.1)
    assert len(held_out) == 4
    trained = {tuple(span) for span in run.batches.text.sequences.tolist()}
    assert trained.isdisjoint(map(tuple, run.corpus.cut(held_out, run.settings.length).tolist()))
    seen = []
    for epoch in range(2):
        tokens = []
        for step in range(run.batches.steps_per_epoch):
            masked = run.batches.batch(epoch * run.batches.steps_per_epoch + step).masked
            tokens.append(masked.input_ids.index_copy(0, masked.positions, masked.labels))
        seen.append(torch.cat(tokens))
    left_out = len(run.batches.text.sequences) % run.settings.batch_size
    # [CLS] has id 2
    assert len(seen[0].eq(2).nonzero()) == len(run.batches.text.sequences) - left_out
    assert not torch.equal(seen[0][:200], seen[1][:200])


def test_prefetch(text, tmp_path):
    """Over the border of an epoch; what goes wrong with it is told in its own step."""
    run = started(text, tmp_path, "--second-segment", "again")
    assert 2 < run.batches.steps_per_epoch < 20
    made = []

    def make(step: int):
        made.append(step)
        if step == run.batches.steps_per_epoch + 3:
            raise ZeroDivisionError
        return run.batches.batch(step)

    with ThreadPoolExecutor(1) as pool:
        ahead = made_ahead(make, range(100), pool)
        for step in range(run.batches.steps_per_epoch + 2):
            assert torch.equal(next(ahead).masked.input_ids,
                               run.batches.batch(step).masked.input_ids)
        next(ahead)  # makes the next one, which fails, ahead
        with pytest.raises(ZeroDivisionError):
            next(ahead)
    assert made == list(range(step + 3))  # each once


def test_folder_serves_the_main_job(finished):
    """Without a warning, which would be an error here: it has a pooler."""
    model = build_model(Settings(arch="concatB", gs="wrap", model=str(finished)), {})
    pretrained = BertModel.from_pretrained(finished)
    assert torch.equal(model.encoder.pooler_dense.weight, pretrained.pooler_dense.weight)
    assert len(model.predict_similarity([("a cow", "a cat"), ("a dog", "it falls asleep")])) == 2


def test_folder_opens_in_transformers(finished):
    tokenizer = transformers.AutoTokenizer.from_pretrained(finished)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(finished).eval()
    assert tokenizer.model_max_length == theirs.config.max_position_embeddings
    inputs = tokenizer("in the [MASK] a cow always moos", return_tensors="pt")
    model = BertForMaskedLM.from_pretrained(finished)
    ours = model(inputs["input_ids"], inputs["attention_mask"]).logits
    # float32 rounding
    torch.testing.assert_close(ours, theirs(**inputs).logits, atol=1e-4, rtol=0)
    assert tokenizer.convert_ids_to_tokens(int(ours[0, 3].argmax())) == "garden"


def test_unseen_token_type(finished):
    types = BertModel.from_pretrained(finished).embeddings.token_type_embeddings.weight
    assert torch.equal(types[0], types[1])
    # fine-tuning's own
    assert BertConfig.from_file(finished / "config.json").hidden_dropout_prob == 0.1


def test_continues_from_checkpoint(finished, text):
    more = Path("more")
    assert pretrain.main(["--text", str(text), "--out", "more", "--from", str(finished), "--steps",
                          "2", "--length", "24", "--held-out", "0.1", "--save-dtype", "fp16"]) == 0
    assert (more / "vocab.txt").read_bytes() == (finished / "vocab.txt").read_bytes()
    tensors = load_file(more / "model.safetensors")
    assert tensors["cls.predictions.bias"].dtype == torch.float16
    first, last = events(more, "evaluation")[0], events(finished, "evaluation")[-1]
    # float32 rounding; the masks are fixed
    assert first["perplexity"] == pytest.approx(last["perplexity"], rel=1e-5)
    before, after = (BertModel.from_pretrained(folder).pooler_dense.weight
                     for folder in (finished, more))
    assert torch.equal(before.half(), after.half())  # neither trained nor decayed

    # the report lists the settings that were used
    pages = [(folder / "report.html").read_text() for folder in (finished, more)]
    for name, is_listed in (("steps", [True, True]), ("epochs", [False, False]),
                            ("hidden", [True, False]), ("vocab_size", [True, False])):
        assert [f'<th scope="row">{name}</th>' in page for page in pages] == is_listed, name


@pytest.mark.parametrize(("flags", "message"), [
    ("", "--text is missing"),
    ("--text no.txt", "--text no.txt: no such file"),
    ("--text one", "holds 1 passages, but at least 2"),
    ("--text latin", "is not UTF-8"),
    ("--text broken.gz", "cannot be read"),
    ("--text cut.xz", "cannot be read"),
    ("--text damaged.gz", "cannot be read"),
    ("--text {text} --heads 3", "--hidden 256 is not divisible by --heads 3"),
    ("--text {text} --from x --layers 2", "--layers is for a model from scratch"),
    ("--text {text} --steps 2 --epochs 2", "give one of them"),
    ("--text {text} --from {finished}", "--length 128, but"),
    ("--text {text} --held-out 1", "--held-out 1.0: a share"),
    ("--text kana --from minbert-mini", "knows no piece of the held-out text"),
    ("--text {text} --from typeless --length 24 --second-segment again",
     "has one token type, but two segments need two"),
])
def test_errors_in_one_line(flags, message, text, finished, refused):
    Path("one").write_text("a single passage\nof two lines\n")
    Path("kana").write_text("ねこ がなく\n\nいぬ がほえる\n")
    Path("latin").write_bytes("ein Mädchen\n\nzwei".encode("latin-1"))
    Path("broken.gz").write_bytes(b"not compressed")
    Path("cut.xz").write_bytes(lzma.compress(b"a\n\nb" * 1000)[:-20])
    Path("damaged.gz").write_bytes(gzip.compress(b"")[:10] + b"\xff" * 100)  # after the header
    config = BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=64, type_vocab_size=1)
    BertForMaskedLM(config).save_pretrained("typeless")
    shutil.copy(finished / "vocab.txt", "typeless")
    words = [word.format(text=text, finished=finished) for word in flags.split()]
    assert message in refused(*words, "--out", "out", main=pretrain.main)


def test_used_folder_is_refused(finished, text, tiny_model, refused):
    tiny_model.save_pretrained("model")
    for folder, reason in ((finished, "holds a finished run"), ("model", "holds a model"),
                           (text, "is a file")):
        assert reason in refused("--text", text, "--out", folder, main=pretrain.main)
    assert "--from minbert-mini would change the run" in refused(
        "--resume", finished, "--from", "minbert-mini", main=pretrain.main)


def test_help_states_the_defaults():
    defaults = {field.name: field.default for field in dataclasses.fields(PretrainingSettings)}
    for action in pretrain.build_parser()._actions:
        value = defaults.get(action.dest, dataclasses.MISSING)
        if value not in (None, False, dataclasses.MISSING):
            said = action.help.rsplit("default: ", 1)[1].rstrip(")").split(";")[0]
            assert (float(said) if isinstance(value, (int, float)) else said) == value, action.dest
