"""Lesson 1: how ids become vectors.

A token's first vector is a sum of three looked-up rows (what it is, where it stands, which sentence
it belongs to), brought to mean 0 and variance 1 by LayerNorm. You learn which variance LayerNorm
means (the biased one), and that embedding does not care how sentences are laid out in memory.

Write it yourself: minbert study, ex01_embeddings.py; minbert study, ex05_layer_norm.py.
"""

import torch
from oracle import stored_reference
from torch.testing import assert_close

from minbert.embeddings import BertEmbeddings


def embeddings(layer_norm_eps=1e-12, dropout=0.0) -> BertEmbeddings:
    return BertEmbeddings(vocab_size=7, hidden_size=4, max_positions=5, type_vocab_size=2,
                          layer_norm_eps=layer_norm_eps, dropout=dropout)


def test_three_rows_by_hand():
    """An embedding is the normalised sum of three rows."""
    module = embeddings()
    with torch.no_grad():
        module.word_embeddings.weight[3] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        module.position_embeddings.weight[2] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        module.token_type_embeddings.weight[1] = torch.tensor([1.0, 0.0, 0.0, 1.0])

    ours = module(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))[0]

    # sum [2, 2, 4, 6], mean 3.5, variance (2.25 + 2.25 + 0.25 + 6.25) / 4 = 2.75
    by_hand = torch.tensor([-1.5, -1.5, 0.5, 2.5]) / 2.75**0.5
    # a few float32 roundings of numbers near 1
    assert_close(ours, by_hand, atol=1e-6, rtol=0)


def test_biased_variance():
    """LayerNorm divides by n. Dividing by n − 1 makes outputs of width 4 too small by 13 %."""
    row = embeddings()(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))[0]

    assert_close(row.square().mean(), torch.tensor(1.0), atol=1e-6, rtol=0)
    # torch's var divides by n − 1, so a row of biased variance 1 has var 4/3
    assert abs(row.var().item() - 4 / 3) < 1e-5


def test_layer_norm_eps():
    """LayerNorm's eps is the one in the configuration."""
    module = embeddings(layer_norm_eps=1.0)
    summed = (module.word_embeddings.weight[3] + module.position_embeddings.weight[3]
              + module.token_type_embeddings.weight[0])
    centred = summed - summed.mean()
    by_hand = centred / (centred.square().mean() + 1.0).sqrt()

    ours = module(torch.tensor([3]), torch.tensor([0]), torch.tensor([3]))[0]

    assert_close(ours, by_hand, atol=1e-6, rtol=0)


def test_equals_transformers():
    """Embeddings equal those that transformers gave for the stored reference."""
    model, inputs, stored = stored_reference()

    ours = model.embeddings(inputs["input_ids"], inputs["token_type_ids"],
                            torch.arange(5).expand(2, 5))

    # float64 rounding of numbers near 1
    assert_close(ours, stored["hidden_states"][0], atol=1e-12, rtol=0)


def test_packed_equals_padded():
    """A packed row and a padded grid give the same vectors."""
    module = embeddings()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    types = torch.tensor([[0, 0, 1], [0, 1, 1]])
    positions = torch.arange(3).expand(2, 3)

    grid = module(ids, types, positions)
    row = module(ids.flatten(), types.flatten(), positions.flatten())

    assert torch.equal(grid.flatten(0, 1), row)


def test_dropout():
    """Dropout acts in training mode only, and does not change the mean."""
    module = embeddings(dropout=0.5)
    ids = torch.full((20_000,), 3)
    types, positions = torch.zeros_like(ids), torch.ones_like(ids)

    still = module.eval()(ids, types, positions)
    moving = module.train()(ids, types, positions)

    assert torch.equal(still[0], still[-1])
    assert abs(float((moving == 0).float().mean()) - 0.5) < 0.01
    # the mean of 20,000 draws of size about 1: standard error 0.01
    assert_close(moving.mean(0), still[0], atol=0.05, rtol=0)
