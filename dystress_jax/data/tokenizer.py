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

from ..errors import ArgumentError
from ..files import write_text

PADDING = ("[PAD]", "<pad>")
ENDS = (("[CLS]", "[SEP]"), ("<s>", "</s>"), ("<|startoftext|>", "<|endoftext|>"))
END_ALONE = "</s>"  # of T5 and SigLIP, whose texts have no start
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_SPARE = 1024  # ids that no token has, beside as many as there are tokens
_AT_ONCE = 4096  # captions; the library's answer to one takes far more memory than its ids


@dataclass(frozen=True)
class Tokenizer:
    """A vocabulary and the rules by which a caption becomes ids of it.

    A caption is `[start, words..., end, 0, 0, ...]`. The start token (`[CLS]`) is there once, if
    the vocabulary has one; the text transformer repeats it as often as it has class tokens. The end
    token (`[SEP]`) comes after the last word, also if words are cut off. 0 is padding, and nothing
    else. So the end is the last id that is not 0. No word of a caption has one of these ids,
    whatever the caption says.

    Attributes:
        pipeline: of Hugging Face tokenizers.
        context: ids of every caption, at least 3.
        start: id of the first token; None = texts begin with a word.
        end: id of the last token.
        shift: ids are larger than the pipeline's by this: 1 if the pipeline's 0 is a word, else 0.
        padding: the pipeline's own id of padding; None = there is none.
    """

    pipeline: tokenizers.Tokenizer
    context: int
    start: int | None
    end: int
    shift: int = 0
    padding: int | None = 0

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.pipeline.get_vocab(with_added_tokens=True).values()) + 1 + self.shift

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; with the same digits, every caption has the same ids."""
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
        first_ids = [] if self.start is None else [self.start]
        own = [i - self.shift for i in (*first_ids, self.end)]
        reserved = (*own, self.padding)
        for first in range(0, len(ids), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            encodings = self.pipeline.encode_batch_fast(texts[some], add_special_tokens=False)
            for row, encoding in zip(ids[some], encodings, strict=True):
                words = [i + self.shift for i in encoding.ids if i not in reserved]
                text = [*first_ids, *words[: self.context - len(own)], self.end]
                row[: len(text)] = text
        return ids

    def save(self, path: str | os.PathLike) -> None:
        """Write a tokenizer.json for `load_tokenizer`; never half a file.

        Raises:
            FileError: it cannot be written.
        """
        write_text(pathlib.Path(path), self.pipeline.to_str(pretty=True))


def train_tokenizer(
    captions: Iterable[str], *, vocab_size: int = 4096, context: int = 77
) -> Tokenizer:
    """Make a lower-cased WordPiece vocabulary from captions.

    Text is split as BERT does it: control characters and accents are removed; a word ends at white
    space, at punctuation and at every Chinese character. The same captions give the same
    vocabulary. Only the `(vocab_size - 4) // 4` most frequent characters have pieces; a word with
    another one is unknown, `[UNK]`.

    Args:
        captions: texts; empty ones change nothing.
        vocab_size: largest number of ids, at least 8. There are fewer if the captions have fewer
            frequent pieces.
        context: ids of every caption, at least 3: start, a word, end.

    Returns:
        The tokenizer.

    Raises:
        ArgumentError: a number is too small.
        TypeError: a caption is no string.

    Example:
        >>> tokenizer = train_tokenizer(["red cat", "red dog", "dog"], context=6)
        >>> ids = tokenizer.encode(["a red dog", ""])
        >>> ids.shape, ids[1].tolist()
        ((2, 6), [2, 3, 0, 0, 0, 0])

    References:
        Devlin et al., [arXiv 1810.04805](https://arxiv.org/abs/1810.04805), section 3
        (google-research/bert, `tokenization.py`).
    """
    if vocab_size < 8:
        raise ArgumentError("vocab_size", f"found {vocab_size}; allowed: at least 8.")
    pipeline = _bert_pipeline(models.WordPiece(unk_token="[UNK]"))
    times = collections.Counter(_text(i, caption) for i, caption in enumerate(captions))
    texts = [(_words(pipeline, text), count) for text, count in times.items()]
    of_word: collections.Counter[str] = collections.Counter()
    for words, count in texts:
        for word in words:
            of_word[word] += count
    counts: collections.Counter[str] = collections.Counter()
    for word, count in of_word.items():
        for character in word:
            counts[character] += count
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
        itertools.chain.from_iterable(
            itertools.repeat(" ".join(filter(known.issuperset, words)), count)
            for words, count in texts
        ),
        trainer,
    )
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    return _ready(_word_piece(vocabulary), context)


def load_tokenizer(path: str | os.PathLike, *, context: int = 77) -> Tokenizer:
    """Read a vocabulary.

    Args:
        path: a `tokenizer.json` of Hugging Face tokenizers (WordPiece, BPE, ...), or a `vocab.txt`
            as BERT's: one WordPiece a line, lower-cased, `[PAD]` in the first line, with `[UNK]`,
            `[CLS]` and `[SEP]`.
        context: ids of every caption, at least 3: start, a word, end.

    Returns:
        The tokenizer. Truncation, padding, special tokens and dropout of a `tokenizer.json` are
        replaced by those of `Tokenizer`. If its id 0 is a word, as in CLIP's and RoBERTa's, all ids
        are larger by one here, since 0 is padding.

    Raises:
        ArgumentError: the file is no vocabulary, or has no start and end; `context` is too small.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "vocab.txt")
        >>> _ = path.write_text("[PAD] [UNK] [CLS] [SEP] red cat ##s".replace(" ", chr(10)))
        >>> load_tokenizer(path, context=6).encode(["Red cats!"]).tolist()
        [[2, 4, 5, 6, 1, 3]]
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():  # reading from a pipe may wait for ever
        raise ArgumentError("path", f"{path} is no regular file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError("path", f"{path} is not UTF-8 text: {error}.") from error
    if path.suffix != ".json":
        return _ready(_word_piece(_read_lines(path, text)), context, path)
    try:
        pipeline = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise ArgumentError("path", f"{path} is no tokenizer.json: {error}.") from error
    return _ready(pipeline, context, path)


def _text(i: int, caption: object) -> str:
    """The i-th caption; half characters, which JSON may have and UTF-8 not, as question marks."""
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
            raise ArgumentError("path", f"{path}, line {i + 1}: an empty line is no word.")
        if word in vocabulary:
            raise ArgumentError(
                "path", f"{path}, line {i + 1}: {word!r} is in line {vocabulary[word] + 1} too."
            )
        vocabulary[word] = i
    for word in _SPECIAL:
        if word not in vocabulary:
            raise ArgumentError(
                "path",
                f"{path} has no line {word}; allowed: one word a line, {', '.join(_SPECIAL)} among "
                "them.",
            )
    return vocabulary


def _ready(
    pipeline: tokenizers.Tokenizer, context: int, path: pathlib.Path | None = None
) -> Tokenizer:
    """The tokenizer of a pipeline, which was read from a file or trained."""
    if context < 3:
        raise ArgumentError(
            "context", f"found {context}; allowed: at least 3, for start, a word and end."
        )
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    word = max(vocabulary, key=lambda word: vocabulary[word], default="")
    limit = 2 * len(vocabulary) + _SPARE  # an embedding is made for every id
    if vocabulary and vocabulary[word] >= limit:
        raise ArgumentError(
            "path",
            f"{path} gives {word!r} the id {vocabulary[word]}, but has {len(vocabulary)} tokens; "
            f"allowed: ids below {limit}.",
        )
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
    end_id = pipeline.token_to_id(END_ALONE)
    if end_id is not None:
        return Tokenizer(pipeline, context, None, end_id + shift, shift, padding)
    raise ArgumentError(
        "path",
        f"{path} has no start and end tokens; allowed: one pair of "
        f"{' or '.join(f'{start} {end}' for start, end in ENDS)}, or {END_ALONE} alone.",
    )
