import numpy as np
import torch
from torch.nn import functional as F


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    log_p = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    rows = torch.arange(len(labels))
    return -log_p[rows, labels.long()].mean()


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    z = logits.squeeze(1)
    yes, no = F.logsigmoid(z), F.logsigmoid(-z)
    return -(labels * yes + (1 - labels) * no).mean()


def mean_squared_error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    z = logits.squeeze(1)
    return ((z - labels) ** 2).mean()


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float((predictions == labels).mean())


def f1(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    tp = ((predictions == 1) & (labels == 1)).sum()
    fp = ((predictions == 1) & (labels != 1)).sum()
    fn = ((predictions != 1) & (labels == 1)).sum()
    if tp + fp + fn == 0:
        return None
    return float(2 * tp / (2 * tp + fp + fn))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float | None:
    if (predictions == predictions[0]).all() or (labels == labels[0]).all():
        return None
    x = predictions - predictions.mean()
    y = labels - labels.mean()
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))
