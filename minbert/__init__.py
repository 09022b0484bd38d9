"""BERT written by hand in PyTorch, equal to transformers to 1e-5.

The book, in reading order: config, activations, embeddings, attention, layer, model. Then tokenizer
and sentences (text to vectors), masking and mlm (pretraining).

    fast/         the same equations, faster; compared with the book at first use
    checkpoints/  names on the hub, weights files, loading and saving
    files         reading and replacing files safely
    mini/         minbert-mini: weights, config, vocabulary, card

Imports nothing of the other packages. MINBERT_PLAIN=1 runs the book alone.

>>> from minbert import BertConfig, BertModel, BertTokenizer
"""

from importlib.metadata import PackageNotFoundError, version

from .config import BertConfig
from .fast import Packing, pack
from .masking import Masked, Masking
from .mlm import BertForMaskedLM, MaskedLMOutput
from .model import BertModel, BertOutput
from .tokenizer import BertTokenizer

__all__ = [
    "BertConfig", "BertForMaskedLM", "BertModel", "BertOutput", "BertTokenizer", "Masked",
    "MaskedLMOutput", "Masking", "Packing", "pack",
]

try:
    __version__ = version("minbert")
except PackageNotFoundError:  # a copy of the source that is not installed
    __version__ = "unknown"
