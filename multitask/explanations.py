"""Why a model answers as it does: words, attention, and what each task's gradient wants.

All of it is computed without dropout. One thread at a time may call these functions.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from tokenizers import Encoding
from torch import nn
from torch.nn import functional as F

from minbert import BertModel, pack
from minbert.sentences import evaluating
from multitask.data.batching import Batch, encodings_of
from multitask.kinds import on_scale
from multitask.model import EVALUATION_BATCH, MultitaskBert
from multitask.tasks import Task
from optim import SURGERY, Method, cosines, gram_matrix, norm_of_combination

MOST_WORDS = 128  # that occlusion tries: one forward pass each


@dataclass(frozen=True)
class Word:
    """A word of the input.

    Attributes:
        text: as it was written.
        sentence: 0, or 1 in the second of a pair.
        weight: what the word adds to the explained number; negative if it speaks against it.
    """

    text: str
    sentence: int
    weight: float


def explained(task: Task, logits: torch.Tensor, label: float) -> torch.Tensor:
    """The number that `words` explains: (n, outputs) → (n,).

    log p(label) with classes; on a scale the number itself, before it is cut to the range.
    """
    if not task.classes:
        return on_scale(task, logits)
    if task.kind == "yes_no":  # σ(−z) in place of 1 − σ(z), which has no digits left
        return F.logsigmoid(logits[:, 0] if label else -logits[:, 0])
    if task.kind == "classes":
        return logits.log_softmax(1)[:, int(label)]
    smallest = torch.finfo(torch.float32).tiny
    return task.probabilities(logits)[:, int(label)].clamp(min=smallest).log()


def words_by_occlusion(model: MultitaskBert, name: str, texts: Sequence[str],
                       label: float | None = None) -> list[Word]:
    """weight(word) = f(input) − f(input with the word's pieces replaced by [MASK]).

    Exact by definition, at one forward pass per word. f is `explained`.

    Args:
        name: of the task.
        texts: one sentence, or two.
        label: of which the probability is explained; by default the one that is predicted.

    Raises:
        ValueError: the input has more than MOST_WORDS words.
    """
    sequences = _encode(model, name, texts)
    words = _words(sequences)
    if len(words) > MOST_WORDS:
        raise ValueError(f"{len(words)} words; occlusion takes {MOST_WORDS} at most: use gradients")

    mask = _mask_id(model)
    inputs = [_ids(sequences)]
    for places in words.values():
        ids = _ids(sequences)
        for sequence, place in places:
            ids[sequence][place] = mask
        inputs.append(ids)

    values = []
    with evaluating(model), torch.no_grad():
        for start in range(0, len(inputs), EVALUATION_BATCH):
            batch = _batch(model, sequences, inputs[start:start + EVALUATION_BATCH])
            logits = model(name, batch)
            if label is None:
                label = _predicted(model.tasks[name], logits)
            values += explained(model.tasks[name], logits, label).tolist()
    weights = [values[0] - value for value in values[1:]]
    return _named(texts, sequences, words, weights)


def words_by_gradient(model: MultitaskBert, name: str, texts: Sequence[str],
                      label: float | None = None) -> list[Word]:
    """weight(word) = Σ over its pieces of ∂f/∂e · (e − e_[MASK]), e the piece's word embedding.

    The first-order estimate of `words_by_occlusion`, at one backward pass for all words: gradient
    times input (Shrikumar et al. 2017), with [MASK] as the input that says nothing.

    Args:
        name, texts, label: as for `words_by_occlusion`.
    """
    sequences = _encode(model, name, texts)
    batch = _batch(model, sequences, [_ids(sequences)])
    table = model.encoder.embeddings.word_embeddings
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())  # the table itself may be frozen
        return kept[-1]

    hook = table.register_forward_hook(keep)
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(name, batch)
            if label is None:
                label = _predicted(model.tasks[name], logits)
            value = explained(model.tasks[name], logits, label).sum()
            [gradient] = torch.autograd.grad(value, kept)
    finally:
        hook.remove()

    products = gradient * (kept[0] - table.weight[_mask_id(model)])
    row = batch.packing.unpad(products.detach().sum(-1))  # a hook meets the padded batch
    by_sequence = row.split([len(each.ids) for each in sequences])
    words = _words(sequences)
    weights = [sum(float(by_sequence[sequence][place]) for sequence, place in places)
               for places in words.values()]
    return _named(texts, sequences, words, weights)


WORDS: dict[str, Callable[..., list[Word]]] = {
    "occlusion": words_by_occlusion, "gradient": words_by_gradient}


@torch.no_grad()
def attention(model: MultitaskBert, name: str, texts: Sequence[str], layer: int,
              head: int) -> list[tuple[list[str], torch.Tensor]]:
    """For each sequence of the input: its word pieces, and the weights of one head.

    Row i of the weights, (seq, seq), says how much piece i looks at each piece; it sums to 1.

    Args:
        layer, head: from 0.

    Raises:
        ValueError: there is no such layer or head.
    """
    sequences = _encode(model, name, texts)
    config = model.encoder.config
    for what, value, count in (("layer", layer, config.num_hidden_layers),
                               ("head", head, config.num_attention_heads)):
        if not 0 <= value < count:
            raise ValueError(f"{what} is {value}; the encoder's are 0 to {count - 1}")
    found = []
    with evaluating(model):
        for each in sequences:
            ids, types = (torch.tensor([row], device=model.device)
                          for row in (each.ids, each.type_ids))
            out = model.encoder(ids, token_type_ids=types, output_attentions=True)
            found.append((each.tokens, out.attentions[layer][0, head].float().cpu()))
    return found


@dataclass(frozen=True)
class Surgery:
    """What a surgery method would do to the gradients.

    Attributes:
        weights: what it multiplies each task's gradient by in its first step, w.
        norm: of the combined gradient.
        changes: d(loss of each task) per unit of learning rate, to first order: −K w, where K
            holds the products of the gradients.
    """

    weights: list[float]
    norm: float
    changes: list[float]


@dataclass(frozen=True)
class Wishes:
    """What the tasks' gradients of the shared encoder want, for one input.

    Attributes:
        tasks: in the order of all rows and columns.
        losses: of each task, with the right answers that were given.
        norms: of each task's gradient.
        cosines: (tasks, tasks), of the gradients; below 0 is a conflict.
        surgery: method → what it would do; empty for a single task.
    """

    tasks: list[str]
    losses: list[float]
    norms: list[float]
    cosines: list[list[float]]
    surgery: dict[str, Surgery]


def wishes(model: MultitaskBert, texts: Sequence[str], answers: Mapping[str, float]) -> Wishes:
    """The gradient of each task's loss with regard to the shared encoder, and surgery on them.

    Args:
        texts: one sentence, or two; a task on single sentences reads the first.
        answers: task → the right answer, as Task.parse_label returns it.

    Raises:
        ValueError: the encoder is frozen.
    """
    parameters = [value for value in model.encoder.parameters() if value.requires_grad]
    if not parameters:
        raise ValueError("the encoder is frozen, so it has no gradients: unfreeze it with "
                         "model.encoder.requires_grad_(True)")
    rows, losses = [], []
    with evaluating(model), torch.enable_grad():
        for name, answer in answers.items():
            task = model.task(name)
            sequences = _encode(model, name, texts[:len(task.text)])
            batch = _batch(model, sequences, [_ids(sequences)])
            loss = task.loss(model(name, batch), torch.tensor([answer], device=model.device))
            losses.append(loss.item())
            parts = torch.autograd.grad(loss, parameters, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))

    gram = gram_matrix(torch.stack(rows))
    surgery = {}
    for method in SURGERY if len(rows) > 1 else ():
        generator = torch.Generator().manual_seed(0)  # of PCGrad's order
        with suppress(ValueError):  # it needs an option, or has no answer
            weights = Method(method)(gram, generator, gram.new_tensor(losses))
            surgery[method] = Surgery(weights.tolist(), norm_of_combination(gram, weights),
                                      (-gram @ weights).tolist())
    return Wishes(list(answers), losses, gram.diagonal().sqrt().tolist(), cosines(gram).tolist(),
                  surgery)


# ----------------------------------------------------------------------------- from texts to tokens


def _encode(model: MultitaskBert, name: str, texts: Sequence[str]) -> list[Encoding]:
    """The encoder's inputs for one example; see encodings_of."""
    if not isinstance(model.encoder, BertModel):
        raise ValueError("the encoder is not minbert's own, so it cannot be looked into")
    examples = model.examples_of(name, [tuple(texts)])
    return encodings_of(examples, model.tokenizer, model.architecture, model.max_length)


def _ids(sequences: Sequence[Encoding]) -> list[list[int]]:
    """The token ids of each sequence, of which the caller may change some."""
    return [each.ids for each in sequences]  # a new list at each call


def _batch(model: MultitaskBert, sequences: Sequence[Encoding],
           inputs: Sequence[Sequence[list[int]]]) -> Batch:
    """One example per item of `inputs`: the sequences with these ids in place of their own."""
    types = [each.type_ids for each in sequences]
    row, type_row, packing = pack([ids for each in inputs for ids in each], types * len(inputs))
    return Batch(row, type_row, packing, len(sequences), None).to(model.device)


def _words(sequences: Sequence[Encoding]) -> dict[tuple, list[tuple[int, int]]]:
    """(sentence, word) → the places of its pieces, as (sequence, place)."""
    words: dict[tuple, list[tuple[int, int]]] = {}
    for number, each in enumerate(sequences):  # one with two sentences, or two with one each
        for place, (sentence, word) in enumerate(zip(each.sequence_ids, each.word_ids,
                                                     strict=True)):
            if word is not None and sentence is not None:  # else [CLS] or [SEP]
                words.setdefault((number + sentence, word), []).append((number, place))
    return words


def _named(texts: Sequence[str], sequences: Sequence[Encoding],
           words: Mapping[tuple, list[tuple[int, int]]], weights: Sequence[float]) -> list[Word]:
    found = []
    for (sentence, _), places, weight in zip(words, words.values(), weights, strict=True):
        offsets = [sequences[number].offsets[place] for number, place in places]
        found.append(Word(texts[sentence][offsets[0][0]:offsets[-1][1]], sentence, weight))
    return found


def _predicted(task: Task, logits: torch.Tensor) -> float:
    return task.decode(logits[:1])[0].item()


def _mask_id(model: MultitaskBert) -> int:
    vocabulary = model.tokenizer.vocabulary
    return vocabulary.get("[MASK]", vocabulary["[UNK]"])
