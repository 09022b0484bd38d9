"""Checkpoints in HuggingFace's layout: from a name to a folder, from a folder to tensors.

| module | what it holds |
| --- | --- |
| hub.py | a name → a folder: the package's own, a cached snapshot, or a download |
| weights.py | the forms weights come in → tensor name → reader |
| pretrained.py | the table of names, strict loading, saving |

Arrows: hub, weights ← pretrained ← minbert.model. They import minbert.config and minbert.files.
"""
