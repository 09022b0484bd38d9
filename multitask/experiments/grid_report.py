"""report.html of a grid: Table 1 with our scores, the paper's claims, and both compared."""

from pathlib import Path

from matplotlib.figure import Figure

from minbert.files import write_text
from multitask.reports import figures
from multitask.reports.page import figure, grid, heading, origin, page, paragraph
from multitask.reports.page import table as html_table
from multitask.reports.text import metric_title
from multitask.tasks import TASKS

from . import table


def write_grid_report(path: Path, results: dict) -> None:
    """results: the content of table.json."""
    best = table.best_of_columns(results)
    parts = [
        paragraph(results["about"]), origin(results.get("environment", {})),
        paragraph(f"{table.best_sentence(results)} {table.test_sentence(results)}"),
        heading("Table 1"), *(score_table(results, arch, best) for arch in table.ARCH_TITLES),
        paragraph("In brackets the paper's; ▸ marks the best of a column. "
                  f"{table.baseline_sentence(results)}", note=True),
        heading("At a glance"),
        grid([figure(f"cells-{name}", cells_plot(results, name),
                     f"{name}: ours against the paper, 30 experiments",
                     f"{task.title}: a point is an experiment of Table 1, n = 30; the dashed line "
                     "is our baseline. Points should rise from left to right.")
              for name, task in TASKS.items()]),
    ]
    if results.get("claims"):
        parts += [heading("The paper's claims"),
                  html_table(table.CLAIM_HEADER[1:],
                             [[f"{section}: {claim}", *rest] for section, claim, *rest in
                              table.claim_rows(results["claims"])]),
                  paragraph("A difference is the mean over all pairs of experiments that differ in "
                            "this one thing. "
                            + table.claim_note(results["claims"]), note=True)]
    write_text(path, page("minbert: Table 1 of the paper", parts))


def score_table(results: dict, arch: str, best: dict) -> str:
    """One architecture's ten methods: narrow enough for a phone."""
    rows = []
    for method, by_arch in results["cells"].items():
        cells = by_arch[arch]
        marked = [("▸ " if cells[name]["mean"] is not None
                   and cells[name]["mean"] == best[arch, name] else "")
                  + table.shown(cells[name]) for name in TASKS]
        rows.append([table.title_of(method), *marked, table.shown(cells["average"])])
    return html_table(["method", *(name.upper() for name in TASKS), "average"], rows,
                      caption=table.ARCH_TITLES[arch])


def cells_plot(results: dict, name: str) -> Figure:
    """Our score against the paper's, one point per experiment, by architecture."""
    metric = metric_title(TASKS[name].metric)
    drawn, axes = figures.empty(f"the paper's {metric}", f"our {metric}")
    for (arch, title), (colour, _, marker) in zip(table.ARCH_TITLES.items(), figures.STYLES,
                                                  strict=False):
        cells = [by_arch[arch][name] for by_arch in results["cells"].values()]
        known = [cell for cell in cells if cell["mean"] is not None]
        axes.plot([cell["paper"] for cell in known], [cell["mean"] for cell in known], marker,
                  color=colour, label=title, markersize=6, alpha=0.85, linestyle="none")
    baseline = results["baseline"][name]["mean"]
    if baseline is not None:
        axes.axhline(baseline, color=figures.GREY, linewidth=1, linestyle="--")
    figures.legend(axes)
    return drawn
