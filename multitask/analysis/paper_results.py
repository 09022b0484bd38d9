"""What the paper reports, as data: Tables 1 and 2, and the claims of its section 6.

They come from bert-base, all of Quora's training pairs and one seed. They stand beside our scores
for orientation, not as a like-for-like comparison.
"""

from collections.abc import Mapping

from minbert.files import read_object, user_path

# Table 1, dev set: one line per method; SST accuracy, PARA accuracy, STS Pearson of each
# architecture in turn.
ARCHITECTURES = ("concatA", "concatB", "concatB_al")
_SCORES = ("sst", "para", "sts")
_TABLE_1 = {
    #                concatA             concatB             concatB_al
    "gs_bd":         (.500, .720, .362, .520, .838, .866, .511, .832, .865),
    "gs_wrap":       (.528, .732, .352, .511, .843, .850, .520, .873, .844),
    "fl":            (.305, .636, .206, .303, .665, .154, .337, .696, .330),
    "nli+gs_bd":     (.529, .708, .390, .495, .836, .881, .500, .839, .892),
    "nli+gs_wrap":   (.514, .740, .326, .503, .850, .868, .516, .873, .877),
    "nli+fl":        (.342, .661, .104, .343, .753, .635, .330, .751, .711),
    "gs_bd+fl":      (.503, .719, .373, .510, .838, .867, .511, .830, .866),
    "gs_wrap+fl":    (.527, .742, .356, .508, .847, .851, .518, .873, .844),
    "nli+gs_bd+fl":  (.531, .713, .389, .499, .840, .882, .508, .843, .891),
    "nli+gs_wrap+fl": (.508, .748, .332, .499, .853, .868, .514, .873, .878),
}
PAPER_TABLE_1 = {
    (method, arch): dict(zip(_SCORES, row[3 * number:3 * number + 3], strict=True))
    for method, row in _TABLE_1.items() for number, arch in enumerate(ARCHITECTURES)}

# One linear head trained on SST, the encoder frozen. Our copy of the paper prints STS as "008", its
# point and perhaps a sign lost: read as −.008, chance either way.
PAPER_BASELINE = {"sst": .310, "para": .380, "sts": -.008}
# (method, architecture) → task → dev score: all that the paper reports
PAPER_CELLS = {**PAPER_TABLE_1, ("baseline", "concatA"): PAPER_BASELINE}

# Test set, concatB_al; the table is labelled NLI + GS_bd, the text says NLI + GS_w and its numbers
# agree with that.
PAPER_TABLE_2 = {"sst": .539, "para": .873, "sts": .876}

PAPER_SURGERY = ("pcgrad", "paper")  # the method that the paper names, and its Eq. 2–5 as printed

# Section 6.1: +1, the model does better where there is more of it; −1, worse.
PAPER_TRENDS = {
    "length": {"sst": -1, "para": +1, "sts": -1},
    "commonality": {"sst": +1, "para": +1, "sts": +1},
}


def method_of(settings: Mapping, seen: tuple[str, ...] = ()) -> str:
    """The paper's name of a run's stages: a key of Table 1, or "baseline" where no stage is on.

    A run that was started from another (`start`) continues the stages of that one. Other surgery
    than the paper's is named. `seen` holds the runs further down the chain, in case a later run
    took an earlier one's place.

    >>> method_of({"nli": True, "gs": "wrap", "fl": True}), method_of({"gs": "none"})
    ('nli+gs_wrap+fl', 'baseline')
    >>> method_of({"gs": "wrap", "surgery": "mgda"})
    'gs_wrap by mgda'
    """
    stages = ["nli"] * bool(settings.get("nli"))
    if settings["gs"] != "none":
        surgery = settings.get("surgery", "pcgrad")
        has_one_task = "tasks" in settings and len(settings["tasks"]) == 1  # no surgery then
        other = "" if surgery in PAPER_SURGERY or has_one_task else f" by {surgery}"
        stages.append(f"gs_{settings['gs']}{other}")
    stages += ["fl"] * bool(settings.get("fl"))
    own = "+".join(stages) or "baseline"
    if not settings.get("start"):
        return own
    config = user_path(settings["start"]) / "config.json"
    before = "a trained model"
    if settings["start"] not in seen and config.is_file():
        before = method_of(read_object(config), (*seen, settings["start"]))
    return f"{before}+{own}"


def paper_scores(settings: Mapping) -> dict[str, float] | None:
    """The paper's dev scores of this method and architecture; None if it reports none."""
    # sentences made up by rule: their scores say nothing beside real ones
    if settings.get("data") is None:
        return None
    return PAPER_CELLS.get((method_of(settings), settings["arch"]))
