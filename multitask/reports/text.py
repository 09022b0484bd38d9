"""Numbers, intervals and tables as text: one formatter of each kind for every report."""

import re
from collections.abc import Sequence

from multitask.tasks import Task


def number(value: float | None, digits: int = 3, sign: str = "", zero: bool = True) -> str:
    """A number with a true minus; "undefined" for None.

    >>> number(-0.1234), number(0.5, 2, "+"), number(None)
    ('−0.123', '+0.50', 'undefined')
    >>> [number(value, zero=False) for value in (0.5, -0.5, 10.5)]
    ['.500', '−.500', '10.500']

    Args:
        sign: "+" to show the sign of a positive number too.
        zero: Whether to write the 0 before the point.
    """
    if value is None:
        return "undefined"

    text = f"{value:{sign}.{digits}f}".replace("-", "−")
    return text if zero else re.sub(r"^(\D?)0\.", r"\1.", text)


def span(interval: Sequence[float | None] | None, digits: int = 3, sign: str = "",
         zero: bool = True) -> str:
    """An interval: 0.230 to 0.282; "undefined" for None and for ends of None. See `number`."""
    if interval is None or interval[0] is None:
        return "undefined"
    return " to ".join(number(value, digits, sign, zero) for value in interval)


def probability(p: float | None) -> str:
    """A p value, not resolved below a thousandth.

    >>> probability(0.1), probability(0.0054), probability(1e-9)
    ('0.100', '0.005', '< 0.001')
    """
    if p is not None and p < 0.001:
        return "< 0.001"
    return number(p)


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use.

    >>> duration(12), duration(90), duration(5400)
    ('12 s', '1.5 min', '1.5 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


METRIC_TITLES = {"pearson": "Pearson", "spearman": "Spearman", "f1": "F1"}


def metric_title(metric: str) -> str:
    """A metric's name in a sentence."""
    return METRIC_TITLES.get(metric, metric)


def metric_of(task: Task) -> str:
    """A task's title and metric: sentiment (SST), accuracy."""
    return f"{task.title}, {metric_title(task.metric)}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    >>> print(markdown_table(["arm", "score"], [["sum", "0.5"]]))
    | arm | score |
    | --- | --- |
    | sum | 0.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
