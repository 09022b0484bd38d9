"""The pooler: one vector for the whole sentence.

    pooled = tanh(W · h_[CLS] + b)                             (google-research/bert, modeling.py)

h_[CLS] is the last hidden state of the first token, [CLS]. The model (exercise 08) selects it and
passes it to `pool`.

By hand: W = ((1, 2), (0, 1)), b = (0, −0.5) and h = (0.5, 0.25) give W · h + b = (1, −0.25), so the
result is (tanh 1, tanh −0.25) = (0.761594, −0.244919).

Read tests/lessons/test_04_model.py. Check: minbert study check . pooler
"""

import torch


def pool(self, cls_states: torch.Tensor) -> torch.Tensor:
    """A method of BertModel: tanh(W · h + b).

    Args:
        self: the model. self.pooler_dense is an nn.Linear from hidden to hidden; it holds W and b.
        cls_states: (batch, hidden), the last hidden state of each sentence's [CLS].

    Returns:
        (batch, hidden).
    """
    raise NotImplementedError
