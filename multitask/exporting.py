"""One task of a trained model, in the layout of other libraries.

Each format is one entry in FORMATS; nothing of those libraries is needed to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from heads import OneLayerHead
from heads.layers import FIRST_DROPOUT
from minbert import BertModel, BertOutput
from minbert.checkpoints.pretrained import (
    CONFIG_FILE,
    FORMAT,
    SINGLE_FILE,
    config_of,
    tensors_of,
)
from minbert.files import write_json, write_tensors

from .data.examples import Example
from .kinds import SCALE_TOP
from .model import MultitaskBert
from .tasks import Task

AT_ONCE = 32  # examples per padded batch of a comparison


class Format(NamedTuple):
    """A format.

    Attributes:
        write: (model, task, folder, pooling): writes the folder.
        theirs: (folder, model, task, examples, pooling) → what the written files give for the
            examples, by the plain encoder on padded batches.
        ours: (model, task, examples, pooling) → the same by the run's model, as it predicts.
        use: Python that opens the folder, for the model card.
    """

    write: Callable[[MultitaskBert, Task, Path, str], None]
    theirs: Callable[[Path, MultitaskBert, Task, Sequence[Example], str], torch.Tensor]
    ours: Callable[[MultitaskBert, Task, Sequence[Example], str], torch.Tensor]
    use: str


def _check_encoder(model: MultitaskBert) -> None:
    if not isinstance(model.encoder, BertModel):
        raise ValueError("the encoder is not minbert's own, so its format is not known here")


def _encoded(folder: Path, model: MultitaskBert,
             texts: Sequence[tuple[str, ...]]) -> Iterator[tuple[BertOutput, torch.Tensor]]:
    """What the written encoder makes of the texts, in padded batches, and their masks."""
    encoder = BertModel.from_pretrained(folder).eval()
    for start in range(0, len(texts), AT_ONCE):
        columns = zip(*texts[start:start + AT_ONCE], strict=True)
        inputs = model.tokenizer(*map(list, columns), max_length=model.max_length)
        yield encoder(**inputs), inputs["attention_mask"]


# -------------------------------------------------------------------------------- transformers


def classifier_of(model: MultitaskBert, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (labels, hidden) and bias of the linear layer that gives a task's answers.

    yes_no becomes two labels, with logits 0 and z: their softmax is 1 − σ(z) and σ(z). A scale's
    points are mapped to its range.

    Raises:
        ValueError: the head or the pair encoding does not fit one linear layer on one input.
    """
    _check_encoder(model)
    if len(task.text) > 1 and not model.architecture.pairs_joined:
        raise ValueError(f"--arch {model.arch} encodes the two sentences of a pair apart, and "
                         "BertForSequenceClassification takes one input: train with --arch concatB")
    head = model.heads[task.name]
    if not isinstance(head, OneLayerHead):
        raise ValueError(f"the head of --arch {model.arch} has more than one layer, and "
                         "BertForSequenceClassification has one: train with --arch concatB")

    linear = next(part for part in head if isinstance(part, nn.Linear))
    weight, bias = linear.weight.detach().cpu(), linear.bias.detach().cpu()
    if task.classes == 2 and task.outputs == 1:
        return torch.cat([torch.zeros_like(weight), weight]), torch.cat([bias * 0, bias])
    if not task.classes:
        low, high = task.range
        unit = (high - low) / SCALE_TOP
        return weight * unit, bias * unit + low
    return weight.clone(), bias.clone()


def write_transformers(model: MultitaskBert, task: Task, folder: Path, pooling: str) -> None:
    """A folder for AutoModelForSequenceClassification, pipeline() and CrossEncoder."""
    weight, bias = classifier_of(model, task)
    tensors = {f"bert.{name}": value for name, value in tensors_of(model.encoder).items()}
    tensors |= {"classifier.weight": weight, "classifier.bias": bias}

    labels = list(task.labels) if task.classes else [task.name]
    config = {
        **config_of(model.encoder), "architectures": ["BertForSequenceClassification"],
        "classifier_dropout": FIRST_DROPOUT,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "single_label_classification" if task.classes else "regression"}
    if not task.classes:  # else CrossEncoder would apply a sigmoid to a single output
        config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    model.tokenizer.save_pretrained(folder)
    write_tensors(folder / SINGLE_FILE, tensors, FORMAT)
    write_json(folder / CONFIG_FILE, config)


@torch.no_grad()
def transformers_answers(folder: Path, model: MultitaskBert, task: Task,
                         examples: Sequence[Example], pooling: str) -> torch.Tensor:
    """(n, classes) probabilities, or (n, 1) numbers on the scale, from the written files."""
    tensors = load_file(folder / SINGLE_FILE)
    rows = [nn.functional.linear(out.pooler_output, tensors["classifier.weight"],
                                 tensors["classifier.bias"])
            for out, _ in _encoded(folder, model, [example.sentences for example in examples])]
    logits = torch.cat(rows)
    return logits.softmax(1) if task.classes else logits.clamp(*task.range)


def run_answers(model: MultitaskBert, task: Task, examples: Sequence[Example],
                pooling: str) -> torch.Tensor:
    """The same by the run's model."""
    logits = model.predict_logits(task.name, model.tokenize(examples))
    return task.probabilities(logits) if task.classes else task.decode(logits)[:, None]


# ------------------------------------------------------------------------ sentence-transformers


def write_sentence_transformers(model: MultitaskBert, task: Task, folder: Path,
                                pooling: str) -> None:
    """A folder for SentenceTransformer: the encoder, and a pooling; "pooler" is what was trained.
    """
    _check_encoder(model)
    model.encoder.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    hidden = model.encoder.config.hidden_size
    modules = ["Transformer", "Pooling"]
    write_json(folder / "sentence_bert_config.json",
               {"max_seq_length": model.max_length, "do_lower_case": False})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": hidden, "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_cls_token": pooling != "mean", "pooling_mode_max_tokens": False})
    if pooling == "pooler":  # dense and tanh on [CLS]
        modules.append("Dense")
        (folder / "2_Dense").mkdir(exist_ok=True)
        write_json(folder / "2_Dense" / "config.json", {
            "in_features": hidden, "out_features": hidden, "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh"})
        dense = model.encoder.pooler_dense
        write_tensors(folder / "2_Dense" / SINGLE_FILE,
                      {"linear.weight": dense.weight.detach().cpu().clone(),
                       "linear.bias": dense.bias.detach().cpu().clone()}, FORMAT)
    write_json(folder / "modules.json", [
        {"idx": number, "name": str(number), "path": f"{number}_{name}" if number else "",
         "type": f"sentence_transformers.models.{name}"} for number, name in enumerate(modules)])


@torch.no_grad()
def written_embeddings(folder: Path, model: MultitaskBert, task: Task,
                       examples: Sequence[Example], pooling: str) -> torch.Tensor:
    """(n, hidden) embeddings of the examples' first sentences, from the written files."""
    rows = []
    for out, mask in _encoded(folder, model, [example.sentences[:1] for example in examples]):
        hidden, mask = out.last_hidden_state, mask.unsqueeze(-1)
        rows.append((hidden * mask).sum(1) / mask.sum(1) if pooling == "mean" else hidden[:, 0])
    vectors = torch.cat(rows)
    if pooling == "pooler":
        dense = load_file(folder / "2_Dense" / SINGLE_FILE)
        vectors = nn.functional.linear(vectors, dense["linear.weight"], dense["linear.bias"]).tanh()
    return vectors


def run_embeddings(model: MultitaskBert, task: Task, examples: Sequence[Example],
                   pooling: str) -> torch.Tensor:
    """The same by the run's encoder."""
    texts = [example.sentences[0] for example in examples]
    return model.encoder.encode(texts, model.tokenizer, pooling=pooling)


FORMATS = {
    "transformers": Format(
        write_transformers, transformers_answers, run_answers,
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", "FOLDER")\n'
        "print(classify(EXAMPLE))"),
    "sentence-transformers": Format(
        write_sentence_transformers, written_embeddings, run_embeddings,
        "from sentence_transformers import SentenceTransformer\n\n"
        'embed = SentenceTransformer("FOLDER")\n'
        'print(embed.encode(["A film worth seeing twice."]).shape)'),
}
