import torch

SHARE, HIDDEN, RANDOM = 0.15, 0.8, 0.1


def mask_tokens(input_ids: torch.Tensor, special: torch.Tensor, mask_id: int, vocab_size: int,
                generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    allowed = ~special[input_ids]
    n = int(allowed.sum())
    k = 0 if n == 0 else max(1, round(SHARE * n))

    keys = torch.rand(len(input_ids), generator=generator)
    keys[~allowed] = 2.0
    positions = keys.argsort()[:k].sort().values

    shown = input_ids.clone()
    dice = torch.rand(k, generator=generator)
    hide = dice < HIDDEN
    swap = (dice >= HIDDEN) & (dice < HIDDEN + RANDOM)
    shown[positions[hide]] = mask_id
    shown[positions[swap]] = torch.randint(0, vocab_size, (int(swap.sum()),), generator=generator)
    return shown, positions, input_ids[positions]
