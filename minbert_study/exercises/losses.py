"""The losses of the three tasks, and their metrics."""

import math
import types
import warnings

import numpy as np
import torch

from minbert_study.exercise import Exercise, check, gradients
from minbert_study.worker import Fault
from multitask.kinds import KINDS

LOSSES = ("cross_entropy", "binary_cross_entropy", "mean_squared_error")
# The library's losses are computed in float32, also where training is not: seven digits.
FLOAT32 = dict.fromkeys(LOSSES, 1e-6)


def loss_of(part, name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    loss = getattr(part, name)(logits, labels)
    if not isinstance(loss, torch.Tensor):
        raise Fault(f"{name} returned {type(loss).__name__}, expected a tensor: a Python number "
                    "has no gradient")
    if loss.dim():
        raise Fault(f"{name} has shape {tuple(loss.shape)}, expected (): the mean over the batch "
                    "is one number")
    return loss


def score(part, name: str, predictions: np.ndarray, labels: np.ndarray) -> float | None:
    """A metric, without the library's warning where it is undefined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(part, name)(predictions, labels)


def values(part, cases: dict[str, dict[str, tuple[list, list]]]) -> dict[str, dict[str, float]]:
    """Losses of outputs and labels, by name and case."""
    return {name: {case: loss_of(part, name, *map(torch.tensor, given)).item()
                   for case, given in of_loss.items()} for name, of_loss in cases.items()}


# ------------------------------------------------------------------- independent implementations


def log_sum_exp(z):
    largest = z.max(-1, keepdim=True).values
    return (z - largest).exp().sum(-1).log() + largest[..., 0]


def by_log_sum_exp(logits, labels):
    chosen = torch.eye(logits.shape[1])[labels.long()] == 1
    return (log_sum_exp(logits) - logits[chosen]).sum() / len(labels)


def as_two_classes(logits, labels):
    """Yes or no is two classes, of which no has the output 0."""
    return by_log_sum_exp(torch.cat([torch.zeros_like(logits), logits], 1), labels)


def by_norm(logits, labels):
    return (logits[:, 0] - labels).norm()**2 / len(labels)


def by_counting(predictions, labels):
    return sum(a == b for a, b in zip(predictions, labels, strict=True)) / len(labels)


def harmonic(predictions, labels):
    """By precision and recall."""
    yes, true = set(np.flatnonzero(predictions == 1)), set(np.flatnonzero(labels == 1))
    if not yes | true:
        return None
    if not yes & true:
        return 0.0
    return 2 / (len(yes) / len(yes & true) + len(true) / len(yes & true))


def by_numpy(predictions, labels):
    if len({*predictions}) < 2 or len({*labels}) < 2:
        return None
    return float(np.corrcoef(predictions, labels)[0, 1])


INDEPENDENT = {"cross_entropy": by_log_sum_exp, "binary_cross_entropy": as_two_classes,
               "mean_squared_error": by_norm, "accuracy": by_counting, "f1": harmonic,
               "pearson": by_numpy}


@check(tolerance=FLOAT32)
def losses_by_hand(part):
    """Probabilities of 1/4 and 3/4 cost ln 4 and ln(4/3); errors of 2 and ½ cost 4 and ¼."""
    z = math.log(3)
    return values(part, {
        "cross_entropy": {"z = (0, ln 3), class 1": ([[0, z]], [1.0]),
                          "z = (0, ln 3), class 0": ([[0, z]], [0.0]),
                          "z = (0, ln 3) and (ln 3, 0), classes 1 and 0":
                              ([[0, z], [z, 0]], [1.0, 0.0])},
        "binary_cross_entropy": {"z = ln 3, yes": ([[z]], [1.0]), "z = ln 3, no": ([[z]], [0.0]),
                                 "z = ln 3 twice, yes and no": ([[z], [z]], [1.0, 0.0])},
        "mean_squared_error": {"3 for 1": ([[3.0]], [1.0]), "2 for 2.5": ([[2.0]], [2.5]),
                               "3 for 1 and 2 for 2.5": ([[3.0], [2.0]], [1.0, 2.5])}})


@check(against=INDEPENDENT, tolerance=FLOAT32)
def large(part):
    """Outputs of ±1000 give the exact loss: no infinity, no NaN, nothing cut off."""
    classes = [[1000.0, 0.0, -1000.0], [-1000.0, 1000.0, 0.0]]
    yes = [[1000.0], [-1000.0]]
    return values(part, {
        "cross_entropy": {"right": (classes, [0.0, 1.0]), "wrong": (classes, [1.0, 2.0]),
                          "one row far below": ([[1000.0, 0.0], [-1000.0, -1000.0]], [0.0, 1.0])},
        "binary_cross_entropy": {"right": (yes, [1.0, 0.0]), "wrong": (yes, [0.0, 1.0])},
        "mean_squared_error": {"right": (yes, [1000.0, -1000.0])}})


def drawn(batch: int, classes: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Logits and labels for each loss."""
    return {"cross_entropy": (torch.randn(batch, classes) * 3,
                              torch.randint(classes, (batch,)).double()),
            "binary_cross_entropy": (torch.randn(batch, 1) * 3,
                                     torch.randint(2, (batch,)).double()),
            "mean_squared_error": (torch.randn(batch, 1) * 3, torch.rand(batch) * 5)}


@check(against=INDEPENDENT, tolerance=FLOAT32)
def means(part):
    """Each loss is the mean over the batch, for any batch size and number of classes."""
    found = {name: {} for name in LOSSES}
    for batch, classes in ((1, 5), (7, 5), (4, 4), (3, 2), (24, 3)):
        for name, (logits, labels) in drawn(batch, classes).items():
            case = f"{batch} of {classes} classes" if name == "cross_entropy" else f"{batch}"
            found[name][f"batch of {case}"] = loss_of(part, name, logits, labels).item()
    return found


@check(against=INDEPENDENT, tolerance=FLOAT32)
def backward(part):
    """The gradients of the outputs are right, even for those of ±1000."""
    found = {}
    for name, (logits, labels) in drawn(6, 4).items():
        logits[:2, 0] = torch.tensor([1000.0, -1000.0])
        logits.requires_grad_()
        found[name] = gradients(loss_of(part, name, logits, labels), logits=logits)
    return found


@check()
def metrics_by_hand(part):
    """TP 2, FP 1, FN 3, TN 1: accuracy 3/7, F1 4/8. Pearson of three points: 1/2."""
    predictions = np.array([1.0, 1, 1, 0, 0, 0, 0])
    labels = np.array([1.0, 1, 0, 1, 1, 1, 0])
    points = np.array([1.0, 2, 3]), np.array([1.0, 3, 2])
    return {"accuracy": score(part, "accuracy", predictions, labels),
            "f1": score(part, "f1", predictions, labels),
            "pearson": score(part, "pearson", *points),
            "predictions and labels afterwards": [predictions, labels, *points]}


@check()
def f1_at_the_edges(part):
    """F1 is 0 without a true positive, and None if neither predictions nor labels have a 1."""
    none, one, all_ = np.zeros(4), np.array([0.0, 1, 0, 0]), np.ones(4)
    return {"f1 where all is right": score(part, "f1", one, one),
            "f1 where no 1 is predicted": score(part, "f1", none, one),
            "f1 where no label is 1": score(part, "f1", one, none),
            "f1 where all predictions are 1": score(part, "f1", all_, one),
            "f1 where the 1s stand at other places": score(part, "f1", one[::-1], one),
            "f1 without a 1 on either side": score(part, "f1", none, none)}


@check()
def pearson_at_the_edges(part):
    """Pearson is right with any offset and positive factor, and None where one side is constant."""
    x, y = torch.randn(2, 9).numpy()
    tenths = np.full(3, 0.1)
    return {"pearson": score(part, "pearson", x, y),
            "pearson of 3 x and y": score(part, "pearson", 3 * x, y),
            "pearson of −x and y": score(part, "pearson", -x, y),
            "pearson of x + 2 and y": score(part, "pearson", x + 2, y),
            "pearson of x + 1,000,000 and y − 1,000,000":
                score(part, "pearson", x + 1e6, y - 1e6),
            "pearson of x / 10¹² and y": score(part, "pearson", x / 1e12, y),
            "pearson of x and 2 x": score(part, "pearson", x, 2 * x),
            "pearson of zeros and y": score(part, "pearson", np.zeros(9), y),
            "pearson of x and ones": score(part, "pearson", x, np.ones(9)),
            # their mean in floating point is not 0.1
            "pearson of 0.1, 0.1, 0.1 and 1, 2, 3":
                score(part, "pearson", tenths, np.array([1.0, 2, 3])),
            "pearson of one point": score(part, "pearson", x[:1], y[:1])}


@check(against=INDEPENDENT)
def metrics_as_numpy(part):
    """For random predictions, independent implementations give the same metrics."""
    found = {"accuracy": {}, "f1": {}, "pearson": {}}
    for n in (2, 5, 13, 100):
        classes = torch.randint(5, (2, n)).double().numpy()
        answers = (torch.rand(2, n) < 0.3).double().numpy()
        points = torch.randn(2, n).cumsum(0).numpy()
        for name, given in (("accuracy", classes), ("f1", answers), ("pearson", points)):
            found[name][f"n = {n}"] = score(part, name, *given)
    return found


def install(part: types.SimpleNamespace) -> None:
    """The table of kinds holds the metrics themselves; the losses it looks up at each call."""
    for kind, name in (("classes", "accuracy"), ("yes_no", "accuracy"), ("yes_no", "f1"),
                       ("scale", "pearson")):
        KINDS[kind].metrics[name] = getattr(part, name)


# What the source has, and pieces of what stands there with a mistake.
CLASSES = "F.cross_entropy(logits.float(), labels.long())"
YES_NO = "F.binary_cross_entropy_with_logits(logits.squeeze(1).float(), labels.float())"
SCALE = "F.mse_loss(logits.squeeze(1).float(), labels.float())"
FORMS = {"cross_entropy": CLASSES, "binary_cross_entropy": YES_NO, "mean_squared_error": SCALE}
F1 = "float(2 * (found & true).sum() / total) if total else None"
PEARSON = "correlation(scipy.stats.pearsonr, predictions, labels))"
HITS = "[range(len(labels)), labels.long()]"
IF_DEFINED = "None if np.ptp(predictions) * np.ptp(labels) == 0 else"
SUM = "((predictions - predictions.mean()) * (labels - labels.mean())).sum()"
STDS = "predictions.std() / labels.std()"

EXERCISE = Exercise(
    title="losses and metrics",
    places=("multitask.kinds:cross_entropy", "multitask.kinds:binary_cross_entropy",
            "multitask.kinds:mean_squared_error", "multitask.metrics:accuracy",
            "multitask.metrics:f1", "multitask.metrics:pearson"),
    install=install,
    forbidden=("CrossEntropyLoss", "cross_entropy", "NLLLoss", "nll_loss", "BCELoss",
               "BCEWithLogitsLoss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
               "SoftMarginLoss", "soft_margin_loss", "multilabel_soft_margin_loss", "MSELoss",
               "mse_loss", "corrcoef", "cosine_similarity", "CosineSimilarity"),
    mistakes=(
        *((f"when the losses of {name} are added up. Take their mean.",
           text, f"len(labels) * {text}") for name, text in FORMS.items()),
        *((f"when {name} has the wrong sign.", text, f"-{text}") for name, text in FORMS.items()),
        *((f"when the mean in {name} is divided by the batch size once more. Eq. 7's factor is "
           "already in the mean.", text, f"{text} / len(labels)") for name, text in FORMS.items()),
        ("when the mean in cross_entropy runs over batch and classes. Divide by the batch size "
         "alone.", CLASSES, f"{CLASSES} / logits.shape[1]"),
        ("when cross_entropy has no logarithm.", CLASSES, f"-logits.softmax(1){HITS}.mean()"),
        ("when the softmax of cross_entropy runs over the batch, not over the classes.",
         CLASSES, f"-logits.log_softmax(0){HITS}.mean()"),
        ("when cross_entropy takes the softmax twice.",
         CLASSES, f"-logits.softmax(1).log_softmax(1){HITS}.mean()"),
        ("when cross_entropy subtracts the largest of all outputs, so a row far below it gives "
         "ln 0. Subtract the largest of each row.",
         CLASSES, f"(lambda z: z.exp().sum(1).log() - z{HITS})(logits - logits.max()).mean()"),
        ("when cross_entropy computes e¹⁰⁰⁰, which is infinite. Use torch.logsumexp or "
         "log_softmax.",
         CLASSES, f"-(logits.exp() / logits.exp().sum(1, keepdim=True)).log(){HITS}.mean()"),
        ("when cross_entropy takes the logarithm of a softmax that has become 0. Use "
         "torch.logsumexp or log_softmax.", CLASSES, f"-logits.softmax(1).log(){HITS}.mean()"),
        ("when binary_cross_entropy takes σ twice.", YES_NO,
         "F.binary_cross_entropy_with_logits(logits.squeeze(1).sigmoid(), labels.double())"),
        ("when binary_cross_entropy counts only the examples whose label is yes.",
         YES_NO, "-(labels * F.logsigmoid(logits.squeeze(1))).mean()"),
        ("when yes and no are swapped in binary_cross_entropy.",
         YES_NO, "F.binary_cross_entropy_with_logits(logits.squeeze(1), 1 - labels)"),
        ("when logits (batch, 1) and labels (batch,) broadcast to (batch, batch) in "
         "binary_cross_entropy. Use logits.squeeze(1).",
         YES_NO, "(F.softplus(logits) - logits * labels).mean()"),
        ("when binary_cross_entropy takes the logarithm of a σ that has become 0. Use "
         "F.logsigmoid.", YES_NO,
         "-(labels * logits[:, 0].sigmoid().log() + (1 - labels) * "
         "(1 - logits[:, 0].sigmoid()).log()).mean()"),
        ("when logits (batch, 1) and labels (batch,) broadcast to (batch, batch) in "
         "mean_squared_error. Use logits.squeeze(1).", SCALE, "((logits - labels)**2).mean()"),
        ("when errors are not squared in mean_squared_error.",
         SCALE, "(logits.squeeze(1) - labels).abs().mean()"),
        ("when mean_squared_error takes a root at the end.", SCALE, f"{SCALE}.sqrt()"),
        ("when mean_squared_error has a factor of 1/2.", SCALE, f"{SCALE} / 2"),
        ("when mean_squared_error truncates the labels to whole numbers.",
         SCALE, "F.mse_loss(logits.squeeze(1), labels.long().double())"),
        ("when accuracy is a percentage. It must be a share, from 0 to 1.",
         "np.mean(predictions == labels)", "100 * np.mean(predictions == labels)"),
        ("when accuracy is the number of right predictions, not their share.",
         "np.mean(predictions == labels)", "np.sum(predictions == labels)"),
        ("when f1 is micro-averaged over both classes, which is the accuracy. Use class 1.",
         "_f1_of(1, predictions, labels))", "accuracy(predictions, labels))"),
        ("when f1 is the mean of both classes' F1 (macro-averaged). Use class 1.",
         "_f1_of(1, predictions, labels))", "macro_f1(predictions, labels))"),
        ("when f1 is that of class 0. Use class 1.",
         "_f1_of(1, predictions, labels))", "_f1_of(0, predictions, labels))"),
        ("when f1 is the precision. It needs the recall as well.", F1,
         "float((found & true).sum() / found.sum()) if found.sum() else 0.0 if total else None"),
        ("when f1 is the recall. It needs the precision as well.",
         F1, "float((found & true).sum() / true.sum()) if true.sum() else 0.0 if total else None"),
        ("when f1 is the plain mean of precision and recall. Use the harmonic mean.", F1,
         "float(((found & true).sum() / max(1, found.sum()) + (found & true).sum() / "
         "max(1, true.sum())) / 2) if total else None"),
        ("when f1 counts true positives once: TP/(TP + FP + FN). Count them twice.",
         F1, "float((found & true).sum() / (found | true).sum()) if total else None"),
        ("when f1 is None as soon as precision or recall is undefined. It must be 0 there, unless "
         "neither side has a 1.",
         F1, "float(2 * (found & true).sum() / total) if found.any() and true.any() else None"),
        ("when f1 is None wherever there is no true positive. It must be 0 there, unless neither "
         "side has a 1.",
         F1, "float(2 * (found & true).sum() / total) if (found & true).any() else None"),
        ("when f1 is 0 where it is undefined. Return None there.",
         "_f1_of(1, predictions, labels))", "_f1_of(1, predictions, labels) or 0.0)"),
        ("when f1 is 0/0, which is NaN in NumPy. Return None there.",
         F1, "float(2 * np.float64((found & true).sum()) / total)"),
        ("when pearson does not subtract the means.", PEARSON,
         f"{IF_DEFINED} float(predictions @ labels / "
         "np.sqrt((predictions @ predictions) * (labels @ labels))))"),
        ("when pearson divides the covariance by n − 1 and the variances by n. Use one for all.",
         PEARSON, f"{IF_DEFINED} float({SUM} / (len(labels) - 1) / {STDS}))"),
        ("when pearson divides the covariance by n and the variances by n − 1. Use one for all.",
         PEARSON,
         f"{IF_DEFINED} float({SUM} / len(labels) / "
         "predictions.std(ddof=1) / labels.std(ddof=1)))"),
        ("when pearson is the covariance. Divide by both standard deviations.",
         PEARSON, f"{IF_DEFINED} float({SUM} / len(labels)))"),
        ("when pearson compares ranks, which is Spearman's correlation.",
         PEARSON, "correlation(scipy.stats.spearmanr, predictions, labels))"),
        ("when pearson is 0 where it is undefined. Return None there.",
         PEARSON, f"({PEARSON[:-1]} or 0.0))"),
        ("when pearson is 0/0, which is NaN in NumPy. Return None there.",
         PEARSON, f"float({SUM} / len(labels) / {STDS}))"),
        ("when pearson checks whether the standard deviation is 0. For 0.1, 0.1, 0.1, rounding "
         "makes it slightly larger. Compare the numbers themselves.", PEARSON,
         f"None if predictions.std() * labels.std() == 0 else float({SUM} / len(labels) / "
         f"{STDS}))"),
        ("when pearson subtracts the product of the means, so large numbers lose their digits. "
         "Subtract the means first.", PEARSON,
         f"{IF_DEFINED} float(((predictions * labels).mean() - predictions.mean() * "
         f"labels.mean()) / {STDS}))"),
    ),
    hints=(
        "How do you write log softmax(z) without a softmax, and 1 − σ(z) as a single σ?",
        "Pick z − logsumexp(z) at each row's label, with labels.long(). For yes or no, multiply "
        "F.logsigmoid(z) by y and F.logsigmoid(−z) by 1 − y. Turn (batch, 1) into (batch,) first. "
        "For F1 count TP, FP and FN; for Pearson centre both sides. Handle the undefined case "
        "before you divide.",
        "log_p = logits − torch.logsumexp(logits, 1, keepdim=True); "
        "−log_p[torch.arange(len(labels)), labels.long()].mean(). z = logits.squeeze(1); "
        "−(y · F.logsigmoid(z) + (1 − y) · F.logsigmoid(−z)).mean(). For Pearson: if "
        "np.ptp(predictions) == 0 or np.ptp(labels) == 0: return None.",
    ),
)
