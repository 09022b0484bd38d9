"""Tokenizer settings in files beside the vocabulary: applied as in transformers, or refused."""

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import one_line, read_object

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Keys of tokenizer_config.json, true or false, and their defaults; None is "as do_lower_case".
OPTIONS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}

# tokenizer_class: BERT's own, with "Fast" behind or not, and those that say nothing
BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
GENERIC_CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True)
class AddedToken:
    """A token beyond the vocabulary.

    Args:
        number: Its id, if the file has it.
        flags: As tokenizers.AddedToken takes them.
        file: Where it stands.
    """

    text: str
    number: int | None
    flags: dict[str, bool]
    file: Path

    def __post_init__(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{self.file}: the token {self.text!a} is not text") from None


def read_settings(folder: Path) -> tuple[tuple, list[AddedToken], str, object]:
    """Reads tokenizer_config.json, special_tokens_map.json and added_tokens.json, where they exist.

    Returns:
        The values of OPTIONS; the tokens beyond the vocabulary, by id; tokenizer_class;
        model_max_length, None if it is missing.

    Raises:
        ValueError: A value is of another type, the tokenizer is of another kind, or a special
            token has another name; the message names file and setting.
    """
    path, config = _read(folder, "tokenizer_config.json")
    options = {name: config.get(name, default) for name, default in OPTIONS.items()}
    for name, value in options.items():
        if not (isinstance(value, bool) or value is OPTIONS[name]):
            raise ValueError(f"{path}: {name} must be true or false, got {reprlib.repr(value)}")

    class_name = config.get("tokenizer_class") or BERT_CLASSES[0]
    known = (*BERT_CLASSES, *(f"{name}Fast" for name in BERT_CLASSES), *GENERIC_CLASSES)
    if class_name not in known:
        raise ValueError(f"{path}: tokenizer_class is {reprlib.repr(class_name)}, but only "
                         "BERT's own tokenizer is supported")

    map_path, special_map = _read(folder, "special_tokens_map.json")
    added = [*_by_id(path, config), *_by_text(*_read(folder, "added_tokens.json"))]
    for file, values in ((path, config), (map_path, special_map)):
        _refuse_renamed(file, values)
        added += _special(file, values)
    added.sort(key=lambda token: (token.number is None, token.number or 0))
    return tuple(options.values()), added, class_name, config.get("model_max_length")


def _read(folder: Path, name: str) -> tuple[Path, dict]:
    path = folder / name
    return path, read_object(path) if path.is_file() else {}


def _text_of(value: object, where: str) -> str:
    """A token is a string, or an object with its content."""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where} is {reprlib.repr(value)}, expected a token")
    return text


def _refuse_renamed(path: Path, values: dict) -> None:
    for token in SPECIAL_TOKENS:
        name = f"{token[1:-1].lower()}_token"
        if values.get(name) is None:
            continue
        text = _text_of(values[name], f"{path}: {name}")
        if text != token:
            raise ValueError(f"{path}: {name} is {one_line(repr(text))}, but only {token} is "
                             "supported")


def _by_id(path: Path, config: dict) -> Iterator[AddedToken]:
    """added_tokens_decoder: id → token with its flags."""
    found = config.get("added_tokens_decoder") or {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: added_tokens_decoder must be an object")
    for number, value in found.items():
        where = f"{path}: added_tokens_decoder {one_line(repr(number))}"
        text = _text_of(value, where)
        if not number.isdecimal() or len(number) > 9:
            raise ValueError(f"{where}: expected an id")
        flags = {name: value[name] for name in FLAGS
                 if isinstance(value, dict) and isinstance(value.get(name), bool)}
        yield AddedToken(text, int(number), flags, path)


def _by_text(path: Path, added: dict) -> Iterator[AddedToken]:
    """added_tokens.json: token → id."""
    for text, number in added.items():
        if type(number) is not int or not text:
            raise ValueError(f"{path}: {one_line(repr(text))} has the id {reprlib.repr(number)}, "
                             "expected a whole number")
        yield AddedToken(text, number, {}, path)


def _special(path: Path, values: dict) -> Iterator[AddedToken]:
    """additional_special_tokens, extra_special_tokens: lists of further special tokens."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        found = values.get(name) or []
        if isinstance(found, dict):
            found = list(found.values())
        if not isinstance(found, list):
            raise ValueError(f"{path}: {name} must be a list of tokens")
        for value in found:
            text = _text_of(value, f"{path}: {name}")
            yield AddedToken(text, None, {"special": True, "normalized": False}, path)
