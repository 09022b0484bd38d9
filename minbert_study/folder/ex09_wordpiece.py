"""WordPiece: a word is cut into pieces that the vocabulary has (Devlin et al. 2018, section 3).

A vocabulary of 30,522 pieces spells every English word. Pieces that continue a word begin with ##.
The longest match comes first:

    1. Take the longest beginning of the word that is in the vocabulary.
    2. Of the rest, take the longest beginning that is there with ## before it. Repeat to the end.
    3. If nothing fits at some place, the whole word becomes the one piece [UNK]. A piece that was
       taken is never given back for a shorter one.

A word of more than 100 characters becomes [UNK] at once, whatever the vocabulary has.

By hand, with un, una, ##aff, ##ffa, ##able and ##ble: "unaffable" begins with una, which is longer
than un. Then come ##ffa and ##ble. Without una they are un, ##aff and ##able. "unaffably" begins
with una and ##ffa, but nothing fits for bly, so all of it is [UNK].

Read minbert/tokenizer.py, which calls the `tokenizers` package for it, and
tests/lessons/test_05_loading.py. Check: minbert study check . wordpiece
"""

from collections.abc import Mapping

UNKNOWN = "[UNK]"
MOST_CHARACTERS = 100


def wordpiece(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The pieces of one word.

    Args:
        word: one character or more, without spaces.
        vocabulary: piece → id. Here only the pieces matter: `piece in vocabulary`.

    Returns:
        The pieces in order; [UNKNOWN] if the word cannot be spelt.
    """
    raise NotImplementedError
