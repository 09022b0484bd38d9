"""Lesson 1: how ids become vectors.

A token's first vector is a sum of three looked-up rows (what it is, where it stands, which sentence
it belongs to), brought to mean 0 and variance 1 by LayerNorm. You learn which variance LayerNorm
means (the biased one), and that embedding does not care how sentences are laid out in memory.
"""

import torch
import transformers
from oracle import stored_reference

from minbert.embeddings import BertEmbeddings


def embeddings(**changes) -> BertEmbeddings:
    shape = {"vocab_size": 7, "hidden_size": 4, "max_positions": 5, "type_vocab_size": 2,
             "layer_norm_eps": 1e-12,
             "dropout": 0.0}
    return BertEmbeddings(**{**shape, **changes})


def test_an_embedding_is_the_normalised_sum_of_three_rows_by_hand():
    module = embeddings()
    with torch.no_grad():
        module.word_embeddings.weight[3] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        module.position_embeddings.weight[2] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        module.token_type_embeddings.weight[1] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    # sum: [2, 2, 4, 6]; mean 3.5; deviations [-1.5, -1.5, .5, 2.5]; variance (2.25+2.25+.25+6.25)/4
    # = 2.75
    by_hand = torch.tensor([-1.5, -1.5, 0.5, 2.5]) / 2.75**0.5
    ours = module(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))[0]
    # a few float32 roundings of numbers near 1
    torch.testing.assert_close(ours, by_hand, atol=1e-6, rtol=0)


def test_layer_norm_divides_by_the_biased_deviation():
    """Dividing by n − 1 instead of n is the commonest slip of annotated codes: 15 % off at width
    4."""
    module = embeddings()
    row = module(torch.tensor([3]), torch.tensor([1]), torch.tensor([2]))[0]
    torch.testing.assert_close(row.square().mean(), torch.tensor(1.0), atol=1e-6, rtol=0)
    assert abs(row.var().item() - 4 / 3) < 1e-5


def test_layer_norm_eps_is_taken_from_the_configuration():
    wide = embeddings(layer_norm_eps=1.0)
    ids = torch.tensor([3])
    summed = (wide.word_embeddings.weight[3] + wide.position_embeddings.weight[3]
              + wide.token_type_embeddings.weight[0])
    centred = summed - summed.mean()
    by_hand = centred / (centred.square().mean() + 1.0).sqrt()
    torch.testing.assert_close(wide(ids, torch.tensor([0]), torch.tensor([3]))[0], by_hand,
                               atol=1e-6, rtol=0)


def test_embeddings_are_those_of_transformers_and_of_the_stored_reference():
    model, inputs, stored = stored_reference()
    positions = torch.arange(5).expand(2, 5)
    ours = model.embeddings(inputs["input_ids"], inputs["token_type_ids"], positions)
    # float64 rounding of numbers near 1
    torch.testing.assert_close(ours, stored["hidden_states"][0], atol=1e-12, rtol=0)
    theirs = transformers.models.bert.modeling_bert.BertEmbeddings(transformers.BertConfig(**stored["shape"])).double()
    theirs.load_state_dict({name.replace("layer_norm", "LayerNorm"): value
                            for name, value in model.embeddings.state_dict().items()}, strict=False)
    torch.testing.assert_close(ours, theirs.eval()(inputs["input_ids"], inputs["token_type_ids"]),
                               atol=1e-12, rtol=0)


def test_a_packed_row_and_a_padded_grid_give_the_same_vectors():
    module = embeddings()
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    types = torch.tensor([[0, 0, 1], [0, 1, 1]])
    positions = torch.arange(3).expand(2, 3)
    grid = module(ids, types, positions)
    row = module(ids.flatten(), types.flatten(), positions.flatten())
    assert torch.equal(grid.flatten(0, 1), row)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    module = embeddings(dropout=0.5)
    ids = torch.full((20_000,), 3)
    module.eval()
    still = module(ids, ids * 0, ids * 0 + 1)
    assert torch.equal(still[0], still[-1])
    module.train()
    moving = module(ids, ids * 0, ids * 0 + 1)
    assert abs(float((moving == 0).float().mean()) - 0.5) < 0.01
    # the mean of 20,000 draws of size about 1: standard error 0.01
    torch.testing.assert_close(moving.mean(0), still[0], atol=0.05, rtol=0)
