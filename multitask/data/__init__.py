"""The course's data and MultiNLI: files → examples → batches.

| module | what it holds |
| --- | --- |
| course.py | the course's tab-separated files → examples, checked line by line |
| multinli.py | MultiNLI's two files, in a folder or in their zip → examples |
| sources.py | where the files come from, their checksums; the download of one |
| sample.py | the bundled synthetic dataset |
| batching.py | examples → token ids, packed batches |
| sampling.py | the round robins: which examples of which task a step gets |
| __main__.py | the command that fetches the files |

Arrows: tasks, system ← course ← multinli ← sources ← __main__; course ← batching.
"""

from .examples import Dataset, Example, Examples, load_dataset, missing_files, read_examples
from .multinli import load_multinli

__all__ = ["Dataset", "Example", "Examples", "load_dataset", "load_multinli", "missing_files",
           "read_examples"]
