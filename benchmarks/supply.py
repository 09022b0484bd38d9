"""Builds sdist and wheels, installs them into empty environments, and uses them.

    python benchmarks/supply.py [--only build wheel sdist lower]

build: an sdist, a wheel of the source and one of the sdist hold what git knows of the packages and
nothing else, though the copy they are built from holds a run, data and somebody's notes. wheel,
sdist: each is installed into an empty virtual environment and used from an empty folder, offline.
wheel also runs lessons 01 to 08 with what a fresh resolve gives today, lower with the lowest
release of every dependency that setup.py allows.

Never takes CUDA's packages: on Linux torch is the newest CPU build that the index has, and where it
has no CPU build of the lowest release, the table says untested. Takes 2 GB of disk and, once the
packages are in pip's cache, some ten minutes of one core. Ends with status 1 if anything fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from email.parser import Parser
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PACKAGES = ("minbert", "minbert_study", "optim", "heads", "multitask")
MODULE = "train_multitask.py"
# what belongs to no release; planted into the copy that is built, in case setup.py or setuptools
# finds it
STRAYS = ("runs/concatB-wrap-1/metrics.json", "data/ids-sst-train.csv",
          "minbert/__pycache__/model.cpython-311.pyc", "multitask/notes.txt", "multitask_old.py")
SDIST_FILES = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg",
               "setup.py"}
MADE_BY_SETUPTOOLS = re.compile(r"minbert(-[\w.]+\.dist-info|\.egg-info)/[^/]+(/LICENSE)?")
LESSONS = "tests/lessons/test_0[1-8]_*.py"
# what is run → its arguments, from one empty folder, in this order
USES = {
    "import minbert, heads, optim, multitask": ["-c", "import minbert, heads, optim, multitask"],
    "train_multitask --help": ["-m", "train_multitask", "--help"],
    "train_multitask --arch concatA --max-steps 2": [
        "-m", "train_multitask", "--arch", "concatA", "--max-steps", "2", "--eval-limit", "20"],
    "multitask.predict": ["-m", "multitask.predict", "runs/concatA-wrap-1", "--task", "sst",
                          "A film worth seeing."],
    "multitask.pretrain --steps 4": [
        "-m", "multitask.pretrain", "--text", "text.txt", "--layers", "1", "--hidden", "16",
        "--heads", "2", "--vocab-size", "150", "--length", "24", "--batch-size", "4", "--steps",
        "4", "--held-out", "0.2", "--out", "bert"],
    "train_multitask --model bert --gs none": [
        "-m", "train_multitask", "--model", "bert", "--gs", "none", "--max-steps", "2",
        "--eval-limit", "20"],
}
KINDS = ("cat", "dog", "old man", "child", "mouse", "king", "owl", "fox", "bear", "hen")
TEXT = "\n\n".join(f"The {kind} sat on the mat and saw {number} birds."
                   for number, kind in enumerate(KINDS)) + "\n"


class Row(NamedTuple):
    what: str
    version: str
    result: str


class Failed(Exception):
    """A command's last words."""


def run(*command: object, cwd: Path, **variables: str) -> str:
    """Returns its stdout. It sees nothing of this source tree. Raises Failed."""
    known = {name: value for name, value in os.environ.items()
             if not name.startswith(("PYTHON", "MINBERT", "HF_"))}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env={**known, **variables},
                          capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Failed(f"status {done.returncode}: {' / '.join(lines[-3:])[-300:]}")
    return done.stdout


class Environment:
    """A virtual environment, new and empty."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
        self.folder = folder
        self.interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def python(self, *arguments: object, cwd: Path | None = None, **variables: str) -> str:
        return run(self.interpreter, *arguments, cwd=cwd or self.folder, **variables)

    def install(self, *requirements: object) -> None:
        self.python("-m", "pip", "install", "--quiet", *requirements)

    def version(self, name: str) -> str:
        return self.python("-c",
                           f"from importlib.metadata import version; print(version({name!r}))").strip()


def attempt(what: str, version: str, work: Callable[[], str]) -> Row:
    """A row with what `work` returns, or with why it failed."""
    try:
        return Row(what, version, work())
    except Failed as error:
        return Row(what, version, f"FAILED: {error}")


# -------------------------------------------------------------------------------------------- build


def tracked() -> list[str]:
    return run("git", "ls-files", cwd=ROOT).splitlines()


def copy_source(target: Path) -> Path:
    """What git knows, as it stands, and strays beside it."""
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    for name in STRAYS:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("stray\n")
    return target


def shipped() -> set[str]:
    """The files of the packages, code and data."""
    return {name for name in tracked() if name == MODULE or name.split("/")[0] in PACKAGES}


def build(builder: Environment, kind: str, source: Path, target: Path) -> Path:
    """kind: sdist or wheel, by setuptools' own PEP 517 backend; no front end is needed for that."""
    target.mkdir(parents=True, exist_ok=True)
    made = builder.python("-c",
                          f"from setuptools import build_meta; "
                          f"print(build_meta.build_{kind}({str(target)!r}))",
                          cwd=source)
    return target / made.splitlines()[-1]


def unpack(sdist: Path, target: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    [source] = target.iterdir()
    return source


def files_in(package: Path) -> dict[str, bytes]:
    """The files of a wheel, or of an sdist without the folder that they are in."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return {name: archive.read(name) for name in archive.namelist()
                    if not name.endswith("/")}
    with tarfile.open(package) as archive:
        return {member.name.split("/", 1)[1]: archive.extractfile(member).read()
                for member in archive if member.isfile()}


def check_content(package: Path) -> str:
    """Raises Failed naming what is missing or too much."""
    found = files_in(package).keys()
    expected = shipped() | (set() if package.suffix == ".whl" else SDIST_FILES)
    made = {name for name in found if MADE_BY_SETUPTOOLS.fullmatch(name)}
    missing, strange = sorted(expected - found), sorted(found - expected - made)
    if package.suffix == ".whl" and not any(name.endswith("LICENSE") for name in made):
        missing.append("LICENSE")
    if missing or strange:
        raise Failed(f"lacks {missing[:5]}, should not hold {strange[:5]}")
    if not metadata(package).get_payload().startswith("# minbert"):
        raise Failed("its description is not the README")
    size = package.stat().st_size / 1024
    return f"{len(found)} files, all that it must hold and no other; {size:,.0f} KiB"


def metadata(package: Path):
    """The headers, and the README below them."""
    [content] = [content for name, content in files_in(package).items()
                 if name == "PKG-INFO" or name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(content.decode("utf-8"))


def build_all(folder: Path, setuptools: str) -> tuple[list[Row], dict[str, Path]]:
    """Rows, and the packages by kind. setuptools: a requirement."""
    builder = Environment(folder / "builder")
    # wheel: setuptools before 70.1 needs it for wheels
    builder.install("--upgrade", setuptools, "wheel")
    version = f"setuptools {builder.version('setuptools')}"
    source, made = copy_source(folder / "source"), {}
    made["sdist"] = build(builder, "sdist", source, folder / "dist")
    made["wheel"] = build(builder, "wheel", unpack(made["sdist"], folder / "unpacked"),
                          folder / "dist")
    rows = [attempt("sdist", version, lambda: check_content(made["sdist"])),
            attempt("wheel of the sdist", version, lambda: check_content(made["wheel"]))]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir",
        folder / "direct", source, cwd=folder)
    [direct] = (folder / "direct").iterdir()
    rows.append(attempt("wheel of the source, by pip wheel", "", lambda: check_content(direct)))
    differ = {name for name in files_in(direct).keys() ^ files_in(made["wheel"]).keys()
              if not MADE_BY_SETUPTOOLS.fullmatch(name)}
    rows.append(Row("both wheels hold the same files", "",
                    f"FAILED: {sorted(differ)[:5]}" if differ else "yes"))
    return rows, made


# ---------------------------------------------------------------------------------------------- use


def use(environment: Environment, folder: Path, label: str) -> Iterator[Row]:
    """Every command of USES, in an empty folder, offline, without a source tree in sight."""
    folder.mkdir()
    (folder / "text.txt").write_text(TEXT)

    def runs(arguments: list[str]) -> str:
        environment.python(*arguments, cwd=folder, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1",
                           HF_HOME=str(folder / "cache"))
        return "runs"

    for what, arguments in USES.items():
        yield attempt(f"{label}: {what}", "", lambda arguments=arguments: runs(arguments))
    where = environment.python("-c",
                               "import minbert, multitask; print(minbert.__file__, "
                               "multitask.__file__)",
                               cwd=folder)
    inside = all(name.startswith(str(environment.folder)) for name in where.split())
    yield Row(f"{label}: imported from where it was installed", "",
              "yes" if inside else f"FAILED: {where}")


def run_lessons(environment: Environment, folder: Path) -> str:
    """The last line of pytest's; the lessons are copied, so that they test what is installed."""
    folder.mkdir()
    shutil.copytree(ROOT / "tests", folder / "tests")
    shutil.copy(ROOT / "pyproject.toml", folder)
    lessons = sorted(folder.glob(LESSONS))
    told = environment.python("-m", "pytest", "-p", "no:cacheprovider", *lessons, cwd=folder,
                              OMP_NUM_THREADS="1")
    return told.strip().splitlines()[-1]


# ------------------------------------------------------------------------------------- dependencies


def requirements_of(wheel: Path) -> list[Requirement]:
    """Those of the wheel and of its test extra."""
    found = map(Requirement, metadata(wheel).get_all("Requires-Dist"))
    return [requirement for requirement in found
            if requirement.marker is None or requirement.marker.evaluate({"extra": "test"})]


def lowest(requirement: Requirement) -> str | None:
    """The version behind >=, if there is one."""
    return next((part.version for part in requirement.specifier if part.operator == ">="), None)


def torch_without_cuda(torch: Requirement, folder: Path) -> tuple[str, str | None]:
    """(newest, lowest) releases that setup.py allows and that have a CPU build, or None.

    On Linux a plain release brings some GB of CUDA; a CPU build says so in its version. Elsewhere
    all are for the CPU.
    """
    listed = run(sys.executable, "-m", "pip", "index", "versions", "torch", cwd=folder)
    versions = [Version(text.strip())
                for text in re.search(r"Available versions: (.*)", listed)[1].split(",")]
    ours = [version for version in versions if torch.specifier.contains(version.public)
            and (sys.platform != "linux" or version.local == "cpu")]
    if not ours:
        raise Failed(f"the index has no CPU build of {torch}")
    low = [version for version in ours if Version(version.public) == Version(lowest(torch))]
    return str(max(ours)), str(low[0]) if low else None


def constraints(path: Path, *lines: str) -> list[object]:
    path.write_text("".join(f"{line}\n" for line in lines))
    return ["--only-binary", ":all:", "--constraint", path]


def upper_rows(environment: Environment, requirements: list[Requirement]) -> Iterator[Row]:
    for requirement in requirements:
        yield Row(str(requirement).split(";")[0], environment.version(requirement.name), "")


def check_low(wheel: Path, torch: tuple[str, str | None], folder: Path) -> Iterator[Row]:
    """Every dependency at its lowest, all at once."""
    requirements = requirements_of(wheel)
    low = {requirement.name: lowest(requirement)
           for requirement in requirements if lowest(requirement)}
    tested = {**low, "torch": torch[1] or torch[0]}
    environment = Environment(folder / "lower")
    lines = [f"{name}=={version}" for name, version in tested.items()]
    environment.install(*constraints(folder / "lower.txt", *lines), f"{wheel}[test]")
    for name, version in low.items():
        found = environment.version(name)
        is_low = Version(found.split("+")[0]) == Version(version)
        yield Row(f"{name}>={version}", found,
                  "" if is_low else f"untested at {version}: no CPU build to be had")
    yield from use(environment, folder / "use-lower", "lowest releases")
    yield attempt("lowest releases: lessons 01 to 08", "",
                  lambda: run_lessons(environment, folder / "lessons-lower"))


# -------------------------------------------------------------------------------------- the command


def check(folder: Path, parts: list[str]) -> Iterator[Row]:
    rows, made = build_all(folder, "setuptools")
    if "build" in parts:
        yield from rows
        (folder / "lowest").mkdir()
        yield from build_all(folder / "lowest", f"setuptools=={lowest(build_requirement())}")[0]
    requirements = requirements_of(made["wheel"])
    torch = torch_without_cuda(next(found for found in requirements if found.name == "torch"),
                               folder)
    newest = constraints(folder / "newest.txt", f"torch=={torch[0]}")
    if "sdist" in parts:
        environment = Environment(folder / "sdist")
        # the sdist is what is built here, so it alone need not be a wheel
        environment.install(*newest, "--no-binary", "minbert", made["sdist"])
        yield from use(environment, folder / "use-sdist", "sdist installed")
        shutil.rmtree(environment.folder)
    if "wheel" in parts:
        environment = Environment(folder / "wheel")
        environment.install(*newest, made["wheel"])
        yield from use(environment, folder / "use-wheel", "wheel installed")
        environment.install(*newest, f"{made['wheel']}[test]")
        yield from upper_rows(environment, requirements)
        yield attempt("newest releases: lessons 01 to 08", "",
                      lambda: run_lessons(environment, folder / "lessons"))
        shutil.rmtree(environment.folder)
    if "lower" in parts:
        yield from check_low(made["wheel"], torch, folder)


def build_requirement() -> Requirement:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return Requirement(re.search(r'requires = \["(.*?)"\]', text)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("build", "wheel", "sdist", "lower")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART",
                        help=", ".join(parts))
    arguments = parser.parse_args()
    failed = False
    print(f"Python {sys.version.split()[0]}, {sys.platform}\n\n| what | version | result |\n| --- "
          f"| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        try:
            for row in check(Path(folder), arguments.only):
                print(f"| {' | '.join(row)} |", flush=True)
                failed |= row.result.startswith("FAILED")
        except Failed as error:
            print(f"stopped: {error}", file=sys.stderr)
            return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
