"""The whole encoder."""

from functools import cache

import torch
from torch.nn import functional as F

from minbert import BertConfig, BertModel, BertTokenizer
from minbert.checkpoints import hub, pretrained
from minbert.model import BertOutput
from minbert_study.exercise import Exercise, check, draw_weights, gradients, notes_of

from .layer import TorchLayer


def of_torch(self, input_ids, attention_mask=None, token_type_ids=None):
    """torch's encoder layers, with this model's parameters."""
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    if token_type_ids is None:
        token_type_ids = torch.zeros_like(input_ids)
    tables, norm = self.embeddings, self.embeddings.layer_norm
    summed = (F.embedding(input_ids, tables.word_embeddings.weight)
              + F.embedding(token_type_ids, tables.token_type_embeddings.weight)
              + tables.position_embeddings.weight[:input_ids.shape[1]])
    hidden = F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    for layer in self.layers:
        hidden = TorchLayer.forward(layer, hidden, attention_mask.bool())
    pooled = F.linear(hidden[:, 0], self.pooler_dense.weight, self.pooler_dense.bias).tanh()
    return BertOutput(hidden, pooled)


def model_of(layers: int) -> BertModel:
    """All tables have 12 rows, so that ids in the wrong table give numbers, not an error."""
    return draw_weights(BertModel(BertConfig(
        vocab_size=12, hidden_size=6, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=7, max_position_embeddings=12, type_vocab_size=12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)))


@cache
def mini() -> BertModel:
    """minbert-mini, loaded once for all mistakes that are tried.

    Not by from_pretrained: it builds on the meta device, and there a student's nn.Embedding imports
    torch's compiler, which takes seconds and wants to write files.
    """
    folder = hub.resolve("minbert-mini", "main")
    model = BertModel(BertConfig.from_file(folder / "config.json")).eval()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(pretrained.read_parameters(folder / "model.safetensors", shapes))
    return model


def encode(part, model, input_ids, mask=None, *types) -> dict[str, object]:
    """What the parts get, in the order of the equations; then the outputs, at real tokens."""
    places = [f"layers.{number}" for number in range(len(model.layers))]
    given = (() if mask is None else (mask,)) + types
    with notes_of(model, "embeddings", *places) as notes:
        out = part.forward(model, input_ids, *given)
    real = torch.ones_like(input_ids).bool() if mask is None else mask != 0

    def at_real(value: object) -> object:
        return value[real] if getattr(value, "shape", ())[:2] == real.shape else value

    found = {}
    for name in ("input_ids", "token_type_ids", "position_ids"):
        ids = notes[f"embeddings gets {name}"]
        if isinstance(ids, torch.Tensor) and ids.numel() == input_ids.shape[1]:
            ids = ids.flatten().expand(input_ids.shape)  # one row of positions for all
        if getattr(ids, "shape", None) == real.shape:
            ids = torch.where(real, ids, 0)  # what stands at padding does not matter
        found[f"{name} into embeddings"] = ids
    for number, place in enumerate(places):
        found[f"hidden states into layer {number} (real tokens)"] = at_real(
            notes[f"{place} gets"])
        attended = notes[f"{place} gets mask"]
        if attended is None or (mask is None and isinstance(attended, str)):
            attended = torch.ones_like(real)  # no mask: all are real
        found[f"mask into layer {number}"] = attended

    kind = type(out).__name__
    found["type of what comes back"] = kind
    if kind == "BertOutput":
        found["last_hidden_state (real tokens)"] = at_real(out.last_hidden_state)
        found["pooler_output"] = out.pooler_output
    return found


@check()
def by_hand(part):
    """Every step is right for 3 and 4 tokens: positions 0 1 2 3 in both, types 0, mask as bool."""
    return encode(part, model_of(2), torch.tensor([[2, 7, 3, 0], [2, 5, 8, 3]]),
                  torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))


@check()
def defaults(part):
    """Every step is right without a mask (even id 0 is then real) and types (all 0)."""
    return encode(part, model_of(2), torch.tensor([[2, 0, 7, 0, 3], [2, 5, 0, 9, 3]]))


@check()
def pairs(part):
    """Every step is right with padding between tokens: positions count all columns."""
    input_ids = torch.randint(12, (3, 5))
    types = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    return encode(part, model_of(3), input_ids, mask, types)


@check()
def by_name(part):
    """The output is right with each optional argument alone, given by name."""
    model, input_ids = model_of(1), torch.randint(12, (2, 3))
    types, mask = torch.tensor([[0, 1, 1], [0, 0, 1]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    return {"pooler_output with token_type_ids alone":
            part.forward(model, input_ids, token_type_ids=types).pooler_output,
            "pooler_output with attention_mask alone":
            part.forward(model, input_ids, attention_mask=mask).pooler_output}


@check()
def kinds_of_mask(part):
    """The output is right with a mask of bool, int or float; nonzero means real."""
    model, input_ids = model_of(2), torch.randint(12, (2, 4))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    masks = {"bool": mask == 1, "int": mask, "float": mask.double()}
    return {f"pooler_output with a mask of {kind}":
            part.forward(model, input_ids, given).pooler_output for kind, given in masks.items()}


@check()
def padding(part):
    """A sentence gives the right result, the same alone and padded in a batch."""
    model, input_ids = model_of(2), torch.randint(12, (3, 6))
    lengths = (6, 2, 4)
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).long()
    together = part.forward(model, input_ids, mask)
    alone = [part.forward(model, row[None, :length])
             for row, length in zip(input_ids, lengths, strict=True)]
    change = [(together.last_hidden_state[row, :lengths[row]] - out.last_hidden_state[0])
              .abs().max().item() for row, out in enumerate(alone)]
    return {f"largest change of sentence {row}": change[row] for row in range(3)} | {
        "pooler_output": together.pooler_output}


@check(against={"forward": of_torch})
def as_torch(part):
    """Outputs and gradients equal those of a stack of torch's encoder layers."""
    # in training mode: dropout, of which this model has none, is in its parts
    model, input_ids = model_of(2).train(), torch.randint(12, (2, 5))
    mask, types = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]), torch.randint(2, (2, 5))
    out = part.forward(model, input_ids, mask, types)
    last = torch.where(mask[..., None] == 1, out.last_hidden_state, 0)  # padding is unspecified
    flows = torch.cat([last.flatten(), out.pooler_output.flatten()])
    return {"last_hidden_state (real tokens)": last,
            "pooler_output": out.pooler_output} | gradients(flows, **dict(model.named_parameters()))


# minbert-mini's outputs for the sentences below: the first three numbers of two tokens each, and of
# pooler_output. transformers gives the same.
STORED = ([[[-0.524915, 1.106962, 1.435089], [-0.185526, 0.834541, 0.381022]],
           [[-0.169899, 0.671317, 0.730200], [-0.770422, 0.723979, -0.093742]]],
          [[-0.580701, -0.193557, 0.432868], [-0.588221, -0.545518, 0.327187]])


@check(against={"forward": lambda *_: BertOutput(*map(torch.tensor, STORED))},
       tolerance={"last_hidden_state": 1e-5, "pooler_output": 1e-5})
def sanity_check(part):
    """minbert-mini gives stored numbers for two sentences, as in CS224N's sanity_check.py."""
    batch = BertTokenizer.from_pretrained("minbert-mini")(
        ["hello world", "hello neural network for nlp"])
    out = part.forward(mini(), batch["input_ids"], batch["attention_mask"])
    return {"last_hidden_state": out.last_hidden_state[:, :2, :3],
            "pooler_output": out.pooler_output[:, :3]}


EMBED = "self.embeddings(input_ids, token_type_ids, position_ids)"
POSITIONS = """torch.arange(input_ids.shape[1],
                                    device=input_ids.device).expand_as(input_ids)"""
LAYER = "hidden_states = layer(hidden_states, mask)"
POOLED = "out = BertOutput(hidden_states, self.pool(hidden_states[:, 0]))"


def pooled(states: str) -> tuple[str, str]:
    return POOLED, f"out = BertOutput(hidden_states, self.pool({states}))"


EXERCISE = Exercise(
    title="BERT: embeddings, layers, pooler",
    places=("minbert.model:BertModel.forward",),
    forbidden=("TransformerEncoder", "TransformerEncoderLayer", "Transformer"),
    mistakes=(
        ("when positions are counted from 1. The first position must be 0.",
         POSITIONS, f"1 + {POSITIONS}"),
        ("when positions count only the real tokens. Count all columns.",
         POSITIONS, "(mask.long().cumsum(1) - 1).clamp(min=0)"),
        ("when positions count only the real tokens, from 1, with 0 at padding, as in RoBERTa. "
         "Count all columns, from 0.", POSITIONS, "mask.long().cumsum(1) * mask"),
        ("when all positions are 0. They must count the columns: 0, 1, 2, …",
         POSITIONS, "torch.zeros_like(input_ids)"),
        ("when the token ids are used as positions. Positions must count the columns.",
         POSITIONS, "input_ids"),
        ("when positions count the sentences of the batch. Count the columns.",
         POSITIONS, "torch.arange(len(input_ids))[:, None].expand_as(input_ids)"),
        ("when token types and positions are swapped. The order is (input_ids, token_type_ids, "
         "position_ids).", EMBED, "self.embeddings(input_ids, position_ids, token_type_ids)"),
        ("when the attention mask is passed as the token types.",
         EMBED, "self.embeddings(input_ids, mask.long(), position_ids)"),
        ("when attention mask and token types are swapped. The mask is the second argument, the "
         "types are the third.", "        if attention_mask is None:\n",
         "        attention_mask, token_type_ids = token_type_ids, attention_mask\n"
         "        if attention_mask is None:\n"),
        ("when token_type_ids are ignored.",
         EMBED, "self.embeddings(input_ids, torch.zeros_like(input_ids), position_ids)"),
        ("when the types are 1 by default. They must be 0.",
         "token_type_ids = torch.zeros_like(input_ids)",
         "token_type_ids = torch.ones_like(input_ids)"),
        ("when everything is masked by default. Without a mask all tokens are real.",
         "attention_mask = torch.ones_like(input_ids)",
         "attention_mask = torch.zeros_like(input_ids)"),
        ("when the default mask is made from the ids. Without a mask all tokens are real, even "
         "those with id 0.",
         "attention_mask = torch.ones_like(input_ids)", "attention_mask = (input_ids != 0).long()"),
        ("when the mask is always made from the ids, and attention_mask is ignored.",
         "mask = attention_mask != 0", "mask = input_ids != 0"),
        ("when attention_mask is ignored.",
         "mask = attention_mask != 0", "mask = torch.ones_like(input_ids).bool()"),
        ("when the mask is inverted. The layers expect True at real tokens.",
         "mask = attention_mask != 0", "mask = attention_mask == 0"),
        ("when the mask is not passed on to the layers.",
         LAYER, "hidden_states = layer(hidden_states)"),
        ("when only the first layer gets the mask.",
         LAYER, "hidden_states = layer(hidden_states, mask if layer is self.layers[0] else None)"),
        ("without the last layer.", "in self.layers:", "in self.layers[:-1]:"),
        ("without the first layer.", "in self.layers:", "in self.layers[1:]:"),
        ("when the layers are applied in reverse order.",
         "in self.layers:", "in reversed(self.layers):"),
        ("when the first layer is used every time.",
         "in self.layers:", "in [self.layers[0]] * len(self.layers):"),
        ("when every layer gets the embeddings, not the output of the layer before.",
         LAYER, "hidden_states = layer(all_states[0], mask)"),
        ("when a residual is added around each layer. A layer already contains its residuals.",
         LAYER, "hidden_states = hidden_states + layer(hidden_states, mask)"),
        ("when a layer's output is not kept. Pass it to the next layer.",
         LAYER, "layer(hidden_states, mask)"),
        ("when the last column is pooled, not [CLS], which is the first: [:, 0].",
         *pooled("hidden_states[:, -1]")),
        ("when the last real token is pooled, not [CLS], which is the first: [:, 0].",
         *pooled("hidden_states[torch.arange(len(mask)), mask.sum(1) - 1]")),
        ("when the mean of all tokens is pooled, not [CLS].", *pooled("hidden_states.mean(1)")),
        ("when the first sentence of the batch, [0], is pooled, not the first token of each "
         "sentence, [:, 0].", *pooled("hidden_states[0]")),
        ("when [CLS] is taken from the embeddings, not from the last layer.",
         *pooled("all_states[0][:, 0]")),
        ("when all tokens are pooled, not [CLS] alone.", *pooled("hidden_states")),
        ("without self.pool: pooler_output is the bare hidden state of [CLS].",
         POOLED, "out = BertOutput(hidden_states, hidden_states[:, 0])"),
        ("when self.pooler_dense is called instead of self.pool: the tanh is missing.",
         POOLED, "out = BertOutput(hidden_states, self.pooler_dense(hidden_states[:, 0]))"),
        ("when tanh is applied to the bare hidden state of [CLS]. Call self.pool.",
         POOLED, "out = BertOutput(hidden_states, hidden_states[:, 0].tanh())"),
        ("when the outputs are swapped. last_hidden_state must come first.",
         POOLED, "out = BertOutput(self.pool(hidden_states[:, 0]), hidden_states)"),
    ),
    hints=(
        "What input does each of the three parts need? Two arguments of forward may be None: what "
        "replaces them?",
        "If the mask is None, use ones; if the types are None, use zeros, in the shape of "
        "input_ids. Positions are torch.arange(seq). Make the mask bool, feed each layer the "
        "output of the one before, and pool the first token.",
        "mask = attention_mask != 0; hidden = self.embeddings(input_ids, token_type_ids, "
        "torch.arange(…).expand_as(input_ids)); for layer in self.layers: hidden = layer(hidden, "
        "mask); return BertOutput(hidden, self.pool(hidden[:, …])).",
    ),
)
