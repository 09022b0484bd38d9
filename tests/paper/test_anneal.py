"""Annealed sampling: a step is a batch of one task, and small tasks come up more and more often."""

import copy
import json
from collections import Counter

import programs
import pytest
import torch
from test_10_training import batches, build, without_head_dropout

from multitask import MultitaskBert
from multitask.data.sampling import RoundRobin, annealed_shares
from multitask.system.runlog import read_events
from multitask.training.step import SurgeryTrainer
from optim import AdamW

LENGTHS = {"sst": 32, "para": 243}  # 2⁵ and 3⁵


@pytest.fixture
def model() -> MultitaskBert:
    return without_head_dropout(build())


# ------------------------------------------------------------------------------------------ sampling


def test_shares_by_hand():
    """α is 1 at the start and 0.2 at the end: fifth roots, 2 and 3."""
    assert annealed_shares(LENGTHS, 0.0) == pytest.approx([32 / 275, 243 / 275])
    assert annealed_shares(LENGTHS, 1.0) == pytest.approx([2 / 5, 3 / 5])
    assert annealed_shares(LENGTHS, 0.5) == pytest.approx([8 / 35, 27 / 35])  # α = 0.6


@pytest.mark.parametrize("done", [0.0, 1.0])
def test_draws_follow_the_shares(done):
    sampler = RoundRobin(LENGTHS, {"sst": 4, "para": 4}, "anneal", seed=0)
    steps = [sampler.next_step(done) for _ in range(2000)]
    assert all(len(step) == 1 for step in steps)
    drawn = Counter(name for step in steps for name in step)
    share = annealed_shares(LENGTHS, done)[0]
    spread = (2000 * share * (1 - share)) ** 0.5
    assert abs(drawn["sst"] - 2000 * share) < 4 * spread


def test_passes_over_a_dataset():
    """No example comes twice before every example has come once, even across epochs."""
    sampler = RoundRobin(LENGTHS, {"sst": 4, "para": 4}, "anneal", seed=0)
    assert sampler.steps_per_epoch == 8 + 61
    rows = []
    for number in range(300):
        if number % sampler.steps_per_epoch == 0:
            sampler.start_epoch()
        rows += sampler.next_step(1.0).get("sst", [])
    whole = len(rows) // 32
    assert whole > 5
    for number in range(whole):
        assert sorted(rows[32 * number:32 * (number + 1)]) == list(range(32))


# --------------------------------------------------------------------------------------------- steps


def test_others_rest(model):
    """A step of one task moves the encoder and that task's head; other heads stay, moments too."""
    theirs = copy.deepcopy(model)
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3, weight_decay=0.0, at_once=1)
    optimizer = AdamW(theirs.parameters(), lr=1e-3)
    for name in ("sst", "para", "para", "sts", "sst"):
        before = copy.deepcopy(model.heads)
        result = trainer.step({name: batches(model)[name]})

        optimizer.zero_grad(set_to_none=True)
        batch = batches(theirs)[name]
        loss = theirs.tasks[name].loss(theirs(name, batch), batch.labels)
        loss.backward()
        optimizer.step()
        assert result.losses == {name: pytest.approx(loss.item(), rel=1e-5)}
        for other, head in before.items():
            same = [torch.equal(a, b) for a, b in zip(head.parameters(),
                                                      model.heads[other].parameters(), strict=True)]
            assert all(same) == (other != name)

    for (name, ours), expected in zip(model.named_parameters(), theirs.parameters(), strict=True):
        # Adam divides by about |g|, so float32 noise shows where |g| is small
        torch.testing.assert_close(ours, expected, atol=5e-5, rtol=0,
                                   msg=lambda text, name=name: f"{name}: {text}")


def test_wrong_batches(model):
    """The error says how many tasks a step takes, and which."""
    alone = SurgeryTrainer(model, "sum", lr=1e-3, at_once=1)
    with pytest.raises(ValueError, match="batches of sst, para, sts; a step takes 1 of sst, para"):
        alone.step(batches(model))
    together = SurgeryTrainer(model, "sum", lr=1e-3)
    with pytest.raises(ValueError, match="batches of sst; a step takes 3 of"):
        together.step({"sst": batches(model)["sst"]})
    with pytest.raises(ValueError, match="batches of sst, para, sts, nli; a step takes 3 of"):
        together.step({**batches(model), "nli": batches(model)["sst"]})


# ------------------------------------------------------------------------------------- the main job


def run(small_data, tiny_checkpoint, out, *flags) -> int:
    return programs.run("--gs", "anneal", "--data", small_data, "--model", tiny_checkpoint, "--out",
                        out, "--epochs", 2, "--batch-size", 8, "--eval-limit", 20, "--device",
                        "cpu", *flags)


def losses_of(folder) -> list[dict]:
    return [step["losses"] for step in read_events(folder, "step")]


def test_interrupted_and_resumed(small_data, tiny_checkpoint, tmp_path, interrupted):
    """A run reports no surgery, and ends with the same bytes after an interruption."""
    every = ("--checkpoint-every", 5, "--lr", 1e-2)
    assert run(small_data, tiny_checkpoint, tmp_path / "whole", *every) == 0
    with interrupted(SurgeryTrainer, 28):
        assert run(small_data, tiny_checkpoint, tmp_path / "stopped", *every) == 130
    assert programs.run("--resume", tmp_path / "stopped") == 0

    for name in ("model.safetensors", "heads.safetensors"):
        files = [tmp_path / folder / "model" / name for folder in ("whole", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "stopped")
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert "surgery" not in metrics
    assert metrics["steps"] == 2 * (5 + 8 + 5)  # 40, 64 and 40 examples, 8 per step
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "gs_anneal" in page
    assert "pcgrad" not in page


def test_alpha_falls_over_the_training(small_data, tiny_checkpoint, tmp_path, monkeypatch):
    """α falls from the first step to the last, across epochs, and --max-steps sets the last."""
    told, next_step = [], RoundRobin.next_step
    monkeypatch.setattr(RoundRobin, "next_step",
                        lambda self, done: (told.append(done), next_step(self, done))[1])
    assert run(small_data, tiny_checkpoint, tmp_path / "x", "--max-steps", 20) == 0
    assert told == [number / 20 for number in range(20)]


def test_no_surgery_flag(small_data, tiny_checkpoint, tmp_path, capsys):
    """With one gradient per step, a surgery method would do nothing, so it is refused."""
    assert run(small_data, tiny_checkpoint, tmp_path / "x", "--surgery", "pcgrad") == 2
    assert "--surgery is for --gs wrap and bd: with --gs anneal no step has" in (
        capsys.readouterr().err)
