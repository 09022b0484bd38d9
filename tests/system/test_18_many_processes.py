"""Lesson 18: one step made by several processes, and one batch computed in pieces.

A mean over a batch is a sum of shares, so whoever computes a share weights it by its number of
examples, and the shares add up. Surgery is not a sum: it needs each task's whole gradient first.
You learn what processes must tell one another, what each can work out for itself, and what remains
when one of them dies.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from programs import ROOT, events, python, run
from safetensors.torch import load_file
from test_10_training import EXAMPLES, batches, build, counting_saved, without_head_dropout

import heads.layers
from minbert import BertConfig, BertModel, BertTokenizer
from multitask.data.batching import MicroBatches
from multitask.system.checkpoint import numbered
from multitask.system.distributed import ALONE, Ranks, checksum, on_sigterm, start
from multitask.tasks import TASKS
from multitask.training.final_layers import CachedEmbeddings
from multitask.training.step import SurgeryTrainer
from optim import project_conflicting

# ---------------------------------------------------------------- shares and pieces


@given(st.lists(st.integers()), st.integers(1, 5))
def test_shares_partition(items, size):
    shares = [Ranks(rank, size).share(items) for rank in range(size)]
    assert sorted(item for share in shares for item in share) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_surgery_is_not_linear():
    """By hand: two examples of task 2 cancel out the conflict of one of them with task 1."""
    first, second = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]])
    assert project_conflicting((first + second) / 2).tolist() == [2, 1]
    # [1, 0] + ½ [-1, 1] and [-1, 1] + [1, 0]
    assert project_conflicting(first).tolist() == [0.5, 1.5]
    assert ((project_conflicting(first) + project_conflicting(second)) / 2).tolist() == [2.25, 1.25]


def in_pieces(model, count: int) -> dict[str, MicroBatches]:
    """All examples of each task, in so many pieces."""
    return {name: model.tokenize(examples).micro_batches(range(len(examples)), count, len(examples))
            for name, examples in EXAMPLES.items()}


def step_in_pieces(count: int | None) -> tuple:
    """Losses, weights and gradients of one step; count: pieces per batch, None for whole ones."""
    model = without_head_dropout(build())
    trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3)
    inputs = batches(model)
    if count is not None:
        inputs = in_pieces(model, count)
    losses = trainer.step(inputs).losses
    return losses, checksum(model.parameters()), [trainer.gradients.matrix,
                                                  *(p.grad for p in model.heads.parameters())]


def test_one_piece():
    """It is the whole batch, bit for bit."""
    assert step_in_pieces(1)[:2] == step_in_pieces(None)[:2]


# of 5, 4 and 3 examples: pieces of unequal size, then of one
@pytest.mark.parametrize("count", [2, 3, 100])
def test_pieces_add_up(count):
    losses, _, gradients = step_in_pieces(count)
    expected_losses, _, expected = step_in_pieces(None)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        # float32 sums in another order
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_no_empty_pieces():
    examples = build().tokenize(EXAMPLES["sst"])
    assert [len(piece.labels) for piece in examples.micro_batches(range(5), 2, 5).batches] == [2, 3]
    assert [len(piece.labels) for piece in examples.micro_batches([3, 1], 4, 5).batches] == [1, 1]
    assert examples.micro_batches([], 4, 5) == MicroBatches([], 5)


def test_graphs_are_freed():
    """Each piece's graph is freed before the next forward, of its own task or of the next."""
    at_each_forward, model = [], build()
    inputs, embed = in_pieces(model, 3), model.embed
    with counting_saved() as alive:
        model.embed = lambda batch: at_each_forward.append(len(alive)) or embed(batch)
        SurgeryTrainer(model, "pcgrad", lr=1e-3).step(inputs)
        assert at_each_forward == [0] * 9
        kept = model("sst", batches(model)["sst"])
        assert len(alive) > 10  # the count does count
        del kept


# ---------------------------------------------------------------- two threads


class Threads(Ranks):
    """Two ranks that leave a value for one another in a list, not on a network."""

    barrier, slots = threading.Barrier(2, timeout=60), [None, None]

    def gather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()  # both have read it
        return found

    def start_sum(self, tensor):
        tensor.copy_(sum(self.gather(tensor.clone())))
        return lambda: None

    def wait_for_writer(self):
        """Nobody ends before the other here."""


def in_two_threads(work) -> list:
    """What `work(ranks)` returns in each of two."""
    Threads.barrier.reset()  # a failure in a thread breaks it
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: work(Threads(rank, 2)), range(2)))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_two_make_the_steps_of_one(accumulate, clip):
    """Batches of 1, 4 and 3: the second process never has an example of sst."""
    rows = {"sst": [2], "para": [3, 0, 2, 1], "sts": [1, 2, 0]}
    models = [without_head_dropout(build()) for _ in range(3)]

    def train(model, ranks) -> list:
        trainer = SurgeryTrainer(model, "pcgrad", lr=1e-3, clip=clip, seed=3, ranks=ranks)
        examples = {name: model.tokenize(EXAMPLES[name]) for name in TASKS}
        return [trainer.step({name: examples[name].micro_batches(ranks.share(rows[name]),
                                                                 accumulate, len(rows[name]))
                              for name in TASKS}) for _ in range(3)]

    alone = train(models[2], ALONE)
    both = in_two_threads(lambda ranks: train(models[ranks.rank], ranks))
    assert checksum(models[0].parameters()) == checksum(models[1].parameters())
    for one, two, same in zip(alone, *both, strict=True):
        assert two.losses == same.losses == pytest.approx(one.losses, rel=1e-5)
        # float32 sums in another order
        torch.testing.assert_close(two.gram, one.gram, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(two.weights, one.weights, atol=1e-4, rtol=1e-3)


def test_infinite_loss_stops_all():
    models = [build() for _ in range(2)]

    def train(ranks) -> str:
        model, rows = models[ranks.rank], ranks.share(range(2))
        tokens = {name: model.tokenize(examples) for name, examples in EXAMPLES.items()}
        tokens["sts"].labels[1] = float("inf")
        before = checksum(model.parameters())
        with pytest.raises(FloatingPointError) as caught:
            SurgeryTrainer(model, "pcgrad", lr=1e-3, ranks=ranks).step(
                {name: examples.micro_batches(rows, 1, 2) for name, examples in tokens.items()})
        assert checksum(model.parameters()) == before
        return str(caught.value)

    assert in_two_threads(train) == ["the loss of sts is inf"] * 2


def test_shared_predictions(monkeypatch):
    """The batches are the same, only who computes them is not."""
    for module in ("model", "training.final_layers"):
        monkeypatch.setattr(f"multitask.{module}.EVALUATION_BATCH", 2)
    model = build().eval()
    examples = model.tokenize(EXAMPLES["para"])

    def work(*ranks) -> tuple[torch.Tensor, torch.Tensor]:
        cached = CachedEmbeddings(model, examples, "", *ranks)
        return model.predict_logits("para", examples, *ranks), cached.batch(range(4)).embeddings

    for found in in_two_threads(work):
        assert all(map(torch.equal, found, work()))


def test_failure_is_told_once():
    def work(ranks) -> list[str]:
        def read() -> str:
            if ranks.rank == 1:
                raise FileNotFoundError("no data here")
            return "data"

        outcomes = [ranks.broadcast_from_writer(lambda: f"made by {ranks.rank}")]
        for attempt in (lambda: ranks.run_on_all(read),
                        lambda: ranks.check_same("data", lambda: "é" * ranks.rank)):
            with pytest.raises((ValueError, SystemExit)) as caught:
                attempt()
            outcomes.append(repr(caught.value))
        return outcomes

    assert in_two_threads(work) == [
        ["made by 0", "ValueError('process 1: no data here')",
         "ValueError('process 1 and process 0 differ in their data')"],
        ["made by 0", "SystemExit(2)", "SystemExit(2)"]]


def test_own_dropout():
    draws = []
    for rank in range(3):
        torch.manual_seed(7)
        Ranks(rank, 3).seed_apart(7)
        draws.append(torch.rand(5).tolist())
    torch.manual_seed(7)
    assert draws[0] == torch.rand(5).tolist()
    assert len({tuple(numbers) for numbers in draws}) == 3


def test_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start() is ALONE
    assert ALONE.gather("naïve") == ["naïve"]
    assert ALONE.broadcast_from_writer(lambda: "a folder") == "a folder"
    assert Ranks(1, 4).command == "torchrun --nproc_per_node=4"
    with pytest.raises(ValueError, match="need --device cuda or cpu"):
        Ranks(1, 2).own_device(torch.device("mps"))


def test_sigterm_after_the_reader_has_gone():
    """Told to stop, a process ends even if it cannot print."""
    done = python("-c", "import os, signal, sys, time\n"
                  "from multitask.system.distributed import Ranks, on_sigterm\n"
                  "with on_sigterm(Ranks(0, 2), lambda: sys.stdout.missing):\n"
                  "    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(5)")
    assert done.returncode == 1


def test_sigterm_on_windows(monkeypatch):
    """Before Python 3.12, Windows has no os.set_blocking; its set_wakeup_fd takes any pipe."""
    monkeypatch.delattr(os, "set_blocking")
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda number: -1)
    with on_sigterm(Ranks(0, 2), lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


# ---------------------------------------------------------------- torchrun


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, small_data) -> dict[str, Path]:
    """Encoders with and without dropout, whose scores differ from the first epoch on."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = BertTokenizer.train((small_data / "quora-train.csv").read_text().split(), 300)
    for name, dropout in (("plain", 0.0), ("dropout", 0.1)):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=2,
                            num_attention_heads=3, intermediate_size=40, initializer_range=0.2,
                            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        BertModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {"data": small_data, "plain": folder / "plain", "dropout": folder / "dropout"}


def torchrun(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
    return python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
                  ROOT / "tests" / "started_by_torchrun.py", *arguments, OMP_NUM_THREADS="1",
                  **variables)


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(numbered(folder)[-1] / "state.safetensors")


def test_two_train_as_one(tiny, tmp_path, monkeypatch):
    """20 steps at the paper's learning rate without dropout; two pieces per batch in two."""
    flags = ["--data", tiny["data"], "--model", tiny["plain"], "--lr", "1e-5", "--epochs", "5",
             "--precision", "fp32"]
    done = torchrun(*flags, "--batch-size", 8, "--accumulate", 2, "--out", tmp_path / "two",
                    NO_DROPOUT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best epoch") == 1  # one speaks
    assert "(seed 11711, cpu, fp32, 2 processes)" in done.stdout
    monkeypatch.setattr(heads.layers, "FIRST_DROPOUT", 0.0)
    assert run(*flags, "--batch-size", 16, "--out", tmp_path / "one") == 0

    ours, theirs = last_state(tmp_path / "two"), last_state(tmp_path / "one")
    assert len(events(tmp_path / "two", "step")) == 20
    for name in theirs:
        if name.startswith("model."):
            # at a rate of 1e-5 no weight moves further than 2e-4 in all; AdamW divides away the
            # gradients' size, so the noise of float32 sums in another order shows where a gradient
            # is near eps, above all in keys' biases
            assert (ours[name] - theirs[name]).abs().max() <= 1e-6, name
    for two, one in zip(events(tmp_path / "two"), events(tmp_path / "one"), strict=True):
        assert two["event"] == one["event"]
        if two["event"] == "step":
            assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
            assert (two["conflicts"], two["examples"]) == (one["conflicts"], one["examples"])
        else:
            # three decimals
            assert scores(two["dev"]) == pytest.approx(scores(one["dev"]), abs=5e-4)
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["environment"]["processes"] == 2


def scores(dev: dict) -> list[float]:
    return [value or 0.0 for of_task in dev.values()
            for value in (of_task.values() if isinstance(of_task, dict) else [of_task])]


CHAIN = ["--nli", "--gs", "bd", "--fl", "--batch-size", 8, "--batch-sizes", "sst=1,para=16,sts=1",
         "--epochs", 2, "--lr", 1e-3]  # of one example of sst, one of the two processes has none


@pytest.fixture(scope="module")
def killed(tiny, tmp_path_factory) -> tuple[Path, str]:
    """A run whose process 1 was killed before the checkpoint of surgery's epoch 2; and stderr."""
    folder = tmp_path_factory.mktemp("killed")
    done = torchrun("--data", tiny["data"], "--model", tiny["dropout"], *CHAIN, "--out",
                    folder / "run", SIGKILL="1", WITNESS=str(folder / "before"))
    assert done.returncode != 0
    return folder / "run", done.stderr


def test_killed_process(killed):
    """The others end with a message that names how to resume."""
    folder, stderr = killed
    lines = [line for line in stderr.splitlines()
             if line.startswith("train_multitask.py: process 0: ")]
    assert lines, stderr
    for line in lines:  # two where torchrun's signal comes just after the connection broke
        assert re.search("another process has ended|stopped by SIGTERM", line)
        assert line.endswith(f"; resume with: torchrun --nproc_per_node=2 train_multitask.py "
                             f"--resume {folder}")
    # two epochs of MultiNLI, one of surgery
    assert [path.name for path in numbered(folder)] == ["2", "3"]


@pytest.fixture(scope="module")
def resumed(killed, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """A copy of that run resumed: the process; the folder of the copy and what its ranks noted."""
    folder = tmp_path_factory.mktemp("resumed")
    shutil.copytree(killed[0], folder / "run")
    return torchrun("--resume", folder / "run", WITNESS=str(folder / "after"),
                    THREADS=str(folder / "threads")), folder


def test_ctrl_c_in_one_process(tiny, tmp_path):
    """The writer is at a later step by then and waits for a sum, so it cannot be told."""
    done = torchrun("--data", tiny["data"], "--model", tiny["dropout"], "--batch-size", 8,
                    "--epochs", 50, "--out",
                    tmp_path / "run", SIGINT="1", WITNESS=str(tmp_path / "witness"))
    assert done.returncode != 0
    advice = "; resume with: torchrun --nproc_per_node=2 train_multitask.py --resume "
    assert f"{advice}{tmp_path / 'run'}" in done.stderr
    assert [path.name for path in numbered(tmp_path / "run")] == ["1", "2"]


def test_other_number_of_processes(killed, refused, empty_folder):
    assert "was trained by 2 process(es), and here are 1" in refused("--resume", killed[0])


def test_resume_of_two(killed, resumed):
    """The second epoch again, with each process's own dropout; then the last stage."""
    done, word = resumed
    folder, whole = word / "run", events(killed[0])
    assert done.returncode == 0, done.stderr
    assert "resumed after gs epoch 1, step 4" in done.stdout
    witnesses = [Path(f"{path}.{rank}").read_text() for rank in range(2)
                 for path in (killed[0].parent / "before", word / "after")]
    assert witnesses[0] == witnesses[1]
    assert witnesses[2] == witnesses[3]
    assert witnesses[0].split()[0] == witnesses[2].split()[0]  # the same weights in both processes
    assert witnesses[0] != witnesses[2]                        # but not the same random numbers
    # four steps and their epoch's scores
    assert [event["stage"] for event in whole][-5:] == ["gs"] * 5
    assert events(folder)[:len(whole)] == whole
    assert json.loads((folder / "metrics.json").read_text())["stages"].keys() == {"nli", "gs", "fl"}
    assert len(list((folder / "predictions").iterdir())) == 6


@pytest.mark.skipif(not Path("/proc/self/task").exists(),
                    reason="the system does not tell threads' names")
def test_no_thread_is_left(resumed):
    """One that frees a tensor then would abort a process that has done all its work."""
    for rank in range(2):
        names = Path(f"{resumed[1] / 'threads'}.{rank}").read_text()
        assert "python" in names
        assert "gloo" not in names, names
