"""BERT: embeddings, a stack of layers, and the pooler on [CLS] (Devlin et al. 2018, section 3).

    hidden_0 = embeddings(input_ids, token_type_ids, position_ids)
    hidden_l = layer_l(hidden_(l−1), mask)                           for every layer, in order
    last_hidden_state = the last hidden,   pooler_output = pool(last_hidden_state of [CLS])

[CLS] is the first token of every sentence. A batch is padded to its longest sentence; the attention
mask is 1 at real tokens and 0 at padding.

By hand, for two sentences of three and four tokens, padded with id 0:

    input_ids       2 7 3 0      attention_mask  1 1 1 0      position_ids  0 1 2 3
                    2 5 8 3                      1 1 1 1                    0 1 2 3

token_type_ids are all 0, because these are single sentences. The layers get the mask as bool, True
at real tokens. Positions count all columns, including padding.

Read tests/lessons/test_04_model.py. Check: minbert study check . bert
"""

import torch

from minbert.model import BertOutput


def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
            token_type_ids: torch.Tensor | None = None) -> BertOutput:
    """A method of BertModel: encode a padded batch.

    Args:
        self: the model. It has
            self.embeddings(input_ids, token_type_ids, position_ids) → (batch, seq, hidden),
            self.layers, a list; each is called as layer(hidden_states, mask), with a mask of
                (batch, seq) bool,
            self.pool(cls_states): (batch, hidden) → (batch, hidden).
        input_ids: (batch, seq) int64.
        attention_mask: (batch, seq), any dtype, nonzero at real tokens. By default all are real.
        token_type_ids: (batch, seq) int64, all 0 by default.

    Returns:
        BertOutput(last_hidden_state, pooler_output), of shapes (batch, seq, hidden) and
        (batch, hidden).
    """
    raise NotImplementedError
