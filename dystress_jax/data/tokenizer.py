"""Captions to token ids, by a vocabulary that is given or trained on the captions."""

import collections
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import models, normalizers, pre_tokenizers, trainers

PADDING = ("[PAD]", "<pad>")
ENDS = (("[CLS]", "[SEP]"), ("<s>", "</s>"), ("<|startoftext|>", "<|endoftext|>"))
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_AT_ONCE = 4096  # captions; what the library says of each takes far more memory than its ids


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and the rules by which a caption becomes ids of it.

    A caption is ``[start, words..., end, 0, 0, ...]``: the start token (``[CLS]``) once, which the
    text transformer repeats as often as it has class tokens; the end token (``[SEP]``) last, also
    where words are cut off; 0 as padding and nowhere else. So the end stands at the last id that is
    not 0. None of these ids comes from the words of a caption, whatever they say.

    Attributes:
        pipeline: of Hugging Face tokenizers.
        context: ids of every caption, at least 3.
        start: id of the first token.
        end: id of the last token.
        shift: how much larger ids are than the pipeline's: 1 where its 0 is a word, else 0.
        padding: the pipeline's own id of padding, which no word has; None = there is none.
    """

    pipeline: tokenizers.Tokenizer
    context: int
    start: int
    end: int
    shift: int = 0
    padding: int | None = 0

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.pipeline.get_vocab(with_added_tokens=True).values()) + 1 + self.shift

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are the same where every caption has the same ids."""
        settings = json.loads(self.pipeline.to_str())
        parts = ("added_tokens", "normalizer", "pre_tokenizer", "model")
        said = json.dumps({name: settings[name] for name in parts}, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def encode(self, captions: Sequence[str]) -> Int[np.ndarray, "n context"]:
        """Return the ids of each caption in int32.

        Raises:
            TypeError: a caption is no string.
        """
        texts = [_text(i, caption) for i, caption in enumerate(captions)]
        ids = np.zeros((len(texts), self.context), np.int32)
        reserved = (self.start - self.shift, self.end - self.shift, self.padding)
        for first in range(0, len(ids), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            encodings = self.pipeline.encode_batch_fast(texts[some], add_special_tokens=False)
            for row, encoding in zip(ids[some], encodings, strict=True):
                words = [i + self.shift for i in encoding.ids if i not in reserved]
                words = words[: self.context - 2]
                row[: len(words) + 2] = [self.start, *words, self.end]
        return ids

    def save(self, path: str | os.PathLike) -> None:
        """Write a tokenizer.json, whole or not at all, for `load_tokenizer`."""
        path = pathlib.Path(path)
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(self.pipeline.to_str(pretty=True), encoding="utf-8")
        unfinished.replace(path)


def train_tokenizer(
    captions: Iterable[str], *, vocab_size: int = 4096, context: int = 77
) -> Tokenizer:
    """Make a lower-cased WordPiece vocabulary from captions.

    Text is split as BERT does it: control characters go, accents too; a word ends at white space,
    at punctuation and at every Chinese character. The same captions give the same vocabulary.
    Characters beyond the most frequent ``(vocab_size - 4) // 4`` are unknown words, ``[UNK]``.

    Args:
        captions: texts; empty ones say nothing.
        vocab_size: ids at most, at least 8; fewer where the captions have fewer frequent pieces.
        context: ids of every caption, at least 3: start, a word, end.

    Returns:
        The tokenizer.

    Raises:
        ValueError: a number is too small.
        TypeError: a caption is no string.

    Example:
        >>> tokenizer = train_tokenizer(["red cat", "red dog", "dog"], context=6)
        >>> ids = tokenizer.encode(["a red dog", ""])
        >>> ids.shape, ids[1].tolist()
        ((2, 6), [2, 3, 0, 0, 0, 0])

    References:
        Devlin et al., arXiv 1810.04805, section 3 (google-research/bert, ``tokenization.py``).
    """
    if vocab_size < 8:
        raise ValueError(f"vocab_size must be at least 8; found {vocab_size}")
    pipeline = _bert_pipeline(models.WordPiece(unk_token="[UNK]"))
    texts = [_words(pipeline, _text(i, caption)) for i, caption in enumerate(captions)]
    counts = collections.Counter(itertools.chain.from_iterable(itertools.chain(*texts)))
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet = sorted(frequent[: (vocab_size - 4) // 4])
    known = frozenset(alphabet)
    # The trainer numbers single characters in the order of a hash table, and breaks ties by number:
    # named beforehand, they have the same numbers each time.
    pieces = [*alphabet, *(f"##{character}" for character in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=_SPECIAL + pieces,
        show_progress=False,
    )
    pipeline.train_from_iterator(
        (" ".join(word for word in text if known.issuperset(word)) for text in texts), trainer
    )
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    return _ready(_word_piece(vocabulary), context, "the trained vocabulary")


def load_tokenizer(path: str | os.PathLike, *, context: int = 77) -> Tokenizer:
    """Read a vocabulary.

    Args:
        path: a ``tokenizer.json`` of Hugging Face tokenizers (WordPiece, BPE, ...), or a
            ``vocab.txt`` with a WordPiece a line, as BERT's: lower-cased, ``[PAD]`` in the first
            line, with ``[UNK]``, ``[CLS]`` and ``[SEP]``.
        context: ids of every caption, at least 3: start, a word, end.

    Returns:
        The tokenizer; what a ``tokenizer.json`` says of truncation, padding, special tokens and
        dropout is replaced by what `Tokenizer` says. Where its id 0 is a word, as in CLIP's and
        RoBERTa's, all ids are one larger here, since 0 is padding.

    Raises:
        ValueError: the file is no vocabulary, or start and end are missing.
        OSError: the file cannot be read.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if path.suffix != ".json":
        return _ready(_word_piece(_read_lines(path, text)), context, str(path))
    try:
        pipeline = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"{path} is no tokenizer.json: {error}") from error
    return _ready(pipeline, context, str(path))


def _text(i: int, caption: object) -> str:
    """The i-th caption; lone surrogates, which JSON has and UTF-8 has not, as question marks."""
    if not isinstance(caption, str):
        raise TypeError(f"caption {i} is a {type(caption).__name__}, not a string")
    return caption.encode("utf-8", "replace").decode("utf-8")


def _bert_pipeline(model: models.Model) -> tokenizers.Tokenizer:
    pipeline = tokenizers.Tokenizer(model)
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return pipeline


def _word_piece(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    return _bert_pipeline(models.WordPiece(vocabulary, unk_token="[UNK]"))


def _words(pipeline: tokenizers.Tokenizer, text: str) -> list[str]:
    normal = pipeline.normalizer.normalize_str(text)
    return [word for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(normal)]


def _read_lines(path: pathlib.Path, text: str) -> dict[str, int]:
    # Not splitlines: it also splits at rare separators, which are entries of real vocabularies.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    vocabulary = {}
    for i, word in enumerate(lines):
        if not word:
            raise ValueError(f"{path}, line {i + 1}: an empty line is no word")
        if word in vocabulary:
            raise ValueError(f"{path}, line {i + 1}: {word!r} is in line {vocabulary[word] + 1}")
        vocabulary[word] = i
    for word in _SPECIAL:
        if word not in vocabulary:
            raise ValueError(f"{path} has no line {word}; one word a line, {_SPECIAL} among them")
    return vocabulary


def _ready(pipeline: tokenizers.Tokenizer, context: int, origin: str) -> Tokenizer:
    if context < 3:
        raise ValueError(f"context must be at least 3, for start, a word and end; found {context}")
    padding = next((i for i in map(pipeline.token_to_id, PADDING) if i is not None), None)
    shift = 0 if padding == 0 else 1
    pipeline.no_truncation()
    pipeline.no_padding()
    if isinstance(pipeline.model, models.BPE):
        pipeline.model.dropout = None  # the same caption, the same ids
    for start, end in ENDS:
        start_id, end_id = pipeline.token_to_id(start), pipeline.token_to_id(end)
        if start_id is not None and end_id is not None:
            return Tokenizer(pipeline, context, start_id + shift, end_id + shift, shift, padding)
    raise ValueError(f"{origin} has no start and end tokens; allowed: one pair of {ENDS}")
