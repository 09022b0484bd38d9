"""A tiny model for checks of training, and what a step does with it, seen from outside."""

from collections.abc import Callable
from functools import cache, partial

import torch

from heads import ARCHITECTURES
from minbert import BertConfig, BertModel, BertTokenizer
from minbert.model import BertOutput
from multitask import MultitaskBert
from multitask.data.batching import Batch, TokenizedExamples
from multitask.data.examples import Example
from optim.adamw import adamw_update

SENTENCES = ["a good film", "a very bad film indeed", "no", "why would anyone see it twice",
             "is it any good"]
FLOAT32 = 1e-4  # the model computes in float32, and the order of additions differs


@cache
def trained_tokenizer() -> BertTokenizer:
    return BertTokenizer.train(SENTENCES, 80)


def tiny_model(dropout: float = 0.0, head_dropout: bool = False) -> MultitaskBert:
    """A model with random weights, in training mode. Dropout is off by default."""
    torch.set_default_dtype(torch.float32)  # what the heads get is float32; see MultitaskBert.pool
    tokenizer = trained_tokenizer()
    config = BertConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=32, max_position_embeddings=64,
                        initializer_range=0.2, hidden_dropout_prob=dropout,
                        attention_probs_dropout_prob=dropout)
    model = MultitaskBert(BertModel(config), tokenizer, "concatB").train()
    for module in model.heads.modules():
        if isinstance(module, torch.nn.Dropout) and not head_dropout:
            module.p = 0.0
    return model


@cache
def tokenized() -> dict[str, TokenizedExamples]:
    """Five examples of each task."""
    pairs = list(zip(SENTENCES, SENTENCES[2:] + SENTENCES[:2], strict=True))
    examples = {
        "sst": [Example(str(i), (text,), float(i)) for i, text in enumerate(SENTENCES)],
        "para": [Example(str(i), pair, float(i % 2)) for i, pair in enumerate(pairs)],
        "sts": [Example(str(i), pair, 1.1 * i) for i, pair in enumerate(pairs)],
    }
    return {name: TokenizedExamples(some, trained_tokenizer(), ARCHITECTURES["concatB"], 64)
            for name, some in examples.items()}


def batches_of(*tasks: str, first: int = 0) -> dict[str, Batch]:
    """Three examples of each of these tasks; of all three by default."""
    return {name: tokenized()[name].batch(range(first, first + 3)) for name in tasks or tokenized()}


class Optimizer:
    """Plain gradient descent, whose steps show a gradient's size; AdamW if weight_decay is given.

    The first of torch's own optimizers takes a second to make.

    Attributes:
        gradients: name → gradient, each time that `step` was called.
    """

    def __init__(self, model: MultitaskBert, lr: float = 0.1,
                 weight_decay: float | None = None) -> None:
        self.named, self.lr, self.weight_decay = dict(model.named_parameters()), lr, weight_decay
        self.param_groups = [{"params": list(self.named.values()), "lr": lr}]
        self.gradients, self.moments = [], {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for value in self.named.values():
            value.grad = None if set_to_none or value.grad is None else value.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        self.gradients.append({
            name: ".grad is None" if value.grad is None else value.grad.clone()
            for name, value in self.named.items()})
        for name, value in self.named.items():
            if value.grad is None:
                continue
            if self.weight_decay is None:
                value -= self.lr * value.grad
                continue
            t, m, v = self.moments.get(name, (1, value * 0, value * 0))
            adamw_update(value, value.grad, m, v, t, lr=self.lr, betas=(0.9, 0.999), eps=1e-6,
                         weight_decay=self.weight_decay, correct_bias=True)
            self.moments[name] = t + 1, m, v

    def at_step(self, start: str = "") -> dict[str, object]:
        """Gradients of names that begin so, when `step` was last called."""
        found = self.gradients[-1] if self.gradients else {}
        return {name: value for name, value in found.items() if name.startswith(start)}


class Seen:
    """What a step does, seen from outside.

    Attributes:
        matrices: what `project` was given, one after another.
        forwards: task → how often its head was called.
        embeddings: task → what its head was given.
        modes: sentences on how encoder and heads ran, in the order in which they did.
    """

    def __init__(self, model: MultitaskBert) -> None:
        self.model, self.matrices, self.embeddings, self.modes = model, [], {}, []
        self.forwards = dict.fromkeys(model.tasks, 0)
        self.before = {name: value.detach().clone() for name, value in model.named_parameters()}
        self._watch(model.encoder, self._at_encoder)
        for name, head in model.heads.items():
            self._watch(head, partial(self._at_head, name))

    def _watch(self, module: torch.nn.Module, see: Callable) -> None:
        # not a hook: right code may call module.forward itself
        forward = module.forward

        def watched(*args: object, **named: object) -> object:
            output = forward(*args, **named)
            see(module, next(iter((*args, *named.values()))), output)
            return output
        module.forward = watched

    def spy(self, project: Callable) -> Callable:
        """The same function; what it is given is remembered."""
        def call(gradients: torch.Tensor) -> torch.Tensor:
            self.matrices.append(gradients.detach().clone())
            return project(gradients)
        return call

    def moved(self, start: str = "") -> dict[str, torch.Tensor]:
        """The change since the start of every weight whose name begins so."""
        return {name: value.detach() - self.before[name]
                for name, value in self.model.named_parameters() if name.startswith(start)}

    def _at_encoder(self, encoder: torch.nn.Module, _: torch.Tensor, output: BertOutput) -> None:
        graph = "a" if output.pooler_output.requires_grad else "no"
        self.modes.append(f"encoder in {mode_of(encoder)} mode, with {graph} graph through it")

    def _at_head(self, name: str, head: torch.nn.Module, given: torch.Tensor,
                 _: torch.Tensor) -> None:
        self.forwards[name] += 1
        self.embeddings[name] = given.detach().clone()
        self.modes.append(f"head of {name} in {mode_of(head)} mode")


def mode_of(module: torch.nn.Module) -> str:
    return "training" if module.training else "eval"
