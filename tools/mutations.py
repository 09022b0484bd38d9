"""Accidents and malice for files: bytes, lines, tables, JSON, safetensors, zips, pickles.

Each function takes a random generator and the bytes of a sound file, and returns other bytes.
"""

import io
import json
import random
import warnings
import zipfile
from collections.abc import Sequence

WORDS = (b"", b"\0", b"\n", b"\r\n", b"\t", b'"', b'""', b",", b"\\", b"\xff", b"\xef\xbb\xbf",
         b"\xff\xfe", b"{", b"[", b"-1", b"1e999", b"NaN", b"\xed\xa0\x80", b"../", b"<script>",
         b"9" * 5000, b"x" * 200_000, (2**31).to_bytes(4, "little"),
         (2**63 - 1).to_bytes(8, "little"), b"\xff" * 8)
PICKLE_WORDS = (b"cos\nsystem\n", b"cbuiltins\nexec\n", b"(S'touch outside'\ntR.", b"R", b"b", b".",
                b"\x93", b"\x94", b"h\x00", b"j\xff\xff\xff\x7f", b"Q", b"}", b"]", b"N", b"\x85R",
                b"M\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"ctorch\nload\n",
                b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"ctorch.storage\nUntypedStorage\n", b"X\x01\x00\x00\x00a")
LABELS = (b"1", b"1.0", b" 1", b"1 ", b"nan", b"", b" ", b"-1", b"5", b"5.5", b"1e0", b"1_0",
          b"0x1", b"inf", "１".encode(), b"four", b"-0", b"9" * 400, b"neutral", b"0", b"4", b"3.8")
FIELDS = (b'"a ""b"" c"', b'"a\nb"', b'"a\tb"', b'"a\n\tb"', b"'", b'"', b"x " * 10_000,
          b"x" * 140_000, b"\0", "\u2028".encode(), "\x85".encode(), b"\r")
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F4", "I64",
          "I32", "I8", "U8", "U16", "U64", "BOOL", "C64", "F31", "f32", "")
SIZES = (0, 1, 2, 7, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, -1, 0.5, None, "8")
PLACES = ("../outside", "/tmp/outside", "..\\outside", "a/../../outside", " ", "x" * 3000,
          "other/data.pkl")


def mutate_bytes(rng: random.Random, data: bytes, words: Sequence[bytes] = WORDS) -> bytes:
    """One to four times: changes a byte; loses, doubles or moves a slice; cuts the end."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.randint(1, 16))
        before, after = data[:start], data[end:]
        data = rng.choice([
            before + bytes([rng.randint(0, 255)]) + data[start + 1:],
            before + after,
            data[:end] + data[start:],
            before + rng.choice(words) + data[start:],
            before + rng.choice(words) + after,
            before,
            after + before,
        ])
    return data


def mutate_lines(rng: random.Random, data: bytes) -> bytes:
    """Loses, doubles or damages a line; changes line ends or the encoding; or any bytes."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    text = data.decode("utf-8", "ignore")

    return rng.choice([
        lambda: b"\n".join(lines[:place] + lines[place + 1:]),
        lambda: b"\n".join([*lines[:place], rng.choice(lines), *lines[place:]]),
        lambda: b"\n".join([*lines[:place], b"", *lines[place:]]),
        lambda: b"\n".join([*lines[:place], mutate_bytes(rng, lines[place]), *lines[place + 1:]]),
        lambda: b"\r\n".join(lines),
        lambda: text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-16-le", "utf-32"])),
        lambda: text.encode("latin-1", "replace"),
        lambda: mutate_bytes(rng, data),
    ])()


def mutate_table(rng: random.Random, data: bytes) -> bytes:
    """Changes a field as people and spreadsheets do; or a row, or lines."""
    rows = [line.split(b"\t") for line in data.split(b"\n") if line]
    row = rng.choice(rows)
    place = rng.randrange(len(row))
    field = row[place]
    kind = rng.randrange(10)

    if kind == 0:
        del row[place]
    elif kind == 1:
        row.insert(place, rng.choice(WORDS))
    elif kind == 2:
        row[place] = rng.choice([b'"' + field, field + b'"', b'"' + field + b'"',
                                 field[:-1] + b'" '])
    elif kind == 3:
        row[place] = rng.choice(FIELDS)
    elif kind == 4:
        row[-1] = rng.choice(LABELS)
    elif kind == 5:
        rows.insert(rng.randrange(len(rows)), rng.choice([[], list(row)]))
    elif kind == 6:
        rows = [[b",".join(fields)] for fields in rows]
    elif kind == 7:
        rng.shuffle(row)
    else:
        row[:] = mutate_bytes(rng, b"\t".join(row)).split(b"\t")

    table = b"\n".join(b"\t".join(fields) for fields in rows) + b"\n"
    return mutate_lines(rng, table) if rng.random() < 0.25 else table


# --------------------------------------------------------------------------------------------- JSON


class Raw(str):
    """Text that stands in the JSON as it is, where json.dumps would not write it."""


class Pairs(list):
    """An object as a list of (key, value), so that a key may appear twice."""


VALUES = (None, True, False, 0, 1, -1, 2, 7, 0.5, -0.0, 2**31, 2**32 - 1, 2**63, 10**18, 1e308, "",
          "1", "x", "x" * 3000, "a\nb", "\u2028", "../../x", "/etc/passwd", "model.safetensors", [],
          {}, [0], {"a": 1}, [[1, 2]], Raw("1" + "0" * 400), Raw("NaN"), Raw("-Infinity"),
          Raw("1e999"), Raw("9" * 5000), Raw('"\\ud800"'), Raw("[" * 100_000 + "]" * 100_000),
          Raw('{"a":' * 3000 + "1" + "}" * 3000), Raw("tru"), Raw("01"))
KEYS = ("", "x" * 3000, "a\nb", "__proto__", "x", "bert", "extra")


def dumps(value: object) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return dumps(Pairs(value.items()))
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in value) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value)


def mutate_value(rng: random.Random, value: object, pool: Sequence) -> object:
    """One accident in a JSON value: another type or size; a key lost, doubled or misspelt."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return rng.choice(pool)

    items = Pairs(value.items()) if isinstance(value, dict) else type(value)(value)
    place, kind = rng.randrange(len(items)), rng.randrange(10)

    if kind == 0:
        del items[place]
    elif not isinstance(items, Pairs):
        if kind == 1:
            items.insert(place, rng.choice(pool))
        else:
            items[place] = mutate_value(rng, items[place], pool)
    else:
        key, item = items[place]
        if kind == 1:
            items.append((key, rng.choice(pool)))
        elif kind == 2:
            items[place] = (rng.choice([key + "s", key.upper(), *KEYS]), item)
        elif kind == 3:
            items.insert(0, (rng.choice(KEYS), rng.choice(pool)))
        else:
            items[place] = (key, mutate_value(rng, item, pool))

    return items


def mutate_json(rng: random.Random, data: bytes, pool: Sequence = ()) -> bytes:
    """One to three accidents in a JSON file. pool: more values that may be put in."""
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = mutate_value(rng, value, [*VALUES, *pool])

    text = dumps(value).encode()
    return mutate_bytes(rng, text) if rng.random() < 0.1 else text


def mutate_jsonl(rng: random.Random, data: bytes) -> bytes:
    """One line's JSON, or lines."""
    if rng.random() < 0.25:
        return mutate_lines(rng, data)

    lines = data.rstrip(b"\n").split(b"\n")
    place = rng.randrange(len(lines))
    pool = [{"gold_label": 1}, "-", "neutral", "entailment", "Neutral", " neutral", "", "\x00",
            "x " * 10_000]
    lines[place] = mutate_json(rng, lines[place], pool)
    return b"\n".join(lines)


# ------------------------------------------------------------------------------------- binary files


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """Changes what the header claims: names, formats, shapes, places, length; or any bytes."""
    length = int.from_bytes(data[:8], "little")
    header, body = Pairs(json.loads(data[8:8 + length]).items()), data[8 + length:]

    place = rng.randrange(len(header))
    name, about = header[place][0], dict(header[place][1])
    shape, (begin, end) = about.get("shape", [1]), about.get("data_offsets", [0, 4])
    kind = rng.randrange(10)

    if kind == 0:
        about["dtype"] = rng.choice(DTYPES)
    elif kind == 1:
        about["shape"] = [*shape[:-1], rng.choice(SIZES)]
    elif kind == 2:
        about["shape"] = rng.choice([shape[::-1], [], shape * 3, [1] * 70, [*shape, 0], [*shape, 1],
                                     "8"])
    elif kind == 3:
        about["data_offsets"] = rng.choice([[end, begin], [0, len(body)], [0, 0], [begin - 4, end],
                                            [begin, end + 4]])
    elif kind == 4:
        about["data_offsets"] = rng.choice([[], [begin], [rng.choice(SIZES), end],
                                            [begin, rng.choice(SIZES)]])
    elif kind == 5:
        name = rng.choice([rng.choice(header)[0], "bert." + name, name + "\n", "", "x" * 3000,
                           "__metadata__"])
    elif kind == 6:
        header.append((name, about))
    elif kind == 7:
        metadata = rng.choice([{}, {"format": "pt"}, {"format": 3}, "x", None, {"multitask": "{"}])
        header.append(("__metadata__", metadata))
    elif kind == 8:
        about = mutate_value(rng, about, [*VALUES, *SIZES])
    header[place] = (name, about)

    made = _safetensors(header, body)
    kind = rng.randrange(10)
    if kind == 0:
        return mutate_bytes(rng, made)
    if kind == 1:
        claim = rng.choice([0, 1, length - 1, length + 1, 2**31, 100_000_001, 2**63, 2**64 - 1])
        return claim.to_bytes(8, "little") + made[8:]
    if kind == 2:
        return rng.choice([made[:-1], made + b"\0", made[:-len(body)], made[:len(made) // 2]])
    if kind == 3:
        return made[:-4] + b"\0\0\xc0\x7f"  # the last number is a NaN
    return made


def _safetensors(header: Pairs, body: bytes) -> bytes:
    text = dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that appears twice
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def mutate_zip(rng: random.Random, data: bytes, words: Sequence[bytes] = WORDS) -> bytes:
    """Changes a file's content, name, packing or place in the zip; or any bytes."""
    if not data.startswith(b"PK"):
        return mutate_bytes(rng, data, words)
    if rng.random() < 0.3:
        start = rng.choice([0, max(0, len(data) - 120), max(0, len(data) - 600)])
        return data[:start] + mutate_bytes(rng, data[start:])

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in entries if name.endswith("data.pkl")]
    name = rng.choice(pickles or list(entries))

    if rng.random() < 0.75:
        entries[name] = mutate_bytes(rng, entries[name], words)
    else:
        place = rng.choice([*PLACES, name.upper(), "__MACOSX/" + name])
        entries[place] = entries[name] if rng.random() < 0.5 else entries.pop(name)

    stored, packed = zipfile.ZIP_STORED, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    return zipped(entries, stored if rng.random() < 0.6 else rng.choice(packed))


def mutate_pickle(rng: random.Random, data: bytes) -> bytes:
    return data if rng.random() < 0.1 else mutate_zip(rng, data, PICKLE_WORDS)
