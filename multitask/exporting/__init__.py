"""One task of a trained model, in the layout of other libraries.

    classifier   transformers: BertForSequenceClassification
    embedder     sentence-transformers: the encoder with a pooling
    onnx_graph   onnxruntime: encoder and head, float32 and int8
    comparing    padded batches, and the run's own answers

A format is one entry in FORMATS. Only onnx needs a package of the other side.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from multitask.data.examples import Example
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .classifier import transformers_answers, transformers_use, write_transformers
from .comparing import run_answers
from .embedder import (
    run_embeddings,
    sentence_transformers_use,
    write_sentence_transformers,
    written_embeddings,
)
from .onnx_graph import onnx_answers, onnx_use, write_onnx


class Format(NamedTuple):
    """A format.

    Attributes:
        tag: the hub's word for what the model does; "text-classification" answers the task.
        write: (model, task, folder, pooling): writes the folder.
        theirs: (folder, model, task, examples, pooling) → by name, what the written files give for
            the examples, in padded batches.
        ours: (model, task, examples, pooling) → the same by the run's model, as it predicts.
        use: (model, task, folder's name) → Python that opens the folder, for the model card.
    """

    tag: str
    write: Callable[[MultitaskBert, Task, Path, str], None]
    theirs: Callable[[Path, MultitaskBert, Task, Sequence[Example], str], dict[str, torch.Tensor]]
    ours: Callable[[MultitaskBert, Task, Sequence[Example], str], torch.Tensor]
    use: Callable[[MultitaskBert, Task, str], str]


FORMATS = {
    "transformers": Format("text-classification", write_transformers, transformers_answers,
                           run_answers, transformers_use),
    "sentence-transformers": Format("sentence-similarity", write_sentence_transformers,
                                    written_embeddings, run_embeddings, sentence_transformers_use),
    "onnx": Format("text-classification", write_onnx, onnx_answers, run_answers, onnx_use),
}
