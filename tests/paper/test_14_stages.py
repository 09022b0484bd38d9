"""Lesson 14: stages one after another, and thirty experiments that share their common stages.

You learn that a chain of stages gives the same bytes as its links trained separately, that a frozen
encoder has to encode each sentence only once, and that a resumed run repeats no finished stage.
"""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from programs import edit_json, events, run, settings
from test_10_training import SENTENCES, build

from multitask import MultitaskBert, export, hand_in, predict, serve
from multitask.analysis.log import speed
from multitask.analysis.paper_results import PAPER_TABLE_1
from multitask.data.examples import Example, load_dataset
from multitask.data.multinli import load_multinli
from multitask.data.sampling import ONCE, RoundRobin
from multitask.evaluation import read_predictions
from multitask.experiments import __main__ as experiments_command
from multitask.experiments import grid as experiments
from multitask.experiments import table
from multitask.runs.inputs import subsample
from multitask.runs.plans import STAGES
from multitask.runs.stages import Stage
from multitask.system.checkpoint import numbered
from multitask.system.runlog import read_events
from multitask.tasks import TASKS
from multitask.training.final_layers import CachedEmbeddings, HeadTrainer
from multitask.training.step import SurgeryTrainer
from optim import AdamW

pytestmark = pytest.mark.usefixtures("empty_folder")

THREE_STAGES = ("--arch", "concatB_al", "--nli", "--gs", "wrap", "--fl")


@pytest.fixture(scope="module")
def train(small_data, tiny_checkpoint):
    """(folder, flags …) → a run of two epochs per stage, from the tiny encoder or --start's run."""
    def start(out, *flags, status=0) -> Path:
        encoder = [] if "--start" in flags else ["--model", tiny_checkpoint]
        assert run("--data", small_data, *encoder, "--out", out, "--lr", 1e-3, "--epochs", 2,
                   *flags) == status
        return Path(out)

    return start


def metrics_of(run) -> dict:
    return json.loads((run / "metrics.json").read_text())


def weights_of(run) -> list[bytes]:
    return [(run / "model" / name).read_bytes()
            for name in ("model.safetensors", "heads.safetensors")]


# ---------------------------------------------------------------- MultiNLI's files


def test_real_multinli_counts(course_data):
    if not (course_data / "multinli").is_dir():
        pytest.skip(f"{course_data} holds no multinli folder")
    lengths = {split: len(examples) for split, examples in load_multinli(course_data).items()}
    assert lengths == {"train": 32_238, "dev": 10_174}


# ---------------------------------------------------------------- chains of stages


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> Path:
    """All three stages in one run."""
    return train(tmp_path_factory.mktemp("runs") / "whole", *THREE_STAGES)


def test_three_stages_report(whole):
    """Each stage reports its steps, its best epoch and its scores."""
    metrics = metrics_of(whole)
    assert list(metrics["stages"]) == ["nli", "gs", "fl"]
    # ⌈40 / 16⌉ pairs of MultiNLI, ⌈64 / 16⌉ question pairs, ⌈64 / 8⌉ of them on the final layers;
    # two epochs each
    assert [stage["steps"] for stage in metrics["stages"].values()] == [6, 8, 16]
    assert metrics["steps"] == 30
    assert set(metrics["stages"]["nli"]["dev"]) == {"nli", "average"}
    assert metrics["dev"] == metrics["stages"]["fl"]["dev"]
    for name, stage in metrics["stages"].items():
        best = max((epoch for epoch in events(whole, "epoch") if epoch["stage"] == name),
                   key=lambda epoch: epoch["dev"]["average"])
        assert (stage["best_epoch"], stage["dev"]) == (best["epoch"], best["dev"])
    assert (whole / "stages" / "nli" / "model.safetensors").is_file()


def test_speed_is_of_one_stage(whole):
    """Final layers, whose steps are much shorter, do not count; neither does MultiNLI."""
    steps = [step for step in read_events(whole, "step") if step["stage"] == "gs"]
    assert metrics_of(whole)["examples_per_second"] == speed(steps)


@pytest.fixture(scope="module")
def nli(train, tmp_path_factory) -> Path:
    """The first stage alone. Read only."""
    return train(tmp_path_factory.mktemp("runs") / "nli", "--arch", "concatB_al", "--nli", "--gs",
                 "none")


def test_chain_equals_its_links(whole, nli, train):
    """Stages in one run give the same bytes as one run per stage."""
    surgery = train("gs", "--start", nli)
    heads = train("fl", "--start", surgery, "--gs", "none", "--fl")
    assert weights_of(heads) == weights_of(whole)
    assert weights_of(heads) != weights_of(surgery) != weights_of(nli)


def test_fl_keeps_the_encoder(whole):
    encoders = [(whole / folder / "model.safetensors").read_bytes()
                for folder in ("stages/nli", "stages/gs", "model")]
    assert encoders[0] != encoders[1] == encoders[2]


@pytest.mark.parametrize(("stage", "trainer", "number"), [
    ("nli", SurgeryTrainer, 4), ("gs", SurgeryTrainer, 6 + 5), ("fl", HeadTrainer, 9)])
def test_resume_in_any_stage(stage, trainer, number, whole, train, monkeypatch, interrupted):
    """A run stopped in a stage's second epoch resumes there; no earlier stage is trained again."""
    with interrupted(trainer, number):
        stopped = train("stopped", *THREE_STAGES, status=130)

    trained, train_step = [], Stage._train_step
    monkeypatch.setattr(Stage, "_train_step",
                        lambda self: (trained.append(self.name), train_step(self))[1])
    torch.rand(5)  # whatever the global generator did in between
    assert run("--resume", stopped) == 0
    assert set(trained) == set(list(STAGES)[list(STAGES).index(stage):]) - {"baseline"}
    assert weights_of(stopped) == weights_of(whole)
    assert events(stopped, "epoch") == events(whole, "epoch")


def test_resume_in_a_cut_epoch(train, monkeypatch, interrupted):
    """A resumed epoch encodes its sentences in the same batches as before.

    Other batches would round differently, in this test by much.
    """
    embed = MultitaskBert.embed
    monkeypatch.setattr(MultitaskBert, "embed",
                        lambda self, batch: (found := embed(self, batch)) + len(found))
    flags = ("--arch", "concatB", "--gs", "none", "--fl", "--max-steps", 13)  # 8 are an epoch
    whole = train("whole", *flags)
    with interrupted(HeadTrainer, 11):
        stopped = train("stopped", *flags, status=130)
    assert run("--resume", stopped) == 0
    assert weights_of(stopped) == weights_of(whole)


def test_resume_between_stages(whole, train, monkeypatch):
    def stop(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "gs", STAGES["gs"].__class__(STAGES["gs"].title, stop))
        stopped = train("stopped", *THREE_STAGES, status=130)
    # after each epoch of the first stage
    assert [path.name for path in numbered(stopped)] == ["1", "2"]
    assert run("--resume", stopped) == 0
    assert weights_of(stopped) == weights_of(whole)


def test_start_of_a_moved_run(whole, train):
    """Only the run that --start names is needed, and not the run which that one started from."""
    flags = ("--arch", "concatB_al", "--gs", "none", "--fl", "--max-steps", 1)
    shutil.copytree(whole, "first")
    train("second", "--start", "first", *flags)
    Path("first").rename("moved")
    for out, start in (("first", "second"), ("third", "first")):  # now each starts the other
        train(out, "--start", start, *flags)


def test_start_takes_the_runs_data(train, small_data, tmp_path, refused):
    """Not the sample, nor ./data; the model's learning rate then is that of real data."""
    data = shutil.copytree(small_data, tmp_path / "mine")
    nli = train("nli", "--data", data, "--nli", "--gs", "none", "--max-steps", 1)
    shutil.copytree(small_data, "data")
    found = settings("--start", nli)
    assert (found.data, found.lr, found.epochs) == (str(data), 1e-5, 10)
    edit_json(nli / "config.json", lambda values: values.update(data=None))
    assert settings("--start", nli).data is None
    edit_json(nli / "config.json", lambda values: values.update(data=str(tmp_path / "gone")))
    assert settings("--start", nli, "--data", small_data).data == str(small_data)
    assert (f"{tmp_path / 'gone'}, the data of the run that --start names, are not there any more: "
            "name their folder with --data\n") in refused("--start", nli)


def test_start_of_other_arch(whole, small_data, refused):
    said = refused("--start", whole, "--arch", "concatA", "--data", small_data)
    assert "was trained with --arch concatB_al, not concatA" in said


@pytest.mark.parametrize(("command", "flags"), [
    (predict, ["--task", "sst", "A film."]), (export, ["out", "--task", "sst"]), (serve, [])])
def test_no_answers_of_untrained_heads(command, flags, nli, refused, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    said = refused(nli, *flags, main=command.main)
    assert f"{nli} ended with MultiNLI: its heads are untrained\n" in said


@pytest.mark.filterwarnings("always:.* is a baseline")
def test_baseline_trains_sst(train, capsys):
    """The baseline trains SST's head, and the other heads stay as they were."""
    base = train("base", "--gs", "none")
    assert json.loads((base / "config.json").read_text())["arch"] == "concatA"
    assert list(metrics_of(base)["stages"]) == ["baseline"]
    para, sts = ([epoch["dev"][name] for epoch in events(base, "epoch")]
                 for name in ("para", "sts"))
    assert para[0] == para[1]
    assert sts[0] == sts[1]
    assert "surgery" not in metrics_of(base)
    assert predict.main([str(base), "--task", "sst", "A film."]) == 0
    assert (f"warning: {base} is a baseline, which trains the head of sst only: those of para, sts "
            "are untrained\n") in capsys.readouterr().err


# ---------------------------------------------------------------- a frozen encoder


@pytest.fixture
def frozen() -> MultitaskBert:
    return build("concatA", dropout=0.1).eval()


def pairs(count: int) -> list[Example]:
    return [Example(str(n), (SENTENCES[n % 5], SENTENCES[n * n % 3]), n % 2) for n in range(count)]


@pytest.fixture
def batch(frozen):
    """Six pairs of the frozen encoder's embeddings, for PARA's head."""
    return CachedEmbeddings(frozen, frozen.tokenize(pairs(6)), "para").batch(range(6))


def test_embeddings_computed_once(frozen, monkeypatch):
    """Each embedding is computed once, and is the one that the encoder gives in eval mode."""
    tokens = frozen.tokenize(pairs(9))
    embeddings = CachedEmbeddings(frozen.train(), tokens, "para")
    encoded = []
    embed = MultitaskBert.embed
    monkeypatch.setattr(MultitaskBert, "embed", lambda self, batch: (
        encoded.append(len(batch.labels)), embed(self, batch))[1])
    batch = embeddings.batch([3, 0, 3])
    again = embeddings.batch([0, 5])
    assert encoded == [2, 1]  # 3 and 0; then 5
    assert frozen.training  # the mode is kept
    with torch.no_grad():
        expected = embed(frozen.eval(), tokens.batch([3, 0, 3]))
    # float32 rounding: another order of the same sums
    torch.testing.assert_close(batch.embeddings, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(again.embeddings[0], batch.embeddings[1])
    assert batch.labels.tolist() == [1, 0, 1]


def test_head_without_a_batch(frozen, batch):
    """A head without a batch does not change, and neither does the encoder."""
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    trainer = HeadTrainer(frozen, list(TASKS), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        trainer.step({"para": batch})
    moved = {name for name, value in frozen.state_dict().items()
             if not torch.equal(value, before[name])}
    assert moved == {"heads.para.1.weight", "heads.para.1.bias"}


def test_head_step_by_hand(frozen, batch):
    """HeadTrainer's steps equal those of a head that is written out here, without dropout."""
    frozen.heads["para"][0].p = 0.0
    weight, bias = (value.detach().clone().requires_grad_()
                    for value in frozen.heads["para"].parameters())
    theirs = AdamW([weight, bias], lr=1e-2)
    ours = HeadTrainer(frozen, ["para"], lr=1e-2)
    for _ in range(3):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            batch.embeddings @ weight[0] + bias, batch.labels)
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        assert ours.step({"para": batch}).losses["para"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(frozen.heads["para"][1].weight, weight, atol=1e-6, rtol=1e-5)


def test_head_parameter_without_a_gradient(frozen, batch):
    """A parameter that the loss does not depend on stays as it is; the others are trained."""
    head = frozen.heads["para"]
    head.register_parameter("unused", torch.nn.Parameter(torch.ones(2, 2)))
    before = head[1].weight.detach().clone()
    HeadTrainer(frozen, ["para"], lr=0.1, weight_decay=0.1, clip=1.0).step({"para": batch})
    assert torch.equal(head.unused, torch.ones(2, 2))
    assert not torch.equal(head[1].weight, before)


def test_once():
    """With `once`, an epoch passes over every dataset once; a task with nothing left sits out."""
    sampler = RoundRobin({"sst": 5, "para": 9}, {"sst": 2, "para": 2}, ONCE, seed=0)
    assert sampler.steps_per_epoch == 5
    for _ in range(2):
        sampler.start_epoch()
        steps = [sampler.next_step() for _ in range(5)]
        assert [set(step) for step in steps] == [{"sst", "para"}] * 3 + [{"para"}] * 2
        for name, length in (("sst", 5), ("para", 9)):
            assert sorted(index for step in steps
                          for index in step.get(name, [])) == list(range(length))


def test_eval_limit():
    """Every run takes the same examples, in the order of the file."""
    examples = pairs(50)
    some = subsample(examples, 10)
    assert some == subsample(examples, 10)
    assert [int(example.id) for example in some] == sorted(int(example.id) for example in some)
    assert some != examples[:10]
    assert subsample(examples, None) == subsample(examples, 50) == examples


# ---------------------------------------------------------------- the grid


def test_graph_shares_chains():
    """Stages that several chains have in common are trained once."""
    nodes = list(experiments.graph())
    assert len(set(nodes)) == len(nodes) == 34
    assert sum(node.chain[-1] in ("nli", "gs_bd", "gs_wrap") for node in nodes) == 15
    assert sum(node.chain[-1] == "fl" for node in nodes) == 18
    seen = set()
    for node in nodes:
        # parents come first
        assert node.chain[:-1] in (*((),), *(chain for arch, chain in seen if arch == node.arch))
        seen.add((node.arch, node.chain))
    assert {(node.name, node.arch) for node in nodes} >= set(PAPER_TABLE_1)


def test_grid_from_scratch(small_data, tmp_path):
    """The vocabulary is learnt from the data, and MultiNLI must not change the shared ids."""
    grid = experiments.Grid(tmp_path / "scratch", "quick", str(small_data), "scratch", "fp32",
                            "cpu", 2, 8)
    shared = experiments.load_shared(grid.node_settings(experiments.Node("concatB", ("nli",)), 1))
    tokens = {}
    for chain in (("nli",), ("gs_wrap",)):
        experiments.train_node(experiments.Node("concatB", chain), grid, 1, shared, tokens)
    vocabularies = [(grid.out / "seed-1" / "concatB" / name / "model" / "vocab.txt").read_bytes()
                    for name in ("nli", "gs_wrap")]
    assert vocabularies[0] == vocabularies[1]


@pytest.fixture(scope="module")
def ask(small_data, tiny_checkpoint):
    """(folder, flags …) → the exit status of a grid of two steps per stage."""
    return lambda out, *more: experiments_command.main([str(word) for word in (
        "--data", small_data, "--model", tiny_checkpoint, "--max-steps", 2, "--eval-limit", 20,
        "--out", out, *more)])


def test_mistyped_grid(ask, small_data, tiny_checkpoint, tmp_path, capsys):
    """After a mistyped command, the folder can still be used."""
    assert ask("grid", "--data", "nowhere") == 2
    assert ask("grid", "--seeds", "0") == 2
    said = capsys.readouterr().err
    assert "there is no such folder" in said
    assert "--seeds 0: must be at least 1" in said
    experiments.Grid(tmp_path / "grid", "quick", str(small_data), str(tiny_checkpoint), "fp32",
                     "cpu").check()


def test_diverged_training(small_data, tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """A training that diverges is left out of the table, and is not tried again."""
    def diverge(node, *_):
        raise FloatingPointError("the loss of sst is nan")

    monkeypatch.setattr(experiments, "train_node", diverge)
    grid = experiments.Grid(tmp_path / "grid", "quick", str(small_data), str(tiny_checkpoint),
                            "fp32", "cpu", 2, 8)
    results = experiments.run_grid(grid, [1])
    lines = capsys.readouterr().out.splitlines()
    assert results["best"] is None
    assert experiments.judge_claims(grid, [1]) == []  # no seed is complete
    assert "  failed: the loss of sst is nan" in lines
    # nli failed, and nli+gs_bd was itself left out
    for parent in ("nli", "nli+gs_bd"):
        assert f"  left out: {parent}, which it starts from, was not trained" in lines
    # the reason is remembered, nothing is tried twice
    experiments.run_grid(grid, [1])
    again = capsys.readouterr().out.splitlines()
    assert any("it failed before" in line for line in again)
    assert not any("  failed:" in line for line in again)


@pytest.fixture(scope="module")
def grid(ask, tmp_path_factory) -> Path:
    """The grid, two steps per stage, interrupted and resumed."""
    out = tmp_path_factory.mktemp("grid") / "grid"
    train = experiments.run._train
    count = 0

    def interrupted(job):
        nonlocal count
        count += 1
        if count == 7:
            raise KeyboardInterrupt
        return train(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.run, "_train", interrupted)
        assert ask(out) == 130
    assert len(list(out.glob("*/*/*/metrics.json"))) == 6
    assert ask(out) == 0
    return out


def test_whole_grid(grid):
    """The whole grid runs offline and fills the table."""
    results = json.loads((grid / "table.json").read_text())
    assert len(list(grid.glob("*/*/*/metrics.json"))) == 34
    for (method, arch), paper in PAPER_TABLE_1.items():
        dev = metrics_of(grid / "seed-11711" / arch / method)["dev"]
        for name, task in TASKS.items():
            cell = results["cells"][method][arch][name]
            assert cell["values"] == [dev[name][task.metric]]
            assert cell["paper"] == paper[name]
    averages = {key: row["average"]["mean"] for key, row in (
        ((method, arch), results["cells"][method][arch]) for method, arch in PAPER_TABLE_1)}
    assert results["best"]["average"] == max(averages.values())
    text = (grid / "table.md").read_text()
    assert text.count("| MultiNLI + GS_bd + FL |") == 1
    assert "(.892)" in text
    assert "nli 2, gs_bd 2, gs_wrap 2, fl 2" in text
    assert "cut to 20 examples" in text
    with (grid / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (30 + 1) * 4  # three tasks and the average
    assert not list(grid.glob("*/*/*/checkpoint"))


def test_grid_of_other_settings(grid, ask, capsys):
    """A grid with other settings does not resume in the same folder."""
    assert ask(grid, "--precision", "bf16") == 2
    assert "holds trainings with another precision" in capsys.readouterr().err


def test_begun_grid(tmp_path):
    """A training that was begun keeps other grids out; a preset's note is no part of a grid."""
    grid = experiments.Grid(tmp_path, "quick", None, "scratch", "fp32", "cpu")
    grid.check()
    folder = grid.folder(experiments.Node("concatB", ("nli",)), 1)
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    grid.check()
    with pytest.raises(ValueError, match="another model"):
        dataclasses.replace(grid, model="minbert-mini").check()

    edit_json(tmp_path / "grid.json", lambda saved: saved["settings"].update(note="other words"))
    grid.check()
    edit_json(tmp_path / "grid.json", lambda saved: saved["settings"]["every"].update(lr=1.0))
    with pytest.raises(ValueError, match="another settings"):
        grid.check()


def test_seeds_give_intervals():
    row = table.score_cells([{"sst": {"accuracy": a}, "para": {"accuracy": 0.5},
                              "sts": {"pearson": None}, "average": a}
                     for a in (0.5, 0.52, 0.54)], {"sst": 0.51, "para": 0.7, "sts": 0.3})
    # mean .52, deviation .02, t of two degrees of freedom 4.303: ± 4.303 · .02 / √3 = .0497
    assert table.shown(row["sst"]) == ".520 ± .050 (.510)"
    assert table.shown(row["para"]) == ".500 (.700)"  # three equal scores: no spread was seen
    assert table.shown(row["sts"]) == ".000 (.300)"


def test_hand_in(grid, small_data, tmp_path, capsys):
    """The best model of a grid answers all of dev and test, though the grid's dev sets were cut."""
    out = tmp_path / "hand-in"
    assert hand_in.main([str(grid), "--data", str(small_data), "--out", str(out)]) == 0
    printed, dataset = capsys.readouterr().out, load_dataset(small_data)
    for name, task in TASKS.items():
        for split, of_file in (("dev", "dev"), ("test-student", "test")):
            path = out / f"{name}-{of_file}-output.csv"
            assert read_predictions(path, task)[0] == [row.id for row in dataset[name][split]]
            assert str(path) in printed


def test_test_labels(grid, ask, small_data, tmp_path, capsys):
    """With test labels, the grid's best model is scored as in the paper's Table 2."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for task in TASKS.values():
        # any labelled file
        shutil.copy(small_data / task.dev, labels / task.dev.replace("-dev", "-test"))
    assert ask(grid, "--test-labels", labels) == 0
    lines = [line.split("(the")[0].split(": ", 1)[1].strip()
             for line in capsys.readouterr().out.splitlines()
             if line.startswith("best model")]
    assert len(lines) == 2
    assert lines[0] == lines[1]  # the same examples, so the same scores
    # without labels, the scores stay
    assert ask(grid) == 0
    assert "On the test set" in (grid / "table.md").read_text()


def test_hand_in_of_nothing(refused, small_data):
    said = refused("nowhere", "--data", small_data, main=hand_in.main)
    assert "nowhere: there is no such folder" in said
