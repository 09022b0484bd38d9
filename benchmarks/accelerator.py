"""A step, dev evaluation and encode on a GPU, ours against the usual stack.

    python benchmarks/accelerator.py [--repeat 7] [--data FOLDER]

The usual stack is that of benchmarks/step.py, with its batches sent to the GPU as padded grids.
Encoders of two sizes with random weights, dropout on; 20 batches of 3 × 16 examples, both sides the
same ones, in turn, in one process. A number is a median of milliseconds between two moments at
which the GPU was done. Peak memory is what torch had allocated at most, each side alone. The share
of the peak counts 6 operations per weight and token (2 forward, 4 backward) of all layers, and
those of attention, against a product of two 8192 × 8192 matrices in bf16 in the same run.
"""

import argparse
import copy
import gc
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from step import Usual, data_folder, encode, sentences, training_batches
from torch import nn
from torchjd.aggregation import PCGrad

from minbert import BertConfig, BertModel, BertTokenizer
from multitask import MultitaskBert
from multitask.data.batching import Batch
from multitask.data.examples import file_of, read_examples
from multitask.tasks import TASKS
from multitask.training.step import SurgeryTrainer
from optim import AdamW, FlatParameters, TaskGradients, pcgrad_weights, project_conflicting

CUDA, BATCHES, LR = torch.device("cuda"), 20, 5e-5
SHAPES = {  # name → layers, hidden, heads
    "22.7 M": (6, 384, 12),
    "bert-base": (12, 768, 12),
}


def usual_stack(model: MultitaskBert) -> Usual:
    """With random weights, on the GPU."""
    config = {name: value for name, value in model.encoder.config.to_dict().items()
              if name != "model_type"}
    config = transformers.BertConfig(**config, attn_implementation="sdpa")
    return Usual(model, transformers.BertModel(config))


def milliseconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def compare(title: str, ours: Callable[[], object], usual: Callable[[], object], repeat: int,
            units: int = 1, by_hand: Callable[[], object] | None = None) -> tuple[float, float]:
    """Runs each way in turn, prints a line, and returns the medians of ours and theirs.

    units: how many units of work one call does. by_hand: ours without graphs, where that is
        another way.
    """
    ways = {"ours": ours, "by hand": by_hand, "usual": usual}
    rounds = [{name: milliseconds(way) / units for name, way in ways.items() if way}
              for _ in range(repeat + 2)][2:]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    told = [f"{medians[name]:,.2f}" if name in medians else "–" for name in ways]
    told += [f"{medians[name] / medians['ours']:.2f}" if name in medians else "–"
             for name in ("by hand", "usual")]
    print(f"| {title} | {' | '.join(told)} |", flush=True)
    return medians["ours"], medians["usual"]


def build(shape: str, tokenizer: BertTokenizer, precision: str) -> MultitaskBert:
    layers, hidden, heads = SHAPES[shape]
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30522, hidden_size=hidden, num_hidden_layers=layers,
                        num_attention_heads=heads, intermediate_size=4 * hidden)
    model = MultitaskBert(BertModel(config), tokenizer, "concatB", precision).to(CUDA)
    return model.train()


def peak_memory(make: Callable[[], Callable[[dict[str, Batch]], object]],
                batches: list[dict[str, Batch]]) -> float:
    """Memory in MB of a model, of what trains it, and of steps that record graphs.

    make: makes both, returns the step.
    """
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step = make()
    for batch in batches:
        step(batch)
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def seconds_of(work: Callable[[], object]) -> float:
    """The median of ten calls, after three."""
    return statistics.median([milliseconds(work) for _ in range(13)][3:]) / 1e3


def matrix_peak() -> float:
    """Operations per second of a large bf16 product."""
    a, b = (torch.randn(8192, 8192, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds_of(lambda: a @ b)


def copy_rate() -> float:
    """Bytes per second, read and written."""
    a = torch.randn(1 << 28, device=CUDA)
    b = torch.empty_like(a)
    return 2 * a.nbytes / seconds_of(lambda: b.copy_(a))


def operations(model: MultitaskBert, batches: list[dict[str, Batch]]) -> float:
    """Of a step, on the average: of the layers' weights and of attention, on real tokens only."""
    config = model.encoder.config
    weights = sum(value.numel() for value in model.encoder.layers.parameters() if value.dim() > 1)
    lengths = torch.cat([batch.packing.lengths for step in batches
                         for batch in step.values()]).double()
    attention = 4 * config.hidden_size * config.num_hidden_layers * (lengths**2).sum()
    return float(6 * weights * lengths.sum() + 3 * attention) / len(batches)


def steps(shape: str, arguments: argparse.Namespace, tokenizer: BertTokenizer, peak: float) -> None:
    folder = data_folder(arguments.data)
    for precision in ("bf16", "fp32"):
        model = build(shape, tokenizer, precision)
        batches = training_batches(model, folder, BATCHES)
        usual, ours = usual_stack(model), SurgeryTrainer(model, "pcgrad", LR)
        by_hand = SurgeryTrainer(copy.deepcopy(model), "pcgrad", LR)
        by_hand._graphs = None
        ways = [lambda step=step: [step(batch) for batch in batches]  # noqa: B023
                for step in (ours.step, usual.step, by_hand.step)]
        median, _ = compare(f"training step, {shape}, {precision}", *ways[:2], arguments.repeat,
                            BATCHES, ways[2])
        work = operations(model, batches)
        print(f"  operations of a step {work / 1e9:,.0f} G: {work / (median / 1e3) / 1e12:.1f} "
              f"T/s, {work / (median / 1e3) / peak:.1%} of the bf16 peak; graphs "
              f"{len(ours._graphs.captured)}")
        evaluate(shape, precision, model, usual, folder, arguments)
        del model, usual, ours, by_hand, ways
        peaks = [peak_memory(make, batches) for make in (
            lambda: SurgeryTrainer(build(shape, tokenizer, precision), "pcgrad", LR).step,  # noqa: B023
            lambda: usual_stack(build(shape, tokenizer, precision)).step)]  # noqa: B023
        print(f"  peak memory of {BATCHES} steps, MB: ours {peaks[0]:,.0f}, usual {peaks[1]:,.0f}",
              flush=True)


def evaluate(shape: str, precision: str, model: MultitaskBert, usual: Usual, folder,
             arguments) -> None:
    model.eval()
    usual.eval()
    dev = {name: model.tokenize(read_examples(file_of(folder, task, "dev"), task))
           for name, task in TASKS.items()}
    compare(f"evaluation of {sum(map(len, dev.values())):,} dev examples, {shape}, {precision}",
            lambda: [model.predict_logits(name, items) for name, items in dev.items()],
            lambda: [usual.evaluate(name, items) for name, items in dev.items()], 2)
    texts = sentences(folder, 10_000)

    compare(f"encode, {len(texts):,} sentences, {shape}, {precision}",
            lambda: encode(model, texts), lambda: usual.encode(texts, model.tokenizer), 2)


def surgery(params: int, repeat: int) -> None:
    """Three gradients of this length: surgery alone, and with the update."""
    rows = torch.randn(3, params, device=CUDA).mul_(1e-3)
    theta = nn.Parameter(rows[0] * 50)
    theta.grad = rows[0]
    theirs = torch.optim.AdamW([theta], lr=LR, weight_decay=0.0, fused=True)
    ours = AdamW([theta], lr=LR)
    flat = FlatParameters([("theta", nn.Parameter(theta.detach().clone()))])
    gradients = TaskGradients(flat, 3)
    gradients.matrix.copy_(rows)

    def both() -> None:
        weights = pcgrad_weights(gradients.gram())
        theta.grad, _ = gradients.combine_(weights)
        ours.step()

    floor = 7 * params * 4 / copy_rate() * 1e3
    aggregator = PCGrad()
    alone, _ = compare(f"surgery alone, 3 × {params / 1e6:.1f} M, against torchjd's",
                       lambda: project_conflicting(rows), lambda: aggregator(rows), repeat)
    whole, update = compare("surgery + AdamW, against torch's fused AdamW alone", both, theirs.step,
                            repeat)
    print(f"  the floor of surgery is {floor:.2f} ms: {alone / floor:.2f} of it; with the update "
          f"{whole / update:.2f} of torch's update alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="rounds over 20 batches per task")
    parser.add_argument("--data")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    peak = matrix_peak()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers "
          f"{transformers.__version__}; "
          f"bf16 peak {peak / 1e12:.0f} T/s, copies {copy_rate() / 1e12:.2f} TB/s\n\n"
          "| milliseconds | ours | ours without graphs | usual stack | without graphs / ours | "
          "usual / ours |\n"
          "| --- | --- | --- | --- | --- | --- |")
    tokenizer = BertTokenizer.from_pretrained("minbert-mini")
    for shape in SHAPES:
        steps(shape, arguments, tokenizer, peak)
    surgery(109_482_240, arguments.repeat)


if __name__ == "__main__":
    main()
