"""Edit an equation in the book, and the program follows.

Each edit is made in a copy of the packages' source. A step of the real trainer with the fast forms
must then give what the same edit gives with MINBERT_PLAIN=1, and something else than before the
edit.
"""

import gc
import importlib
import shutil
import sys
import warnings
import weakref
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from programs import ROOT
from test_accelerator import needs_cuda
from torch import nn
from torch.utils.checkpoint import checkpoint

import minbert.attention
import optim.fast
from minbert import BertConfig, BertModel, fast
from minbert.fast import check
from optim.adamw import adamw_update

PACKAGES = ("minbert", "optim", "heads", "multitask")
LESSON = ("test_10_training", "oracle", "plain_step")  # they import from the packages

# name → file, pairs of (old, new), and settings of the run that shows it
EDITS = {
    "no residual": ("minbert/layer.py", [
        ("attention_layer_norm(hidden_states + self.dropout(attended))",
         "attention_layer_norm(self.dropout(attended))")], {}),
    "pre-norm": ("minbert/layer.py", [
        ("self.self_attention(hidden_states, mask)",
         "self.self_attention(self.attention_layer_norm(hidden_states), mask)"),
        ("self.attention_layer_norm(hidden_states + self.dropout(attended))",
         "hidden_states + self.dropout(attended)")], {}),
    "layer norm eps": ("minbert/layer.py", [("eps=layer_norm_eps", "eps=0.1")], {}),
    "no attention_dense": ("minbert/layer.py", [
        ("self.attention_dense(self.self_attention(hidden_states, mask))",
         "self.self_attention(hidden_states, mask)")], {}),
    "dropout after the sum": ("minbert/layer.py", [
        ("hidden_states + self.dropout(output)", "self.dropout(hidden_states + output)")],
        {"dropout": 0.3}),
    "gelu is silu": ("minbert/activations.py", [("return F.gelu(x)\n", "return F.silu(x)\n")], {}),
    "no root of d": ("minbert/attention.py", [(" / math.sqrt(head_dim)", "")], {}),
    "mask ignored": ("minbert/attention.py", [("if mask is not None:", "if False:")], {}),
    "dropout on values": ("minbert/attention.py", [
        ("F.dropout(weights, dropout) @ value", "weights @ F.dropout(value, dropout)")],
        {"dropout": 0.3}),
    "no token types": ("minbert/embeddings.py", [
        ("\n                  + self.token_type_embeddings(token_type_ids))",
         " + 0 * self.token_type_embeddings(token_type_ids))")], {}),
    "pooler of the mean": ("minbert/model.py", [
        ("out = BertOutput(hidden_states, self.pool(hidden_states[:, 0]))",
         "out = BertOutput(hidden_states, self.pool(hidden_states.mean(1)))")], {}),
    "pooler without tanh": ("minbert/model.py", [
        ("torch.tanh(self.pooler_dense(cls_states))", "self.pooler_dense(cls_states)")], {}),
    "layers twice": ("minbert/model.py", [
        ("hidden_states = layer(hidden_states, mask)",
         "hidden_states = layer(layer(hidden_states, mask), mask)")], {}),
    "no bias correction": ("optim/adamw.py", [
        ("lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) if correct_bias else lr", "lr")], {}),
    "decay before the step": ("optim/adamw.py", [
        ("change - decay * (theta + change)", "change - decay * theta")], {"weight_decay": 90.0}),
    "eps inside the root": ("optim/adamw.py", [("(v.sqrt() + eps)", "(v + eps).sqrt()")], {}),
    "projected on projected": ("optim/surgery.py", [
        ("product = mixture[i] @ K[:, j] ", "product = mixture[i] @ K @ mixture[j] "),
        ("mixture[i, j] -= product / K[j, j] ",
         "mixture[i] -= product / (mixture[j] @ K @ mixture[j]) * mixture[j] ")], {}),
    "pcgrad by the mean": ("optim/surgery.py", [("mixture.sum(0)", "mixture.mean(0)")], {}),
    "eq. 2 on conflict only": ("optim/surgery.py", [
        ("crossed = K.sum(0) - squares", "crossed = K.clamp(max=0).sum(0)")], {"surgery": "paper"}),
    "head dropout": ("heads/layers.py", [("FIRST_DROPOUT = 0.3", "FIRST_DROPOUT = 0.6")],
                     {"has_head_dropout": True}),
}
# What the fast forms replace. They would not follow, so a warning says that they do not agree.
REPLACED = {"no residual", "pre-norm", "no attention_dense", "dropout after the sum",
            "gelu is silu", "no root of d", "mask ignored", "dropout on values", "layers twice",
            "pooler of the mean", "no bias correction", "decay before the step",
            "eps inside the root"}


@contextmanager
def packages_of(folder: Path):
    """Inside, the packages are imported afresh from this folder, and so is lesson 10."""
    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in PACKAGES + LESSON]

    before = {name: sys.modules.pop(name) for name in ours()}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture
def copy_of_source(tmp_path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package,
                        ignore=shutil.ignore_patterns("__pycache__", "mini", "*.xz", "*.zip"))
    return tmp_path


def edit(folder: Path, name: str) -> dict:
    """Make the edit in this copy; return the settings that show it."""
    file, replacements, settings = EDITS[name]
    path = folder / file
    text = path.read_text(encoding="utf-8")
    for old, new in replacements:
        assert old in text, f"{file} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return settings


def two_steps(place: str = "cpu", dropout: float = 0.0, weight_decay: float = 0.1,
              surgery: str = "pcgrad", has_head_dropout: bool = False) -> torch.Tensor:
    """All weights after two steps of the real trainer on three tasks."""
    from test_10_training import batches, build, without_head_dropout

    from multitask.training.step import SurgeryTrainer

    # Rows are filled up, on a GPU in graphs, where there are positions for it. Heads would draw
    # other dropout then.
    model = build(dropout=dropout, positions=32 if has_head_dropout else 128).to(place)
    if not has_head_dropout:
        without_head_dropout(model)
    trainer = SurgeryTrainer(model, surgery, lr=1e-3, weight_decay=weight_decay, seed=5)
    for _ in range(2):
        trainer.step(batches(model))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()


def two_steps_of(folder: Path, settings: dict) -> tuple[torch.Tensor, list[str]]:
    """`two_steps` with the packages in a folder, and the warnings that it gave."""
    with packages_of(folder), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return two_steps(**settings), [str(warning.message) for warning in caught]


@cache
def unedited_steps(**settings: object) -> torch.Tensor:
    """Those of the packages as they are, with the fast forms and without a warning."""
    steps, told = two_steps_of(ROOT, settings)
    assert told == []
    return steps


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_takes_effect(name, place, copy_of_source, monkeypatch):
    settings = {"place": place, **edit(copy_of_source, name)}
    monkeypatch.setenv("MINBERT_PLAIN", "0")
    unedited = unedited_steps(**settings)
    followed, told = two_steps_of(copy_of_source, settings)
    monkeypatch.setenv("MINBERT_PLAIN", "1")
    plain, _ = two_steps_of(copy_of_source, settings)

    # Adam's steps are lr · sign(g): where |g| is near eps = 1e-6, float32 noise shows in them.
    torch.testing.assert_close(followed, plain, atol=2e-5, rtol=0)
    assert (followed - unedited).abs().max() > 1e-4
    assert len(told) == (name in REPLACED), told


def test_an_edit_that_both_forms_follow(copy_of_source, monkeypatch):
    """RMSNorm in place of LayerNorm: no warning, since every part is called."""
    path = copy_of_source / "minbert/layer.py"
    path.write_text(path.read_text().replace("nn.LayerNorm(", "nn.RMSNorm("))
    monkeypatch.setenv("MINBERT_PLAIN", "0")
    followed, told = two_steps_of(copy_of_source, {})
    assert told == []
    monkeypatch.setenv("MINBERT_PLAIN", "1")
    torch.testing.assert_close(followed, two_steps_of(copy_of_source, {})[0], atol=2e-5, rtol=0)


def test_a_wrong_derivative_is_not_used(copy_of_source, monkeypatch):
    """An activation with another's derivative: the plain form's gradients, and a warning."""
    path = copy_of_source / "minbert/activations.py"
    path.write_text(path.read_text().replace("torch.ops.aten.gelu_backward(d_y, x)\n",
                                             "2 * torch.ops.aten.gelu_backward(d_y, x)\n", 1))
    monkeypatch.setenv("MINBERT_PLAIN", "0")
    followed, [told] = two_steps_of(copy_of_source, {})
    torch.testing.assert_close(followed, unedited_steps(), atol=2e-5, rtol=0)
    assert "model.py) and minbert/fast/layer.py do not agree: " in told
    assert "the gradients of" in told


BOOK = minbert.attention.attention


def scaled_by(factor):
    return lambda *given: factor * BOOK(*given)


@pytest.mark.parametrize(("right", "wrong"), [
    (lambda *given: BOOK(*given), lambda query, key, value, *_: value),
    (scaled_by(1.0), scaled_by(2.0)),                    # they have one code object
    (partial(scaled_by(1.0)), partial(scaled_by(2.0))),  # they have none
], ids=["functions", "closures", "partials"])
def test_a_function_replaced_in_a_notebook_is_noticed(right, wrong, tiny_model, monkeypatch):
    ids = torch.randint(20, (2, 5))
    monkeypatch.setattr(minbert.attention, "attention", right)
    before = tiny_model(ids).pooler_output
    assert fast.applies(tiny_model)

    monkeypatch.setattr(minbert.attention, "attention", wrong)
    with pytest.warns(UserWarning, match=r"do not agree: the outputs differ by .* with --plain"):
        after = tiny_model(ids).pooler_output
    assert (after - before).abs().max() > 1e-4


def test_the_model_itself_is_compared(monkeypatch):
    """The tiny model has eight positions, so a window of nine tokens changes nothing there."""
    def windowed(query, key, mask):
        scores = query @ key.transpose(-1, -2) / query.shape[-1]**0.5
        near = torch.ones(key.shape[-2], key.shape[-2]).tril(8).triu(-8).bool()
        return scores.masked_fill(~(near & mask[:, None, None]), -1e30).softmax(-1)

    torch.manual_seed(0)
    model = BertModel(BertConfig(50, 24, 3, 2, 32, max_position_embeddings=40)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5)
    ids = torch.randint(50, (2, 40))
    before = model(ids).last_hidden_state
    monkeypatch.setattr(minbert.attention, "attention_weights", windowed)
    with pytest.warns(UserWarning, match="do not agree: the outputs of this model differ by"):
        after = model(ids).last_hidden_state
    assert (after - before).abs().max() > 0.01
    monkeypatch.setenv("MINBERT_PLAIN", "1")
    torch.testing.assert_close(model(ids).last_hidden_state, after)


def test_a_compared_model_is_freed(tiny_config):
    model = BertModel(tiny_config)
    assert fast.applies(model)
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None


def test_cut_tables(tiny_model):
    """A vocabulary may be cut without a change of the configuration."""
    tiny_model.embeddings.word_embeddings = nn.Embedding(20, tiny_model.config.hidden_size)
    tiny_model.embeddings.position_embeddings = nn.Embedding(4, tiny_model.config.hidden_size)
    assert fast.applies(tiny_model)


def test_a_part_replaced_later(tiny_model):
    """One that looks beyond its token needs the padded batch."""
    class WithMean(nn.Linear):
        def forward(self, x):
            return super().forward(x + x.mean(-2, keepdim=True))

    assert fast.applies(tiny_model)
    dense = tiny_model.layers[0].intermediate_dense
    tiny_model.layers[0].intermediate_dense = WithMean(dense.in_features, dense.out_features)
    tiny_model.layers[0].intermediate_dense.weight.data.normal_()
    with pytest.warns(UserWarning, match="do not agree: the outputs of this model differ by"):
        assert not fast.applies(tiny_model)


@pytest.mark.filterwarnings("ignore:.*do not agree")
def test_replaced_code_is_kept(tiny_model, monkeypatch):
    """Else its id could become that of a later edit, which would not be compared."""
    monkeypatch.setattr(minbert.attention, "attention", eval("lambda query, *_: query"))
    code = weakref.ref(minbert.attention.attention.__code__)
    assert not fast.applies(tiny_model)
    monkeypatch.undo()
    gc.collect()
    assert code() is not None


def test_comparing_draws_nothing(tiny_model):
    """The comparison at first use leaves torch's generator as it was."""
    before = torch.get_rng_state()
    check._references.clear()
    assert fast.applies(tiny_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_first_use_in_a_checkpoint(tiny_model):
    """What the comparison saves for its own backward is not the checkpoint's."""
    check._references.clear()
    ids = torch.randint(20, (2, 5))
    out = checkpoint(lambda ids: tiny_model(ids).pooler_output, ids, use_reentrant=False)
    out.sum().backward()
    assert fast.applies(tiny_model)


def test_default_device(tiny_model, monkeypatch):
    """The fast forms are compared and run on the CPU where torch's default device is another."""
    monkeypatch.setattr(check, "_references", {})
    monkeypatch.setattr(optim.fast, "_checked", {})
    ids, mask = torch.randint(20, (2, 5)), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    optimizer = optim.AdamW(tiny_model.train().parameters())
    with torch.device("meta"):
        tiny_model(ids, mask).pooler_output.sum().backward()
        optimizer.step()
        assert fast.applies(tiny_model)
        assert optim.fast.fused_adamw_applies(adamw_update)


@pytest.mark.parametrize("change", [
    lambda g, t: g.clamp(-1, 1),
    lambda g, t: g - g.mean(1, keepdim=True) if g.dim() > 1 else g,
    lambda g, t: g if t < 3 else 0 * g,
])
def test_updates_that_differ_rarely(change):
    """For large gradients, for matrices, or after some steps."""
    def update(theta, g, m, v, t, **options):
        adamw_update(theta, change(g, t), m, v, t, **options)

    with pytest.warns(UserWarning, match="optim/fast.py do not agree"):
        assert not optim.fast.fused_adamw_applies(update)


def test_a_failed_comparison_is_one_line(tiny_model, monkeypatch):
    def difference(tiny, device):
        raise ValueError("one line\nand another")

    monkeypatch.setattr(check, "_references", {})
    monkeypatch.setattr(check, "difference", difference)
    with pytest.warns(UserWarning, match="do not agree: ValueError: one line and another. If you"):
        tiny_model(torch.tensor([[1, 2]]))
