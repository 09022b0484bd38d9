"""Classic mistakes in losses and metrics; the exercise is in losses.py."""

from minbert_study.exercise import Mistake

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

MISTAKES = (
    *(Mistake(f"when the losses of {name} are added up. Take their mean.", text,
              f"len(labels) * {text}") for name, text in FORMS.items()),
    *(Mistake(f"when {name} has the wrong sign.", text, f"-{text}")
      for name, text in FORMS.items()),
    *(Mistake(f"when the mean in {name} is divided by the batch size once more. Eq. 7's factor "
              "is already in the mean.", text, f"{text} / len(labels)")
      for name, text in FORMS.items()),
    Mistake("when the mean in cross_entropy runs over batch and classes. Divide by the batch "
            "size alone.", CLASSES, f"{CLASSES} / logits.shape[1]"),
    Mistake("when cross_entropy has no logarithm.",
            CLASSES, f"-logits.softmax(1){HITS}.mean()"),
    Mistake("when the softmax of cross_entropy runs over the batch, not over the classes.",
            CLASSES, f"-logits.log_softmax(0){HITS}.mean()"),
    Mistake("when cross_entropy takes the softmax twice.",
            CLASSES, f"-logits.softmax(1).log_softmax(1){HITS}.mean()"),
    Mistake("when cross_entropy subtracts the largest of all outputs. Subtract the largest of "
            "each row, or a row far below it becomes ln 0.", CLASSES,
            f"(lambda z: z.exp().sum(1).log() - z{HITS})(logits - logits.max()).mean()"),
    Mistake("when cross_entropy computes e¹⁰⁰⁰, which is infinite. Use torch.logsumexp or "
            "log_softmax.", CLASSES,
            f"-(logits.exp() / logits.exp().sum(1, keepdim=True)).log(){HITS}.mean()"),
    Mistake("when cross_entropy takes the logarithm of a softmax that has become 0. Use "
            "torch.logsumexp or log_softmax.", CLASSES,
            f"-logits.softmax(1).log(){HITS}.mean()"),
    Mistake("when binary_cross_entropy takes σ twice.", YES_NO,
            "F.binary_cross_entropy_with_logits(logits.squeeze(1).sigmoid(), labels.double())"),
    Mistake("when binary_cross_entropy counts only the examples whose label is yes.",
            YES_NO, "-(labels * F.logsigmoid(logits.squeeze(1))).mean()"),
    Mistake("when yes and no are swapped in binary_cross_entropy.",
            YES_NO, "F.binary_cross_entropy_with_logits(logits.squeeze(1), 1 - labels)"),
    Mistake("when logits (batch, 1) and labels (batch,) broadcast to (batch, batch) in "
            "binary_cross_entropy. Use logits.squeeze(1).",
            YES_NO, "(F.softplus(logits) - logits * labels).mean()"),
    Mistake("when binary_cross_entropy takes the logarithm of a σ that has become 0. "
            "Use F.logsigmoid.", YES_NO,
            "-(labels * logits[:, 0].sigmoid().log() + (1 - labels) * "
            "(1 - logits[:, 0].sigmoid()).log()).mean()"),
    Mistake("when logits (batch, 1) and labels (batch,) broadcast to (batch, batch) in "
            "mean_squared_error. Use logits.squeeze(1).",
            SCALE, "((logits - labels)**2).mean()"),
    Mistake("when errors are not squared in mean_squared_error.",
            SCALE, "(logits.squeeze(1) - labels).abs().mean()"),
    Mistake("when mean_squared_error takes a root at the end.", SCALE, f"{SCALE}.sqrt()"),
    Mistake("when mean_squared_error has a factor of 1/2.", SCALE, f"{SCALE} / 2"),
    Mistake("when mean_squared_error truncates the labels to whole numbers.",
            SCALE, "F.mse_loss(logits.squeeze(1), labels.long().double())"),
    Mistake("when accuracy is a percentage. It must be a share, from 0 to 1.",
            "np.mean(predictions == labels)", "100 * np.mean(predictions == labels)"),
    Mistake("when accuracy is the number of right predictions, not their share.",
            "np.mean(predictions == labels)", "np.sum(predictions == labels)"),
    Mistake("when f1 is micro-averaged over both classes, which is the accuracy. Use class 1.",
            "_f1_of(1, predictions, labels))", "accuracy(predictions, labels))"),
    Mistake("when f1 is the mean of both classes' F1 (macro-averaged). Use class 1.",
            "_f1_of(1, predictions, labels))", "macro_f1(predictions, labels))"),
    Mistake("when f1 is that of class 0. Use class 1.",
            "_f1_of(1, predictions, labels))", "_f1_of(0, predictions, labels))"),
    Mistake("when f1 is the precision. It needs the recall as well.", F1,
            "float((found & true).sum() / found.sum()) if found.sum() else 0.0 if total else "
            "None"),
    Mistake("when f1 is the recall. It needs the precision as well.", F1,
            "float((found & true).sum() / true.sum()) if true.sum() else 0.0 if total else "
            "None"),
    Mistake("when f1 is the plain mean of precision and recall. Use the harmonic mean.", F1,
            "float(((found & true).sum() / max(1, found.sum()) + (found & true).sum() / "
            "max(1, true.sum())) / 2) if total else None"),
    Mistake("when f1 counts the hits once: TP/(TP + FP + FN). Count them twice.", F1,
            "float((found & true).sum() / (found | true).sum()) if total else None"),
    Mistake("when f1 is None as soon as precision or recall is undefined. Without a hit it is "
            "0.",
            F1, "float(2 * (found & true).sum() / total) if found.any() and true.any() else "
            "None"),
    Mistake("when f1 is None wherever there is no hit. It must be 0 there, unless neither side "
            "has a 1.", F1, "float(2 * (found & true).sum() / total) if (found & true).any() "
            "else None"),
    Mistake("when f1 is 0 where it is undefined. Return None there.",
            "_f1_of(1, predictions, labels))", "_f1_of(1, predictions, labels) or 0.0)"),
    Mistake("when f1 is 0/0, which is NaN in NumPy. Return None there.",
            F1, "float(2 * np.float64((found & true).sum()) / total)"),
    Mistake("when pearson does not subtract the means.", PEARSON,
            f"{IF_DEFINED} float(predictions @ labels / "
            "np.sqrt((predictions @ predictions) * (labels @ labels))))"),
    Mistake("when pearson has n − 1 above and n below. Use the same in both places.",
            PEARSON, f"{IF_DEFINED} float({SUM} / (len(labels) - 1) / {STDS}))"),
    Mistake("when pearson has n above and n − 1 below. Use the same in both places.",
            PEARSON, f"{IF_DEFINED} float({SUM} / len(labels) / predictions.std(ddof=1) / "
            "labels.std(ddof=1)))"),
    Mistake("when pearson is the covariance. Divide by both standard deviations.",
            PEARSON, f"{IF_DEFINED} float({SUM} / len(labels)))"),
    Mistake("when pearson compares ranks, which is Spearman's correlation.",
            PEARSON, "correlation(scipy.stats.spearmanr, predictions, labels))"),
    Mistake("when pearson is 0 where it is undefined. Return None there.",
            PEARSON, f"({PEARSON[:-1]} or 0.0))"),
    Mistake("when pearson is 0/0, which is NaN in NumPy. Return None there.", PEARSON,
            f"float({SUM} / len(labels) / {STDS}))"),
    Mistake("when pearson checks whether the standard deviation is 0. For 0.1, 0.1, 0.1, "
            "rounding makes it slightly more. Compare the numbers themselves.", PEARSON,
            f"None if predictions.std() * labels.std() == 0 else float({SUM} / len(labels) / "
            f"{STDS}))"),
    Mistake("when pearson subtracts the product of the means, so large numbers cancel. Subtract "
            "the means first.", PEARSON,
            f"{IF_DEFINED} float(((predictions * labels).mean() - predictions.mean() * "
            f"labels.mean()) / {STDS}))"),
)
