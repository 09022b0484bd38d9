"""What each stage of the grid is for the main job: its flags, and its settings by preset."""

from dataclasses import dataclass, field

from multitask.runs.recipes import PAPER, RECIPES

# stage of the grid → flags of the main job
FLAGS = {
    "nli": {"nli": True, "gs": "none"},
    "gs_bd": {"gs": "bd"},
    "gs_wrap": {"gs": "wrap"},
    "fl": {"gs": "none", "fl": True},
    "baseline": {"gs": "none"},
}


@dataclass(frozen=True)
class Preset:
    """Settings of every stage, of single ones, and the table's note on them."""

    every: dict
    stage: dict[str, dict] = field(default_factory=dict)
    note: str = ""


PRESETS = {
    "paper": Preset(RECIPES[PAPER],
                    note="the paper's: learning rate 1e-5, 10 epochs a stage"),
    "epoch": Preset(
        {"lr": 5e-5, "epochs": 1, "warmup": 0.06, "schedule": "linear", "clip": 1.0},
        {stage: {"lr": 1e-3, "epochs": 10} for stage in ("fl", "baseline")},
        note="one epoch per stage at learning rate 5e-5, ten of heads alone at 1e-3, 6 % warm-up, "
             "linear decay, clipping at 1, the paper's batches. An epoch of GS_w shows the small "
             "datasets several times, one of GS_bd once"),
    "quick": Preset(
        {"lr": 1e-4, "head_lr": 3e-3, "epochs": 1, "warmup": 0.1, "schedule": "linear", "clip": 1.0,
         "eval_limit": 4000},
        {"nli": {"batch_size": 8, "max_steps": 250}, "gs_bd": {"max_steps": 200},
         "gs_wrap": {"batch_size": 8, "max_steps": 300}, "fl": {"max_steps": 150},
         "baseline": {"max_steps": 150}},
        note="quick, about 80 minutes on one core: learning rate 1e-4, of the heads 3e-3, 10 % "
             "warm-up, linear decay, clipping at 1, batches of 8 (GS_bd: Eq. 6), few steps a "
             "stage. GS_w and GS_bd cost about the same there, but see different examples: GS_w "
             "equally many of each task, GS_bd mostly PARA"),
}
