"""The encoder with a pooling, for SentenceTransformer."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from minbert.checkpoints.pretrained import FORMAT, SINGLE_FILE
from minbert.files import write_json, write_tensors
from multitask.data.examples import Example
from multitask.model import MultitaskBert
from multitask.tasks import Task

from .comparing import mean_of, written_outputs


def write_sentence_transformers(model: MultitaskBert, task: Task, folder: Path,
                                pooling: str) -> None:
    """A folder for SentenceTransformer: the encoder, and a pooling; "pooler" is what was trained.
    """
    model.encoder.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder, model.max_length)
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
                      {"linear.weight": dense.weight.detach().cpu(),
                       "linear.bias": dense.bias.detach().cpu()}, FORMAT)
    write_json(folder / "modules.json", [
        {"idx": number, "name": str(number), "path": f"{number}_{name}" if number else "",
         "type": f"sentence_transformers.models.{name}"} for number, name in enumerate(modules)])


@torch.no_grad()
def written_embeddings(folder: Path, model: MultitaskBert, task: Task,
                       examples: Sequence[Example], pooling: str) -> dict[str, torch.Tensor]:
    """(n, hidden) embeddings of the examples' first sentences, from the written files."""
    first = [Example("", example.sentences[:1], None) for example in examples]
    rows = []
    for out, mask in written_outputs(folder, model, first):
        states = out.last_hidden_state
        rows.append(mean_of(states, mask) if pooling == "mean" else states[:, 0])
    vectors = torch.cat(rows)
    if pooling == "pooler":
        dense = load_file(folder / "2_Dense" / SINGLE_FILE)
        vectors = nn.functional.linear(vectors, dense["linear.weight"], dense["linear.bias"]).tanh()
    return {SINGLE_FILE: vectors}


def run_embeddings(model: MultitaskBert, task: Task, examples: Sequence[Example],
                   pooling: str) -> torch.Tensor:
    """The same by the run's encoder, cut as the run cuts."""
    texts = [example.sentences[0] for example in examples]
    return model.encoder.encode(texts, model.tokenizer, pooling=pooling,
                                max_length=model.max_length)


def sentence_transformers_use(model: MultitaskBert, task: Task, folder: str) -> str:
    """Python that opens the folder."""
    return f"""from sentence_transformers import SentenceTransformer

embed = SentenceTransformer("{folder}")
print(embed.encode(["{task.example[0]}"]).shape)"""
