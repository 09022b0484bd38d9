"""The main job with its flags, and python in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import train_multitask
from multitask.runs.settings import Settings
from multitask.system.runlog import read_events

ROOT = Path(__file__).parents[1]


def run(*words: object) -> int:
    """The exit status of the main job with these flags, in this process."""
    return train_multitask.main([str(word) for word in words])


def python(*words: object, folder: Path = ROOT, text: bool = True,
           **variables: str) -> subprocess.CompletedProcess:
    """Runs python with these words and environment variables, in a folder; keeps what it prints."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=folder, capture_output=True,
                          text=text, timeout=600, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **variables})


def events(folder: Path, kind: str | None = None) -> list[dict]:
    """The log's events, without the seconds, which differ from run to run."""
    return [{key: value for key, value in event.items() if key != "seconds"}
            for event in read_events(folder, kind)]


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    """Changes the values of a JSON file in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def settings(*words: object) -> Settings:
    """What the main job makes of these flags."""
    parser = train_multitask.build_parser()
    return train_multitask.settings_of(parser.parse_args([str(word) for word in words]))
