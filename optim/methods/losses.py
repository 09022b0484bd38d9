"""Weights from the tasks' losses: uncertainty, DWA, FAMO, GradNorm.

They were made for a sum of losses, and weighting a loss is weighting its gradient. Deviation: only
the shared encoder's gradients are weighted; a head belongs to one task, and Adam does not see a
constant factor of its gradient. All state is in `state`, so it is in checkpoints too.
"""

import math

import torch

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # of Adam (Kingma & Ba 2015)


def check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}, expected a number above 0")


def adam_(state: dict[str, torch.Tensor], value: torch.Tensor, gradient: torch.Tensor,
          lr: float) -> None:
    """One step of Adam on a small vector, in place; m, v and the step count are in `state`."""
    m = state.setdefault("m", torch.zeros_like(value))
    v = state.setdefault("v", torch.zeros_like(value))
    step = state.setdefault("step", value.new_zeros(()))
    step += 1
    m.lerp_(gradient, 1 - BETA1)
    v.lerp_(gradient**2, 1 - BETA2)
    value -= lr * (m / (1 - BETA1**step)) / ((v / (1 - BETA2**step)).sqrt() + EPS)


class Uncertainty:
    """Uncertainty weighting (Kendall et al. 2018, Eq. 10): Σ ½ exp(−s_i) L_i + ½ s_i, s learnt.

    s_i is the log variance of task i's noise; at its best, exp(s_i) = L_i.

    Args:
        lr: of Adam, which learns s from 0.

    >>> Uncertainty()(torch.eye(2), torch.tensor([1.0, 2.0])).tolist()
    [0.5, 0.5]
    """

    def __init__(self, lr: float = 0.01) -> None:
        check_positive("uncertainty: lr", lr)
        self.lr = lr
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, gram: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        losses = losses.double()
        s = self.state.setdefault("s", torch.zeros_like(losses))
        weights = 0.5 * (-s).exp()
        adam_(self.state, s, 0.5 - weights * losses, self.lr)  # d/ds of the sum above
        return weights


class DynamicWeightAverage:
    """DWA (Liu et al. 2019, Eq. 7): more weight to a task whose loss falls slowly.

    w = T softmax(r / temperature), r_i the mean loss of the last epoch over that of the one before;
    1 in the first two epochs.

    >>> method = DynamicWeightAverage()
    >>> for epoch, losses in enumerate([[4.0, 4.0], [1.0, 4.0], [1.0, 1.0]]):
    ...     weights = method(torch.eye(2), torch.tensor(losses), epoch)
    >>> (weights / weights.sum()).log().diff().item()  # (4/4 − 1/4) / 2
    0.375
    """

    def __init__(self, temperature: float = 2.0) -> None:
        check_positive("dwa: temperature", temperature)
        self.temperature = temperature
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, gram: torch.Tensor, losses: torch.Tensor, epoch: int) -> torch.Tensor:
        losses, state = losses.double(), self.state
        if int(state.get("epoch", -1)) != epoch:  # a new one begins
            if "sum" in state:
                if "last" in state:
                    state["before"] = state["last"]
                state["last"] = state["sum"] / state["count"]
            state |= {"epoch": torch.tensor(epoch, device="cpu"), "sum": torch.zeros_like(losses),
                      "count": losses.new_zeros(())}
        state["sum"] += losses
        state["count"] += 1
        if "before" not in state:
            return torch.ones_like(losses)
        ratios = state["last"] / state["before"].clamp(min=torch.finfo(losses.dtype).tiny)
        return len(losses) * (ratios / self.temperature).softmax(0)


class Famo:
    """FAMO (Liu et al. 2023, Algorithm 1): every task's log loss falls at the same rate.

    z = softmax(ξ) and w_i = c z_i / L_i, with c = 1 / Σ z_i / L_i. After the update, the losses on
    the same batches are looked at again: δ = log L_before − log L_after is the gain, and ξ takes a
    step of Adam along (∂softmax/∂ξ)ᵀ δ. That second forward pass costs about a third of a step. It
    draws new dropout masks, as in the authors' code, so δ holds their noise too.

    Args:
        lr, decay: of Adam on ξ.

    >>> [round(weight, 6) for weight in Famo()(torch.eye(2), torch.tensor([1.0, 3.0])).tolist()]
    [0.75, 0.25]
    """

    SMALLEST = 1e-8  # added to losses, as in the authors' code

    def __init__(self, lr: float = 0.025, decay: float = 0.001) -> None:
        check_positive("famo: lr", lr)
        self.lr, self.decay = lr, decay
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, gram: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        losses = losses.double() + self.SMALLEST
        self.state["before"] = losses
        z = self.state.setdefault("xi", torch.zeros_like(losses)).softmax(0)
        return z / losses / (z / losses).sum()

    def observe(self, losses: torch.Tensor) -> None:
        """losses: (tasks,), of the same batches after the update.

        Nothing is learnt if the method was not called for that update, as after an overflow.
        """
        before = self.state.pop("before", None)
        if before is None:
            return
        xi = self.state["xi"]
        delta = before.log() - (losses.double() + self.SMALLEST).log()
        z = xi.softmax(0)
        gradient = z * (delta - z @ delta)  # (∂softmax/∂ξ)ᵀ δ
        adam_(self.state, xi, gradient + self.decay * xi, self.lr)


class GradNorm:
    """GradNorm (Chen et al. 2018, Algorithm 1): weighted gradients of similar length, longer for
    tasks that learn slowly.

    The target of w_i ‖g_i‖ is mean_j(w_j ‖g_j‖) (r_i / mean r)^α, r_i the loss over its first
    value. w takes a step of Adam on the sum of the absolute differences, in which targets are
    constants, and is scaled to Σ w = T. Deviation: the gradients are those of the whole shared
    encoder, not of its last layer.

    Args:
        alpha: 0 is equal lengths.
        lr: of Adam on w.

    >>> GradNorm()(torch.eye(2), torch.tensor([1.0, 2.0])).tolist()
    [1.0, 1.0]
    """

    LEAST = 1e-3  # of a weight, so that none turns negative

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        check_positive("gradnorm: lr", lr)
        self.alpha, self.lr = alpha, lr
        self.state: dict[str, torch.Tensor] = {}

    def __call__(self, gram: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        losses = losses.double()
        norms = gram.double().diagonal().clamp(min=0).sqrt()
        first = self.state.setdefault("first", losses.clone())
        w = self.state.setdefault("weights", torch.ones_like(losses))
        weights = w.clone()

        ratios = losses / first.clamp(min=torch.finfo(losses.dtype).tiny)
        rates = ratios / ratios.mean().clamp(min=torch.finfo(losses.dtype).tiny)
        target = (w * norms).mean() * rates**self.alpha
        adam_(self.state, w, norms * (w * norms - target).sign(), self.lr)
        w.clamp_(min=self.LEAST)
        w *= len(w) / w.sum()
        return weights
