"""Lesson 16, continued: twenty methods at once. Controls, ranks, and a folder whose arms may grow.

You learn why the best of several weights is chosen on seeds that are not judged, and why surgery
has to beat it.
"""

import base64
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from multitask.analysis.comparisons import holm
from multitask.experiments import arms, question
from multitask.experiments.__main__ import main
from multitask.experiments.question_tables import answer, control_rows
from multitask.tasks import TASKS
from optim import SURGERY

pytestmark = pytest.mark.filterwarnings("ignore:Pearson's correlation is undefined")
SEEDS = [11711, 11712]
DEFAULT = (*arms.ALWAYS, *arms.DEFAULT_ARMS)
ADDED = ("famo", "cagrad:c=0.8", "best-constant", "anneal")


@pytest.fixture(scope="module", autouse=True)
def few():
    """Few steps of what is not looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.showwarning", lambda *_, **__: None)
        for module, name, value in ((question, "TIMED_STEPS", 1), (question, "UNTIMED_STEPS", 1),
                                    (question, "RESAMPLES", 10), (arms, "PROBE_DRAWS", 2)):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def asked(small_data, tiny_checkpoint):
    return question.Question(model=str(tiny_checkpoint), data=str(small_data), steps=3,
                             batch_size=4, eval_limit=30, lr=1e-2)


@pytest.fixture(scope="module")
def before(asked, tmp_path_factory):
    """The default arms, as a version without --arms left them."""
    out = tmp_path_factory.mktemp("before") / "surgery"
    question.ask(asked, out, SEEDS, say=lambda line: None)
    path = out / "asked.json"
    request = json.loads(path.read_text())
    assert tuple(request.pop("arms")) == DEFAULT
    path.write_text(json.dumps(request))
    return out


@pytest.fixture(scope="module")
def grown(asked, before, tmp_path_factory):
    """More arms in that folder, interrupted once: the folder, and what was trained."""
    out = tmp_path_factory.mktemp("grown") / "surgery"
    shutil.copytree(before, out)
    trained, train_arm = [], question.train_arm

    def watched(asked_for, training, seed, *more, **named):
        if len(trained) == 9:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append((seed, training))
        return train_arm(asked_for, training, seed, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(question, "train_arm", watched)
        with pytest.raises(KeyboardInterrupt):
            question.ask(asked, out, SEEDS, ADDED, say=lambda line: None)
        question.ask(asked, out, SEEDS, say=lambda line: None)
    return out, trained


def results_of(out) -> dict:
    return json.loads((out / "question.json").read_text())


def trial(out, seed, training) -> dict:
    return json.loads(arms.trial_file(out, seed, training).read_text())


def test_arms_are_added(before, grown):
    """Only what is missing is trained, after an interruption too, and no earlier number changes."""
    out, trained = grown
    trained = [one for one in trained if one != "interrupted"]
    assert trained == [*((seed, row) for seed in question.GRID_SEEDS for row in arms.GRID),
                       *((seed, arm) for seed in SEEDS for arm in ADDED)]
    assert tuple(json.loads((out / "asked.json").read_text())["arms"]) == (*DEFAULT, *ADDED)
    old, new = results_of(before), results_of(out)
    assert list(new["scores"]["equal_steps"]) == [*DEFAULT, *ADDED]
    for moment in arms.MOMENTS:
        assert {arm: new["scores"][moment][arm] for arm in DEFAULT} == old["scores"][moment]
    for key in ("probes", "conflicts", "within_seed", "cosines"):
        assert new[key] == old[key]


def test_best_constant(grown):
    """It has the weights with the best average on two other seeds, after half the steps."""
    out, _ = grown
    averages = {}
    for row in arms.GRID:
        scores = [trial(out, seed, row)["scores"]["equal_steps"] for seed in question.GRID_SEEDS]
        averages[row] = np.mean([[score[task] for task in TASKS] for score in scores])
    best = max(averages, key=averages.__getitem__)
    assert len(set(averages.values())) > 1  # there is a choice
    weights = [float(number) for number in re.findall(r"\d+", best)]
    for seed in SEEDS:
        found = trial(out, seed, "best-constant")["conflicts"]["mean_weights"]
        assert list(found.values()) == weights
    assert trial(out, question.GRID_SEEDS[0], best)["steps"] == dict.fromkeys(arms.MOMENTS, 2)
    assert len(arms.GRID) == 7
    [note] = [text for arm, text in control_rows(results_of(out)) if arm == "best-constant"]
    assert f"half the steps: {':'.join(f'{weight:g}' for weight in weights)}. " in note


def test_annealed_arm(grown, asked):
    """Three steps of one task where the others have one of three tasks: equally many batches."""
    out, _ = grown
    found = trial(out, SEEDS[0], "anneal")
    assert found["steps"]["equal_steps"] == 3 * asked.steps
    assert (found["conflicts"], found["cosines"]) == ({}, {})
    assert set(found["scores"]["equal_steps"]) == set(TASKS)
    assert "anneal" in json.loads((out / "times.json").read_text())


def test_grid_seeds_are_never_judged(asked, tmp_path):
    with pytest.raises(ValueError, match="take others"):
        question.ask(asked, tmp_path, [711, 11711], ["best-constant"])


def test_holm_covers_arms_and_tasks(grown):
    """The average is a family of its own, so it changes no p value of the tasks."""
    family = results_of(grown[0])["comparisons"]["equal_steps"]
    others = {arm for arm in (*DEFAULT, *ADDED) if arm != "sum"}
    for rows, places in ((family["sum"]["differences"], list(TASKS)),
                         (family["sum"]["average"], ["average"])):
        assert {(row["arm"], row["task"]) for row in rows} == {
            (arm, place) for arm in others for place in places}
        corrected = holm({(row["arm"], row["task"]): row["p"] for row in rows})
        assert [row["holm"] for row in rows] == list(corrected.values())
    against_best = {row["arm"] for row in family["best-constant"]["average"]}
    assert against_best == {"pcgrad", "paper", "famo", "cagrad:c=0.8"}


def test_average(grown):
    results = results_of(grown[0])
    scores = results["scores"]["equal_time"]
    [row] = [row for row in results["comparisons"]["equal_time"]["sum"]["average"]
             if row["arm"] == "single"]
    means = [np.mean(list(scores[arm].values())) for arm in ("single", "sum")]
    assert row["mean"] == pytest.approx(means[0] - means[1])


def test_ranks():
    """1 is the best, equal averages share a rank, and an interval ends where ranks end."""
    found = question.ranks_of({"a": [.9, .9, .5], "b": [.5, .9, .6], "c": [.1, .2, .1]})
    assert [found[arm]["ranks"] for arm in "abc"] == [[1, 1.5, 2], [2, 1.5, 1], [3, 3, 3]]
    assert found["a"]["mean"] == pytest.approx(1.5)
    assert (found["a"]["low"], found["b"]["high"]) == (1.0, pytest.approx(2.743, abs=1e-3))
    assert found["c"]["low"] is None  # no spread is no proof of none


def test_second_forward_has_its_own_time(asked, monkeypatch, tmp_path):
    """famo gets fewer steps in the others' time, and what it costs moves no other arm."""
    costs = {"pcgrad": 4.0, "famo": 6.0}

    class Timed:
        def __init__(self, question, training, *_):
            self.log, self.cost = [], costs[training]

        def step(self):
            self.log.append({"seconds": self.cost})

    monkeypatch.setattr(question, "Arm", Timed)
    times = tmp_path / "times.json"
    known = {"pcgrad": 2.0, **{f"single-{name}": 0.5 for name in TASKS}}
    times.write_text(json.dumps(known))
    steps = question.steps_at_equal_time(asked, ("pcgrad", "sum", "mgda", "famo", "single"),
                                         tmp_path, {}, {}, 1)
    assert json.loads(times.read_text()) == {**known, "famo": 3.0}  # the machine is half as fast
    assert steps["mgda"] == steps["pcgrad"] == {"equal_steps": 3, "equal_time": 3}
    assert steps["famo"] == {"equal_steps": 3, "equal_time": 2}
    assert steps["single-sst"]["equal_time"] == 4  # 3 × 2 s / 1.5 s


def test_epochs_are_counted(asked):
    """dwa asks for the epoch: without it, its weights would stay those of the sum."""
    dataset = question.run.load_data(asked.settings(1))
    model = question.run.build_model(asked.settings(1), dataset)
    tokens = {name: {"train": model.tokenize(splits["train"])} for name, splits in dataset.items()}
    whole = dataclasses.replace(asked, batch_size=64)
    arm = arms.Arm(whole, "dwa", 1, dataset, tokens)
    for _ in range(3):
        arm.step()
    assert arm.trainer.epoch == 2
    assert [set(step["weights"].values()) == {1.0} for step in arm.log] == [True, True, False]


@pytest.mark.parametrize(("arm", "reason"), [
    ("nonsense", "no surgery method 'nonsense'.*controls: .*best-constant.*--import"),
    ("cagrad:d=1", "cagrad has no option 'd'"),
    ("constant:weights=1+2", "2 constant weights for 3 tasks"),
    ("single-sst", "no surgery method"),
])
def test_wrong_arm(asked, tmp_path, arm, reason):
    """It is refused before anything is written."""
    with pytest.raises(ValueError, match=reason):
        question.ask(asked, tmp_path / "out", SEEDS, ["mgda", arm])
    assert not (tmp_path / "out").exists()


def test_answer_names_arms(before):
    results = results_of(before) | {"seeds": list(range(5))}
    family = results["comparisons"]["equal_steps"]["sum"]
    rows = {(row["arm"], row["task"]): row for row in (*family["differences"], *family["average"])}
    for row in rows.values():
        row["verdict"] = "not shown"
    assert answer(results).endswith("none of 4 arms is shown to differ.")
    rows["single", "para"]["verdict"] = "better"
    assert answer(results) == (
        "No effect is shown: over 5 seeds, against the plain sum of gradients and after Holm's "
        "correction, better: single (para); not shown to differ: 3 other arms.")
    rows["paper", "sst"]["verdict"] = rows["paper", "average"]["verdict"] = "worse"
    assert answer(results).startswith("No, it can harm")
    assert "worse: paper (sst, average); not shown to differ: 2 other arms." in answer(results)
    assert answer(results | {"seeds": [1, 2]}).startswith("Not answered yet. A trial run: 2 seeds")


OWN = """
from optim import SURGERY


def own_way(gram, generator=None):
    return gram.diagonal() + 1


SURGERY["own_way"] = own_way
"""


def test_all_arms_by_command(asked, tmp_path, monkeypatch, capsys):
    """Every method, an imported one too, and every control is trained and named in the picture."""
    monkeypatch.setitem(SURGERY, "own_way", None)  # so that it is gone afterwards
    (tmp_path / "own.py").write_text(OWN)
    out = tmp_path / "out"
    assert main(["--question", "surgery", "--arms", "all,cagrad:c=0.8", "--seeds", "1",
                 "--import", str(tmp_path / "own.py"), "--model", asked.model, "--data", asked.data,
                 "--max-steps", "1", "--eval-limit", "8", "--out", str(out)]) == 0
    expected = {*SURGERY, *arms.CONTROLS, "cagrad:c=0.8"}
    assert set(results_of(out)["scores"]["equal_steps"]) == expected
    page = (out / "report.html").read_text()
    for image in re.findall(r'base64,([\w+/=]+)', page)[:2]:
        picture = base64.b64decode(image).decode()
        assert all(picture.count(f">{arm}<") == 1 for arm in expected - {"sum"})
    assert "Not answered yet. A trial run: 1 seed is too few" in capsys.readouterr().out


def test_arms_flag_needs_the_question(capsys):
    assert main(["--arms", "all"]) == 2
    assert "--arms needs --question surgery" in capsys.readouterr().err
