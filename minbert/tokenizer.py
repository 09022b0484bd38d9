"""WordPiece tokenization (Devlin et al. 2018, section 3), by the `tokenizers` package."""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import Encoding, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from .checkpoints import hub
from .files import check_count, check_texts, items_of, one_line, user_path, write_json, write_text
from .tokenizer_settings import GENERIC_CLASSES, SPECIAL_TOKENS, AddedToken, read_settings

# The package keeps the length to cut at in the tokenizer itself, so one thread at a time encodes.
_lock = threading.Lock()


class BertTokenizer:
    """Sentences → ids: [CLS] a [SEP] with type 0, or [CLS] a [SEP] b [SEP] with types 0 and 1.

    >>> tok = BertTokenizer.train(["a good film"], vocab_size=50)
    >>> [encoding.tokens for encoding in tok.encode(["a film"], ["good"])]
    [['[CLS]', 'a', 'film', '[SEP]', 'good', '[SEP]']]
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wraps a configured Tokenizer and switches its own truncation and padding off.

        Raises:
            ValueError: It is not WordPiece, or puts [CLS] and [SEP] elsewhere than BERT does.
        """
        if not isinstance(tokenizer.model, WordPiece):
            raise ValueError(f"its model is {type(tokenizer.model).__name__}, "
                             "but BERT uses WordPiece")
        for token in SPECIAL_TOKENS[:4]:
            if tokenizer.token_to_id(token) is None:
                raise ValueError(f"the vocabulary lacks {token}: it is not a BERT vocabulary")

        tokenizer.no_truncation()
        tokenizer.no_padding()
        _check_layout(tokenizer)
        self._tokenizer = tokenizer
        # More than there are pieces, if the ids have gaps.
        self.vocab_size: int = max(tokenizer.get_vocab().values()) + 1
        self.pad_token_id: int = tokenizer.token_to_id("[PAD]")
        self.lowercase = bool(getattr(tokenizer.normalizer, "lowercase", False))
        self._saved_max_length = None

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, revision: str = "main") -> "BertTokenizer":
        """Reads tokenizer.json or vocab.txt, and the settings beside it, as transformers does.

        tokenizer_config.json has do_lower_case (default: true), strip_accents (default: as
        do_lower_case) and tokenize_chinese_chars (default: true); they hold for tokenizer.json
        too. Added tokens may stand there, in added_tokens.json or in special_tokens_map.json.

        Args:
            name_or_folder, revision: As for BertModel.from_pretrained.

        Raises:
            ValueError: A setting is not one of BERT's; the message names file and setting.
        """
        folder = hub.resolve(name_or_folder, revision)
        options, added, class_name, max_length = read_settings(folder)
        if (folder / "tokenizer.json").is_file():
            tokenizer = cls._from_json(folder / "tokenizer.json")
            if class_name not in GENERIC_CLASSES:
                tokenizer._tokenizer.normalizer = _normalizer(*options)
                tokenizer.lowercase = options[0]
        elif (folder / "vocab.txt").is_file():
            tokenizer = cls.from_vocabulary(folder / "vocab.txt", *options)
        else:
            raise FileNotFoundError(f"{folder} has no vocabulary: "
                                    "expected tokenizer.json or vocab.txt")
        tokenizer._add(added)
        tokenizer._saved_max_length = max_length
        return tokenizer

    def _add(self, added: Iterable[AddedToken]) -> None:
        """Adds tokens that are matched whole; each has its id of the vocabulary, or the next."""
        vocabulary = self.vocabulary
        present = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        for token in added:
            if token.text in present:
                continue
            number = vocabulary.get(token.text, self.vocab_size)
            if token.number not in (None, number):
                raise ValueError(f"{token.file}: {one_line(repr(token.text))} has the id "
                                 f"{token.number}, but by the vocabulary it is {number}")
            self._tokenizer.add_tokens([tokenizers.AddedToken(token.text, **token.flags)])
            if self._tokenizer.token_to_id(token.text) != number:
                # the package counts pieces, so a number left out gives the id of another piece
                raise ValueError(f"{token.file}: {one_line(repr(token.text))} cannot be added, "
                                 "since the vocabulary leaves out numbers; remove blank lines and "
                                 "repeated pieces from vocab.txt")
            present.add(token.text)
            self.vocab_size = max(self.vocab_size, number + 1)

    @classmethod
    def _from_json(cls, path: Path) -> "BertTokenizer":
        try:
            return cls(Tokenizer.from_file(str(path)))
        except BaseException as error:
            # The package raises bare Exception, or a panic, which is not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ValueError(f"{path}: {one_line(error)}") from None

    @classmethod
    def from_vocabulary(cls, path: str | Path, lowercase: bool = True,
                        strip_accents: bool | None = None,
                        split_chinese: bool = True) -> "BertTokenizer":
        """Reads vocab.txt: one piece per line, its line number is its id.

        Args:
            strip_accents: None means as `lowercase`.
        """
        path = user_path(path)
        try:
            pieces = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error})") from None

        vocabulary = {piece: number for number, piece in enumerate(pieces) if piece}
        normalizer = _normalizer(lowercase, strip_accents, split_chinese)
        try:
            return cls(_word_piece(vocabulary, normalizer))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int,
              lowercase: bool = True) -> "BertTokenizer":
        """Learns a WordPiece vocabulary; the same texts always give the same one.

        Args:
            vocab_size: At most so many pieces, or as many as the alphabet needs.
        """
        check_count("vocab_size", vocab_size)
        texts = items_of(texts, "texts")
        normalizer = BertNormalizer(lowercase=lowercase)
        tokenizer = _word_piece({}, normalizer)

        # The trainer numbers the pieces ##a, ##b, … in the order of a hash table, which changes
        # from run to run, and breaks ties by number. So they are given in order, as if they were
        # special tokens.
        characters = set()
        for text in texts:
            normal = normalizer.normalize_str(text)
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
                characters.update(word[1:])
        continuations = [f"##{character}" for character in sorted(characters)]

        trainer = WordPieceTrainer(vocab_size=vocab_size, show_progress=False,
                                   special_tokens=[*SPECIAL_TOKENS, *continuations])
        tokenizer.train_from_iterator(texts, trainer)
        return cls(_word_piece(tokenizer.get_vocab(), normalizer))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Piece → id."""
        return self._tokenizer.get_vocab()

    def encode(self, sentences: Iterable[str] | Iterable[tuple[str, str]],
               pairs: Iterable[str] | None = None,
               max_length: int | None = None) -> list[Encoding]:
        """Returns one `tokenizers.Encoding` per sentence or pair, without padding.

        Several threads may call it at once.

        Args:
            sentences: The sentences, or the pairs if `pairs` is None.
            pairs: The second sentences.
            max_length: Counts [CLS] and [SEP]. What is longer loses tokens from the longer sentence
                first, and its encoding's `overflowing` is not empty.
        """
        inputs = items_of(sentences, "sentences")
        are_pairs = True
        if pairs is not None:
            seconds = items_of(pairs, "sentences")
            if len(seconds) != len(inputs):
                raise ValueError(f"{len(inputs)} sentences, but {len(seconds)} pair sentences")
            inputs = list(zip(inputs, seconds, strict=True))
        elif inputs and isinstance(inputs[0], (tuple, list)):
            inputs = [_pair(item, number) for number, item in enumerate(inputs)]
        else:
            are_pairs, inputs = False, [(text,) for text in inputs]

        special = 3 if are_pairs else 2
        if max_length is not None and max_length < special:
            raise ValueError(f"max_length is {max_length}, "
                             f"but [CLS] and [SEP] alone take {special}")
        check_texts(inputs)

        with _lock:
            self._tokenizer.no_truncation()
            if max_length is not None:
                inputs = [self._beginnings(texts, max_length) for texts in inputs]
                self._tokenizer.enable_truncation(max_length, strategy="longest_first")
            return self._tokenizer.encode_batch(
                inputs if are_pairs else [text for (text,) in inputs])

    def _beginnings(self, sentences: tuple[str, ...], tokens: int) -> tuple[str, ...]:
        """The first words of one sentence or two, enough for this number of tokens.

        The package keeps what it cuts off a pair, every part of one sentence beside every part of
        the other: two sentences of 10,000 words would take gigabytes. If the number of tokens is
        odd, the longer sentence keeps one more; of two equally long ones, the second does. So the
        longer sentence must stay longer.
        """
        if max(map(len, sentences)) <= tokens:
            return sentences

        encodings = [self._tokenizer.encode(sentence, add_special_tokens=False)
                     for sentence in sentences]
        shortest_first = sorted(range(len(sentences)),
                                key=lambda number: (len(encodings[number].ids), number))
        beginnings, least = list(sentences), tokens
        for number in shortest_first:
            words = encodings[number].word_ids
            kept = min(least, len(words))
            while kept < len(words) and words[kept] == words[kept - 1]:  # up to the word's end
                kept += 1
            if kept < len(words):
                end = encodings[number].offsets[kept - 1][1]
                beginnings[number] = sentences[number][:end]
            # The longer one keeps more tokens than a second sentence, or as many as a first.
            least = max(least, kept + number)
        return tuple(beginnings)

    def __call__(self, sentences: Iterable[str] | Iterable[tuple[str, str]],
                 pairs: Iterable[str] | None = None,
                 max_length: int | None = None) -> dict[str, torch.Tensor]:
        """Returns input_ids, attention_mask, token_type_ids: (batch, seq) int64, padding last."""
        encodings = self.encode(sentences, pairs, max_length)
        seq = max((len(encoding.ids) for encoding in encodings), default=0)

        def padded(rows: list[list[int]], filler: int = 0) -> torch.Tensor:
            rows = [row + [filler] * (seq - len(row)) for row in rows]
            return torch.tensor(rows, dtype=torch.int64).view(len(rows), seq)

        return {
            "input_ids": padded([encoding.ids for encoding in encodings], self.pad_token_id),
            "attention_mask": padded([encoding.attention_mask for encoding in encodings]),
            "token_type_ids": padded([encoding.type_ids for encoding in encodings]),
        }

    def decode(self, ids: Sequence[int] | torch.Tensor) -> str:
        """Returns the text of these pieces, lower-case if the tokenizer is; special tokens stay.

        ids: one sequence, (seq,).

        >>> tokenizer = BertTokenizer.train(["a film as good as a film can be"], vocab_size=50)
        >>> tokenizer.decode(tokenizer.encode(["As good as a film"])[0].ids)
        '[CLS] as good as a film [SEP]'
        """
        if isinstance(ids, torch.Tensor):
            ids = ids.tolist()
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def save_pretrained(self, folder: str | Path, max_length: int | None = None) -> None:
        """Writes tokenizer.json, vocab.txt and tokenizer_config.json, which transformers opens.

        vocab.txt is left out if the ids have gaps, since a line's number is its id.

        Args:
            max_length: Where transformers truncates; by default as in the folder it came from.
        """
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)

        # Not the package's own save: this way a full disk is an OSError.
        with _lock:
            self._tokenizer.no_truncation()
            text = self._tokenizer.to_str(pretty=True)
        write_text(folder / "tokenizer.json", text)

        vocabulary = self.vocabulary
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        if len(pieces) == self.vocab_size:
            write_text(folder / "vocab.txt", "\n".join(pieces) + "\n")
        else:
            (folder / "vocab.txt").unlink(missing_ok=True)  # of an earlier save

        normalizer = self._tokenizer.normalizer
        is_bert = isinstance(normalizer, BertNormalizer)  # else tokenizer.json alone describes it
        config = {"tokenizer_class": "BertTokenizer" if is_bert else GENERIC_CLASSES[0],
                  "do_lower_case": self.lowercase,
                  "strip_accents": getattr(normalizer, "strip_accents", None),
                  "tokenize_chinese_chars": getattr(normalizer, "handle_chinese_chars", True),
                  "model_max_length": max_length or self._saved_max_length}
        config |= {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
        write_json(folder / "tokenizer_config.json", config)


def _pair(item: object, number: int) -> tuple[str, str]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(f"item {number} is {one_line(repr(item))}, expected a pair of sentences")
    return tuple(item)


def _check_layout(tokenizer: Tokenizer) -> None:
    """Encodes an unknown character: the parts of a tokenizer.json do not show what it produces."""
    words = tokenizer.encode("\u2603", add_special_tokens=False).tokens
    first, second = ["[CLS]", *words, "[SEP]"], [*words, "[SEP]"]
    single, pair = tokenizer.encode("\u2603"), tokenizer.encode("\u2603", "\u2603")
    expected = ((single, first, [0] * len(first)),
                (pair, first + second, [0] * len(first) + [1] * len(second)))

    for found, tokens, types in expected:
        if (found.tokens, found.type_ids) != (tokens, types):
            raise ValueError(f"it gives {one_line(found.tokens)} with token types "
                             f"{one_line(found.type_ids)}, expected {one_line(tokens)} with "
                             f"{one_line(types)}")


def _normalizer(lowercase: bool, strip_accents: bool | None, split_chinese: bool) -> BertNormalizer:
    return BertNormalizer(lowercase=lowercase, strip_accents=strip_accents,
                          handle_chinese_chars=split_chinese)


def _word_piece(vocabulary: dict[str, int], normalizer: BertNormalizer) -> Tokenizer:
    """BERT's pipeline: clean, split at spaces and punctuation, match the longest piece first."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.decoder = WordPieceDecoder()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS if token in vocabulary])

    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")])
    return tokenizer
