"""From token ids to vectors."""

import torch
from torch.nn import functional as F

from minbert.embeddings import BertEmbeddings
from minbert_study.exercise import Exercise, check, draw_weights, gradients, notes_of


class OneHotEmbeddings(BertEmbeddings):
    """The same by matrix products: a lookup is a product with a row of zeros and a one."""

    def forward(self, input_ids, token_type_ids, position_ids):
        summed = 0
        for ids, table in ((input_ids, self.word_embeddings),
                           (position_ids, self.position_embeddings),
                           (token_type_ids, self.token_type_embeddings)):
            weight = table.weight
            summed = summed + F.one_hot(ids, len(weight)).to(weight.dtype) @ weight
        norm = self.layer_norm
        return F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def embed(module, *ids) -> dict[str, object]:
    """The steps of the equation, in order."""
    with notes_of(module, "layer_norm", "dropout", tokens=ids[0].shape) as notes:
        output = module(*ids)
    return {"sum of the three rows into layer_norm": notes["layer_norm gets"],
            "normalised vector into dropout": notes["dropout gets"],
            "output": output}


def draw_ids(*shape: int) -> list[torch.Tensor]:
    """Token, type and position ids, for tables of 9 rows each."""
    return [torch.randint(9, shape) for _ in range(3)]


def tables_of_nine(part, eps: float = 1e-12, dropout: float = 0.0):
    """All tables have 9 rows, so that ids in the wrong table give numbers, not an error."""
    return draw_weights(part.BertEmbeddings(9, 6, 9, 9, eps, dropout))


@check()
def by_hand(part):
    """The rows (1, 2, 3, 4), (0, 0, 1, 1), (1, 0, 0, 1) give (−1.5, −1.5, 0.5, 2.5) / √2.75."""
    module = part.BertEmbeddings(9, 4, 9, 9, 1e-12, 0.0).eval()
    with torch.no_grad():
        for table in (module.word_embeddings, module.position_embeddings,
                      module.token_type_embeddings):
            table.weight.zero_()  # all other rows
        module.word_embeddings.weight[3] = torch.tensor([1.0, 2.0, 3.0, 4.0])
        module.position_embeddings.weight[2] = torch.tensor([0.0, 0.0, 1.0, 1.0])
        module.token_type_embeddings.weight[1] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    return embed(module, torch.tensor([[3]]), torch.tensor([[1]]), torch.tensor([[2]]))


@check()
def own_tables(part):
    """For random ids every step is right: each kind has its own table, position_ids are used."""
    return embed(tables_of_nine(part), *draw_ids(3, 5))


@check()
def any_shape(part):
    """The output is right for a batch of one, a row of (tokens,) and a grid of three dimensions."""
    module = tables_of_nine(part)
    return {f"output for ids of shape {shape}": module(*draw_ids(*shape))
            for shape in ((1, 4), (7,), (2, 3, 2))}


@check()
def eps(part):
    """With a large eps every step is right: LayerNorm is the module's own, with weight and bias."""
    return embed(tables_of_nine(part, eps=2.0), *draw_ids(2, 3))


# 6,000 draws, yours and the library's: their difference has a standard deviation of 0.008
@check(tolerance={"share of numbers that are 0": 0.04})
def dropout(part):
    """Dropout (0.25) comes last: in training it sets that share to 0 and scales up the rest."""
    module, ids = tables_of_nine(part, dropout=0.25), draw_ids(20, 50)
    still, moving = module(*ids), module.train()(*ids)
    kept = moving != 0
    return {"share of numbers that are 0": float((~kept).double().mean()),
            "what is kept, over the same without dropout": (moving / still)[kept][:50]}


@check()
def backward(part):
    """The gradients of every table and of LayerNorm are right."""
    module = tables_of_nine(part)
    return gradients(module(*draw_ids(2, 4)), **dict(module.named_parameters()))


@check(against={"BertEmbeddings": OneHotEmbeddings})
def as_products(part):
    """A lookup gives the same as a product with a one-hot row."""
    return {"output": tables_of_nine(part, eps=1e-3)(*draw_ids(4, 3))}


EXERCISE = Exercise(
    title="embeddings: word, position and type",
    places=("minbert.embeddings:BertEmbeddings",),
    mistakes=(
        ("without the token types.",
         "\n                  + self.token_type_embeddings(token_type_ids))", ")"),
        ("without the positions.",
         "\n                  + self.position_embeddings(position_ids)", ""),
        ("when positions are counted from 1. Use position_ids as they are.",
         "self.position_embeddings(position_ids)",
         "self.position_embeddings((position_ids + 1) % 9)"),
        ("when forward makes the positions itself, with arange. Use position_ids: in a row of "
         "several packed sentences they restart at 0.", "self.position_embeddings(position_ids)",
         "self.position_embeddings(torch.arange(input_ids.shape[1]))"),
        ("when token types and positions are looked up in each other's table.",
         "self.position_embeddings(position_ids)\n"
         "                  + self.token_type_embeddings(token_type_ids)",
         "self.position_embeddings(token_type_ids)\n"
         "                  + self.token_type_embeddings(position_ids)"),
        ("without LayerNorm.", "self.layer_norm(summed)", "summed"),
        ("when LayerNorm gets the word's row alone, and the others are added after it. Add all "
         "three first.", "self.layer_norm(summed)",
         "self.layer_norm(self.word_embeddings(input_ids))\n"
         "                            + self.position_embeddings(position_ids)\n"
         "                            + self.token_type_embeddings(token_type_ids)"),
        ("when dropout is applied to the sum, before LayerNorm. Apply it after LayerNorm.",
         "self.dropout(self.layer_norm(summed))", "self.layer_norm(self.dropout(summed))"),
        ("without dropout.", "self.dropout(self.layer_norm(summed))", "self.layer_norm(summed)"),
        ("when the rows are averaged, not added.",
         "return self.dropout", "summed = summed / 3\n        return self.dropout"),
    ),
    hints=(
        "Three questions about a token: what is it, where does it stand, which sentence is it in? "
        "Each has its own table. How do three vectors become one?",
        "Call each of the three tables with its own ids and add the results. Pass the sum through "
        "self.layer_norm, then through self.dropout.",
        "summed = self.word_embeddings(input_ids) + self.position_embeddings(…) + …; return "
        "self.dropout(self.layer_norm(summed)).",
    ),
)
