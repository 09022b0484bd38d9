import torch
from torch import nn
from torch.nn import functional as F


class OneLayerHead(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(embeddings))


class TwoLayerHead(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.last = nn.Linear(hidden, outputs)
        self.first = nn.Linear(inputs, hidden)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        x = F.dropout(embeddings, 0.3, self.training)
        x = F.leaky_relu(self.first(x))
        x = F.dropout(x, 0.45, self.training)
        return self.last(x)
