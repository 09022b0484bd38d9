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
    ("        if length == 0:\n            return [UNKNOWN]\n        pieces.append(prefix + rest[:length])\n",
     "        if length > 0:\n            pieces.append(prefix + rest[:length])\n",
     "does a loop run forever"),
    ("        if length == 0:\n            return [UNKNOWN]\n", "", "does a loop run forever"),
    ("len(word) > MOST_CHARACTERS", "len(word) > MOST_CHARACTERS and word not in vocabulary",
     "of 101 times b"),
    ("        return [UNKNOWN]\n    pieces = []\n", "        return UNKNOWN\n    pieces = []\n",
     "yours is '[U'"),
    ("    pieces = []\n", "    if word in vocabulary:\n        return [word]\n    pieces = []\n", None),
    ("    return pieces\n", "    return [vocabulary[piece] for piece in pieces]\n", "pieces of unaffable"),
    ("    return pieces\n", "    return \" \".join(pieces)\n", "pieces of unaffable: yours is"),
    ("        prefix = \"##\"", "        rest = rest.lower()\n        prefix = \"##\"", "pieces of Film"),
    ("    pieces = []\n", "    pieces = []\n    vocabulary[\"##zz\"] = 0\n", "the vocabulary is as it was"),
    ("    pieces = []\n    rest = word\n",
     "    pieces = []\n    rest = word\n    vocabulary = sorted(vocabulary, key=len)\n", None),
    ("    return pieces\n", "    pieces\n", "is a `return` missing"),
]
