"""--arch: how a pair of sentences enters, what a head reads and how deep it is (section 4.2)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .layers import OneLayerHead, TwoLayerHead


@dataclass(frozen=True)
class Architecture:
    """How pairs and heads are built.

    Attributes:
        pairs_joined: a pair is one input, [CLS] a [SEP] b [SEP]; else it is two inputs, whose
            embeddings stand side by side.
        head: builds a head from (inputs, hidden, outputs).
        mean_pooling: heads read the mean of the last hidden states of all tokens, as in
            sentence-transformers; else that of [CLS], through BERT's pooler.
    """

    pairs_joined: bool
    head: Callable[[int, int, int], nn.Module]
    mean_pooling: bool = False

    def sequences(self, sentences: int) -> int:
        """How many encoder inputs an example with this many sentences makes."""
        return 1 if self.pairs_joined else sentences

    def build_head(self, hidden: int, sentences: int, outputs: int) -> nn.Module:
        """A task's head: from `sequences` embeddings of width `hidden` to `outputs` numbers."""
        return self.head(hidden * self.sequences(sentences), hidden, outputs)


ARCHITECTURES = {
    "concatA": Architecture(pairs_joined=False, head=OneLayerHead),
    "concatB": Architecture(pairs_joined=True, head=OneLayerHead),
    "concatB_al": Architecture(pairs_joined=True, head=TwoLayerHead),
    # not of the paper
    "concatB_mean": Architecture(pairs_joined=True, head=OneLayerHead, mean_pooling=True),
}
