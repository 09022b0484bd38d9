"""Wrong losses and metrics, as students hand them in."""

LOG_P = "    log_p = logits - torch.logsumexp(logits, dim=1, keepdim=True)\n"
PICKED = "-log_p[rows, labels.long()].mean()"
BINARY = "    yes, no = F.logsigmoid(z), F.logsigmoid(-z)\n"
UNDEFINED = ("    if (predictions == predictions[0]).all() or (labels == labels[0]).all():\n"
             "        return None\n")
F1 = "float(2 * tp / (2 * tp + fp + fn))"
PEARSON = "float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))"

WRONG = [
    (PICKED, "-log_p[rows, labels.long()].sum()", "cross_entropy are added up"),
    (PICKED, "log_p[rows, labels.long()].mean()", "cross_entropy has the wrong sign"),
    (PICKED, "-(log_p * F.one_hot(labels.long(), logits.shape[1])).mean()",
     "runs over batch and classes"),
    (PICKED, "-log_p[rows, labels.long()].mean() / len(labels)", "Eq. 7's factor"),
    (PICKED, "-log_p[rows, labels.long()]", "cross_entropy has shape (1,), expected ()"),
    (PICKED, "-log_p[rows, labels.long()].mean().item()", "returned float, expected a tensor"),
    (PICKED, "-log_p[rows, labels.long()].mean().detach()", "is something detached"),
    (PICKED, "-log_p[:, labels.long()].mean()", "cross_entropy, z = (0, ln 3) and"),
    (PICKED, "-log_p[rows, labels].mean()", "IndexError"),
    (LOG_P, "    log_p = torch.log(torch.softmax(logits, 1) + 1e-9)\n", "cross_entropy, wrong"),
    (LOG_P, "    log_p = torch.log(torch.softmax(logits, 1).clamp(min=1e-12))\n",
     "cross_entropy, wrong"),
    (LOG_P, "    log_p = torch.log_softmax(logits, 1)\n", None),
    (LOG_P, "    logits -= logits.max()\n" + LOG_P, "changed its input `logits`"),
    (LOG_P, "    return F.cross_entropy(logits, labels.long())\n" + LOG_P,
     "cross_entropy is what you are to write"),
    (LOG_P, "    return torch.nn.CrossEntropyLoss()(logits, labels.long())\n" + LOG_P,
     "CrossEntropyLoss is what you are to write"),
    (BINARY, "    p = torch.sigmoid(z).clamp(1e-7, 1 - 1e-7)\n    yes, no = p.log(), (1 - p).log()\n",
     "binary_cross_entropy, wrong"),
    (BINARY, "    p = torch.sigmoid(z)\n    yes, no = p.log().clamp(min=-100), "
     "(1 - p).log().clamp(min=-100)\n", "binary_cross_entropy, wrong"),
    (BINARY, "    yes = torch.where(z > 0, -torch.log(1 + torch.exp(-z)), z - torch.log(1 + "
     "torch.exp(z)))\n    no = yes - z\n", "gradient of logits"),
    (BINARY, "    yes = -F.softplus(-z)\n    no = -F.softplus(z)\n", None),
    ("    z = logits.squeeze(1)\n" + BINARY, "    z = logits.squeeze()\n" + BINARY, None),
    ("((z - labels) ** 2).mean()", "(z - labels).mean() ** 2", "mean_squared_error, 3 for 1 and"),
    ("((z - labels) ** 2)", "((z.sigmoid() * 5 - labels) ** 2)", "mean_squared_error, 3 for 1"),
    ("((z - labels) ** 2)", "((z.clamp(0, 5) - labels) ** 2)", "mean_squared_error, "),
    ("float((predictions == labels).mean())", "float(((predictions == 1) == (labels == 1)).mean())",
     "accuracy, n = "),
    ("float((predictions == labels).mean())", "float((predictions == labels).all())",
     "accuracy: yours 0,"),
    ("    if tp + fp + fn == 0:\n        return None\n",
     "    if tp + fp + fn == 0:\n        return 1.0\n", "yours 1, expected None"),
    ("    return " + F1, "    precision = tp / (tp + fp)\n    recall = tp / (tp + fn)\n"
     "    return float(2 * precision * recall / (precision + recall))", "f1 where no 1 is predicted"),
    ("tp = ((predictions == 1) & (labels == 1)).sum()",
     "tp = ((predictions == 0) & (labels == 0)).sum()", "f1: yours"),
    (PEARSON, "float((x * y).mean() / (x.std() * y.std()))", None),
    (PEARSON, "float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())) ** 2", "pearson: yours 0.25"),
    ("    x = predictions - predictions.mean()\n",
     "    predictions -= predictions.mean()\n    x = predictions\n",
     "predictions and labels afterwards"),
    (UNDEFINED, "", "pearson of zeros and y"),
    (UNDEFINED, UNDEFINED.replace("predictions == predictions[0]", "predictions == 0"),
     "pearson of 0.1, 0.1, 0.1"),
    (PEARSON, "float(np.corrcoef(x, y)[0, 1])", "corrcoef is what you are to write"),
    ("    return float((predictions == labels).mean())", "    float((predictions == labels).mean())",
     "is a `return` missing"),
    ("    return " + PEARSON, "    " + PEARSON, "is a `return` missing"),
    (PEARSON, "float((x * y).sum() / (np.sqrt((x**2).sum() * (y**2).sum()) + 1e-12))",
     "pearson of x / 10¹² and y"),
    (UNDEFINED, "    if predictions.std() < 1e-8 or labels.std() < 1e-8:\n        return None\n",
     "pearson of x / 10¹² and y"),
]
