"""The main job: settings → data and model → stages → predictions, metrics.json, report.html."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from minbert import BertModel, fast
from minbert.files import one_line, user_path, write_json
from multitask.analysis.dev_set import ANALYSIS_FILE, analyse
from multitask.analysis.log import conflict_statistics, speed
from multitask.data.examples import TEST_SPLIT, Dataset
from multitask.evaluation import PREDICTIONS_FOLDER, describe
from multitask.model import MultitaskBert
from multitask.reports.run_report import write_report
from multitask.system import checkpoint, console, tensorboard
from multitask.system.device import pick_device, pick_precision, precision_note
from multitask.system.distributed import ALONE, Ranks, checksum
from multitask.system.environment import environment
from multitask.system.lock import check_free
from multitask.system.runlog import RunLog, closed_on_failure
from multitask.tasks import NLI

from .folder import (
    CONFIG_FILE,
    DRAWN_BY,
    METRICS_FILE,
    REPORT_FILE,
    check_run_folder,
    is_finished,
    load_settings,
    make_run_folder,
    open_new_log,
)
from .hand_in import write_files
from .inputs import (
    Tokens,
    build_model,
    check_data,
    describe_data,
    describe_model,
    describe_truncated,
    load_data,
    new_model,
    tokenize,
)
from .plans import STAGES, Run
from .recipes import RECIPES, default_model, describe_recipe
from .settings import NO_SURGERY_STAGE, PLAIN_VARIABLE, Settings
from .stages import Stage


def start(settings: Settings, out: str | None, say: Callable[[str], None] = console.say,
          dataset: Dataset | None = None, tokens: Tokens | None = None,
          ranks: Ranks = ALONE) -> Run:
    """A new run, ready for `execute`. All that the user gives is checked before a file is written.

    Args:
        out: the run's folder; None takes the next free one in runs/.
        say: prints a line for the user.
        dataset: what `load_data` would read, if several runs share it.
        tokens: what Run.tokens would hold, if several runs share it.
        ranks: the processes that train the run; all of them start it.

    Raises:
        ValueError, OSError: settings, data, model or folder cannot be used.
    """
    settings = _choose_forms(settings, say)
    if settings.model is None and settings.start is None:
        model_name = default_model(settings.recipe, settings.uses_sample)
        settings = dataclasses.replace(settings, model=model_name)
    out = None if out is None else str(user_path(out))

    def read() -> tuple[Dataset, MultitaskBert]:
        is_baseline = settings.stages == ("baseline",)
        if is_baseline and "sst" not in [task.name for task in settings.tasks]:
            raise ValueError("--gs none alone is the paper's baseline, a head for sst, and this "
                             "run has no such task: take --mode last-layer")
        if out is not None:
            check_run_folder(Path(out))
            check_free(Path(out))
        check_data(settings)
        return _read_inputs(settings, dataset, lambda data: build_model(settings, data), say, ranks)

    dataset, model = ranks.run_on_all(read)

    # saved with the run, so that --resume takes the same precision; the report names both
    precision = pick_precision(settings.precision, model.device, model.encoder.config.hidden_size)
    settings = dataclasses.replace(settings, precision=precision, max_length=model.max_length)
    ranks.check_same("precision", lambda: precision)

    folder = ranks.broadcast_from_writer(lambda: make_run_folder(settings, out))
    log = ranks.run_on_all(lambda: open_new_log(folder, settings, ranks))
    with closed_on_failure(log), _forms_of(settings):
        run = _assemble(folder, settings, dataset, model, log, say, tokens, ranks)
        run.stage = Stage(run, settings.stages[0])
        ranks.check_same("weights", lambda: checksum(run.model.parameters()))
    return run


def resume(folder: Path, say: Callable[[str], None] = console.say, dataset: Dataset | None = None,
           tokens: Tokens | None = None, ranks: Ranks = ALONE,
           changes: Mapping[str, object] | None = None) -> Run | None:
    """The run in `folder`, ready to continue from its last checkpoint; None if it is finished.

    Args:
        changes: new values of settings.CHANGEABLE, kept in config.json. The others: see `start`.

    Raises:
        ValueError, OSError: the folder does not hold a run, or its checkpoints cannot be used.
    """
    folder = user_path(folder)
    started = ranks.run_on_all(lambda: load_settings(folder))
    if is_finished(folder):
        return None

    settings = _choose_forms(dataclasses.replace(started, **(changes or {})), say)
    if settings.data != started.data:
        ranks.run_on_all(lambda: check_data(settings))

    def save_changes() -> None:
        if ranks.writes and settings != started:
            settings.save(folder / CONFIG_FILE)

    log = ranks.run_on_all(lambda: RunLog(folder, ranks.writes, settings.tensorboard))
    with closed_on_failure(log), _forms_of(settings):
        saved = _load_checkpoint(folder, ranks)

        def read_model(data: Dataset) -> MultitaskBert:
            return new_model(BertModel(saved.config()), saved.tokenizer(), settings)

        dataset, model = ranks.run_on_all(
            lambda: _read_inputs(settings, dataset, read_model, say, ranks))
        run = _assemble(folder, settings, dataset, model, log, say, tokens, ranks)
        run.finished = saved.value("finished")
        name = saved.value("stage")
        if name not in settings.stages:
            known, found = ", ".join(settings.stages), one_line(repr(name), 100)
            raise ValueError(f"{saved.folder / checkpoint.VALUES_FILE} is of stage {found}, "
                             f"but the run has {known}")
        run.stage = Stage(run, name)
        run.stage.restore(saved)
        ranks.run_on_all(save_changes)  # only now: other data are refused above
        ranks.check_same("weights", lambda: checksum(run.model.parameters()))

    of_stage = f"{run.stage.name} " if len(settings.stages) > 1 else ""
    place = "after" if run.stage.evaluated == run.stage.epoch else "in"
    say(f"resumed {place} {of_stage}epoch {run.stage.epoch}, step {run.stage.steps}")
    return run


def _choose_forms(settings: Settings, say: Callable[[str], None]) -> Settings:
    """The settings, plain if they or the environment ask for it."""
    if not settings.plain and not fast.is_plain():
        return settings

    say("note:  plain forms only (--plain)")
    return dataclasses.replace(settings, plain=True)


@contextmanager
def _forms_of(settings: Settings) -> Iterator[None]:
    """Inside, only the plain forms run if the settings ask for them."""
    with console.variables_kept(PLAIN_VARIABLE):
        if settings.plain:
            os.environ[PLAIN_VARIABLE] = "1"
        yield


def _read_inputs(settings: Settings, dataset: Dataset | None,
                 read_model: Callable[[Dataset], MultitaskBert], say: Callable[[str], None],
                 ranks: Ranks) -> tuple[Dataset, MultitaskBert]:
    """The data, and the model on its device."""
    if settings.tensorboard and ranks.writes:
        tensorboard.check_installed()
    device = ranks.own_device(pick_device(settings.device))
    dataset = dataset or load_data(settings)
    say(f"data:  {describe_data(settings, dataset)}")
    return dataset, read_model(dataset).to(device)


def _load_checkpoint(folder: Path, ranks: Ranks) -> checkpoint.Checkpoint:
    """The newest checkpoint that is not damaged. Raises ValueError or OSError."""
    # the writer goes first, alone: it renames damaged checkpoints, so the others do not see them
    of_writer = ranks.run_on_all(lambda: checkpoint.load(folder) if ranks.writes else None)

    def load() -> checkpoint.Checkpoint:
        saved = of_writer or checkpoint.load(folder)
        before = saved.values.get("processes", 1)
        if before != ranks.size:  # the size of a batch and the random numbers depend on it
            raise ValueError(
                f"--resume {folder}: by {saved.folder / checkpoint.VALUES_FILE} it was trained by "
                f"{before} process(es), and here are {ranks.size}; start as many as before "
                "(torchrun --nproc_per_node=N; python starts one)")
        return saved

    return ranks.run_on_all(load)


def _assemble(folder: Path, settings: Settings, dataset: Dataset, model: MultitaskBert, log: RunLog,
              say: Callable[[str], None], tokens: Tokens | None, ranks: Ranks) -> Run:
    """The run without its first stage; describes it to the user, compares the processes' data."""
    device = model.device
    model.precision = pick_precision(settings.precision, device, model.encoder.config.hidden_size)
    processes = f", {ranks.size} processes" if ranks.size > 1 else ""
    say(f"model: {describe_model(settings, model)}")
    if settings.recipe in RECIPES:
        say(f"recipe: {describe_recipe(settings)}")
    say(f"run:   {folder} (seed {settings.seed}, {device}, {model.precision}{processes})")
    note = precision_note(model.precision, device)
    if note:
        say(note)

    run = Run(folder, settings, model, dataset, log, say, ranks, tokens or tokenize(model, dataset))
    ranks.check_same("data", lambda: run.fingerprint)
    ranks.check_same("tokens", lambda: str([examples.lengths.sum() for splits in run.tokens.values()
                                            for examples in splits.values()]))

    truncated = describe_truncated(run.tokens, model.max_length)
    if truncated:
        say(f"note:  {truncated}")
    if len(settings.tasks) == 1 and settings.gs != NO_SURGERY_STAGE:
        say("note:  one task, so gradient surgery is off: no other gradient can conflict")
    return run


def execute(run: Run) -> dict:
    """Trains the remaining stages and writes the predictions, metrics.json and report.html.

    It gives up the folder at the end, also after an error: `resume` can then open it.

    Returns:
        The content of metrics.json; {} in processes that do not write.
    """
    try:
        with _forms_of(run.settings):
            return _conclude(run, _train(run))
    finally:
        run.log.close()


def _train(run: Run) -> dict[str, torch.Tensor]:
    """Trains the remaining stages. Returns task → logits of its dev set, by the last stage."""
    stages = run.settings.stages
    while run.stage is not None:
        name = run.stage.name
        if len(stages) > 1:
            run.say(f"stage {stages.index(name) + 1} of {len(stages)}: {STAGES[name].title}")
        run.finished[name] = run.stage.fit()
        dev_logits = run.stage.logits

        run.stage = None  # frees its gradients and moments before the next stage allocates its own
        if name != stages[-1]:
            best = MultitaskBert.from_pretrained(run.model_folder(name))
            run.model = best.to(run.model.device)
            run.stage = Stage(run, stages[stages.index(name) + 1])
    return dev_logits


def _conclude(run: Run, dev_logits: Mapping[str, torch.Tensor]) -> dict:
    last = run.settings.stages[-1]
    has_answers = last != NLI.name  # after MultiNLI the heads of the other tasks are untrained
    if has_answers:
        _predict(run, dev_logits)
    if not run.ranks.writes:
        return {}

    steps, epochs = list(run.log.events("step")), list(run.log.events("epoch"))
    metrics = collect_metrics(run, steps, epochs)
    analysis = None
    if has_answers:
        analysis = analyse(run.tasks, run.dataset, dev_logits)
        write_json(run.folder / ANALYSIS_FILE, analysis, indent=None)
    write_report(run.folder / REPORT_FILE, vars(run.settings), metrics, steps, epochs, analysis)
    # written last: it marks the run as finished
    write_json(run.folder / METRICS_FILE, metrics)

    checkpoint.drop_older(run.folder)
    run.say(f"best epoch {metrics['best_epoch']}: dev {describe(metrics['dev'])}")
    for name, found in ({} if analysis is None else analysis["tasks"]).items():
        if run.tasks[name].classes and (found["score"] or 0.0) <= found["trivial"]:
            run.say(f"note:  {name} is no better than always giving the most frequent label "
                    f"({found['trivial']:.3f})")
    return metrics


def _predict(run: Run, dev_logits: Mapping[str, torch.Tensor]) -> None:
    """Writes what the best epoch answers, on dev and, where there are examples, on test."""
    logits = {name: {"dev": dev_logits[name]} for name in run.tasks}
    wanted = [name for name in run.tasks if TEST_SPLIT in run.dataset[name]]
    if wanted:
        model = MultitaskBert.from_pretrained(run.folder).to(run.model.device)
        for name in wanted:
            logits[name][TEST_SPLIT] = model.predict_logits(name, run.tokens[name][TEST_SPLIT],
                                                            run.ranks)
    if run.ranks.writes:
        write_files(run.tasks, run.dataset, logits, run.folder / PREDICTIONS_FOLDER)


def collect_metrics(run: Run, steps: list[dict], epochs: list[dict]) -> dict:
    """The content of metrics.json (docs/reference/run-folder.md)."""
    stages = run.settings.stages
    last, timed = run.finished[stages[-1]], "gs" if "gs" in stages else stages[-1]
    timed_steps = [step for step in steps if step["stage"] == timed]
    # a single task's steps have no conflicts
    surgery_steps = [step for step in timed_steps if "cosines" in step]
    surgery = {}
    if surgery_steps:
        surgery["surgery"] = {"method": run.settings.surgery, **conflict_statistics(surgery_steps)}

    about = environment(run.model.device, run.model.precision)
    return {
        "dev": last["dev"],
        "best_epoch": last["best_epoch"],
        "steps": sum(stage["steps"] for stage in run.finished.values()),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
        "examples_per_second": speed(timed_steps),
        **surgery,
        "skipped_steps": sum(1 for _ in run.log.events("skipped")),
        "stages": run.finished,
        "examples": {name: {split: len(examples) for split, examples in splits.items()}
                     for name, splits in run.dataset.items()},
        "left_out": {name: {split: getattr(examples, "left_out", 0)  # of a plain list
                            for split, examples in splits.items()}
                     for name, splits in run.dataset.items()},
        DRAWN_BY: "text",
        "truncated": {name: {split: tokens.truncated for split, tokens in splits.items()}
                      for name, splits in run.tokens.items()},
        "environment": {**about, "processes": run.ranks.size},
    }
