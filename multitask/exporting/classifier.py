"""A task as BertForSequenceClassification, for transformers' pipeline() and CrossEncoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from heads import OneLayerHead
from heads.layers import FIRST_DROPOUT
from minbert.checkpoints.pretrained import SINGLE_FILE, config_of, tensors_of, write_checkpoint
from multitask.data.examples import Example
from multitask.kinds import SCALE_TOP
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .comparing import written_outputs

IDENTITY = "torch.nn.modules.linear.Identity"


def classifier_of(model: MultitaskBert, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (labels, hidden) and bias of the linear layer that gives a task's answers.

    yes_no becomes two labels, with logits 0 and z: their softmax is 1 − σ(z) and σ(z). A scale's
    points are mapped to its range.

    Raises:
        ValueError: the head or the pair encoding does not fit one linear layer on one input.
    """
    if len(task.text) > 1 and not model.architecture.pairs_joined:
        raise ValueError(f"--arch {model.arch} encodes the two sentences of a pair apart, and "
                         "BertForSequenceClassification takes one input: train with --arch concatB")
    if model.architecture.mean_pooling:
        raise ValueError(f"the heads of --arch {model.arch} read the mean of all tokens, and that "
                         "of BertForSequenceClassification reads [CLS]: take --to onnx, or train "
                         "with --arch concatB")
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
    return weight, bias


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
        config["sentence_transformers"] = {"activation_fn": IDENTITY}
        config["sbert_ce_default_activation_function"] = IDENTITY  # before sentence-transformers 4
    model.tokenizer.save_pretrained(folder, model.max_length)
    write_checkpoint(folder, tensors, config)


@torch.no_grad()
def transformers_answers(folder: Path, model: MultitaskBert, task: Task,
                         examples: Sequence[Example], pooling: str) -> dict[str, torch.Tensor]:
    """(n, classes) probabilities, or (n, 1) numbers on the scale, from the written files."""
    tensors = load_file(folder / SINGLE_FILE)
    rows = [nn.functional.linear(out.pooler_output, tensors["classifier.weight"],
                                 tensors["classifier.bias"])
            for out, _ in written_outputs(folder, model, examples)]
    logits = torch.cat(rows)
    return {SINGLE_FILE: logits.softmax(1) if task.classes else logits.clamp(*task.range)}


def transformers_use(model: MultitaskBert, task: Task, folder: str) -> str:
    """Python that opens the folder."""
    example = '"{}"' if len(task.text) == 1 else '{{"text": "{}", "text_pair": "{}"}}'
    return f"""from transformers import pipeline

classify = pipeline("text-classification", "{folder}")
print(classify({example.format(*task.example)}, truncation=True))"""
