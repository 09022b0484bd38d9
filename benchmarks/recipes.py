"""One training of all tasks with levers that the main job does not have: what makes a better model?

    python benchmarks/recipes.py base-1 --data data --model CHECKPOINT --out trials
    python benchmarks/recipes.py rdrop-2 --rdrop sst=1 --seed 2 --data data --model CHECKPOINT \\
        --out trials

Defaults are near --recipe best. A step has --sizes examples of each task, computed together; the
loss is the weighted sum of the tasks' mean losses (as --surgery constant, but a weight holds for
the task's head too), and the gradient is clipped at 1. An epoch is a pass over PARA; inputs are cut
at 128 tokens. Trials of one seed see the same examples in the same order. After each epoch the dev
sets are scored (--dev-limit cuts them), with the weights as they are and with their running average
(--ema).

OUT/NAME.json has settings and all scores; `best` is the highest of them, and so flatters a trial
with more epochs. OUT/NAME.npz has the dev logits of that moment, OUT/NAME.pt, with --save, its
weights. --mix trains nothing: it scores the mean of such weights.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from heads import ARCHITECTURES
from minbert import BertModel, BertTokenizer, fast, pack
from minbert.files import write_json
from multitask import MultitaskBert
from multitask.data.batching import Batch
from multitask.data.examples import load_dataset
from multitask.runs.inputs import subsample
from multitask.system.device import PRODUCT_DTYPES, pick_device, pick_precision
from multitask.tasks import BUILT_IN, TASKS
from multitask.training.optimizing import head_groups, scaled_step
from optim import SCHEDULES, AdamW


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("name")
    add("--data", required=True)
    add("--model", required=True, help="a checkpoint's folder, or a trained run's model/")
    add("--out", type=Path, required=True)
    add("--seed", type=int, default=1)
    add("--limit", type=int, help="end after so many steps")
    add("--sizes", default="sst=5,para=24,sts=6", help="examples per step, of cfimdb too if named")
    add("--weights", default="sts=0.1", help="of the losses, 1 for the others")
    add("--epochs", type=int, default=2)
    add("--lr", type=float, default=1e-4)
    add("--head-lr", type=float)
    add("--decay", type=float, default=0.01, help="weight decay")
    add("--ema", type=float, default=0.999, help="of the running average of the weights")
    add("--arch", choices=ARCHITECTURES, default="concatB_mean")
    add("--rdrop", default="",
        help="R-Drop (Liang et al. 2021, 2106.14448), as sst=1, which is its α = 2")
    add("--save", action="store_true", help="write the weights")
    add("--mix", type=Path, nargs="+", metavar="PT",
        help="weights of trials, to be averaged (a model soup, Wortsman et al. 2022, 2203.05482)")
    add("--dev-limit", type=int, metavar="N", help="score at most N dev examples of a task")
    return parser.parse_args()


class Trial:
    """Data, model and optimizer of one training."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments, self.rng = arguments, np.random.default_rng(arguments.seed)
        self.sizes = {name: int(size) for name, size in pairs(arguments.sizes)}
        self.weights = numbers(arguments.weights)
        self.rdrop = numbers(arguments.rdrop)
        tasks = [BUILT_IN[name] for name in self.sizes]

        encoder = BertModel.from_pretrained(arguments.model)
        tokenizer = BertTokenizer.from_pretrained(arguments.model)
        self.device = pick_device("auto")
        self.model = MultitaskBert(encoder, tokenizer, arguments.arch, tasks=tasks,
                                   max_length=128).to(self.device)
        torch.manual_seed(arguments.seed)  # of dropout, whatever was drawn before
        self.model.precision = pick_precision("auto", self.device, encoder.config.hidden_size)

        dataset = load_dataset(arguments.data, tasks)
        for splits in dataset.values():
            splits["dev"] = subsample(splits["dev"], arguments.dev_limit)
        self.tokens = {name: {split: self.model.tokenize(splits[split])
                              for split in ("train", "dev")} for name, splits in dataset.items()}
        self.orders = {name: self.endless(len(splits["train"]))
                       for name, splits in self.tokens.items()}
        self.optimizer = AdamW([
            *head_groups(encoder, arguments.decay, arguments.lr),
            *head_groups(self.model.heads, arguments.decay, arguments.head_lr or arguments.lr)])
        self.parameters = list(self.model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @property
    def steps_per_epoch(self) -> int:
        largest = max(self.sizes, key=lambda name: len(self.tokens[name]["train"]))
        return len(self.tokens[largest]["train"]) // self.sizes[largest]

    def endless(self, length: int) -> Iterator[int]:
        while True:
            yield from self.rng.permutation(length).tolist()

    # from examples to losses

    def step(self, scale: float) -> dict[str, float]:
        """One update; returns the tasks' losses."""
        chosen = {name: [next(self.orders[name]) for _ in range(size)]
                  for name, size in self.sizes.items()}
        ids, types, ends = [], [], {}
        for name, indices in chosen.items():
            of_task = self.tokens[name]["train"].sequences(indices * self.copies(name))
            ids += of_task[0]
            types += of_task[1]
            ends[name] = len(ids)
        batch = Batch(*pack(ids, types), 1, None)
        batch = batch.in_few_lengths() if self.device.type == "cpu" else batch.to(self.device)

        self.optimizer.zero_grad()
        losses = {}
        with fast.weights_cast_once(self.model.encoder, PRODUCT_DTYPES[self.model.precision]):
            features, start = self.model.embed(batch), 0  # a row for each sequence
            for name, indices in chosen.items():
                examples = len(indices) * self.copies(name)
                part = features[start:ends[name]].reshape(examples, -1)
                start = ends[name]
                losses[name] = self.loss(name, self.model.heads[name](part).float(), indices)
            sum(self.weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        scaled_step(self.optimizer, scale)
        return {name: loss.detach() for name, loss in losses.items()}

    def copies(self, name: str) -> int:
        return 2 if name in self.rdrop else 1  # the same examples under two dropout masks

    def loss(self, name: str, outputs: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        task, copies = BUILT_IN[name], self.copies(name)
        labels = torch.from_numpy(self.tokens[name]["train"].labels[indices]).to(self.device)
        labels = labels.repeat(copies)
        loss = task.loss(outputs, labels)
        if name in self.rdrop:
            both = by_class(task.classes, outputs).chunk(2)
            loss = loss + self.rdrop[name] * both_ways(task.classes, *both)
        return loss

    # scores

    def logits(self) -> dict[str, np.ndarray]:
        """The raw outputs of the dev sets."""
        return {name: self.model.predict_logits(name, self.tokens[name]["dev"]).numpy()
                for name in self.sizes if name in TASKS}

    def scores(self, logits: dict[str, np.ndarray]) -> dict[str, float]:
        found = {}
        for name, outputs in logits.items():
            decoded = TASKS[name].decode(torch.from_numpy(outputs)).numpy()
            found[name] = TASKS[name].measure(decoded, self.tokens[name]["dev"].labels) or 0.0
        return {**found, "average": float(np.mean(list(found.values())))}

    def exchange(self) -> None:
        """The average takes the weights' place, or gives it back."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            parameter.data, average.data = average.data, parameter.data


def pairs(text: str) -> list[list[str]]:
    return [item.split("=") for item in text.split(",") if item]


def numbers(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in pairs(text)}


def by_class(classes: int, outputs: torch.Tensor) -> torch.Tensor:
    """A logit for each class, where the head gives only that of yes."""
    if classes and outputs.shape[1] == 1:
        return F.pad(outputs, (1, 0))
    return outputs


def both_ways(classes: int, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL divergence in both directions, halved; on a scale, the mean squared error."""
    if not classes:
        return F.mse_loss(first, second)
    logs = F.log_softmax(first, 1), F.log_softmax(second, 1)
    return 0.5 * ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum(1).mean()


def train(trial: Trial) -> dict:
    """Trains; returns what OUT/NAME.json holds of it."""
    arguments = trial.arguments
    steps = arguments.limit or arguments.epochs * trial.steps_per_epoch
    rows, best, smooth, started, stepping = [], None, {}, time.time(), 0.0
    trial.model.train()
    for number in range(1, steps + 1):
        before = time.time()
        losses = trial.step(SCHEDULES["linear"](number - 1, round(0.06 * steps), steps))
        rate = min(arguments.ema, (1 + number) / (10 + number))
        torch._foreach_lerp_(trial.average, [each.detach() for each in trial.parameters], 1 - rate)
        stepping += time.time() - before
        for name, loss in losses.items():
            smooth[name] = 0.98 * smooth.get(name, loss) + 0.02 * loss
        if number % 100 == 0:
            print(number, {name: round(float(loss), 3) for name, loss in smooth.items()},
                  f"{stepping / number:.3f} s per step", flush=True)
        if number % trial.steps_per_epoch and number < steps:
            continue

        row = {"step": number, "losses": {name: float(loss) for name, loss in smooth.items()}}
        for kind in ("last", "average"):
            if kind == "average":
                trial.exchange()
            logits = trial.logits()
            row[kind] = trial.scores(logits)
            if best is None or row[kind]["average"] > best["average"]:
                best = {**row[kind], "kind": kind, "step": number}
                np.savez_compressed(arguments.out / f"{arguments.name}.npz", **logits)
                if arguments.save:
                    torch.save(trial.model.state_dict(), arguments.out / f"{arguments.name}.pt")
        trial.exchange()
        rows.append(row)
        print(json.dumps(row), flush=True)

    return {"best": best, "epochs": rows, "seconds": time.time() - started,
            "seconds_of_steps": stepping}


def mix(trial: Trial) -> dict:
    """The scores of the mean of several trials' weights."""
    arguments = trial.arguments
    weights = [torch.load(path, map_location=trial.device) for path in arguments.mix]
    trial.model.load_state_dict({name: torch.stack([each[name] for each in weights]).mean(0)
                                 for name in weights[0]})
    logits = trial.logits()
    np.savez_compressed(arguments.out / f"{arguments.name}.npz", **logits)
    return {"best": trial.scores(logits)}


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    trial = Trial(arguments)
    found = mix(trial) if arguments.mix else train(trial)
    print(json.dumps(found["best"]))
    asked = {key: str(value) for key, value in vars(arguments).items() if value is not None}
    write_json(arguments.out / f"{arguments.name}.json",
               {"asked": asked, "precision": trial.model.precision, **found})


if __name__ == "__main__":
    main()
