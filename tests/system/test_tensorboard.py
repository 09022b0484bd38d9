"""--tensorboard: what TensorBoard reads back is what log.jsonl says, also after a resume."""

import json
import sys
from pathlib import Path

import programs
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from multitask.system.runlog import RunLog, read_events
from multitask.system.tensorboard import FOLDER
from multitask.training.step import SurgeryTrainer

STEPS = 6


@pytest.fixture
def train(small_data, empty_folder, no_report):
    return lambda name, *more: programs.run(
        "--data", small_data, "--model", "scratch", "--epochs", 2, "--max-steps", STEPS,
        "--checkpoint-every", 2, "--eval-limit", 20, "--out", name, *more)


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value) as TensorBoard reads them."""
    events = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from log.jsonl, tag by tag."""
    found: dict[str, list] = {}
    stages: dict[str, int] = {}  # stage → steps
    for event in read_events(run):
        stages[event["stage"]] = event["step"]
        values = {}
        if event["event"] == "step":
            values["lr"] = event["lr"]
            values |= {f"loss/{task}": loss for task, loss in event["losses"].items()}
            for pair, cosine in event.get("cosines", {}).items():
                values |= {f"cosine/{pair}": cosine, f"conflict/{pair}": float(cosine < 0)}
            for task, norm in event.get("gradient_norms", {}).items():
                values |= {f"gradient_norm/{task}": norm, f"weight/{task}": event["weights"][task]}
        elif event["stage"] == "nli":
            values["dev/nli/accuracy"] = event["dev"]["nli"]["accuracy"]
        else:
            dev = event["dev"]
            values |= {"dev/average": dev["average"], "dev/overall": dev["overall"],
                       "dev/sst/accuracy": dev["sst"]["accuracy"],
                       "dev/para/accuracy": dev["para"]["accuracy"],
                       "dev/sts/pearson": dev["sts"]["pearson"]}
        for tag, value in values.items():
            if value is not None:
                found.setdefault(tag, []).append((sum(stages.values()), value))
    return found


def assert_as_logged(run: Path) -> None:
    found, expected = shown(run), logged(run)
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points], tag
        # TensorBoard keeps float32
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in points],
                                                                   rel=1e-6), tag


def test_all_stages(train):
    """Every number of the log is there once; steps count over the stages."""
    assert train("a", "--nli", "--fl", "--tensorboard") == 0
    assert_as_logged(Path("a"))
    found = shown(Path("a"))
    assert [step for step, _ in found["loss/nli"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in found["cosine/sst-para"]] == [7, 8, 9, 10, 11, 12]
    assert [step for step, _ in found["loss/para"]] == list(range(7, 19))
    assert {value for _, value in found["conflict/sst-para"]} <= {0.0, 1.0}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no such disk")],
                         ids=["saved", "lost"])
def test_resumed(error, train, interrupted):
    """After a resume nothing is there twice; `lost`: step 5 was written, then made again."""
    assert train("a", "--tensorboard") == 0
    with interrupted(SurgeryTrainer, 6, error):
        assert train("b", "--tensorboard") in (1, 130)
    assert len(shown(Path("b"))["lr"]) == 5
    assert programs.run("--resume", "b") == 0
    assert_as_logged(Path("b"))
    assert shown(Path("b")) == shown(Path("a"))


def test_switched_on_by_resume(train, interrupted):
    """The steps before are there too, and the next --resume keeps it."""
    with interrupted(SurgeryTrainer, 4, OSError("no such disk")):
        assert train("a") == 1
    assert not Path("a", FOLDER).exists()
    assert programs.run("--resume", "a", "--tensorboard") == 0
    assert len(shown(Path("a"))["lr"]) == STEPS
    assert_as_logged(Path("a"))
    assert json.loads(Path("a", "config.json").read_text())["tensorboard"] is True


def test_only_the_writer_writes(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    log = RunLog(tmp_path, writes=False, tensorboard=True)
    log.rewind(0)
    log.write("step", stage="gs", step=1, lr=0.1)
    log.close()
    assert not (tmp_path / FOLDER).exists()


def test_without_the_package(train, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train("a", "--tensorboard") == 2
    assert "pip install 'minbert[tensorboard]'" in capsys.readouterr().err
    assert not Path("a").exists()
