"""README and documentation: what they show runs, what they name exists, and they read easily."""

import ast
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import commands_page
import numpy as np
import programs
import pytest
import sentences
from programs import ROOT

import train_multitask
from minbert import BertForMaskedLM, BertTokenizer
from multitask.commands import COMMANDS
from multitask.system.runlog import read_events

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md",
         *(path for path in sorted((ROOT / "docs").glob("**/*.md"))
           if "_build" not in path.parts and "log" not in path.parts)]
OWN_TASKS = ROOT / "docs" / "how-to" / "own-tasks.md"
TO_RUN = [README, ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
# how a command is called in Python → its module
MODULES = {command.python.split()[-1]: importlib.import_module(command.module)
           for command in COMMANDS.values()}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """The page's code blocks of a language; "" is a block without one."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"),
                      flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def commands_of(path: Path) -> list[tuple[str, list[str]]]:
    """(module, flags) of every command of ours in the page's blocks."""
    found = []
    for block in [*blocks(path, "sh"), *blocks(path, "")]:
        for line in re.sub(r" \\\n\s*", " ", block).splitlines():
            match = re.search(r"(?:^|&& )(?:python -m (multitask\.\w+|minbert_study)|minbert ([\w-]+)|"
                              r"(?:python|torchrun .*?) (train_multitask\.py))( .*)?$", line)
            if match:
                python, console, main_job, words = match.groups(default="")
                module = COMMANDS[console].python.split()[-1] if console else python or main_job
                found.append((module, shlex.split(words, comments=True)))
    return found


# ------------------------------------------------------------------------------- what pages show


def test_two_commands():
    """`.ci/run` takes its two commands from the README's first sh block."""
    main_job, tests = [line for line in blocks(README, "sh")[0].splitlines() if line.strip()]
    assert main_job.startswith("pip install -e . && python train_multitask.py --arch concatB --gs "
                               "wrap")
    assert tests.startswith("pip install -e '.[test]' && pytest")


@pytest.fixture(scope="module")
def folder(small_data, tmp_path_factory) -> Path:
    """A user's folder: data, a run of two steps, a pretrained model, sentences of one's own."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(small_data, folder / "data")
    BertForMaskedLM.from_pretrained("minbert-mini").save_pretrained(folder / "my-bert")
    BertTokenizer.from_pretrained("minbert-mini").save_pretrained(folder / "my-bert")

    (folder / "pairs.tsv").write_text("sentence1\tsentence2\nHow old are you?\tWhat age?\n")
    verdicts = ["good", "so-so", "bad"] * 10
    (folder / "reviews.csv").write_text("review,verdict\n" + "".join(
        f"film {number},{verdict}\n" for number, verdict in enumerate(verdicts)))
    (folder / "reviews.toml").write_text(blocks(OWN_TASKS, "toml")[0])
    (folder / "new.csv").write_text("review\na film\n")

    short = ["--model", "minbert-mini", "--max-steps", 2, "--out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert programs.run("--data", "data", "--fl", *short, "runs/concatB-wrap-1") == 0
        assert programs.run("--tasks", "reviews.toml", *short, "runs/reviews") == 0
    return folder


@pytest.mark.filterwarnings("ignore:The book .* do not agree")
@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_python_runs(page, folder, monkeypatch, capsys):
    """The Python blocks of a page run one after another, as in a notebook."""
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in blocks(page, "python"):
        if re.match(r"# \w+\.py\n", block):  # a program: test_15_extend.py runs those
            continue
        with np.errstate(all="ignore"):
            exec(block, names)
    if page.name == "surgery.md":
        assert sum(loss.item() for loss in names["losses"]()) < 0.2
        assert "[0.5000, 3.5000]" in capsys.readouterr().out
    if page.name == "notebooks.md":
        assert capsys.readouterr().out.splitlines()[3] == "tensor(True)"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page):
    """Every command has flags and values that its parser accepts."""
    for module, words in commands_of(page):
        if "…" not in words:
            parser = MODULES[module].build_parser()
            has_actions = commands_page.actions_of(parser) is not None
            (parser.parse_args if has_actions else parser.parse_intermixed_args)(words)


@pytest.mark.parametrize("page", TO_RUN, ids=name_of)
def test_commands_run(page, folder, monkeypatch):
    """predict and hand_in run as they stand, the main job for one step."""
    monkeypatch.chdir(folder)
    for module, words in commands_of(page):
        words = ["minbert-mini" if word in ("bert-base-uncased", "CHECKPOINT", "pairs") else word
                 for word in words]
        if module in ("multitask.predict", "multitask.hand_in", "multitask.export"):
            words = [word.replace("concatB-wrap-2", "concatB-wrap-1") for word in words]
            assert MODULES[module].main(words) == 0, words
        if module == "train_multitask.py" and "cuda" not in words and "HOST" not in str(words):
            if "--resume" not in words:
                words += ["--max-steps", "1", "--eval-limit", "4"]
                if "--out" in words:
                    shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
                else:
                    number = len(list(folder.glob("runs/*")))
                    words += ["--out", f"runs/{page.stem}-{number}"]
                if "--model" not in words and "--start" not in words:
                    words += ["--model", "minbert-mini"]
            assert train_multitask.main(words) == 0, words


# ------------------------------------------------------------------------------ what pages name


def test_commands_page_is_current():
    """`python tools/commands_page.py` writes it from the parsers."""
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page()


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z_-]+")


def test_flags_and_defaults():
    """Every flag that a page names exists; every flag of the main job states its default."""
    text = ("--help --nproc_per_node --nnodes --rdzv-backend --rdzv-endpoint "
            "--ro-bind --bind --dev --proc --tmpfs --unshare-all")
    for command in COMMANDS.values():
        text += commands_page.flags(importlib.import_module(command.module).build_parser())
    for path in [*(ROOT / "tools").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text += path.read_text(encoding="utf-8")
    known = set(FLAG.findall(text))
    for page in PAGES:
        assert set(FLAG.findall(page.read_text(encoding="utf-8"))) <= known, name_of(page)

    for action in train_multitask.build_parser()._actions:
        assert action.dest == "help" or "default" in action.help, action.dest


def test_files_exist():
    """Every file of the repository that a page names is there, and so is every link's target."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"`((?:minbert|optim|heads|multitask|tests|tools|benchmarks|docs|examples)"
                           r"/[\w/.-]+\.\w+)`", text)
        for name in named:
            assert (ROOT / name).is_file(), f"{name_of(page)}: {name}"
        for link, anchor in re.findall(r"\]\(([^)#:]+)(?:#([\w-]+))?\)", text):
            target = page.parent / link
            assert target.exists(), f"{name_of(page)}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{name_of(page)}: {link}#{anchor}"


def logged_keys(heading: str) -> dict[str, set[str]]:
    """Event → its keys, from the table below a heading of the run folder's page."""
    text = (ROOT / "docs" / "reference" / "run-folder.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found: dict[str, set[str]] = {}
    for event, keys in re.findall(r"^\| (?:`(\w+)` )?\| (`.*?`) \|", section, flags=re.MULTILINE):
        if event:
            found[event] = set()
        found[[*found][-1]] |= set(re.findall(r"\w+", keys))
    return found


@pytest.mark.parametrize(("heading", "source", "events"), [
    ("log.jsonl", "runs/stages.py", {"step", "epoch", "skipped"}),
    ("log.jsonl of a pretraining", "pretraining/run.py", {"step", "evaluation", "skipped"}),
])
def test_log_tables(heading, source, events):
    """The tables have every event, and every key that the code gives by name."""
    documented = logged_keys(heading)
    assert documented.keys() == events
    for call in ast.walk(ast.parse((ROOT / "multitask" / source).read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("log.write"):
            named = {keyword.arg for keyword in call.keywords} - {None}  # None: **values
            assert named <= documented[call.args[0].value], ast.unparse(call)
            events = events - {call.args[0].value}
    assert not events


def test_run_folder_page(folder):
    """The page names every file of a run and every key of its JSON files."""
    text = (ROOT / "docs" / "reference" / "run-folder.md").read_text(encoding="utf-8")
    run = folder / "runs" / "concatB-wrap-1"
    for path in run.iterdir():
        assert f"`{path.name}" in text, path.name

    metrics, analysis = (json.loads((run / f"{name}.json").read_text())
                         for name in ("metrics", "analysis"))
    keys = metrics.keys() | metrics["environment"].keys() | analysis.keys()
    for task in analysis["tasks"].values():
        keys |= task.keys()
    for event in read_events(run):
        keys |= event.keys()
        assert event.keys() - {"event"} <= logged_keys("log.jsonl")[event["event"]]
    assert not keys - set(re.findall(r"`(\w+)", text))


# ------------------------------------------------------------------------------- how pages read


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_short_sentences(page):
    """Half of a page's sentences have at most 20 words, nine in ten at most 35."""
    words = sentences.lengths(page.read_text(encoding="utf-8"))
    assert np.median(words) <= 20
    assert np.quantile(words, 0.9) <= 35


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160
    assert "@@" not in README.read_text(encoding="utf-8")
