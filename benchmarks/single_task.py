"""The course's first part by transformers alone: single tasks, the last layer or the full model.

    python benchmarks/single_task.py --data data --model CHECKPOINT --out results.jsonl

It shares no code with minbert: an independent check of what `train_multitask.py --tasks sst --mode
full` and `--mode last-layer` reach. The recipe is that of docs/explanation/results.md: the pooler's
output, dropout 0.3, one linear layer, AdamW without decay at a constant learning rate. Each line of
the output is one training: the dev accuracy of its best epoch, and its seconds.
"""

import argparse
import csv
import json
import random
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

FILES = {"sst": ("ids-sst", 5), "cfimdb": ("ids-cfimdb", 2)}
# learning rate, batch, epochs
RECIPES = {"full": (5e-5, 16, 3), "last-layer": (1e-3, 8, 10)}


def read(path: Path) -> tuple[list[str], list[int]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row["sentence"] for row in rows], [int(float(row["sentiment"])) for row in rows]


class Classifier(nn.Module):
    def __init__(self, checkpoint: str, classes: int) -> None:
        super().__init__()
        self.bert = AutoModel.from_pretrained(checkpoint)
        self.dropout, self.linear = nn.Dropout(0.3), nn.Linear(self.bert.config.hidden_size, classes)

    def forward(self, inputs: dict) -> torch.Tensor:
        return self.linear(self.dropout(self.bert(**inputs).pooler_output))


def embed(model: Classifier, encode, texts: list[str]) -> torch.Tensor:
    """The frozen encoder's outputs, (n, hidden)."""
    rows = torch.empty(len(texts), model.bert.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    with torch.no_grad():
        for start in range(0, len(order), 64):
            some = order[start:start + 64]
            rows[some] = model.bert(**encode([texts[index] for index in some])).pooler_output
    return rows


def train(task: str, mode: str, seed: int, arguments: argparse.Namespace) -> dict:
    stem, classes = FILES[task]
    lr, size, epochs = RECIPES[mode]
    texts, labels = read(arguments.data / f"{stem}-train.csv")
    dev_texts, dev_labels = read(arguments.data / f"{stem}-dev.csv")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def encode(some: list[str]) -> dict:
        return tokenizer(some, padding=True, truncation=True, max_length=arguments.max_length,
                         return_tensors="pt")

    torch.manual_seed(seed)
    shuffle = random.Random(seed)
    model = Classifier(arguments.model, classes)
    started = time.perf_counter()
    if mode == "last-layer":
        model.eval()
        rows, dev_rows = embed(model, encode, texts), embed(model, encode, dev_texts)
        parameters = list(model.linear.parameters())
    else:
        parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, eps=1e-6)

    scores = []
    for _ in range(epochs):
        order = list(range(len(texts)))
        shuffle.shuffle(order)
        model.train()
        for start in range(0, len(order), size):
            some = order[start:start + size]
            if mode == "last-layer":
                logits = model.linear(model.dropout(rows[some]))
            else:
                logits = model(encode([texts[index] for index in some]))
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.tensor([labels[index] for index in some])).backward()
            optimizer.step()

        model.eval()
        with torch.no_grad():
            if mode != "last-layer":
                dev_rows = embed(model, encode, dev_texts)
            found = model.linear(dev_rows).argmax(1)
        scores.append((found == torch.tensor(dev_labels)).float().mean().item())
    return {"task": task, "mode": mode, "seed": seed, "accuracy": max(scores), "epochs": scores,
            "seconds": round(time.perf_counter() - started, 1), "lr": lr, "batch": size,
            "max_length": arguments.max_length}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", metavar="TASK:MODE:SEED",
                        default=["sst:last-layer:1", "cfimdb:last-layer:1", "sst:full:1",
                                 "cfimdb:full:1", "sst:full:2", "sst:full:3"])
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for run in arguments.runs:
        task, mode, seed = run.split(":")
        line = json.dumps(train(task, mode, int(seed), arguments))
        print(line, flush=True)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
