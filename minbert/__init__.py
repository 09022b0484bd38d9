"""minbert: BERT written by hand in PyTorch, equal to the reference to the digit.

>>> from minbert import BertConfig, BertModel, BertTokenizer
"""

from .config import BertConfig
from .fast import Packing, pack
from .masking import Masked, Masking
from .mlm import BertForMaskedLM, BertForPreTraining, MaskedLMOutput, PreTrainingOutput
from .model import BertModel, BertOutput
from .tokenizer import BertTokenizer

__all__ = [
    "BertConfig", "BertForMaskedLM", "BertForPreTraining", "BertModel", "BertOutput", "BertTokenizer", "Masked",
    "MaskedLMOutput", "Masking", "Packing", "PreTrainingOutput", "pack",
]
