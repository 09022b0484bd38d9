"""Step → multiplier of the learning rate, as plain functions."""


def constant(step: int, warmup_steps: int, total_steps: int) -> float:
    """1, after a linear warm-up from 1/warmup_steps. Steps count from 0. Not in the paper."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def linear_decay(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then linear decay to 0 at total_steps (Devlin et al. 2018, A.2).

    >>> [linear_decay(step, 2, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


# --schedule → function (step, warmup_steps, total_steps) → multiplier
SCHEDULES = {"constant": constant, "linear": linear_decay}
