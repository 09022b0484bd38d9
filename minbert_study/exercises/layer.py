"""One transformer layer, post-norm."""

import torch
from torch import nn

from minbert.layer import BertLayer
from minbert_study.exercise import Exercise, check, draw_weights, gradients, notes_of

# What a student should look at, in the order of the equations.
STEPS = {"mask into self_attention": "self_attention gets mask",
         "attention(x) from self_attention": "self_attention gives",
         "W_o · attention(x) from attention_dense": "attention_dense gives",
         "first sum into attention_layer_norm": "attention_layer_norm gets",
         "h from attention_layer_norm": "attention_layer_norm gives",
         "h into intermediate_dense": "intermediate_dense gets",
         "W_1 · h from intermediate_dense": "intermediate_dense gives",
         "act(W_1 · h) into output_dense": "output_dense gets",
         "W_2 · act(W_1 · h) from output_dense": "output_dense gives",
         "second sum into output_layer_norm": "output_layer_norm gets"}
PARTS = tuple(dict.fromkeys(note.split()[0] for note in STEPS.values()))
THEIR_NAMES = {"self_attention.query_key_value.weight": "self_attn.in_proj_weight",
               "self_attention.query_key_value.bias": "self_attn.in_proj_bias",
               "attention_dense": "self_attn.out_proj", "attention_layer_norm": "norm1",
               "intermediate_dense": "linear1", "output_dense": "linear2",
               "output_layer_norm": "norm2"}


class TorchLayer(BertLayer):
    """torch's encoder layer, with this layer's parameters."""

    def forward(self, hidden_states, mask=None):
        width, inner = hidden_states.shape[-1], self.intermediate_dense.out_features
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and not used
            theirs = nn.TransformerEncoderLayer(
                width, self.self_attention.num_heads, inner, dropout=0.0, activation="gelu",
                layer_norm_eps=self.output_layer_norm.eps, batch_first=True, norm_first=False)
        parameters = {}
        for name, value in self.named_parameters():
            part, _, last = name.rpartition(".")
            parameters[THEIR_NAMES.get(name) or f"{THEIR_NAMES[part]}.{last}"] = value
        padding = None if mask is None else ~mask
        return torch.func.functional_call(theirs.eval(), parameters, (hidden_states,),
                                          {"src_key_padding_mask": padding})


def layer_of(part, width: int = 6, heads: int = 2, activation: str = "gelu", eps: float = 1e-12,
             dropout: float = 0.0, attention_dropout: float = 0.0):
    return draw_weights(part.BertLayer(width, heads, 2 * width + 1, activation, eps, dropout,
                                       attention_dropout))


def steps(module, x, mask=None) -> dict[str, object]:
    with notes_of(module, *PARTS, tokens=x.shape[:-1]) as notes:
        output = module(x, mask)
    return {name: notes[note] for name, note in STEPS.items()} | {"output": output}


@check()
def by_hand(part):
    """With weights of 0, only biases, sums and norms act: (−1, 0, 2, 1) becomes (−1, 1, −1, 1)."""
    module = part.BertLayer(4, 2, 3, "gelu", 1e-12, 0.0, 0.0).eval()
    with torch.no_grad():
        for linear in (module.self_attention.query_key_value, module.attention_dense,
                       module.intermediate_dense, module.output_dense):
            linear.weight.zero_()
            linear.bias.zero_()
        module.attention_dense.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 1.0]))
        module.output_dense.bias.copy_(torch.tensor([0.0, 2.0, -2.0, 0.0]))
    found = steps(module, torch.tensor([[[-1.0, 0.0, 2.0, 1.0]]]))
    return {name: value for name, value in found.items()
            if "sum" in name or name.startswith(("h from", "output"))}


@check()
def equations(part):
    """Every step of both equations is right in eval mode."""
    module = layer_of(part, eps=0.1, dropout=0.5, attention_dropout=0.4)
    return steps(module, torch.randn(2, 3, 6), torch.tensor([[1, 1, 1], [1, 0, 1]]) == 1) | {
        "dropout of self_attention": module.self_attention.dropout}


@check()
def mask(part):
    """With a mask, outputs at real tokens are right, and numbers at padding do not affect them."""
    module, real = layer_of(part), torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0]]) == 1
    x = torch.randn(2, 4, 6)
    other = torch.where(real[..., None], x, torch.randn(2, 4, 6))
    output = module(x, real)
    change = (output - module(other, real))[real].abs().max().item()
    return {"largest change of a real token": change,
            "output at real tokens": output[real],
            "output without a mask": module(x),
            "output at real tokens in training mode": module.train()(x, real)[real]}


@check()
def activation(part):
    """Outputs are right with each activation: use self.activation, which the configuration sets."""
    drawn = {kind: (layer_of(part, activation=kind), torch.randn(1, 2, 6))
             for kind in ("relu", "gelu_new", "gelu")}
    return {f"{name} with {kind}": value for kind, given in drawn.items()
            for name, value in steps(*given).items() if name.startswith(("act", "output"))}


@check()
def post_norm(part):
    """However large the inputs are, outputs have mean 0 and variance 1: the norm comes last."""
    module = layer_of(part)
    with torch.no_grad():
        module.output_layer_norm.weight.fill_(1)
        module.output_layer_norm.bias.zero_()
    output = module(1000 * torch.randn(2, 3, 6))
    return {"mean of each vector, rounded": output.mean(-1).round(decimals=9) + 0.0,
            "mean of the squares of each vector": output.square().mean(-1)}


# 3,600 draws, yours and the library's: their difference has a standard deviation of 0.01
DROPPED = {"x into self_attention": 0.05, "attention(x) into attention_dense": 0.05,
           "what is added to x": 0.05, "h from attention_layer_norm": 0.05,
           "h into intermediate_dense": 0.05, "act(W_1 · h) into output_dense": 0.05,
           "what is added to h": 0.05, "output": 0.05}


@check(tolerance={f"share of 0 in {name}": allowed for name, allowed in DROPPED.items()})
def dropout(part):
    """In training, dropout (0.25) applies to what is added to the residual, in both equations."""
    module, x = layer_of(part, dropout=0.25).train(), torch.randn(30, 20, 6)
    with notes_of(module, *PARTS, tokens=x.shape[:-1]) as notes:
        output = module(x)
    h = notes["attention_layer_norm gives"]
    to_x, to_h = notes["attention_layer_norm gets"] - x, notes["output_layer_norm gets"] - h
    values = (notes["self_attention gets"], notes["attention_dense gets"], to_x, h,
              notes["intermediate_dense gets"], notes["output_dense gets"], to_h, output)
    return {f"share of 0 in {name}": (value.abs() < 1e-12).double().mean().item()
            for name, value in zip(DROPPED, values, strict=True)} | {
        "what is kept of what is added to x, over W_o · attention(x)":
            (to_x / notes["attention_dense gives"])[to_x.abs() > 1e-12].median(),
        "what is kept of what is added to h, over W_2 · act(W_1 · h)":
            (to_h / notes["output_dense gives"])[to_h.abs() > 1e-12].median()}


@check(against={"BertLayer": TorchLayer})
def as_torch(part):
    """Outputs and gradients equal those of torch's encoder layer."""
    module, x = layer_of(part, 8, 4, eps=1e-5), torch.randn(3, 5, 8, requires_grad=True)
    real = torch.rand(3, 5) < 0.6
    real[:, 2] = True
    output = module(x, real)
    at_real = torch.where(real[..., None], output, 0)  # torch's need not agree at padding
    return {"output at real tokens": at_real,
            "output for a batch of one, without a mask": module(x[:1])} | gradients(
                at_real, hidden_states=x, **dict(module.named_parameters()))


FIRST = "self.attention_layer_norm(hidden_states + self.dropout(attended))"
SECOND = "self.output_layer_norm(hidden_states + self.dropout(output))"
BODY = f"""        attended = self.attention_dense(self.self_attention(hidden_states, mask))
        hidden_states = {FIRST}

        # (batch, seq, intermediate)
        expanded = self.activation(self.intermediate_dense(hidden_states))
        output = self.output_dense(expanded)
        return {SECOND}"""


def both(first: str, second: str) -> tuple[str, str]:
    """The body, and the body with both lines replaced."""
    return BODY, BODY.replace(FIRST, first).replace(SECOND, second)


EXERCISE = Exercise(
    title="one transformer layer",
    places=("minbert.layer:BertLayer",),
    forbidden=("TransformerEncoderLayer", "TransformerEncoder", "Transformer"),
    mistakes=(
        ("without either residual.",
         *both("self.attention_layer_norm(self.dropout(attended))",
              "self.output_layer_norm(self.dropout(output))")),
        ("without the residual around attention: x + … is missing.",
         FIRST, "self.attention_layer_norm(self.dropout(attended))"),
        ("without the residual around the feed-forward part: h + … is missing.",
         SECOND, "self.output_layer_norm(self.dropout(output))"),
        ("when the residual is added after LayerNorm. Add first, then normalise.",
         *both("hidden_states + self.attention_layer_norm(self.dropout(attended))",
              "hidden_states + self.output_layer_norm(self.dropout(output))")),
        ("when x is added after the first LayerNorm. Add first, then normalise.",
         FIRST, "hidden_states + self.attention_layer_norm(self.dropout(attended))"),
        ("when h is added after the second LayerNorm. Add first, then normalise.",
         SECOND, "hidden_states + self.output_layer_norm(self.dropout(output))"),
        ("from pre-norm, x + f(LayerNorm(x)). BERT is post-norm: LayerNorm(x + f(x)).", BODY,
         "        x = hidden_states\n"
         "        x = x + self.dropout(self.attention_dense(self.self_attention(\n"
         "            self.attention_layer_norm(x), mask)))\n"
         "        return x + self.dropout(self.output_dense(self.activation(\n"
         "            self.intermediate_dense(self.output_layer_norm(x)))))"),
        ("when dropout is applied to the sums. Apply it to what is added to the residual, never to "
         "the residual itself.",
         *both("self.attention_layer_norm(self.dropout(hidden_states + attended))",
              "self.output_layer_norm(self.dropout(hidden_states + output))")),
        ("when dropout is applied to the outputs of LayerNorm. Apply it before the residual is "
         "added.",
         *both("self.dropout(self.attention_layer_norm(hidden_states + attended))",
              "self.dropout(self.output_layer_norm(hidden_states + output))")),
        ("without dropout in either equation.",
         *both("self.attention_layer_norm(hidden_states + attended)",
              "self.output_layer_norm(hidden_states + output)")),
        ("without dropout in the first equation.",
         FIRST, "self.attention_layer_norm(hidden_states + attended)"),
        ("without dropout in the second equation.",
         SECOND, "self.output_layer_norm(hidden_states + output)"),
        ("when the second residual is x. It must be h.", BODY, "        x = hidden_states\n"
         + BODY.replace(SECOND, "self.output_layer_norm(x + self.dropout(output))")),
        ("without the first LayerNorm.", FIRST, "hidden_states + self.dropout(attended)"),
        ("without the last LayerNorm.", SECOND, "hidden_states + self.dropout(output)"),
        ("when attention_layer_norm is used twice. The second must be output_layer_norm.",
         SECOND, "self.attention_layer_norm(hidden_states + self.dropout(output))"),
        ("without W_o. Call attention_dense after attention.",
         "self.attention_dense(self.self_attention(hidden_states, mask))",
         "self.self_attention(hidden_states, mask)"),
        ("when attention_dense comes before attention, not after it.",
         "self.attention_dense(self.self_attention(hidden_states, mask))",
         "self.self_attention(self.attention_dense(hidden_states), mask)"),
        ("without the activation between W_1 and W_2.",
         "self.activation(self.intermediate_dense(hidden_states))",
         "self.intermediate_dense(hidden_states)"),
        ("when the activation is always GELU. Call self.activation, which the configuration "
         "selects.", "self.activation(self.intermediate_dense(hidden_states))",
         "torch.nn.functional.gelu(self.intermediate_dense(hidden_states))"),
        ("when the activation is applied after W_2 as well.",
         "self.output_dense(expanded)", "self.activation(self.output_dense(expanded))"),
        ("when the mask is not passed on to self_attention.",
         "self.self_attention(hidden_states, mask)", "self.self_attention(hidden_states)"),
        ("when the mask is passed on inverted. Pass it on unchanged.",
         "self.self_attention(hidden_states, mask)",
         "self.self_attention(hidden_states, None if mask is None else ~mask)"),
        ("when the feed-forward part gets x. It must get h, the result of the first equation.",
         BODY, "        x = hidden_states\n"
         + BODY.replace("intermediate_dense(hidden_states)", "intermediate_dense(x)")),
    ),
    hints=(
        "Two equations, one line of code each. In each sum, which of the two terms goes through "
        "dropout?",
        "First: attention, attention_dense, dropout, add hidden_states, attention_layer_norm. "
        "Keep the result, h. Second: intermediate_dense, activation, output_dense, dropout, add h, "
        "output_layer_norm.",
        "h = self.attention_layer_norm(hidden_states + self.dropout(self.attention_dense("
        "self.self_attention(hidden_states, mask)))); the second line has the same form, with h, "
        "output_dense(activation(intermediate_dense(h))) and output_layer_norm.",
    ),
)
