"""A task as a graph for onnxruntime: any architecture, in float32 and in int8."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from multitask.data.examples import Example
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .comparing import answers, mean_of, padded_batches

OPSET = 18
FLOAT, INT8 = "model.onnx", "model-int8.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Answerer(nn.Module):
    """(rows, seq) inputs → (examples, classes) probabilities, or (examples, 1) numbers."""

    def __init__(self, model: MultitaskBert, task: Task) -> None:
        super().__init__()
        self.encoder, self.head, self.task = model.encoder, model.heads[task.name], task
        self.rows_each = model.architecture.sequences(len(task.text))
        self.mean_pooling = model.architecture.mean_pooling

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        out = self.encoder(*inputs)
        pooled = out.pooler_output
        if self.mean_pooling:
            pooled = mean_of(out.last_hidden_state, inputs[1])
        return answers(self.task, self.head(pooled.reshape(-1, self.rows_each * pooled.shape[1])))


def write_onnx(model: MultitaskBert, task: Task, folder: Path, pooling: str) -> None:
    """model.onnx, model-int8.onnx (weights in int8, activations as they come), and the tokenizer.

    Raises:
        ValueError: a package of the extra `onnx` is missing.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 - so that a missing package is reported before the export
        import onnxscript  # noqa: F401
        from onnxruntime.quantization import quantize_dynamic
    except ImportError as error:
        raise ValueError(f"--to onnx needs {error.name}: pip install 'minbert[onnx]'") from None

    answerer = Answerer(model, task).cpu().eval()
    sizes = {0: answerer.rows_each * Dim("examples", max=1 << 16),
             1: Dim("seq", min=2, max=model.encoder.config.max_position_embeddings)}
    # traced, not computed; three tensors, since one given twice would be one input of the graph
    sample = tuple(torch.ones(2 * answerer.rows_each, 8, dtype=torch.int64) for _ in INPUTS)
    model.tokenizer.save_pretrained(folder, model.max_length)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            answerer, sample, folder / FLOAT, input_names=INPUTS,
            output_names=["probabilities" if task.classes else "scores"],
            dynamic_shapes=((sizes,) * len(INPUTS),), opset_version=OPSET, dynamo=True,
            external_data=False, verbose=False)
        graph = onnx.load(folder / FLOAT)
        del graph.graph.value_info[:]  # onnxruntime before 1.32 finds torch's shapes contradictory
        quantize_dynamic(graph, folder / INT8, per_channel=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Both packages warn about things that are not used here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def onnx_answers(folder: Path, model: MultitaskBert, task: Task, examples: Sequence[Example],
                 pooling: str) -> dict[str, torch.Tensor]:
    """File → what onnxruntime makes of the examples: probabilities, or numbers on the scale."""
    import onnxruntime

    found = {}
    for name in (FLOAT, INT8):
        session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        rows = [session.run(None, {key: value.numpy() for key, value in inputs.items()})[0]
                for inputs in padded_batches(model, examples)]
        found[name] = torch.from_numpy(np.concatenate(rows))
    return found


def onnx_use(model: MultitaskBert, task: Task, folder: str) -> str:
    """Python that opens the folder without torch."""
    texts = ", ".join(f'"{text}"' for text in task.example)
    if len(task.text) > 1 and model.architecture.pairs_joined:
        texts = f"({texts})"
    return f"""import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{folder}/tokenizer.json")
tokenizer.enable_truncation({model.max_length})
tokenizer.enable_padding()
rows = tokenizer.encode_batch([{texts}])
inputs = {{"input_ids": np.array([row.ids for row in rows], np.int64),
          "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
          "token_type_ids": np.array([row.type_ids for row in rows], np.int64)}}
print(onnxruntime.InferenceSession("{folder}/{FLOAT}").run(None, inputs)[0])"""
