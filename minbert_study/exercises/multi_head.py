"""Several attentions side by side."""

import torch
from torch.nn import functional as F

from minbert.attention import BertSelfAttention
from minbert_study.exercise import Exercise, check, draw_weights, gradients

from .attention import DROPPED, dropped

THREE = "queries [0, …], keys [1, …] and values [2, …]"


class TorchSelfAttention(BertSelfAttention):
    """torch's own, with the identity for the projection that it adds."""

    def forward(self, hidden_states, mask=None):
        rows, width, linear = hidden_states.transpose(0, 1), hidden_states.shape[-1], \
            self.query_key_value
        output, _ = F.multi_head_attention_forward(
            rows, rows, rows, width, self.num_heads, linear.weight, linear.bias, None, None, False,
            0.0, torch.eye(width), torch.zeros(width), training=False,
            key_padding_mask=None if mask is None else ~mask, need_weights=False)
        return output.transpose(0, 1)


def copying(part, width: int, heads: int, query: float, key: float, value: float,
            dropout: float = 0.0):
    """A module whose queries, keys and values are the hidden states times these numbers."""
    module = part.BertSelfAttention(width, heads, dropout)
    with torch.no_grad():
        module.query_key_value.weight.copy_(
            torch.cat([query * torch.eye(width), key * torch.eye(width), value * torch.eye(width)]))
        module.query_key_value.bias.zero_()
    return module.eval()


def split(module, hidden_states) -> torch.Tensor:
    parts = module.split_heads(hidden_states)
    return torch.stack(parts) if isinstance(parts, (tuple, list)) else parts  # as good as one


@check()
def split_by_hand(part):
    """Tokens (1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12): head 0 gets (1, 2), (5, 6), (9, 10)."""
    module = copying(part, 4, 2, query=1.0, key=10.0, value=100.0)
    return {THREE: split(module, torch.arange(1.0, 13.0).view(1, 3, 4))}


@check()
def split_shapes(part):
    """The split is right for any size, even for one head and a batch of one."""
    found = {}
    for batch, seq, heads, width in ((2, 5, 3, 4), (1, 3, 1, 7), (3, 1, 4, 2), (2, 2, 2, 2)):
        module = draw_weights(part.BertSelfAttention(heads * width, heads, 0.0))
        found[f"{THREE} (batch {batch}, seq {seq}, {heads} heads of {width})"] = split(
            module, torch.randn(batch, seq, heads * width))
    return found


@check()
def average_by_hand(part):
    """With queries of 0, each of three tokens gets the average of the values, (5, 6, 7, 8)."""
    module = copying(part, 4, 2, query=0.0, key=1.0, value=1.0)
    return {"output": module(torch.arange(1.0, 13.0).view(1, 3, 4))}


@check()
def own_head(part):
    """The output is right: each head uses its own weights and fills its own columns."""
    module = copying(part, 6, 3, query=1.0, key=1.0, value=1.0)
    x = torch.randn(2, 4, 6)
    x[..., 2:4] = 0  # head 1: all scores are equal, all values 0
    output = module(x)
    return {"weights of each head": module.weights(x),
            "columns of head 1 (its values are all 0)": output[..., 2:4],
            "output": output}


@check()
def mask(part):
    """With a mask, outputs at real tokens are right, and numbers at padding do not affect them."""
    module = draw_weights(part.BertSelfAttention(6, 2, 0.0))
    real = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1]]) == 1
    x = torch.randn(3, 5, 6)
    other = torch.where(real[..., None], x, torch.randn(3, 5, 6))

    def at_real(output):
        return output[real] if output.shape == x.shape else output

    output = module(x, real)
    return {"shape of the output": str(tuple(output.shape)),
            "largest change of a real token": (
                at_real(output) - at_real(module(other, real))).abs().max().item(),
            "output at real tokens": at_real(output),
            "output without a mask": module(x),
            "output at real tokens in training mode": at_real(module.train()(x, real))}


@check()
def batch(part):
    """A sentence gives the right result, the same in a batch and alone."""
    module, x = draw_weights(part.BertSelfAttention(6, 3, 0.0)), torch.randn(4, 5, 6)
    apart = torch.cat([module(row[None]) for row in x])
    together = module(x)
    return {"largest difference": (apart - together).abs().max().item(), "output": together}


# 36,000 draws; 4,800 if they fall on the values, in the mistake: there the difference of two shares
# of 0.25 has a standard deviation of 0.009
@check(tolerance=DROPPED)
def dropout(part):
    """In training, a share of self.dropout (0.25) of the weights is dropped; in eval mode, none."""
    module = copying(part, 60, 2, query=0.0, key=1.0, value=1.0, dropout=0.25)
    # token i has the value 1 at places i and 15 + i of each head, which show its weight, 1/15
    x = torch.eye(15).repeat(1, 4).expand(80, 15, 60)
    still, moving = module(x), module.train()(x)
    heads = moving.unflatten(-1, (2, 30)).transpose(1, 2) if moving.shape == x.shape else moving
    return {"weights in eval mode": still} | dropped(heads)


@check(against={"BertSelfAttention": TorchSelfAttention})
def as_torch(part):
    """The output and its gradients equal those of torch's multi-head attention."""
    module = draw_weights(part.BertSelfAttention(10, 2, 0.0))
    x, real = torch.randn(3, 7, 10, requires_grad=True), torch.rand(3, 7) < 0.6
    real[:, 3] = True
    output = module(x, real)
    return {"output": output} | gradients(output, hidden_states=x,
                                          **dict(module.named_parameters()))


SPLIT = """        heads = mixed.unflatten(-1, (3, self.num_heads, self.head_dim))
        return heads.permute(2, 0, 3, 1, 4)"""
JOIN = "context.transpose(1, 2).flatten(2)              # the heads side by side again"
CALL = "attention(query, key, value, mask, dropout)"

EXERCISE = Exercise(
    title="multi-head self-attention",
    places=("minbert.attention:BertSelfAttention",),
    forbidden=("MultiheadAttention", "multi_head_attention_forward"),
    mistakes=(
        ("when (batch, heads, seq, head_dim) is reshaped directly to (batch, seq, hidden), which "
         "mixes tokens in the output. Swap heads and seq first.",
         JOIN, "context.reshape(hidden_states.shape)"),
        ("when the heads are interleaved in the output. Each token's numbers must be ordered "
         "(heads, head_dim), not (head_dim, heads).",
         JOIN, "context.permute(0, 2, 3, 1).flatten(2)"),
        ("when the heads are averaged, not put side by side.",
         JOIN, "context.mean(1).repeat(1, 1, self.num_heads)"),
        ("when the mask is not passed on to attention.",
         CALL, "attention(query, key, value, None, dropout)"),
        ("when the mask is passed on inverted. `attention` expects True at real tokens.",
         CALL, "attention(query, key, value, None if mask is None else ~mask, dropout)"),
        ("when dropout stays on in eval mode.",
         "self.dropout if self.training else 0.0", "self.dropout"),
        ("when dropout is applied to the output, not to the weights. Pass the rate on to "
         "`attention`.", CALL, "F.dropout(attention(query, key, value, mask), dropout)"),
        ("when dropout is applied to the values, not to the weights. Pass the rate on to "
         "`attention`.", CALL, "attention(query, key, F.dropout(value, dropout), mask)"),
        ("when dropout is left out.", "self.dropout if self.training else 0.0", "0.0"),
        ("when dropout is on in eval mode and off in training.",
         "self.dropout if self.training else 0.0", "0.0 if self.training else self.dropout"),
        ("when the keys are used as values.", CALL, "attention(query, key, key, mask, dropout)"),
        ("when queries and keys are swapped.", CALL, "attention(key, query, value, mask, dropout)"),
        ("when the numbers are viewed directly as (batch, heads, seq, head_dim), so heads get "
         "pieces of other tokens. View them as (…, seq, heads, head_dim), then swap seq and heads.",
         SPLIT,
         "        return torch.stack([each.reshape(len(each), self.num_heads, -1, self.head_dim)\n"
         "                            for each in mixed.chunk(3, -1)])"),
        ("when the last dimension is split as (heads, 3, head_dim). All queries come first: "
         "(3, heads, head_dim).", SPLIT,
         "        heads = mixed.unflatten(-1, (self.num_heads, 3, self.head_dim))\n"
         "        return heads.permute(3, 0, 2, 1, 4)"),
        ("when the last dimension is split as (heads, head_dim, 3). All queries come first: "
         "(3, heads, head_dim).", SPLIT,
         "        heads = mixed.unflatten(-1, (self.num_heads, self.head_dim, 3))\n"
         "        return heads.permute(4, 0, 2, 1, 3)"),
        ("when each head takes every num_heads-th column. Split as (heads, head_dim), not "
         "(head_dim, heads).", SPLIT,
         "        heads = mixed.unflatten(-1, (3, self.head_dim, self.num_heads))\n"
         "        return heads.permute(2, 0, 4, 1, 3)"),
        ("when the order is key, query, value. It must be query, key, value.",
         SPLIT, SPLIT + "[[1, 0, 2]]"),
        ("when the order is value, key, query. It must be query, key, value.",
         SPLIT, SPLIT + ".flip(0)"),
        ("when the order is query, value, key. It must be query, key, value.",
         SPLIT, SPLIT + "[[0, 2, 1]]"),
        ("when heads and tokens are not swapped, so attention runs over the heads. The shape must "
         "be (3, batch, heads, seq, head_dim).", SPLIT,
         "        heads = mixed.unflatten(-1, (3, self.num_heads, self.head_dim))\n"
         "        return heads.permute(2, 0, 1, 3, 4)"),
        ("without the bias of query_key_value.", "self.query_key_value(hidden_states)  ",
         "F.linear(hidden_states, self.query_key_value.weight)  "),
    ),
    hints=(
        "In memory, a tensor is one long row of numbers. What can a view do to that row, and what "
        "needs transpose or permute?",
        "Split the last dimension, 3 · hidden, into (3, heads, head_dim). Move the 3 to the front "
        "and heads before seq. After attention, go back: swap heads and seq, then join the last "
        "two dimensions.",
        "self.query_key_value(hidden_states).unflatten(-1, (3, self.num_heads, …)).permute(2, 0, "
        "3, 1, 4). forward: attention(query, key, value, mask, self.dropout if self.training else "
        "0.0), then .transpose(1, 2).flatten(2).",
    ),
)
