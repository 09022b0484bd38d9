import torch


def pool(self, cls_states: torch.Tensor) -> torch.Tensor:
    projected = self.pooler_dense(cls_states)
    return projected.tanh()
