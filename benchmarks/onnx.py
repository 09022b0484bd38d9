"""An exported graph in onnxruntime beside model.predict, on the same texts.

    python -m multitask.export RUN GRAPH --task sst --to onnx
    python benchmarks/onnx.py RUN GRAPH --task sst --data data/ids-sst-dev.csv

Texts per second, medians of several rounds taken in turn. onnxruntime gets padded batches of
similar length, tokenized in the time that is measured, as model.predict tokenizes too.
"""

import argparse
import json
from pathlib import Path

import onnxruntime
import torch
from turns import in_turn

from minbert.files import user_path
from multitask import MultitaskBert
from multitask.data.tables import read_rows

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("graph", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=user_path, required=True)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    model = MultitaskBert.from_pretrained(arguments.run)
    columns = list(model.task(arguments.task).text)
    rows = [row for _, row in read_rows(arguments.data, columns)][:arguments.texts]
    texts = [tuple(row[column] for column in columns) for row in rows]
    by_length = sorted(texts, key=lambda text: -len("".join(text)))

    def ours() -> None:
        model.predict(arguments.task, texts)

    def of(name: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(arguments.graph / name, options,
                                               providers=["CPUExecutionProvider"])

        def theirs() -> None:
            for start in range(0, len(by_length), BATCH):
                some = zip(*by_length[start:start + BATCH], strict=True)
                inputs = model.tokenizer(*map(list, some), max_length=model.max_length)
                session.run(None, {key: value.numpy() for key, value in inputs.items()})
        return theirs

    sides = {"model.predict": ours, "model.onnx": of("model.onnx"),
             "model-int8.onnx": of("model-int8.onnx")}
    times = in_turn(sides, arguments.rounds)
    print(json.dumps({name: round(1000 * len(texts) / wall, 1) for name, (wall, _) in times.items()}
                     | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
