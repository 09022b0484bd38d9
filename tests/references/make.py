"""Writes bert.json, what transformers' BertModel gives for weights that a formula makes, and checkpoint/, the weights.

    python tests/references/make.py

Stored so that the lessons have a reference that does not change when transformers does; the version
that made it stands in the file. Weights: tensor number n (in the model's own order) holds 0.6 ·
sin(0.7 n + 0.37 k) at flat position k, LayerNorm's scales 1 more.
"""

import json
from pathlib import Path

import torch
import transformers

SHAPE = {"vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
         "max_position_embeddings": 8, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
INPUTS = {"input_ids": [[2, 7, 3, 9, 3], [2, 5, 3, 0, 0]], "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
          "token_type_ids": [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]}


def formula(number: int, name: str, shape: torch.Size) -> torch.Tensor:
    flat = torch.arange(shape.numel(), dtype=torch.float64)
    values = 0.6 * torch.sin(0.7 * number + 0.37 * flat) + (1.0 if name.endswith("LayerNorm.weight") else 0.0)
    return values.view(shape)


def main() -> None:
    model = transformers.BertModel(transformers.BertConfig(**SHAPE, attn_implementation="eager")).double().eval()
    for number, (name, value) in enumerate(model.named_parameters()):
        value.data.copy_(formula(number, name, value.shape))
    with torch.no_grad():
        out = model(**{name: torch.tensor(rows) for name, rows in INPUTS.items()}, output_hidden_states=True,
                    output_attentions=True)
    stored = {"made_by": f"transformers {transformers.__version__}", "shape": SHAPE, "inputs": INPUTS,
              "parameters": [name for name, _ in model.named_parameters()],
              "hidden_states": [states.tolist() for states in out.hidden_states],
              "attentions": [weights.tolist() for weights in out.attentions],
              "pooler_output": out.pooler_output.tolist()}
    here = Path(__file__).parent
    (here / "bert.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    model.float().save_pretrained(here / "checkpoint")


if __name__ == "__main__":
    main()
