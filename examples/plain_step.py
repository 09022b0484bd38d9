"""The training step in plain PyTorch: read this first.

Three tasks share one encoder. Each task has its own loss and its own gradient for the encoder. The
losses are never added; the gradients are, after surgery. The library's step
(multitask/training/step.py) computes the same result faster. tests/lessons/test_10_training.py
compares the two.

    python examples/plain_step.py
"""

from collections.abc import Mapping, Sequence

import torch

from minbert import BertModel, BertTokenizer
from multitask import MultitaskBert
from multitask.data.batching import Batch
from multitask.data.examples import Example
from optim import AdamW
from optim.surgery import random_order


def plain_step(model: MultitaskBert, batches: Mapping[str, Batch], optimizer: AdamW,
               order: Sequence[Sequence[int]]) -> dict[str, float]:
    """Three forwards, three backwards, PCGrad, AdamW.

    Args:
        batches: task → a batch of its examples.
        order: order[i] is the sequence in which task i meets the other tasks.

    Returns:
        task → its mean loss.
    """
    encoder = list(model.encoder.parameters())
    losses, gradients = {}, []

    # One forward and one backward per task. The encoder's gradient becomes one long vector.
    for name, batch in batches.items():
        head = list(model.heads[name].parameters())
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        # zeros for a parameter that is not used: with mean pooling, the pooler's
        of_encoder_and_head = torch.autograd.grad(loss, encoder + head, materialize_grads=True)

        gradients.append(torch.cat([g.flatten() for g in of_encoder_and_head[:len(encoder)]]))
        for parameter, g in zip(head, of_encoder_and_head[len(encoder):], strict=True):
            parameter.grad = g  # a head belongs to one task, so surgery leaves it alone
        losses[name] = loss.item()

    # PCGrad (Yu et al. 2020, Algorithm 1): where two gradients conflict, remove the conflict.
    projected = [g.clone() for g in gradients]
    for i, others in enumerate(order):
        for j in others:
            product = projected[i] @ gradients[j]
            if product < 0:
                projected[i] -= product / (gradients[j] @ gradients[j]) * gradients[j]
    combined = sum(projected)

    # Split the long vector into the parameters' gradients, then update once.
    sizes = [parameter.numel() for parameter in encoder]
    for parameter, part in zip(encoder, combined.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.step()
    return losses


def main() -> None:
    """Ten steps on two examples per task: all three losses fall."""
    torch.manual_seed(0)
    model = MultitaskBert(BertModel.from_pretrained("minbert-mini"),
                          BertTokenizer.from_pretrained("minbert-mini"), arch="concatB")
    film, bore = "A gorgeous film.", "A dull film."
    examples = {
        "sst": [Example("0", (film,), 4.0), Example("1", (bore,), 0.0)],
        "para": [Example("0", (film, "A beautiful film."), 1.0), Example("1", (film, bore), 0.0)],
        "sts": [Example("0", (film, "A beautiful film."), 4.5), Example("1", (film, bore), 1.5)],
    }
    batches = {name: model.tokenize(two).batch([0, 1]) for name, two in examples.items()}

    optimizer = AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 11):
        losses = plain_step(model, batches, optimizer, random_order(3, generator))
        print(f"step {step}: " + "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))


if __name__ == "__main__":
    main()
