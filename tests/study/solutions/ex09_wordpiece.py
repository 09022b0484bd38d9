from collections.abc import Mapping

UNKNOWN = "[UNK]"
MOST_CHARACTERS = 100


def wordpiece(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    if len(word) > MOST_CHARACTERS:
        return [UNKNOWN]
    pieces = []
    rest = word
    while rest:
        length = len(rest)
        prefix = "##" if pieces else ""
        while length > 0 and prefix + rest[:length] not in vocabulary:
            length -= 1
        if length == 0:
            return [UNKNOWN]
        pieces.append(prefix + rest[:length])
        rest = rest[length:]
    return pieces
