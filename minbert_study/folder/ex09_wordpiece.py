"""WordPiece: split a word into pieces from the vocabulary (Devlin et al. 2018, section 3).

BERT's vocabulary of 30,522 pieces can spell every English word. Pieces that continue a word begin
with ##. Matching is greedy, longest first (google-research/bert, tokenization.py):

    1. Take the longest prefix of the word that is in the vocabulary.
    2. Of the rest, take the longest prefix that is in the vocabulary with ## in front. Repeat to
       the end of the word.
    3. If nothing fits at some point, the whole word becomes the single piece [UNK]. There is no
       backtracking: a piece once taken is never exchanged for a shorter one.

A word of more than 100 characters is always [UNK], even if the vocabulary has it.

By hand, with un, una, ##aff, ##ffa, ##able and ##ble: "unaffable" begins with una, which is longer
than un. Then come ##ffa and ##ble. Without una, the pieces are un, ##aff and ##able. "unaffably"
begins with una and ##ffa, but nothing fits bly, so the whole word is [UNK].

Read minbert/tokenizer.py, which leaves this to the `tokenizers` package, and
tests/lessons/test_05_loading.py. Check: minbert study check . wordpiece
"""

from collections.abc import Mapping

UNKNOWN = "[UNK]"
MOST_CHARACTERS = 100


def wordpiece(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The pieces of one word.

    Args:
        word: at least one character, without spaces.
        vocabulary: piece → id. Only the pieces matter here: `piece in vocabulary`.

    Returns:
        The pieces in order; [UNKNOWN] if the word cannot be spelt or is too long.
    """
    raise NotImplementedError
