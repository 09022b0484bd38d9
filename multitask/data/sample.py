"""The embedded sample: a small synthetic dataset in the course's file format.

`sample.zip` holds the files; `tools/make_sample.py` made them by rule and can make them again.
Scores on the sample compare runs with each other and say nothing about real data.
"""

import zipfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("sample.zip")


def write_sample(folder: Path) -> Path:
    """Unpacks the sample's files into `folder`, made if missing, and returns `folder`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder
