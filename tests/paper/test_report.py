"""report.html: one page that needs no other file, is safe with any data, and is complete."""

import base64
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from multitask.analysis import __main__ as analysis_command
from multitask.analysis.dev_set import analyse
from multitask.data.examples import Example
from multitask.reports.dev_set_report import predictions, verdict, worst_errors
from multitask.reports.figures import (
    PAIR_STYLES,
    SMALL,
    STYLES,
    calibration_plot,
    confusion_matrix,
    cosine_curves,
    curves,
    loss_curves,
    styles_of,
)
from multitask.reports.page import escape, svg
from multitask.reports.run_report import headline, summary, write_report
from multitask.tasks import TASKS, Task

SETTINGS = {"tasks": tuple(TASKS.values()), "arch": "concatB", "gs": "wrap", "surgery": "pcgrad",
            "model": "<b>scratch</b>", "data": "/data", "seed": 1}
SCORES = {"sst": {"accuracy": 0.5}, "para": {"accuracy": 0.8}, "sts": {"pearson": None},
          "average": 0.43,
          "overall": 0.6}
METRICS = {"dev": SCORES, "best_epoch": 2, "steps": 30, "train_seconds": 3.2,
           "examples_per_second": 100.0,
           "stages": {"gs": {"dev": SCORES, "best_epoch": 2, "steps": 30}},
           "examples": {name: {"train": 2000, "dev": 40} for name in TASKS},
           "environment": {"torch": "2"}}
SVG = "data:image/svg+xml;base64,"
NASTY = ('<script>alert(1)</script> & \'quoted\' "double" </td></style></title></table> '
         '<img src=x onerror=alert(1)> <a href="javascript:alert(1)">x</a> '
         '<!-- &lt;b&gt; ]]> \x00\x0c')


def step(number, stage="gs", **more):
    cosines = {"sst-para": 0.1 * (-1)**number, "sst-sts": 0.2, "para-sts": -0.1}
    values = {"event": "step", "stage": stage, "step": number,
              "losses": {"sst": 1.6, "para": 0.7, "sts": 4 / number},
              "cosines": cosines, "weights": dict.fromkeys(TASKS, 1.5),
              "gradient_norms": dict.fromkeys(TASKS, 2.0)}
    return {**values, **more}


def epoch(number, stage="gs", dev=SCORES):
    return {"event": "epoch", "stage": stage, "epoch": number, "dev": dev}


STEPS = [step(number) for number in range(1, 31)]
EPOCHS = [epoch(1), epoch(2)]


def small_analysis(sentence=NASTY, n=40):
    torch.manual_seed(0)
    dataset, logits = {}, {}
    for name, task in TASKS.items():
        texts = [f"{sentence} {k} {'w ' * (k % 7)}" for k in range(n)]
        examples = [Example(str(k), (text,) * len(task.text), float(k % 2))
                    for k, text in enumerate(texts)]
        dataset[name] = {"train": examples[: n // 2], "dev": examples}
        logits[name] = torch.randn(n, task.outputs)
    return analyse(TASKS, dataset, logits, resamples=20)


def written(tmp_path, settings=SETTINGS, metrics=METRICS, steps=(), epochs=(),
            analysis=None) -> str:
    write_report(tmp_path / "report.html", settings, metrics, steps, epochs, analysis)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects what a browser would see: elements with attributes, and visible text."""

    VOID = ("meta", "br", "img")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag  # every element is closed in its turn

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> str:
    """A report with every part, whose sentences and names contain markup."""
    names = {**SETTINGS, "model": NASTY, "data": f"/data/{NASTY}", "precision": NASTY}
    metrics = {**METRICS, "environment": {"commit": NASTY}}
    return written(tmp_path_factory.mktemp("whole"), names, metrics, STEPS, EPOCHS,
                   small_analysis(n=100))


def test_rows_left_out_are_told_where_there_are_any(tmp_path):
    counts = {"sst": {"train": 0, "dev": 0}, "para": {"train": 1200, "dev": 2}}
    text = Reader(written(tmp_path, metrics={**METRICS, "left_out": counts})).text
    assert re.search(r"rows without a label, para\s*train 1,200, dev 2: left out", text)
    assert "rows without a label, sst" not in text


def test_the_page_is_well_formed_and_needs_nothing_else(whole):
    reader = Reader(whole)
    assert reader.open == []
    assert whole.startswith("<!doctype html>")
    assert "http" not in whole  # no address at all, not even a namespace's
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.elements}
    for tag, attributes in reader.elements:
        assert attributes.get("src", SVG).startswith(SVG), tag
        assert attributes.get("href", "#").startswith("#"), tag  # a figure's own marker
        assert not any(key.startswith("on") for key in attributes)
    assert "url(" not in re.sub(r"url\(#", "", whole)
    assert "@import" not in whole
    assert reader.text.count("<script>alert(1)</script>") >= 3 * 5  # worst errors, as text


def test_parts_of_the_page(whole):
    """The contents link to each section, figures have a caption and alt text, ids are unique."""
    reader = Reader(whole)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0
    images, captions = reader.all("img"), re.findall(r"<figcaption>(.+?)</figcaption>", whole)
    assert whole.count("<figure ") == len(captions) == len(images) >= 17
    assert all(len(attributes["alt"]) > 15 for attributes in images)
    for title in ("Scores on the dev set", "Training", "Where it succeeds and fails",
                  "By sentence length", "By word commonality", "What it answers",
                  "Sentences seen in training", "Gradient conflicts", "Worst errors",
                  "What was run"):
        assert re.search(rf"<h\d id=\S+>{title}", whole), title
    assert [link["href"] for link in reader.all("a")] == [
        f"#{section['id']}" for section in reader.all("h2")]


def test_figures_need_nothing_else(whole):
    for image in Reader(whole).all("img"):
        text = base64.b64decode(image["src"].removeprefix(SVG)).decode()
        references = [value for element in ElementTree.fromstring(text).iter()
                      for key, value in element.attrib.items() if key.endswith("href")]
        assert all(reference.startswith("#") for reference in references)
        assert "<script" not in text
        assert "url(" not in re.sub(r"url\(#", "", text)
        assert "<text" in text  # text stays text


def test_paths_leave_out_the_home_folder(tmp_path, monkeypatch):
    """Paths begin with . or ~; a folder that only begins with the same letters stays whole."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    settings = {**SETTINGS, "data": str(tmp_path / "work" / "data"), "model": f"{tmp_path}/bert"}
    about = {"command": f"python train_multitask.py --model={tmp_path}/bert --out {tmp_path}2/out"}
    text = written(tmp_path, settings, {**METRICS, "environment": about})
    assert "Encoder ~/bert, data ./data" in text
    assert text.count(f"--model=~/bert --out {tmp_path}2/out") == 2
    assert str(tmp_path) not in text.replace(f"{tmp_path}2", "")


def test_a_lone_slash_is_no_path(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    monkeypatch.chdir("/")
    assert escape("cats / dogs") == "cats / dogs"


def test_half_a_character_in_a_path(tmp_path):
    """The name of a folder need not be UTF-8; the report must be."""
    assert "data /caf?&amp;" in written(tmp_path, {**SETTINGS, "data": "/caf\udce9&"})


@pytest.mark.parametrize(("classes", "written", "is_drawn"), [(12, 144, True), (50, 0, True),
                                                              (51, 0, False)])
def test_many_classes(classes, written, is_drawn):
    """With many classes the confusion matrix has no numbers; above 50 there is no matrix.

    The labels that it has can be read, and stand at their row.
    """
    counts, names = np.eye(classes, dtype=int).tolist(), tuple(f"c{k}" for k in range(classes))
    [axes] = confusion_matrix(counts, names).axes
    assert len(axes.texts) == written
    for label, place in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True):
        assert label.get_fontsize() >= SMALL
        assert label.get_text().split("\n")[0] == f"c{place - 0.5:g}"
    task = Task("many", "classes", ("text",), "label", "x.csv", labels=names, dev_share=0.5)
    found = {"n": classes, "confusion": {"counts": counts}}
    page = "".join(predictions({"many": task}, {"tasks": {"many": found}}))
    assert ("<img" in page) == is_drawn


def test_numbers_stand_before_their_names():
    """Also where the names run from right to left."""
    labels = "سيئ", "متوسط", "ممتاز"
    task = Task("stars", "classes", ("text",), "label", "x.csv", labels=labels, dev_share=0.5)
    assert task.meaning == f"0 {labels[0]}, \u200e1 {labels[1]}, \u200e2 {labels[2]}"
    assert TASKS["para"].meaning == "0 not a duplicate, 1 duplicate"


@pytest.mark.parametrize("styles", [STYLES, PAIR_STYLES])
def test_lines_differ_without_colours(styles):
    """Curves have no markers, so each has other dashes."""
    assert len({dashes for _, dashes, _ in styles_of(range(len(styles)), styles).values()}) == (
        len(styles))
    cosine_curves(range(5), {f"{number}-x": [0.1] * 5 for number in range(len(styles))}
                  ).draw_without_rendering()


@pytest.mark.parametrize(("names", "shown"), [
    (tuple(map(str, range(1, 11))), True), (tuple("abcdefghij"), True),
    (tuple(f"class {k}" for k in range(10)), False)])
def test_names_of_classes(names, shown):
    """Worst errors have names; a matrix has short ones, and else numbers with a legend."""
    task = Task("stars", "classes", ("text",), "label", "x.csv", labels=names, dev_share=0.5)
    error = {"id": "1", "sentences": ["x"], "label": 2.0, "answer": 9.0, "wrong": 0.75}
    found = {"n": 10, "confusion": {"counts": np.eye(10, dtype=int).tolist()},
             "worst_errors": [error]}
    analysis = {"tasks": {"stars": found}}
    page = "".join(worst_errors({"stars": task}, analysis))
    assert f"<td>{names[2]}</td><td>{names[9]}</td><td>25.0%</td>" in page
    page = "".join(predictions({"stars": task}, analysis))
    drawn = base64.b64decode(re.search("base64,(.+?)\"", page)[1]).decode()
    assert all(f">{name if shown else number}<" in drawn for number, name in enumerate(names))
    assert (f"2 {names[2]}, 3 {names[3]}" in page) != shown


def test_characters_that_the_font_lacks():
    """The browser draws them: matplotlib's warning, which would be an error here, is not shown."""
    assert ">负面<" in svg(confusion_matrix([[1, 0], [0, 1]], ["负面", "好"])).decode()


def test_dollars_in_class_names():
    """Text between two dollar signs is not a formula."""
    names = ["$0_$9", "$5-$6"]
    drawn = svg(confusion_matrix([[1, 0], [0, 1]], names)).decode()
    assert [drawn.count(f">{name}<") for name in names] == [2, 2]  # on both axes
    assert "share of '$0_$9'" in svg(calibration_plot([], names[0])).decode()


def test_a_few_points_are_no_curve(tmp_path):
    few = small_analysis("plain", n=40)  # by length, bins of 20 examples
    few["tasks"]["para"]["calibration"]["bins"][4:] = []
    text = written(tmp_path, steps=STEPS[:4], epochs=[epoch(k) for k in range(1, 5)], analysis=few)
    assert [attributes["id"] for attributes in Reader(text).all("figure")] == [
        "confusion-sst", "confusion-para", "scatter-sts"]
    text = written(tmp_path, steps=STEPS[:5], epochs=[epoch(k) for k in range(1, 6)])
    assert text.count("<img") == 6


@pytest.mark.parametrize(("low", "high"), [(1.6, 1.61), (0.7, 0.9), (3, 8), (0.9, 12), (1, 1e6),
                                           (1e-9, 1e9)])
def test_log_axes_are_labelled(low, high):
    steps = [step(number, losses={"sst": value}) for number, value in enumerate([high, low] * 3, 1)]
    axes = loss_curves(steps, ["sst"]).axes[0]
    bottom, top = axes.get_ylim()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert 2 <= len(set(labels)) == len(labels) <= 9
    assert all(bottom <= float(label) <= top for label in labels)


@pytest.mark.parametrize("names", [
    [f"support_tickets-customer_reviews_{number}" for number in range(6)],
    ["a_task_with_a_very_long_name_that_goes_on-another_task_with_a_long_name", "sst-para"]])
def test_long_names_fit_above_the_plot(names):
    figure = cosine_curves(range(5), {name: [0.1] * 5 for name in names})
    figure.draw_without_rendering()
    [axes] = figure.axes
    assert axes.get_legend().get_window_extent().x1 < figure.bbox.x1
    assert (axes.bbox.width > 0.7 * figure.bbox.width, axes.bbox.height > 200) == (True, True)


def test_a_long_name_beside_a_label_of_two_lines():
    name = "concatB_wrap_" * 5
    figure = curves(range(5), {name: [0.1] * 5}, "training loss\nlog scale", {name: STYLES[0]})
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend().get_window_extent().x1 < figure.bbox.x1


def test_losses_of_a_task_a_step():
    """With annealed sampling a step has one task's loss; every task that occurred has its line."""
    steps = [step(number, losses={name: 1.0}) for number, name in enumerate(["sts", "sst"] * 3, 1)]
    drawn = loss_curves(steps, TASKS).axes[0].get_lines()
    assert [line.get_label() for line in drawn] == ["sst", "sts"]
    assert [len(line.get_xdata()) for line in drawn] == [3, 3]


def test_settings_state_what_was_used(tmp_path):
    """A value that was not given is shown as used; limits that were not set are left out."""
    settings = {**SETTINGS, "model": None, "start": "runs/before", "lr": 1e-5, "head_lr": None,
                "max_length": 128, "batch_size": None, "batch_sizes": {}, "eval_limit": None}
    stages = {"gs": {**METRICS["stages"]["gs"], "batch_sizes": {"sst": 1, "para": 24, "sts": 2}}}
    page = written(tmp_path, settings, {**METRICS, "stages": stages})
    rows = dict(re.findall(r"<th scope=\"row\">([^<]+)</th><td>([^<]*)</td></tr>", page))
    assert rows["batch_size, gs"] == "sst 1, para 24, sts 2"
    assert (rows["head_lr"], rows["max_length"]) == ("1e-05", "128")
    assert rows["model"] == "of the run runs/before"
    assert not {"batch_sizes", "eval_limit"} & rows.keys()
    assert not {"default", "None", "{}"} & set(rows.values())
    older = written(tmp_path, settings)
    assert "<th scope=\"row\">batch_size</th><td>16; 8 for heads alone; bd by Eq. 6</td>" in older


def test_the_paper_is_beside_its_three_tasks_only(tmp_path):
    """With two of its tasks, the paper's scores, figures and claims are not mentioned."""
    two = {name: TASKS[name] for name in ("sst", "sts")}
    found = small_analysis("plain", n=100)
    found["tasks"] = {name: found["tasks"][name] for name in two}
    dev = {name: SCORES[name] for name in two} | {"average": 0.5}
    steps = [step(number, losses={"sst": 1, "sts": 1}, cosines={"sst-sts": 0.1},
                  weights=dict.fromkeys(two, 1.0), gradient_norms=dict.fromkeys(two, 1.0))
             for number in range(1, 10)]
    text = Reader(written(tmp_path, {**SETTINGS, "tasks": tuple(two.values())},
                          {**METRICS, "dev": dev}, steps, [epoch(1, dev=dev)], found)).text
    assert "does it undershoot?" in text
    assert "paper" not in text


def test_the_papers_figure_stands_beside_ours():
    found = small_analysis()

    def shown(**changes: object) -> str:
        settings = {**SETTINGS, **changes}
        return summary(settings, METRICS) + Reader(
            "".join(headline(TASKS, settings, found))).text

    text = shown()
    for value in ("0.511", "0.843", "0.850", "0.735"):  # GS_w, concatB, and their mean
        assert value in text
    assert "not a like-for-like comparison" in text
    assert "0.511" not in shown(gs="bd")
    sample = shown(data=None)
    assert "0.511" not in sample
    assert "synthetic" in sample


def test_without_an_analysis_the_rest_stands(tmp_path):
    text = written(tmp_path, steps=STEPS, epochs=EPOCHS)
    assert "Worst errors" not in text
    assert "interval" not in Reader(text).text
    assert text.count("<img") == 5
    assert "undefined" in text  # the Pearson that has no value


def test_stages_stand_apart_and_a_stage_without_surgery_has_no_conflicts(tmp_path):
    bare = [{"event": "step", "stage": "fl", "step": 1, "seconds": 0.1}]
    nli = [epoch(number, "nli", {"nli": {"accuracy": score}, "average": score, "overall": score})
           for number, score in ((1, 0.6), (2, 0.7))]
    settings = {**SETTINGS, "nli": True, "fl": True}
    metrics = {**METRICS, "stages": {"nli": {"best_epoch": 2}, **METRICS["stages"],
                                     "fl": {"best_epoch": 1}}}
    text = written(tmp_path, settings, metrics,
                   [step(1, "nli", losses={"nli": 1.1}), *STEPS, *bare],
                   [*nli, *EPOCHS, epoch(1, "fl")])
    for title in ("MultiNLI pretraining", "gradient-surgery fine-tuning",
                  "final-layer fine-tuning"):
        assert f"{title}: dev scores; the shaded epoch was kept" in text
    assert text.count('class="best"') == 3
    assert "own batches; 30 steps" in text  # the conflicts are those of gs alone
    only = written(tmp_path, {**SETTINGS, "gs": "none", "fl": True},
                   {**METRICS, "best_epoch": 1, "steps": 1},
                   bare, [epoch(1, "fl")], small_analysis("plain"))
    assert "Gradient conflicts" not in only
    assert "Worst errors" in only


def test_a_run_without_any_step_or_epoch_still_has_a_report(tmp_path):
    text = written(tmp_path, {**SETTINGS, "gs": "none"},
                   {**METRICS, "best_epoch": None, "steps": 0}, [], [])
    assert Reader(text).open == []
    assert "Training" not in text


def test_a_perfect_model_has_no_errors_to_show(tmp_path):
    examples = {name: [Example("1", ("a",) * len(task.text), float(k % 2))
                       for k in range(4)]
                for name, task in TASKS.items()}
    logits = {"sst": torch.eye(5)[[0, 1, 0, 1]],
              "para": torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]),
              "sts": torch.tensor([[0.0], [1.0], [0.0], [1.0]])}
    dataset = {name: {"train": rows, "dev": rows} for name, rows in examples.items()}
    found = analyse(TASKS, dataset, logits, resamples=20)
    assert Reader(written(tmp_path, analysis=found)).open == []


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (written(tmp_path, steps=STEPS, epochs=EPOCHS) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("interval", "p", "expected", "said"), [
    ([0.01, 0.2], .01, +1, "as the paper says"), ([0.01, 0.2], .01, -1, "the opposite"),
    ([-0.2, -0.1], .01, -1, "as the paper says"), ([0.01, 0.2], .06, None, "undecided"),
    ([-0.2, 0.1], .04, +1, "undecided"), (None, None, +1, "undefined")])
def test_a_verdict_needs_an_interval_that_leaves_zero_out(interval, p, expected, said):
    assert verdict({"interval": interval, "p": p}, expected) == said


# -------------------------------------------------------------------------------------- the command


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, capsys):
    assert analysis_command.main([str(tmp_path)]) == 2
    assert "holds no config.json: expected the folder of a finished run" in capsys.readouterr().err


def test_data_in_place_of_the_runs_own(trained, small_data, tmp_path, capsys):
    """The report names the data that were read; a dev set of another size is refused."""
    run = shutil.copytree(trained, tmp_path / "run")
    data = shutil.copytree(small_data, tmp_path / "moved")
    assert analysis_command.main([str(run), "--data", str(data)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "/moved, seed" in page

    path = data / TASKS["sst"].dev
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert analysis_command.main([str(run), "--data", str(data)]) == 2
    assert "39 dev examples of sst, but the scores of" in capsys.readouterr().err
    assert (run / "report.html").read_text(encoding="utf-8") == page
