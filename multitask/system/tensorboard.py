"""--tensorboard: what log.jsonl says as scalars for TensorBoard, in RUN/tensorboard.

The files follow from the log. When a run starts or resumes, they are written again from the lines
that the log keeps, so no step is missing and none is there twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

FOLDER = "tensorboard"
FLUSH_SECONDS = 10  # so often an open TensorBoard sees new steps
# event → key in the log → tag. Where the log has a value per name, so has TensorBoard: loss/sst
TAGS = {
    "step": {"losses": "loss", "lr": "lr", "cosines": "cosine", "conflicts": "conflict",
             "gradient_norms": "gradient_norm", "weights": "weight"},
    "epoch": {"dev": "dev"},
}


def check_installed() -> None:
    """Raises ValueError, with the command that installs it, if the package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard needs the package tensorboard: pip install "
                         "'minbert[tensorboard]'") from None


def scalars(event: Mapping) -> dict[str, float]:
    """Tag → value of one event of the log; what is undefined is left out.

    >>> scalars({"event": "step", "losses": {"sst": 1.5}, "lr": 0.1, "examples": 16})
    {'loss/sst': 1.5, 'lr': 0.1}
    >>> scalars({"event": "epoch", "dev": {"sts": {"pearson": None}, "average": 0.0}})
    {}
    """
    values = dict(event)
    if "conflicts" in values:  # the pairs that conflict → 1 or 0 for each pair
        values["conflicts"] = {pair: pair in values["conflicts"] for pair in values["cosines"]}
    if "dev" in values:
        tasks = {name: score for name, score in values["dev"].items() if isinstance(score, Mapping)}
        if len(tasks) == 1:  # its score once more: an average would mix with that of other stages
            values["dev"] = tasks

    found = {}
    for key, tag in TAGS.get(event["event"], {}).items():
        found |= _flat(tag, values.get(key))
    return found


def _flat(tag: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{tag}/{name}", inner)
    elif value is not None:
        yield tag, float(value)


class Board:
    """Writes events to RUN/tensorboard, in place of what is there.

    Steps count from the run's start, over all stages.

    Args:
        events: those that the log has already.
    """

    def __init__(self, run: Path, events: Iterable[Mapping]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import FileWriter

        for path in (run / FOLDER).glob("events.out.tfevents.*"):
            path.unlink()
        self._file = FileWriter(run / FOLDER, flush_secs=FLUSH_SECONDS)
        # a TensorBoard that is open forgets the steps of the removed files
        self._file.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step=0)

        self._steps: dict[str | None, int] = {}  # stage → its steps so far
        for event in events:
            self.write(event)

    def write(self, event: Mapping) -> None:
        """Raises OSError if the disk is full."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._steps[event.get("stage")] = event["step"]  # logs of old runs have no stage

        # one record per event: a record per scalar takes ten times as long
        values = [Summary.Value(tag=tag, simple_value=value)
                  for tag, value in scalars(event).items()]
        if values:
            self._file.add_summary(Summary(value=values), sum(self._steps.values()))

    def close(self) -> None:
        self._file.close()
