"""Table 1 with our scores beside the paper's, as Markdown, CSV and JSON."""

import csv
from pathlib import Path

from minbert.files import rewriting, write_json, write_text
from multitask.analysis.comparisons import mean_interval
from multitask.analysis.paper_results import PAPER_TABLE_2
from multitask.reports import text
from multitask.reports.text import markdown_table
from multitask.tasks import TASKS

TABLE_FILE = "table.json"
STAGE_TITLES = {"nli": "MultiNLI", "gs_bd": "GS_bd", "gs_wrap": "GS_w", "fl": "FL"}
ARCH_TITLES = {"concatA": "ConcatA", "concatB": "ConcatB", "concatB_al": "ConcatB + AL"}


def title_of(method: str) -> str:
    """nli+gs_wrap → MultiNLI + GS_w, as the paper's table has it."""
    return " + ".join(STAGE_TITLES[stage] for stage in method.split("+"))


def cell(values: list[float | None], paper: float) -> dict:
    """One figure of the table. values: one score per seed; an undefined score counts 0."""
    mean = low = high = None
    if values:
        mean, low, high = mean_interval([value or 0.0 for value in values])
    return {"values": values, "mean": mean, "low": low, "high": high, "paper": paper}


def score_cells(scores: list[dict], paper: dict) -> dict:
    """task → cell, and the average; scores: the "dev" of metrics.json, one per seed."""
    cells = {name: cell([dev[name][task.metric] for dev in scores], paper[name])
             for name, task in TASKS.items()}
    return {**cells, "average": cell([dev["average"] for dev in scores],
                                     sum(paper.values()) / len(paper))}


def best_of_columns(results: dict) -> dict[tuple[str, str], float]:
    """(arch, task) → the highest mean of that column."""
    best: dict[tuple[str, str], float] = {}
    for by_arch in results["cells"].values():
        for arch, cells in by_arch.items():
            for task in TASKS:
                mean = cells[task]["mean"]
                if mean is not None:
                    best[arch, task] = max(mean, best.get((arch, task), mean))
    return best


def number(value: float | None) -> str:
    """.512, −.008; three digits, no leading 0, as the paper writes them."""
    return "·" if value is None else text.number(value, zero=False)


def shown(figure: dict) -> str:
    """Ours, ± the half width of its interval if there are several seeds, and the paper's."""
    spread = "" if figure["low"] is None else f" ± {number(figure['high'] - figure['mean'])}"
    return f"{number(figure['mean'])}{spread} ({number(figure['paper'])})"


def markdown(results: dict) -> str:
    """The paper's layout: the best of each column in bold, the paper's figures in brackets."""
    best = best_of_columns(results)
    columns = [(arch, task) for arch in ARCH_TITLES for task in TASKS]
    header = ["Method", *(f"{ARCH_TITLES[arch]} {task.upper()}" for arch, task in columns)]

    lines = []
    for method, by_arch in results["cells"].items():
        cells = []
        for arch, task in columns:
            figure = by_arch[arch][task]
            is_best = figure["mean"] is not None and figure["mean"] == best[arch, task]
            cells.append(f"**{shown(figure)}**" if is_best else shown(figure))
        lines.append([title_of(method), *cells])

    parts = [results["about"], markdown_table(header, lines), baseline_sentence(results),
             f"{best_sentence(results)} {test_sentence(results)}"]
    if results.get("claims"):
        parts += [markdown_table(CLAIM_HEADER, claim_rows(results["claims"])),
                  claim_note(results["claims"])]
    return "\n\n".join(parts) + "\n"


def baseline_sentence(results: dict) -> str:
    scores = ", ".join(f"{task.upper()} {shown(results['baseline'][task])}" for task in TASKS)
    return ("Baseline, a head for SST on the frozen encoder, the other two heads untrained: "
            f"{scores}.")


def test_sentence(results: dict) -> str:
    """The paper's Table 2, where test labels were given."""
    if not results.get("test"):
        return ""
    ours = ", ".join(f"{name.upper()} {number(results['test'][name][task.metric])} "
                     f"({number(PAPER_TABLE_2[name])})"
                     for name, task in TASKS.items())
    return f"On the test set, the paper's Table 2 in brackets: {ours}."


CLAIM_HEADER = ["section", "the paper's claim", "task", "the paper's difference", "ours",
                "95 % interval", "verdict"]


def claim_rows(claims: list[dict]) -> list[list[str]]:
    """One row per claim."""
    found = []
    for claim in claims:
        interval = text.span([claim["low"], claim["high"]], sign="+", zero=False)
        found.append([claim["section"], claim["claim"], claim["task"].upper(),
                      signed(claim["paper"]), signed(claim["difference"]), interval,
                      claim["verdict"]])
    return found


def claim_note(claims: list[dict]) -> str:
    """What the intervals and the verdict refer to."""
    of_every = ("A claim about every experiment shows the difference that is least favourable to "
                "it; what speaks against it is corrected for their number (Bonferroni). ")
    if claims[0]["interval"] == "seeds":
        return of_every + "Intervals: Student's t over seeds. The verdict is on the sign alone."
    return of_every + ("Intervals: bootstrap over dev items, the same items for every cell; one "
                       "seed does not show how another would differ. The verdict is on the sign "
                       "alone, not corrected for the number of claims.")


def signed(value: float) -> str:
    return text.number(value, sign="+", zero=False)


def best_sentence(results: dict) -> str:
    best = results["best"]
    if best is None:
        return "No experiment has been finished yet."
    return (f"Highest average: {title_of(best['method'])} with {ARCH_TITLES[best['arch']]}, "
            f"{number(best['average'])} (the paper's: MultiNLI + GS_w with ConcatB + AL, .755).")


def write_csv(path: Path, results: dict) -> None:
    """One line per figure: method, arch, task, seeds, mean, low, high, paper."""
    everything = {**results["cells"], "baseline": {"concatA": results["baseline"]}}
    with rewriting(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", "arch", "task", "seeds", "mean", "low", "high", "paper"])
        for method, by_arch in everything.items():
            for arch, cells in by_arch.items():
                for task, figure in cells.items():
                    writer.writerow([method, arch, task, len(figure["values"]),
                                     *(figure[key] for key in ("mean", "low", "high", "paper"))])


def write(folder: Path, results: dict) -> None:
    """table.md, table.csv and table.json."""
    write_text(folder / "table.md", markdown(results))
    write_csv(folder / "table.csv", results)
    write_json(folder / TABLE_FILE, results)
