"""WordPiece, the longest match first."""

import torch
from tokenizers.models import WordPiece

from minbert_study.exercise import Exercise, check
from minbert_study.worker import Fault

UNKNOWN, MOST_CHARACTERS = "[UNK]", 100
MOST_QUESTIONS = 50_000  # an honest search of a word of 100 characters asks about 5,050 pieces


def wordpiece(word, vocabulary):
    """What the `tokenizers` package computes for minbert.BertTokenizer."""
    if len(word) > MOST_CHARACTERS:
        return [UNKNOWN]
    pieces, start = [], 0
    while start < len(word):
        mark = "##" if pieces else ""
        for end in range(len(word), start, -1):
            piece = mark + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [UNKNOWN]
        pieces.append(piece)
        start = end
    return pieces


def by_package(word, vocabulary):
    """The package's own model, which is written in Rust."""
    model = WordPiece(dict(vocabulary), unk_token=UNKNOWN, max_input_chars_per_word=MOST_CHARACTERS)
    return [token.value for token in model.tokenize(word)]


class Vocabulary(dict):
    """Piece → id; a real piece has id 0. Raises Fault after MOST_QUESTIONS look-ups.

    Then a loop is endless.
    """

    def __init__(self, *pieces: str) -> None:
        super().__init__({piece: number for number, piece in enumerate((*pieces, UNKNOWN))})
        self.asked = 0

    def __contains__(self, piece: object) -> bool:
        self._count(piece)
        return super().__contains__(piece)

    def get(self, piece: object, default: object = None) -> object:
        self._count(piece)
        return super().get(piece, default)

    def _count(self, piece: object) -> None:
        self.asked += 1
        if self.asked > MOST_QUESTIONS:
            raise Fault(f"one word took more than {MOST_QUESTIONS:,} look-ups, the last for "
                        f"{str(piece)[:30]!r}: does a loop run forever if nothing fits?")


def pieces_of(part, words: list[str], *pieces: str) -> dict[str, list[str]]:
    """The pieces of each word, with one vocabulary."""
    return {f"pieces of {word}": part.wordpiece(word, Vocabulary(*pieces)) for word in words}


@check()
def by_hand(part):
    """With un, ##aff and ##able, unaffable is split into these three pieces."""
    return pieces_of(part, ["unaffable"], "un", "##aff", "##able")


@check()
def whole_words(part):
    """A word in the vocabulary is one piece; good and Film, which nothing fits, are [UNK]."""
    return pieces_of(part, ["film", "a", "é", "good", "Film"], "film", "f", "##ilm", "a", "é")


@check()
def longest_first(part):
    """Of several pieces that fit, the longest is taken, from the word's beginning."""
    return pieces_of(part, ["unaffable", "filmfilms"], "un", "una", "u", "##aff", "##ffa", "##able",
                     "##ble", "##e", "film", "fil", "##m", "##mf", "##film", "##ilm", "##ilms",
                     "##s", "##films", "##l", "##bl")


@check()
def marks(part):
    """A piece without ## can only begin a word, and a piece with ## can only continue one."""
    return pieces_of(part, ["goodfilm", "filmy", "able"], "good", "film", "##able", "##y", "y")


@check()
def unknown(part):
    """If nothing fits at some point, the whole word is a single [UNK], without backtracking."""
    return pieces_of(part, ["unable", "unx", "xun", "abcd"], "un", "##a", "##b", "ab", "a", "##bcd")


@check()
def long_words(part):
    """A word of 100 characters is split; one of 101 is [UNK], even if the vocabulary has it."""
    found = {}
    for letter, times in (("a", 100), ("a", 101), ("é", 100), ("b", 101)):  # é has two bytes
        pieces = part.wordpiece(letter * times, Vocabulary("a", "##a", "é", "##é", "b" * 101))
        found[f"the first pieces of {times} times {letter}"] = pieces[:2]
        found[f"how many pieces of {times} times {letter}"] = len(pieces)
    return found


@check(against={"wordpiece": by_package})
def as_package(part):
    """The tokenizers package gives the same for two hundred random words and vocabularies."""
    def draw(letters: int) -> str:
        return "".join("abé"[number] for number in torch.randint(3, (letters,)).tolist())

    found, as_before = {}, True
    for number in range(200):
        pieces = [draw(1 + number % 3) for _ in range(4)]
        pieces += [f"##{draw(1 + number % 3)}" for _ in range(8)] + ["##a", "##b"]
        word, vocabulary = draw(3 + number % 5), Vocabulary(*sorted(set(pieces)))
        before = dict(vocabulary)
        found[f"{word!r} with {', '.join(before)}"] = part.wordpiece(word, vocabulary)
        as_before = as_before and dict(vocabulary) == before
    return {"the vocabulary is as it was": as_before, "pieces": found}


EXERCISE = Exercise(
    title="WordPiece",
    places=("minbert_study.exercises.wordpiece:wordpiece",),
    mistakes=(
        ("when the shortest match is taken. Take the longest.",
         "range(len(word), start, -1)", "range(start + 1, len(word) + 1)"),
        ("when pieces that continue a word have no ##.",
         'mark = "##" if pieces else ""', 'mark = ""'),
        ("when pieces are looked up without ## and get it only afterwards. Look up continuing "
         "pieces with their ##.",
         "            piece = mark + word[start:end]\n            if piece in vocabulary:\n",
         "            piece = mark + word[start:end]\n"
         "            if word[start:end] in vocabulary:\n"),
        ("when the first piece has ## as well.", 'mark = "##" if pieces else ""', 'mark = "##"'),
        ("when only the rest that does not fit becomes [UNK]. The whole word must become [UNK].",
         "        else:\n            return [UNKNOWN]\n",
         "        else:\n            return [*pieces, UNKNOWN]\n"),
        ("when the rest that does not fit is left out. The whole word must become [UNK].",
         "        else:\n            return [UNKNOWN]\n",
         "        else:\n            return pieces\n"),
        ("when only the character that does not fit becomes [UNK]. The whole word must become "
         "[UNK].", "        else:\n            return [UNKNOWN]\n",
         "        else:\n            piece, end = UNKNOWN, start + 1\n"),
        ("when a character that does not fit is skipped. The whole word must become [UNK].",
         "        else:\n            return [UNKNOWN]\n",
         "        else:\n            start += 1\n            continue\n"),
        ("when words of more than 100 characters are split. They must become [UNK].",
         "if len(word) > MOST_CHARACTERS:", "if False:"),
        ("when a word of exactly 100 characters is [UNK]. Only longer ones are.",
         "len(word) > MOST", "len(word) >= MOST"),
        ("when bytes are counted, not characters. é has two bytes.",
         "if len(word) > MOST", "if len(word.encode()) > MOST"),
        ("when a piece is exchanged for a shorter one so that the rest fits. WordPiece never goes "
         "back.", "    pieces, start = [], 0\n",
         "    def fit(rest, mark):\n"
         "        for end in range(len(rest), 0, -1):\n"
         "            if mark + rest[:end] in vocabulary:\n"
         "                after = fit(rest[end:], '##') if rest[end:] else []\n"
         "                if after is not None:\n"
         "                    return [mark + rest[:end], *after]\n"
         "        return None\n"
         "    return fit(word, '') or [UNKNOWN]\n    pieces, start = [], 0\n"),
        ("when matching starts at the word's end. Start at its beginning.",
         "    pieces, start = [], 0\n",
         "    pieces, stop = [], len(word)\n"
         "    while stop:\n"
         "        for start in range(stop):\n"
         "            piece = ('##' if start else '') + word[start:stop]\n"
         "            if piece in vocabulary:\n"
         "                break\n"
         "        else:\n"
         "            return [UNKNOWN]\n"
         "        pieces, stop = [piece, *pieces], start\n"
         "    return pieces\n    pieces, start = [], 0\n"),
        ("when the search stops one character before the word's end.",
         "range(len(word), start, -1)", "range(max(start + 1, len(word) - 1), start, -1)"),
        ("when the search never tries the whole rest. A slice [start:end] leaves out the character "
         "at `end`.", "range(len(word), start, -1)", "range(len(word) - 1, start, -1)"),
        ("when the search never tries a single character.",
         "range(len(word), start, -1)", "range(len(word), start + 1, -1)"),
    ),
    hints=(
        "Where in the word does the next piece begin, and which end do you try first?",
        "Use two loops. While part of the word is left, try all its prefixes from the longest "
        "down, with ## in front unless they begin the word. If one fits, continue after it. If "
        "none fits, return at once.",
        'start = 0; while start < len(word): for end in range(len(word), start, -1): piece = ("##" '
        'if start else "") + word[start:end]; if it is in the vocabulary: append, start = end, '
        "break. A for loop's else branch runs if there was no break: return [UNKNOWN].",
    ),
)
