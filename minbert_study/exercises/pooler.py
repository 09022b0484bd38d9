"""The pooler on [CLS]."""

import numpy as np
import torch

from minbert import BertConfig, BertModel
from minbert_study.exercise import Exercise, check, draw_weights, gradients


def of_numpy(self, cls_states):
    """The equation, a sentence at a time."""
    weight = self.pooler_dense.weight.detach().numpy()
    bias = self.pooler_dense.bias.detach().numpy()
    return torch.from_numpy(np.stack([np.tanh(weight @ h + bias) for h in cls_states.numpy()]))


def model_of(hidden_size: int) -> BertModel:
    return draw_weights(BertModel(BertConfig(
        vocab_size=9, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=7, max_position_embeddings=8)))


@check()
def by_hand(part):
    """W = ((1, 2), (0, 1)), b = (0, −0.5), h = (0.5, 0.25): tanh of (1, −0.25)."""
    model = model_of(2)
    with torch.no_grad():
        model.pooler_dense.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        model.pooler_dense.bias.copy_(torch.tensor([0.0, -0.5]))
    return {"output": part.pool(model, torch.tensor([[0.5, 0.25]]))}


@check()
def zero(part):
    """For h = 0 only the bias is left: tanh(b)."""
    return {"output": part.pool(model_of(3), torch.zeros(2, 3))}


@check()
def bounded(part):
    """For large hidden states the output is right, and stays between −1 and 1."""
    output = part.pool(model_of(5), 1000 * torch.randn(4, 5))
    return {"largest size": output.abs().max().item(), "output": output}


@check()
def training(part):
    """The output is right in training mode, too: the pooler has no dropout."""
    return {"output in training mode": part.pool(model_of(4).train(), torch.randn(3, 4))}


@check()
def in_model(part):
    """The model's pooler_output is pool applied to [CLS]."""
    model = model_of(6)
    return {"pooler_output": model(torch.tensor([[2, 5, 3, 0], [2, 4, 6, 3]]),
                                   torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])).pooler_output}


@check()
def backward(part):
    """The gradients of the hidden states, of W and of b are right."""
    model, states = model_of(3), torch.randn(4, 3, requires_grad=True)
    return gradients(part.pool(model, states), cls_states=states, W=model.pooler_dense.weight,
                     b=model.pooler_dense.bias)


@check(against={"pool": of_numpy})
def as_numpy(part):
    """numpy gives the same, for several widths and even for a batch of one."""
    return {f"output of shape {shape}": part.pool(model_of(shape[1]), torch.randn(shape) / 2)
            for shape in ((1, 1), (1, 4), (5, 3), (3, 3))}


RIGHT = "return torch.tanh(self.pooler_dense(cls_states))"

EXERCISE = Exercise(
    title="the pooler",
    places=("minbert.model:BertModel.pool",),
    mistakes=(
        ("without the tanh.", RIGHT, "return self.pooler_dense(cls_states)"),
        ("without the linear layer. Call self.pooler_dense before the tanh.",
         RIGHT, "return torch.tanh(cls_states)"),
        ("when the tanh comes before the linear layer. It must come after.",
         RIGHT, "return self.pooler_dense(torch.tanh(cls_states))"),
        ("when a sigmoid is used instead of tanh.",
         RIGHT, "return torch.sigmoid(self.pooler_dense(cls_states))"),
        ("when ReLU is used instead of tanh.",
         RIGHT, "return torch.relu(self.pooler_dense(cls_states))"),
        ("when GELU is used instead of tanh.",
         RIGHT, "return nn.functional.gelu(self.pooler_dense(cls_states))"),
        ("without the bias.", RIGHT, "return torch.tanh(cls_states @ self.pooler_dense.weight.T)"),
        ("when W is transposed. Call self.pooler_dense, which multiplies by the transpose of its "
         "weight.", RIGHT,
         "return torch.tanh(cls_states @ self.pooler_dense.weight\n"
         "                          + self.pooler_dense.bias)"),
        ("with dropout, which the pooler does not have.", RIGHT,
         "return nn.functional.dropout(torch.tanh(self.pooler_dense(cls_states)), "
         "self.config.hidden_dropout_prob, self.training)"),
    ),
    hints=(
        "Which values can tanh take? Which part of the model holds W and b?",
        "self.pooler_dense, called with cls_states, gives W · h + b for every sentence.",
        "return torch.tanh(self.pooler_dense(…))",
    ),
)
