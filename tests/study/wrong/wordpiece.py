"""Wrong WordPiece, as students hand it in."""

WRONG = [
    ("        length = len(rest)\n        prefix = \"##\" if pieces else \"\"\n"
     "        while length > 0 and prefix + rest[:length] not in vocabulary:\n"
     "            length -= 1\n        if length == 0:\n",
     "        length = 1\n        prefix = \"##\" if pieces else \"\"\n"
     "        while length <= len(rest) and prefix + rest[:length] not in vocabulary:\n"
     "            length += 1\n        if length > len(rest):\n", "shortest match is taken"),
    ("prefix = \"##\" if pieces else \"\"", "prefix = \"\"", "have no ##"),
    ("prefix = \"##\" if pieces else \"\"", "prefix = \"##\"", "first piece has ##"),
    ("and prefix + rest[:length] not in", "and rest[:length] not in", "looked up without ##"),
    ("and prefix + rest[:length] not in vocabulary",
     "and (prefix + rest[:length] not in vocabulary and rest[:length] not in vocabulary)",
     "pieces of goodfilm"),
    ("            return [UNKNOWN]\n        pieces.append",
     "            return pieces + [UNKNOWN]\n        pieces.append", "only the rest that does not fit"),
    ("            return [UNKNOWN]\n        pieces.append",
     "            break\n        pieces.append", "is left out"),
    ("            return [UNKNOWN]\n        pieces.append",
     "            pieces.append(UNKNOWN)\n            rest = rest[1:]\n            continue\n"
     "        pieces.append", "only the character that does not fit"),
    ("            return [UNKNOWN]\n        pieces.append",
     "            rest = rest[1:]\n            continue\n        pieces.append", "is skipped"),
    ("        if length == 0:\n            return [UNKNOWN]\n        pieces.append(prefix + rest[:length])\n",
     "        if length > 0:\n            pieces.append(prefix + rest[:length])\n",
     "does a loop run forever"),
    ("        if length == 0:\n            return [UNKNOWN]\n", "", "does a loop run forever"),
    ("    if len(word) > MOST_CHARACTERS:\n        return [UNKNOWN]\n", "",
     "more than 100 characters are split"),
    ("len(word) > MOST", "len(word) >= MOST", "exactly 100 characters is [UNK]"),
    ("len(word) > MOST_CHARACTERS", "len(word) > MOST_CHARACTERS and word not in vocabulary",
     "of 101 times b"),
    ("len(word) > MOST", "len(word.encode(\"utf-8\")) > MOST", "bytes are counted"),
    ("        return [UNKNOWN]\n    pieces = []\n", "        return UNKNOWN\n    pieces = []\n",
     "yours is '[U'"),
    ("    pieces = []\n", "    if word in vocabulary:\n        return [word]\n    pieces = []\n", None),
    ("    pieces = []\n    rest = word\n",
     "    def split(rest, prefix):\n        if not rest:\n            return []\n"
     "        for length in range(len(rest), 0, -1):\n            if prefix + rest[:length] in vocabulary:\n"
     "                after = split(rest[length:], \"##\")\n                if after != [UNKNOWN]:\n"
     "                    return [prefix + rest[:length]] + after\n        return [UNKNOWN]\n"
     "    return split(word, \"\")\n    pieces = []\n    rest = word\n", "never goes back"),
    ("    pieces = []\n    rest = word\n",
     "    pieces = []\n    end = len(word)\n    while end > 0:\n        start = 0\n"
     "        while start < end and (\"##\" if start else \"\") + word[start:end] not in vocabulary:\n"
     "            start += 1\n        if start == end:\n            return [UNKNOWN]\n"
     "        pieces.insert(0, (\"##\" if start else \"\") + word[start:end])\n        end = start\n"
     "    return pieces\n    pieces = []\n    rest = word\n", "starts at the word's end"),
    ("        length = len(rest)\n", "        length = len(rest) - 1\n", "never tries the whole rest"),
    ("        length = len(rest)\n", "        length = max(1, len(rest) - 1)\n",
     "one character before the word's end"),
    ("    return pieces\n", "    return [vocabulary[piece] for piece in pieces]\n", "pieces of unaffable"),
    ("    return pieces\n", "    return \" \".join(pieces)\n", "pieces of unaffable: yours is"),
    ("        prefix = \"##\"", "        rest = rest.lower()\n        prefix = \"##\"", "pieces of Film"),
    ("    pieces = []\n", "    pieces = []\n    vocabulary[\"##zz\"] = 0\n", "the vocabulary is as it was"),
    ("    pieces = []\n    rest = word\n",
     "    pieces = []\n    rest = word\n    vocabulary = sorted(vocabulary, key=len)\n", None),
    ("    return pieces\n", "    pieces\n", "is a `return` missing"),
]
