import torch

from minbert.model import BertOutput


def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
            token_type_ids: torch.Tensor | None = None) -> BertOutput:
    batch, seq = input_ids.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, seq)
    if token_type_ids is None:
        token_type_ids = torch.zeros(batch, seq, dtype=torch.long)
    positions = torch.arange(seq).unsqueeze(0).repeat(batch, 1)
    mask = attention_mask.bool()

    hidden = self.embeddings(input_ids, token_type_ids, positions)
    for layer in self.layers:
        hidden = layer(hidden, mask)

    cls = hidden[:, 0]
    return BertOutput(hidden, self.pool(cls))
