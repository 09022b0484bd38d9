"""Scaled dot-product attention with a mask."""

import math

import torch
from torch.nn import functional as F

from minbert_study.exercise import Exercise, check, gradients


def inputs(batch: int, heads: int, tokens: int, width: int) -> list[torch.Tensor]:
    """Queries, keys and values."""
    return [torch.randn(batch, heads, tokens, width) for _ in range(3)]


def torch_attention(query, key, value, mask=None):
    """torch's own attention, an independent implementation."""
    return F.scaled_dot_product_attention(query, key, value,
                                          None if mask is None else mask[:, None, None, :])


@check()
def by_hand(part):
    """Scores of 0 and ln 3 give the weights 1/4 and 3/4."""
    query = torch.ones(1, 1, 1, 4)
    # q · k is 2 ln 3, over √4 it is ln 3
    key = torch.tensor([0.0, 2 * math.log(3) / 4]).view(1, 1, 2, 1).expand(1, 1, 2, 4)
    return {"weights": part.attention_weights(query, key)}


@check()
def rows_sum_to_one(part):
    """Weights of random vectors are right, and each token's sum to 1, over the keys."""
    query, key, _ = inputs(2, 3, 5, 4)
    weights = part.attention_weights(query, key)
    return {"sum over the keys of each query": weights.sum(-1), "weights": weights}


@check()
def masked_keys(part):
    """A masked key gets no weight, wherever it stands, and the others get the right weights."""
    query, key, _ = inputs(3, 2, 5, 3)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]) == 1
    weights = part.attention_weights(query, key, mask)
    hidden = weights.movedim(3, 1)[~mask] if weights.shape == (3, 2, 5, 5) else weights
    return {"sum over the keys of each query": weights.sum(-1),
            "largest weight of a masked key": hidden.abs().max(),
            "weights": weights}


@check()
def only_padding(part):
    """A sequence that is all padding gives finite weights, and another beside it the right ones."""
    query, key, _ = inputs(2, 1, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    weights = part.attention_weights(query, key, mask)
    return {"all numbers are finite": bool(weights.isfinite().all()), "weights": weights[:1]}


@check()
def large_scores(part):
    """Real keys with scores near −1250 get the right weights, even beside masked ones near 1250."""
    query, key, _ = inputs(2, 2, 5, 4)
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]) == 1
    key += torch.where(mask[:, None, :, None], -25.0, 25.0)
    weights = part.attention_weights(query + 25, key, mask)
    return {"largest weight of a masked key": weights.movedim(3, 1)[~mask].abs().max(),
            "weights": weights}


@check(against={"attention": torch_attention})
def as_torch(part):
    """The output equals that of torch's attention, even for odd shapes and a batch of one."""
    drawn = {}  # before the first call: the student's dropout may draw as well
    for shape in ((1, 1, 1, 1), (1, 3, 7, 5), (4, 2, 6, 3)):
        mask = torch.rand(shape[0], shape[2]) < 0.7
        mask[:, -1] = True
        drawn[shape] = *inputs(*shape), mask
    return {f"output of (batch, heads, seq, width) {shape}": part.attention(*given)
            for shape, given in drawn.items()}


@check(against={"attention": torch_attention})
def backward(part):
    """The gradients of queries, keys and values are right."""
    query, key, value = (each.requires_grad_() for each in inputs(2, 2, 3, 4))
    return gradients(part.attention(query, key, value), query=query, key=key, value=value)


def dropped(output: torch.Tensor) -> dict[str, object]:
    """What dropout did, where number i and number keys + i of an output show the weight of key i.

    Args:
        output: (batch, heads, queries, 2 · keys).
    """
    is_zero, kept = output == 0, output[output != 0]
    first, second = is_zero.chunk(2, -1)
    found = (is_zero, first != second, first.all(-2), first.all(-1),
             (first[1:] == first[:1]).flatten(1).all(1),
             (first[:, 1:] == first[:, :1]).flatten(2).all(2))
    shares = [each.double().mean().item() for each in found]
    return dict(zip(DROPPED, shares, strict=True)) | {
        "a weight that is kept": kept.mean() if kept.numel() else output.mean()}


# 40,000 draws; 3,200 if they fall on the values, as in a mistake: the difference of two such shares
# of 0.3 has a standard deviation of 0.0115. In right code all shares but the first are 0.
DROPPED = dict.fromkeys(("share of weights that are dropped",
                         "share of values of which one half alone is dropped",
                         "share of keys that all queries lose",
                         "share of queries that lose all keys",
                         "share of sentences that lose the same",
                         "share of heads that lose the same"), 0.06)


@check(tolerance=DROPPED)
def dropout(part):
    """Dropout applies to the weights, also with a mask; what is kept is scaled by 1/(1 − p)."""
    query = key = torch.zeros(20, 4, 25, 2)  # all weights of the 20 real keys are 1/20
    value = torch.eye(25, 20).repeat(1, 2).expand(20, 4, 25, 40)
    mask = (torch.arange(25) < 20).expand(20, 25)
    first, second = (part.attention(query, key, value, mask, dropout=0.3) for _ in range(2))
    are_same = (first == 0).tolist() == (second == 0).tolist()  # of any subclass of tensor
    return dropped(first) | {"a second call drops the same": are_same}


EXERCISE = Exercise(
    title="scaled dot-product attention with a mask",
    places=("minbert.attention:attention_weights", "minbert.attention:attention"),
    forbidden=("scaled_dot_product_attention", "MultiheadAttention",
               "multi_head_attention_forward"),
    mistakes=(
        ("without the division by √d.", " / math.sqrt(head_dim)", ""),
        ("when scores are divided by d, not by √d.", "math.sqrt(head_dim)", "head_dim"),
        ("when scores are multiplied by √d, not divided by it.",
         "/ math.sqrt(head_dim)", "* math.sqrt(head_dim)"),
        ("when d is the number of tokens, query.shape[-2]. It must be the width of a head, "
         "query.shape[-1].", "head_dim = query.shape[-1]", "head_dim = query.shape[-2]"),
        ("when the mask is inverted. True marks the real tokens, so hide the others.",
         "~mask[:, None, None, :]", "mask[:, None, None, :]"),
        ("when the mask is applied to the queries (rows), not to the keys (columns).",
         "mask[:, None, None, :]", "mask[:, None, :, None]"),
        ("when the mask is ignored.", "if mask is not None:", "if False:"),
        ("when masked scores are set to 0. Because e⁰ = 1, those keys still get weight. Use the "
         "dtype's minimum.", "torch.finfo(scores.dtype).min", "0.0"),
        ("when masked scores are set to −inf. In a row that is all masked, the softmax is 0/0. Use "
         "the dtype's minimum.", "torch.finfo(scores.dtype).min", "-math.inf"),
        *(("when masked scores are set to a number like −10, −100 or −1000. Real scores can be "
           "lower than that. Use the dtype's minimum.", "torch.finfo(scores.dtype).min", number)
          for number in ("-10.0", "-100.0", "-1000.0")),
        ("when exp is taken of scores near ±1000, which gives infinity or 0. torch.softmax "
         "subtracts the largest score first.", "return scores.softmax(dim=-1)",
         "return scores.exp() / scores.exp().sum(-1, keepdim=True).clamp(min=1e-300)"),
        ("when the mask is applied after the softmax, so the rows sum to less than 1. Mask the "
         "scores.", "return scores.softmax(dim=-1)",
         "return (query @ key.transpose(-1, -2) / math.sqrt(head_dim)).softmax(-1) * "
         "(1 if mask is None else mask[:, None, None, :])"),
        ("when the softmax runs over the queries (dim=-2). It must run over the keys (dim=-1).",
         "softmax(dim=-1)", "softmax(dim=-2)"),
        ("when the softmax runs over the heads (dim=1). It must run over the keys (dim=-1).",
         "softmax(dim=-1)", "softmax(dim=1)"),
        ("when dropout is applied to the values, not to the weights.",
         "F.dropout(weights, dropout) @ value", "weights @ F.dropout(value, dropout)"),
        ("when dropout is applied to the output, not to the weights.",
         "F.dropout(weights, dropout) @ value", "F.dropout(weights @ value, dropout)"),
        ("when dropout is left out.", "F.dropout(weights, dropout) @ value", "weights @ value"),
        ("when the weights are transposed before they are multiplied by the values.",
         "F.dropout(weights, dropout) @ value",
         "F.dropout(weights, dropout).transpose(-1, -2) @ value"),
        ("when queries and keys are swapped.",
         "query @ key.transpose(-1, -2)", "key @ query.transpose(-1, -2)"),
    ),
    hints=(
        "Which two vectors decide how much token i looks at token j? Which operation compares all "
        "pairs of tokens at once?",
        "Scores are (batch, heads, seq, seq): query times key with its last two dimensions "
        "swapped, divided by √head_dim. The mask is (batch, seq), over the keys, so it needs two "
        "more dimensions to broadcast against the scores. Then take the softmax over the keys.",
        "scores = query @ key.transpose(-1, -2) / …; scores.masked_fill(~mask[:, None, None, :], "
        "the dtype's minimum, from torch.finfo); softmax over the last dimension. attention() "
        "drops weights with F.dropout(weights, dropout) and multiplies by value.",
    ),
)
