"""Surgery under somebody else's trainer: examples/hf_trainer.py and examples/lightning_module.py.

A step is compared with plain autograd, and two processes with one that has the whole batch: each
task's gradient is averaged before surgery. torchrun starts this file as a program for that.
"""

import os
import sys

import hf_trainer
import lightning
import lightning_module
import pytest
import torch
import transformers
from lightning.pytorch.plugins.precision import MixedPrecision
from programs import ROOT, python
from test_10_training import EXAMPLES, build, flat, without_head_dropout
from torch.testing import assert_close

from multitask.data.examples import Example
from optim import project_conflicting

# transformers and Lightning warn of one another's and torch's deprecations
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("empty_folder")]

LR, SEED = 0.1, 7
ROWS = hf_trainer.rows_of(EXAMPLES)[:4]


def hf_model() -> hf_trainer.OneEncoder:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=80, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return hf_trainer.OneEncoder(transformers.BertModel(config))


def by_hf(model, batch: int, epochs: int = 1, scaler=None, **settings) -> torch.nn.Module:
    """The model after some passes over ROWS with plain gradient descent."""
    arguments = transformers.TrainingArguments(
        "out", num_train_epochs=epochs, per_device_train_batch_size=batch, seed=SEED, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, remove_unused_columns=False,
        dataloader_pin_memory=False, **{"max_grad_norm": 0.0, **settings})
    optimizer = torch.optim.SGD(model.parameters(), LR)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    tokenizer = build().tokenizer
    trainer = hf_trainer.MultitaskTrainer(
        model, arguments, train_dataset=ROWS, optimizers=(optimizer, schedule),
        data_collator=lambda rows: hf_trainer.collate(tokenizer, rows))
    trainer.accelerator.scaler = scaler  # accelerate makes one with CUDA only
    trainer.train()
    return model


class WithSgd(lightning_module.MultitaskModule):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), LR)


def lightning_model():
    return without_head_dropout(build())


def by_lightning(model, batch: int, epochs: int = 1, scaler=None, clip=1e9, method="pcgrad",
                 **settings) -> torch.nn.Module:
    if scaler is not None:
        settings["plugins"] = MixedPrecision("16-mixed", "cpu", scaler)
    tokens = {name: model.tokenize([row[name] for row in ROWS]) for name in ROWS[0]}
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, logger=False,
                                enable_checkpointing=False, enable_progress_bar=False,
                                enable_model_summary=False, **settings)
    trainer.fit(WithSgd(model, method=method, clip=clip, seed=SEED),
                lightning_module.loader(tokens, batch))
    return model


def hf_losses(model, rows):
    batch = hf_trainer.collate(build().tokenizer, rows)
    return [model(task, **inputs) for task, inputs in batch.items()]


def lightning_losses(model, rows):
    batches = {name: model.tokenize([row[name] for row in rows]).batch(range(len(rows)))
               for name in rows[0]}
    return [model.tasks[name].loss(model(name, batch), batch.labels)
            for name, batch in batches.items()]


ADAPTERS = {"hf": (hf_model, by_hf, hf_losses),
            "lightning": (lightning_model, by_lightning, lightning_losses)}


def gradients(model, losses, generator):
    """PCGrad's of the encoder and the sum's of the heads, by plain autograd."""
    encoder, heads = list(model.encoder.parameters()), list(model.heads.parameters())
    rows = [torch.autograd.grad(loss, encoder, retain_graph=True, materialize_grads=True)
            for loss in losses]
    matrix = torch.stack([flat(row) for row in rows])
    return torch.cat([project_conflicting(matrix, generator=generator),
                      flat(torch.autograd.grad(sum(losses), heads))])


def movement(model, before) -> torch.Tensor:
    """The gradient by which descent has moved the model, encoder first."""
    after = flat([*model.encoder.parameters(), *model.heads.parameters()])
    return (flat([*before.encoder.parameters(), *before.heads.parameters()]) - after) / LR


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_steps(adapter):
    """They descend along surgery of the encoder's gradients and the plain sum of the heads'."""
    make, train, losses = ADAPTERS[adapter]
    before, model, reference = make(), train(make(), batch=4, epochs=2), make().train()
    generator = torch.Generator().manual_seed(SEED)
    values = [*reference.encoder.parameters(), *reference.heads.parameters()]
    removed = []
    for _ in range(2):
        step = gradients(reference, losses(reference, ROWS), generator)
        loss = sum(losses(reference, ROWS))
        plain = flat(torch.autograd.grad(loss, values, materialize_grads=True))
        removed.append((step - plain).norm() / plain.norm())
        torch.nn.utils.vector_to_parameters(flat(values).detach() - LR * step, values)
    assert max(removed) > 0.01  # surgery had something to do
    assert_close(movement(model, before), movement(reference, before), rtol=1e-3, atol=1e-4)


def test_hf_accumulation():
    """Two micro-batches add up to the mean of their combined gradients."""
    before = hf_model()
    model = by_hf(hf_model(), batch=2, gradient_accumulation_steps=2,
                  train_sampling_strategy="sequential")
    generator = torch.Generator().manual_seed(SEED)
    expected = sum(gradients(before, [loss / 2 for loss in hf_losses(before, half)], generator)
                   for half in (ROWS[:2], ROWS[2:]))
    assert_close(movement(model, before), expected, rtol=1e-3, atol=1e-5)


def test_hf_cuts_long_inputs():
    """Sentences and pairs are cut to the length that the model has positions for."""
    row = {"sst": Example("1", ("a film " * 40,), 1.0),
           "para": Example("1", ("a film " * 40, "no"), 1.0)}
    for inputs in hf_trainer.collate(build().tokenizer, [row], 32).values():
        assert inputs["input_ids"].shape == (1, 32)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_scaler(adapter):
    """Scaled losses make the unscaled step, and an overflow skips it."""
    make, train, losses = ADAPTERS[adapter]
    before = make().train()
    model = train(make(), batch=4, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    expected = gradients(before, losses(before, ROWS), torch.Generator().manual_seed(SEED))
    step = movement(model, before)
    # Lightning computes in float16, which has 11 bits
    assert (step - expected).norm() < 0.02 * expected.norm()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    assert not movement(train(make(), batch=4, scaler=scaler), before).any()
    assert scaler.get_scale() == 2.0**126


def test_lightning_clips_after_unscaling():
    scaler, before = torch.amp.GradScaler("cpu", init_scale=1024.0), lightning_model()
    model = by_lightning(lightning_model(), batch=4, scaler=scaler, clip=0.1)
    assert movement(model, before).norm().item() == pytest.approx(0.1, rel=1e-3)


def test_lightning_tells_the_scale():
    """A method that looks at lengths sees the unscaled gradients."""
    before = lightning_model()
    plain, scaled = (
        movement(by_lightning(lightning_model(), batch=4, method="normalised",
                              scaler=torch.amp.GradScaler("cpu", init_scale=scale)), before)
        for scale in (1.0, 1024.0))
    assert (scaled - plain).norm() < 0.02 * plain.norm()  # float16 has 11 bits


def test_hf_bfloat16():
    """The Trainer's autocast reaches the unwrapped model."""
    before, model = hf_model(), by_hf(hf_model(), batch=4, bf16=True)
    expected = gradients(before, hf_losses(before, ROWS), torch.Generator().manual_seed(SEED))
    error = (movement(model, before) - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.1  # 8 bits


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_two_processes(adapter, tmp_path):
    """Two halves of every task's batch make the steps of the whole batch."""
    paths = [ROOT, ROOT / "examples", ROOT / "tests", ROOT / "tests" / "lessons"]
    done = python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__,
                  adapter, folder=tmp_path, PYTHONPATH=os.pathsep.join(map(str, paths)),
                  OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)

    make, train, _ = ADAPTERS[adapter]
    before, model = make(), train(make(), batch=4, epochs=3)
    # 3 steps in float32, sums in another order
    assert_close(first, movement(model, before), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    make, train, _ = ADAPTERS[sys.argv[1]]
    settings = {"ddp_backend": "gloo"} if sys.argv[1] == "hf" else {"devices": 2, "strategy": "ddp"}
    model = train(make(), batch=2, epochs=3, **settings)
    torch.save(movement(model, make()), f"{os.environ['RANK']}.pt")
