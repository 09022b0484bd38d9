"""The tasks' files and MultiNLI: rows → examples → batches.

| module | what it holds |
| --- | --- |
| tables.py | rows of a file: delimited with a header, or JSON lines; checked line by line |
| examples.py | a task's files → examples, labels parsed |
| multinli.py | MultiNLI's two files, in a folder or in their zip → examples |
| sources.py | where the files come from, their checksums; the download of one |
| sample.py | the bundled synthetic dataset |
| batching.py | examples → token ids, packed batches |
| sampling.py | the round robins: which examples of which task a step gets |
| __main__.py | the command that fetches the files |

Arrows: tasks, tables ← examples ← multinli ← sources ← __main__; examples ← batching. Only sampling
and __main__ import multitask.system.
"""

from .examples import Dataset, Example, Examples, load_dataset, missing_files, read_examples
from .multinli import load_multinli

__all__ = ["Dataset", "Example", "Examples", "load_dataset", "load_multinli", "missing_files",
           "read_examples"]
