"""Lesson 16: does surgery help? How to ask so that the answer means something.

You learn that arms must differ in one thing only, what a claim is as a difference of cells, and
what an interval over dev items does not say.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats

from multitask.analysis.paper_results import PAPER_BASELINE, PAPER_TABLE_1
from multitask.experiments import arms, claims, question
from multitask.experiments.__main__ import main
from multitask.experiments.question_report import write_question_report
from multitask.experiments.question_tables import answer
from multitask.tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore:Pearson's correlation is undefined")
SEEDS = [11711, 11712]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)


@pytest.fixture(scope="module")
def asked(small_data, tiny_checkpoint, tmp_path_factory):
    """A question of three steps on a tiny encoder: question, folder, what the optimizer got."""
    out = tmp_path_factory.mktemp("out") / "surgery"
    ask = question.Question(model=str(tiny_checkpoint), data=str(small_data), steps=3, batch_size=4,
                            eval_limit=30)
    met = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(question, "TIMED_STEPS", 1)
        patch.setattr(arms, "PROBE_DRAWS", 2)
        patch.setattr(question, "RESAMPLES", 50)
        step, train_arm = arms.SurgeryTrainer.step, question.train_arm

        def watched_step(self, batches, scale):
            key = met["now"]
            met.setdefault(key, {"batches": [], "start": self.flat.vector.clone(), "heads": {
                name: value.clone() for name, value in self.heads.state_dict().items()}})
            met[key]["batches"].append({name: batch.input_ids.clone()
                                        for name, batch in batches.items()})
            return step(self, batches, scale)

        def watched_train(asked_for, training, seed, *more, **named):
            met["now"] = (training, seed)
            return train_arm(asked_for, training, seed, *more, **named)

        met["now"] = "timing"
        patch.setattr(arms.SurgeryTrainer, "step", watched_step)
        patch.setattr(question, "train_arm", watched_train)
        question.ask(ask, out, SEEDS, say=lambda line: None)
    return ask, out, met


def test_arms_start_alike(asked):
    _, _, met = asked
    for seed in SEEDS:
        reference = met["pcgrad", seed]
        for training in arms.trainings_of((*arms.ALWAYS, *arms.DEFAULT_ARMS)):
            arm = met[training, seed]
            assert torch.equal(arm["start"], reference["start"])
            assert all(torch.equal(value, reference["heads"][name])
                       for name, value in arm["heads"].items())
            for ours, theirs in zip(arm["batches"][:3], reference["batches"][:3], strict=True):
                assert set(ours) == set(arms.tasks_of(training))
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    first, second = (met["pcgrad", seed]["batches"] for seed in SEEDS)
    assert not all(torch.equal(a["sst"], b["sst"]) for a, b in zip(first, second, strict=False))


def trial(out, seed, training) -> dict:
    return json.loads(question.trial_file(out, seed, training).read_text())


def test_constant_arm_weights(asked):
    _, out, _ = asked
    for seed in SEEDS:
        pcgrad, constant, plain_sum = (trial(out, seed, arm)["conflicts"]["mean_weights"]
                                       for arm in ("pcgrad", "constant", "sum"))
        assert constant == pytest.approx(pcgrad, rel=1e-6)
        assert plain_sum == dict.fromkeys(TASKS, 1.0)


def test_weights_of_one_are_the_sum(asked):
    """Two arms with equal weights end at equal numbers: only the weights tell arms apart."""
    ask, _, _ = asked
    dataset = question.run.load_data(ask.settings(1))
    model = question.run.build_model(ask.settings(1), dataset)
    tokens = {name: {split: model.tokenize(splits[split]) for split in ("train", "dev")}
              for name, splits in dataset.items()}
    vectors = []
    for training, weights in (("sum", None), ("constant", [1.0, 1.0, 1.0])):
        arm = arms.Arm(ask, training, 1, dataset, tokens, weights)
        for _ in range(2):
            arm.step()
        vectors.append(arm.trainer.flat.vector)
    assert torch.equal(*vectors)


def test_paired_and_corrected(asked):
    _, out, _ = asked
    results = json.loads((out / "question.json").read_text())
    family = results["comparisons"]["equal_steps"]["sum"]["differences"]
    assert {(row["arm"], row["task"]) for row in family} == {
        (arm, task) for arm in ("pcgrad", "paper", "constant", "single") for task in TASKS}
    for row in family:
        task, training = row["task"], question.training_of(row["arm"], row["task"])
        scores = [[trial(out, seed, name)["scores"]["equal_steps"][task] for seed in SEEDS]
                  for name in (training, "sum")]
        differences = np.subtract(*scores)
        assert row["mean"] == pytest.approx(np.mean(differences))
        assert row["n"] == 2
        if row["p"] is not None:
            assert row["p"] <= row["holm"] <= 1
    assert set(results["within_seed"]) == {"11711", "11712"}
    assert set(results["probes"]) == {"0", "1", "3"}


def test_steps_at_equal_time(asked):
    ask, out, _ = asked
    steps = json.loads((out / "question.json").read_text())["steps"]
    assert all(by_moment["equal_steps"] == ask.steps for by_moment in steps.values())
    assert all(by_moment["equal_time"] >= ask.steps for by_moment in steps.values())
    assert min(by_moment["equal_time"] for by_moment in steps.values()) == ask.steps


def test_another_question(asked):
    """A folder with results takes no other question; test_question_arms.py resumes one."""
    ask, out, _ = asked
    with pytest.raises(ValueError, match="another steps"):
        question.ask(dataclasses.replace(ask, steps=4), out, SEEDS)


def test_question_report(asked):
    _, out, _ = asked
    page = (out / "report.html").read_text()
    # two moments; the encoder has too few parts for a curve, and the steps at equal time, which are
    # timed, may be too few too
    assert page.count("<img") - page.count('<figure id="cosines">') == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "A trial run: 2 seeds are too few" in page  # as question.md says


def test_question_opens_with_its_answer(asked, tmp_path):
    """A sentence and a picture of the paired differences come first, the method last."""
    _, out, _ = asked
    results = json.loads((out / "question.json").read_text())
    results |= {"seeds": list(range(5)), "cosines": {"sst-para": [0.1] * 5}}
    rows = results["comparisons"]["equal_steps"]["sum"]["differences"]
    for verdicts, opening in ((("better", "worse", "not shown"), "It depends on the method"),
                              (("better", "no spread", "better"), "Yes, it can help"),
                              (("worse",) * 3, "No, it can harm"),
                              (("not shown",) * 3, "No effect is shown")):
        for row, verdict in zip(rows, verdicts, strict=False):  # PCGrad's come first
            row["verdict"] = verdict
        assert answer(results).startswith(opening)
    write_question_report(tmp_path / "report.html", results)
    page = (tmp_path / "report.html").read_text()
    parts = ("No effect is shown", '<figure id="equal-steps">', "<h2", "<table",
             '<figure id="cosines">', "concatB, wrap")
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_question_markdown(asked):
    _, out, _ = asked
    text = (out / "question.md").read_text()
    for part in ("At equal steps", "At equal time", "Against sum", "Against constant", "2 seeds",
                 "noise floor", "other dev items, the same models"):
        assert part in text, part


# ------------------------------------------------------------------------------------------------
# claims


CELLS = [*PAPER_TABLE_1, ("baseline", "concatA")]


def test_claims_by_the_papers_table():
    """Its differences by its own table, by hand where it matters."""
    paper = {**PAPER_TABLE_1, ("baseline", "concatA"): PAPER_BASELINE}
    found = {(claim.text, claim.task): claims.difference(claim, {cell: paper[cell][claim.task]
                                                                 for cell in CELLS})
             for claim in claims.claims()}
    # concatB − concatA on STS, ten methods: the sums of the paper's columns are 7.722 and 3.190
    assert found["ConcatB is far better than ConcatA on pairs",
                 "sts"] == pytest.approx((7.722 - 3.190) / 10)
    signs = {(claim.text, claim.task): claim.sign for claim in claims.claims()}
    against = {key for key, value in found.items() if value * signs[key] <= 0}
    # FL's SST, .303 and .305, is below the baseline's .310, whatever the text says (DESIGN: "its
    # own slips")
    assert ("all experiments outperform the baseline, the worst too", "sst") in against
    assert found["all experiments outperform the baseline, the worst too",
                 "sst"] == pytest.approx(0.303 - 0.310)
    assert ("final layers alone are worse than the worst of the others", "sts") not in against
    assert len(against) < len(found) / 4


def invented(score) -> dict:
    """cell → task → predictions that are right where score(cell) says."""
    generator = np.random.default_rng(0)
    labels = {"sst": generator.integers(5, size=400), "para": generator.integers(2, size=400),
              "sts": generator.uniform(0, 5, size=400)}
    cells = {}
    for cell in CELLS:
        right = generator.random(400) < score(cell)
        cells[cell] = {"sst": np.where(right, labels["sst"], (labels["sst"] + 1) % 5),
                       "para": np.where(right, labels["para"], 1 - labels["para"]),
                       "sts": labels["sts"]
                       + generator.normal(size=400) * (0.5 if score(cell) > 0.6 else 2)}
    return labels, cells


def test_verdicts_on_claims():
    labels, cells = invented(lambda cell: 0.8 if cell[1] == "concatB" else 0.5)
    paper = {**PAPER_TABLE_1, ("baseline", "concatA"): PAPER_BASELINE}
    found = {(row["claim"], row["task"]): row for row in claims.judge([cells], labels, paper)}
    better = found["ConcatB is far better than ConcatA on pairs", "para"]
    assert (better["verdict"], better["pairs"]) == ("agrees", 10)
    assert better["low"] < better["difference"] < better["high"]
    assert better["difference"] == pytest.approx(0.3, abs=0.05)
    assert found["ConcatB costs SST", "sst"]["verdict"] == "disagrees"
    assert found["MultiNLI helps a little", "para"]["difference"] == pytest.approx(0, abs=0.03)
    assert all(row["interval"] == "dev items" for row in found.values())
    shown = [row["verdict"] for row in claims.judge([cells, cells], labels, paper)]
    assert set(shown) == {"no spread"}  # two seeds without a spread
    others = [invented_again(seed, labels, cells) for seed in range(4)]
    over_seeds = {(row["claim"], row["task"]): row for row in claims.judge(others, labels, paper)}
    row = over_seeds["ConcatB is far better than ConcatA on pairs", "para"]
    gains = [np.mean([(seed[chain, "concatB"]["para"] == labels["para"]).mean()
                      - (seed[chain, "concatA"]["para"] == labels["para"]).mean()
                      for chain in claims.CHAINS])
             for seed in others]
    theirs = stats.ttest_1samp(gains, 0).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert row["interval"] == "seeds"


def invented_again(seed, labels, cells) -> dict:
    """The same with a few PARA answers of each cell turned round: another seed."""
    generator = np.random.default_rng(seed)
    return {cell: {**by_task, "para": np.where(generator.random(400) < 0.05, 1 - by_task["para"],
                                               by_task["para"])}
            for cell, by_task in cells.items()}


def test_bootstrap_of_a_cell():
    labels, cells = invented(lambda cell: 0.7)
    for task in TASKS:
        draws = claims._draws(task, {CELLS[0]: cells[CELLS[0]]}, labels[task])[CELLS[0]]
        generator = np.random.default_rng(claims.SEED)
        for draw in draws[:20]:
            items = generator.integers(400, size=400)
            assert draw == pytest.approx(TASKS[task].measure(cells[CELLS[0]][task][items],
                                                            labels[task][items]))


def test_claims_need_all_their_cells():
    labels, cells = invented(lambda cell: 0.7)
    some = {cell: values for cell, values in cells.items() if cell[1] != "concatB_al"}
    found = {row["claim"]
             for row in claims.judge([some], labels, {**PAPER_TABLE_1, CELLS[-1]: PAPER_BASELINE})}
    assert "additional layers (AL) help" not in found
    assert "ConcatB costs SST" in found


def test_command_refuses_missing_data(capsys, tmp_path):
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
