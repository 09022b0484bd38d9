"""--teachers: half of each training label is what trained runs answer."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import programs
import pytest
import torch
from torch.nn import functional as F

from minbert.files import read_object, write_json
from multitask import MultitaskBert
from multitask.kinds import KINDS
from multitask.runs import run as main_job
from multitask.runs.settings import Settings
from multitask.runs.teachers import open_teacher, soft_labels
from multitask.tasks import PARA, SST, STS
from multitask.training.step import SurgeryTrainer

pytestmark = pytest.mark.filterwarnings("ignore:Pearson's correlation is undefined")


@pytest.fixture(scope="module")
def teachers(brief_run, tmp_path_factory) -> list[Path]:
    """A run of all tasks, and one of sentiment alone, joined otherwise."""
    folder = tmp_path_factory.mktemp("teachers")
    return [brief_run(folder / "all", "--max-steps", 3),
            brief_run(folder / "one", "--max-steps", 3, "--seed", 2, "--tasks", "sst", "--arch",
                      "concatA")]


def test_soft_labels_by_hand():
    """The mean of label and answer; of two teachers, the mean answer."""
    thirds = torch.log(torch.tensor([[1.0, 1, 2, 4, 8]]))  # shares of 1/16, 1/16, 2/16, …
    found = soft_labels(SST, torch.tensor([3.0]), [thirds])
    torch.testing.assert_close(found, torch.tensor([[1.0, 1, 2, 4 + 16, 8]]) / 32)
    yes = torch.log(torch.tensor([[3.0]]))  # σ = 3/4
    torch.testing.assert_close(soft_labels(PARA, torch.tensor([0.0]), [yes, torch.zeros(1, 1)]),
                               torch.tensor([0.3125]))
    points = [torch.tensor([[4.0], [7.0]]), torch.tensor([[2.0], [6.0]])]  # above 5 is 5
    assert soft_labels(STS, torch.tensor([1.0, 4.0]), points).tolist() == [2.0, 4.5]


def test_half_the_gradient_of_each():
    """The gradient is half the label's, and half that of the divergence from the answer."""
    torch.manual_seed(0)
    for task, label in ((SST, 2.0), (PARA, 1.0), (STS, 1.5)):
        outputs = torch.randn(1, task.outputs, dtype=torch.float64, requires_grad=True)
        answer, labels = torch.randn(1, task.outputs), torch.tensor([label])
        if task is SST:
            apart = F.kl_div(outputs.log_softmax(1), answer.softmax(1).double(), reduction="sum")
        elif task is PARA:
            two = torch.stack([F.logsigmoid(-outputs), F.logsigmoid(outputs)])
            apart = F.kl_div(two, torch.stack([(-answer).sigmoid(), answer.sigmoid()]).double(),
                             reduction="sum")
        else:
            apart = (outputs - answer.clamp(0, 5)).square().sum()
        expected = torch.autograd.grad((task.loss(outputs, labels) + apart) / 2, outputs)
        found = torch.autograd.grad(task.loss(outputs, soft_labels(task, labels, [answer])),
                                    outputs)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)  # loss is in float32


def test_labels_of_a_run(teachers, small_data, tmp_path, capsys):
    """Each teacher answers for the tasks that it has."""
    settings = programs.settings("--data", small_data, "--model", "scratch", "--teachers", *teachers)
    run = main_job.start(settings, str(tmp_path / "run"))
    run.log.close()
    assert "one answers the training examples of sst\n" in capsys.readouterr().out
    for task, asked in ((SST, teachers), (PARA, teachers[:1]), (STS, teachers[:1])):
        train = run.dataset[task.name]["train"]
        labels = torch.tensor([example.label for example in train])
        logits = [MultitaskBert.from_pretrained(each).logits(
            task.name, [example.sentences for example in train]) for each in asked]
        expected = soft_labels(task, labels, logits).numpy()
        found = run.tokens[task.name]["train"].labels
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.dtype == np.float32
    assert run.tokens["sst"]["dev"].labels.ndim == 1


def test_resume_same_bytes(teachers, brief_run, small_data, tmp_path, interrupted):
    flags = ("--teachers", *teachers, "--fl", "--epochs", 1, "--batch-size", 16)
    whole = brief_run(tmp_path / "whole", *flags)
    with interrupted(SurgeryTrainer, 3):
        assert programs.run("--data", small_data, "--model", "scratch", "--out", tmp_path / "cut",
                            *flags, "--checkpoint-every", 1) == 130
    assert programs.run("--resume", tmp_path / "cut") == 0
    plain = brief_run(tmp_path / "plain", *flags[3:])
    for name in ("model.safetensors", "heads.safetensors"):
        found = (tmp_path / "cut" / "model" / name).read_bytes()
        assert found == (whole / "model" / name).read_bytes()
        assert found != (plain / "model" / name).read_bytes()


def test_unusable_teachers(teachers, small_data, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(teachers[1], other)
    about = read_object(other / "model" / "tasks.json")
    about["tasks"][0]["labels"] = list("abcde")
    write_json(other / "model" / "tasks.json", about)
    for teacher, tasks, message in (
            ("nowhere", "sst,para", "nowhere: there is no such folder"),
            (teachers[1], "para,sts", "its tasks are sst, and none of them is trained here"),
            (other, "sst,para", "sst has other labels there: 0 a, 1 b, 2 c")):
        out = tmp_path / "out"
        assert programs.run("--data", small_data, "--model", "scratch", "--tasks", tasks,
                            "--teachers", teacher, "--out", out) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_teachers_of_own_tasks(brief_run, tmp_path, monkeypatch):
    """Another seed draws other dev examples; a kind of one's own may not take soft labels."""
    rows = [f"film {number}\t{number % 2}" for number in range(20)]
    (tmp_path / "films.tsv").write_text("\n".join(["text\tgood", *rows]) + "\n")
    (tmp_path / "films.toml").write_text('[films]\nkind = "yes_no"\ntext = "text"\nlabel = "good"\n'
                                         'train = "films.tsv"\ndev_share = 0.3\n')
    teacher = brief_run(tmp_path / "teacher", "--tasks", tmp_path / "films.toml", "--max-steps", 1)
    settings = Settings.load(teacher / "config.json")
    open_teacher(str(teacher), settings)
    with pytest.warns(UserWarning, match="its seed 11711 drew other dev examples"):
        open_teacher(str(teacher), dataclasses.replace(settings, seed=1))

    monkeypatch.setitem(KINDS, "own", KINDS["yes_no"])
    own = dataclasses.replace(settings.tasks[0], kind="own")
    about = read_object(teacher / "model" / "tasks.json")
    about["tasks"][0]["kind"] = "own"
    write_json(teacher / "model" / "tasks.json", about)
    with pytest.raises(ValueError, match="films is of kind own, and soft labels are for classes"):
        open_teacher(str(teacher), dataclasses.replace(settings, tasks=(own,)))
