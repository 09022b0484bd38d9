"""benchmarks/growth.py: what it calls the floor is what a step cannot do without, counted by torch itself."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minbert import BertConfig
from multitask.data.batching import MicroBatches
from multitask.tasks import TASKS


@pytest.fixture
def growth(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import growth

    return growth


def added_product_flop(_, a: tuple, b: tuple, out_shape: object = None, **kwargs: object) -> int:
    """torch counts addmm, but not its form in place."""
    return 2 * a[0] * a[1] * b[1]


def test_the_floor_counts_the_products_that_torch_counts(growth, monkeypatch, tiny_config):
    """Equal to the last operation, but for the heads: 6 · hidden · outputs a sequence, which the floor leaves out."""
    monkeypatch.setattr("minbert.fast.linear._HAS_ONEDNN", False)  # torch does not count oneDNN's products
    monkeypatch.setattr("minbert.fast.blocks.WIDTH", 1)  # no padding inside a block of one length
    trainer = growth.random_trainer(tiny_config, "fp32")
    lengths = {"sst": [7, 7, 7], "para": [20, 20], "sts": [1, 10, 10]}  # no two alike but equal
    generator = np.random.default_rng(0)
    batches = {name: growth.random_batch(lengths[name], tiny_config, generator) for name in TASKS}
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product_flop}) as counter:
        trainer._backward([MicroBatches([batch], len(batch.labels)) for batch in batches.values()])
    heads = sum(6 * tiny_config.hidden_size * task.outputs * len(lengths[name]) for name, task in TASKS.items())
    assert sum(growth.training_flop(tiny_config, row) for row in lengths.values()) + heads == counter.get_total_flops()


def test_every_point_stands_beside_its_floor(growth, monkeypatch, tmp_path, capsys):
    tiny = BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40)
    for name, value in {"SMALL_SHAPE": tiny, "BASE_SHAPE": tiny, "PARAMS": 1000, "SQUARE": 8, "SEQUENCES": (1, 2),
                        "LENGTHS": (16, 32), "TOKENS_EACH": 32}.items():
        monkeypatch.setattr(growth, name, value)
    threads = torch.get_num_threads()
    monkeypatch.setattr("sys.argv", ["growth.py", "--threads", str(threads), "--repeat", "1", "--plot",
                                     str(tmp_path / "growth.svg"), "--json", str(tmp_path / "growth.json")])
    growth.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 4 * 2 + 2 + 2 + growth.ROWS + 2  # four tables' heads, and their points
    assert "tokens a sequence" in (tmp_path / "growth.svg").read_text(encoding="utf-8")
    assert (tmp_path / "growth.json").read_text(encoding="utf-8").count('"floor_ms"') == 2 + 2 + growth.ROWS + 2
