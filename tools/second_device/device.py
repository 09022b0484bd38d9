"""Registers the second device, `fake`, with what torch.cuda has: attention kernels and graphs.

A graph is a list of the operations that were called. Recording computes nothing that counts: what
it leaves is NaN. A replay calls the operations again, into the tensors of the recording, and makes
NaN of what other graphs left in the same pool.
"""

import contextlib
import os
import types
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.cpp_extension import load

BUILD = Path(os.environ["SECOND_DEVICE_BUILD"])
NAME = "fake"

device = load("second_device", [str(Path(__file__).with_name("device.cpp"))],
              build_directory=str(BUILD))
device.register()
device.set_has_float64(os.environ["SECOND_DEVICE_LIKE"] == "cuda")
torch.utils.rename_privateuse1_backend(NAME)


def tensors(values: object) -> list[torch.Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def spoil(found: list[torch.Tensor]) -> None:
    for tensor in found:
        if tensor.is_floating_point():
            device.as_cpu(tensor).fill_(float("nan"))


# ------------------------------------------------------------------------------------------- graphs


class Graph:
    """Stands in for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls, self.made = [], []

    @torch.no_grad()
    def replay(self) -> None:
        for other in pools[self.pool]:
            if other is not self:
                spoil(other.made)
        for operation, args, kwargs, results in self.calls:
            device.set_recording(True)  # so that it may not wait for the device now either
            try:
                again = operation(*args, **kwargs)
            finally:
                device.set_recording(False)
            for result, value in zip(tensors(results), tensors(again), strict=True):
                if result.data_ptr() != value.data_ptr():
                    device.as_cpu(result).copy_(device.as_cpu(value))


pools: dict[object, WeakSet[Graph]] = defaultdict(WeakSet)


class Recorder(TorchDispatchMode):
    """Writes down every operation, in backward too."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = tensors((args, kwargs))
        results = operation(*args, **(kwargs or {}))
        for tensor in given + tensors(results):
            if tensor.device.type == "cpu" and tensor.dim() > 0:
                raise RuntimeError(f"capturing: a tensor of the CPU in {operation}")

        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.graph.made += [tensor.detach() for tensor in tensors(results)
                            if tensor.untyped_storage().data_ptr() not in storages]
        call = tree_map(lambda each: each.detach() if isinstance(each, torch.Tensor) else each,
                        (args, kwargs or {}, results))
        self.graph.calls.append((operation, *call))
        return results


@contextlib.contextmanager
def recorded(graph: Graph, pool: object = None):
    """Stands in for torch.cuda.graph."""
    if pool in pools and not pools[pool]:
        raise RuntimeError("a pool whose graphs are all gone takes no more")
    random, graph.pool = torch.get_rng_state(), pool
    with Recorder(graph):
        device.set_recording(True)
        try:
            yield
        finally:
            device.set_recording(False)
    torch.set_rng_state(random)
    spoil(graph.made)
    pools[pool].add(graph)


# ---------------------------------------------------------------------------------------- attention


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return device.as_cpu(tensor.detach()).float()


def back(values: torch.Tensor, like: torch.Tensor, dtype: torch.dtype | None = None):
    place = torch.empty(values.shape, dtype=dtype or like.dtype, device=NAME)
    device.as_cpu(place).copy_(values)
    return place


def weights_of(query, key, bounds, dropout, seed):
    """For each sequence: its place, (heads, seq, seq) weights before dropout, and what is kept."""
    generator = torch.Generator().manual_seed(int(seed))
    for start, end in pairwise(device.as_cpu(bounds).tolist()):
        queries, keys = (each[start:end].transpose(0, 1) for each in (query, key))
        weights = (queries @ keys.transpose(1, 2) / query.shape[-1]**0.5).softmax(-1)
        kept = torch.ones_like(weights)
        if dropout:
            kept = (torch.rand(weights.shape, generator=generator) >= dropout) / (1 - dropout)
        yield slice(start, end), weights, kept


def attend(query, key, value, bounds, dropout):
    """→ (tokens, heads, head_dim), the seed; what belongs to no sequence is NaN."""
    assert (bounds.dtype, bounds.device.type) == (torch.int32, NAME)
    seed = torch.randint(1 << 30, ()) if dropout else torch.zeros((), dtype=torch.int64)
    values, out = on_cpu(value), torch.full(query.shape, float("nan"))
    for place, weights, kept in weights_of(on_cpu(query), on_cpu(key), bounds, dropout, seed):
        out[place] = (weights * kept @ values[place].transpose(0, 1)).transpose(0, 1)
    return back(out, query), back(seed, query, torch.int64)


def attend_backward(d_out, query, key, value, bounds, dropout, seed):
    query, key, value, d_rows = (on_cpu(each) for each in (query, key, value, d_out))
    gradients = [torch.full(query.shape, float("nan")) for _ in range(3)]
    seed = device.as_cpu(seed)
    for place, weights, kept in weights_of(query, key, bounds, dropout, seed):
        queries, keys, values, d_context = (each[place].transpose(0, 1)
                                            for each in (query, key, value, d_rows))
        d_weights = d_context @ values.transpose(1, 2) * kept
        d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
        d_scores /= query.shape[-1]**0.5
        parts = (d_scores @ keys, d_scores.transpose(1, 2) @ queries,
                 (weights * kept).transpose(1, 2) @ d_context)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient[place] = part.transpose(0, 1)
    return [back(gradient, d_out) for gradient in gradients]


def flash(query, key, value, bounds, _, longest, __, dropout, is_causal, *rest, **settings):
    assert query.dtype in (torch.float16, torch.bfloat16)
    out, seed = attend(query, key, value, bounds, dropout)
    nothing = torch.empty(0, device=NAME)
    return out, nothing, seed, nothing, nothing


def flash_backward(d_out, query, key, value, out, _, bounds, __, longest, ___, dropout, is_causal,
                   seed, *rest, **settings):
    return tuple(attend_backward(d_out, query, key, value, bounds, dropout, seed))


def efficient(query, key, value, bias, bounds, _, longest, __, dropout, *rest, **settings):
    assert query.dtype != torch.float64
    out, seed = attend(query[0], key[0], value[0], bounds, dropout)
    return out[None], torch.empty(0, device=NAME), seed, seed, longest, longest


def efficient_backward(d_out, query, key, value, bias, out, bounds, _, longest, __, ___, dropout,
                       seed, *rest, **settings):
    gradients = attend_backward(d_out[0], query[0], key[0], value[0], bounds, dropout, seed)
    return (*(gradient[None] for gradient in gradients), torch.empty(0, device=NAME))


kernels = torch.library.Library("aten", "IMPL")
for name, kernel in (("flash", flash), ("efficient", efficient)):
    kernels.impl(f"_{name}_attention_forward", kernel, "PrivateUse1")
for name, kernel in (("flash", flash_backward), ("efficient", efficient_backward)):
    kernels.impl(f"_{name}_attention_backward", kernel, "PrivateUse1")


# ---------------------------------------------------------------------------------- like torch.cuda


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass


module = types.ModuleType(f"torch.{NAME}")
vars(module).update(
    is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
    _is_in_bad_fork=lambda: False, manual_seed_all=lambda seed: None,
    get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    get_rng_state=lambda: torch.get_rng_state(), set_rng_state=lambda to: torch.set_rng_state(to),
    get_device_capability=lambda place=None: (9, 0), get_device_name=lambda place=None: "fake",
    set_device=lambda place: None, OutOfMemoryError=torch.cuda.OutOfMemoryError,
    Stream=Stream, current_stream=Stream, stream=lambda stream: contextlib.nullcontext(),
    CUDAGraph=Graph, graph=recorded, graph_pool_handle=object)
torch._register_device_module(NAME, module)
torch.backends.cuda.is_flash_attention_available = lambda: True
