"""The encoder's equations, faster. The plain forms are in the book, one folder up.

    encoder     chooses between the book and the fast forms
    check       compares both at first use in a process; where they differ, the book runs
    layer       BertLayer with its derivative by hand, for a CPU
    attention   its attention, over blocks of similar length
    packed      BertLayer on a packed row by autograd, for a GPU or a layer with changed parts
    packing     padded batches ↔ rows of real tokens
    blocks      rows ↔ blocks of sequences of similar length
    linear      products by the faster library, weights cast once per step
    dropout     masks from cheap random bits
    gradients   gradients into buffers; rows of looked-up embeddings

MINBERT_PLAIN=1 (or --plain) switches all of it off. Imports nothing of the book.
"""

from .encoder import applies, encode_packed, encode_padded, is_by_hand, is_plain, is_unhooked
from .gradients import accumulate_into, can_be_sparse, sparse_embedding_gradients
from .linear import weights_cast_once
from .packed import encode_layers
from .packing import Packing, pack

__all__ = [
    "Packing", "accumulate_into", "applies", "can_be_sparse", "encode_layers", "encode_packed",
    "encode_padded", "is_by_hand", "is_plain", "is_unhooked", "pack", "sparse_embedding_gradients",
    "weights_cast_once",
]
