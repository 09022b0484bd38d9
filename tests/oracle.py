"""To compare with: transformers' BertModel, a stored reference, tasks with other losses."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from references.make import formula

from minbert import BertConfig, BertModel
from minbert.checkpoints.pretrained import file_names, tensors_of
from multitask import Task


def with_loss(task: Task, loss: Callable) -> Task:
    """The task with another loss, (logits, labels) → a number."""
    changed = dataclasses.replace(task)
    object.__setattr__(changed, "loss", loss)
    return changed


def reference(ours: BertModel) -> transformers.BertModel:
    """transformers' model with our weights, by name; eager attention, eval mode, our dtype."""
    config = transformers.BertConfig(**ours.config.to_dict(), attn_implementation="eager")
    theirs = transformers.BertModel(config).to(next(ours.parameters()).dtype).eval()
    theirs.load_state_dict(tensors_of(ours))
    return theirs


def gradients_by_their_name(ours: BertModel) -> dict[str, torch.Tensor]:
    """Our gradients, where there is one, under transformers' names: queries, keys, values apart."""
    found = {}
    for name, value in ours.named_parameters():
        if value.grad is not None:
            names = file_names(name)
            found.update(zip(names, value.grad.chunk(len(names)), strict=True))
    return found


def stored_reference() -> tuple[BertModel, dict[str, torch.Tensor], dict]:
    """Our model with the reference's weights, its inputs, and transformers' outputs for them."""
    stored = json.loads((Path(__file__).parent / "references" / "bert.json").read_text(encoding="utf-8"))
    model = BertModel(BertConfig(**stored["shape"])).double().eval()
    targets = {}
    for name, value in model.named_parameters():
        names = file_names(name)
        targets.update(zip(names, value.data.chunk(len(names)), strict=True))
    for number, name in enumerate(stored["parameters"]):
        targets[name].copy_(formula(number, name, targets[name].shape))
    inputs = {name: torch.tensor(rows) for name, rows in stored["inputs"].items()}
    for key in ("hidden_states", "attentions"):
        stored[key] = [torch.tensor(values, dtype=torch.float64) for values in stored[key]]
    stored["pooler_output"] = torch.tensor(stored["pooler_output"], dtype=torch.float64)
    return model, inputs, stored
