"""Tokenizer and embedding functions of an image-text run."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from .. import data
from ..data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from ..run_files import CHECKPOINTS
from ..similarities import Similarity
from ..training import checkpoint
from .config import Config, ConfigError
from .data import Sources
from .fields import as_fields

FILE = "tokenizer.json"

Embed = Callable[..., Float[Array, "n d"]]


class Language(NamedTuple):
    """What an image-text run has besides an encoder of images.

    Attributes:
        tokenizer: captions to tokens.
        similarity: of an image and a text.
        embed_images: `(params, stats, uint8 images) -> embeddings`, jitted.
        embed_texts: `(params, stats, tokens) -> embeddings`, jitted.
    """

    tokenizer: Tokenizer
    similarity: Similarity
    embed_images: Embed
    embed_texts: Embed


def make_tokenizer(config: Config, train: data.Source, workdir: pathlib.Path) -> Tokenizer:
    """Build or reload the run's tokenizer.

    Raises:
        ConfigError: there are no captions, the file is no vocabulary, or it is not the run's.
    """
    t, saved = config.text, workdir / FILE
    try:
        # Without a checkpoint there is nothing yet that knows the words by their numbers.
        begun = saved.exists() and bool(checkpoint.steps(workdir / CHECKPOINTS))
        given = None
        if t.vocabulary and (pathlib.Path(t.vocabulary).exists() or not begun):
            given = load_tokenizer(t.vocabulary, context=t.context)
        if begun:  # with its own words, though the file that they came from may have moved
            of_run = load_tokenizer(saved, context=t.context)
            if given is not None and given.fingerprint != of_run.fingerprint:
                raise ConfigError(
                    f"config.text.vocabulary: {t.vocabulary} has {given.vocab_size} tokens and the "
                    f"fingerprint {given.fingerprint}, but the run began with {saved}: "
                    f"{of_run.vocab_size} tokens, {of_run.fingerprint}. Give the same vocabulary, "
                    "or a new --workdir."
                )
            return of_run
        if given is not None:
            if given.start is None and t.pooling == "cls":
                raise ConfigError(
                    f"config.text.vocabulary: {t.vocabulary} has no start token, which "
                    "config.text.pooling cls reads a text by; allowed: last or eot, or another "
                    "vocabulary."
                )
            return given
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.text.vocabulary: {error}") from error
    with as_fields("data"):
        captions = data.list_captions(train).texts
    return train_tokenizer(captions, vocab_size=t.vocab_size, context=t.context)


def saved_tokenizer(config: Config, workdir: pathlib.Path) -> Tokenizer:
    """The tokenizer of a run that has trained.

    Raises:
        ConfigError: its file is missing or damaged.
    """
    try:
        return load_tokenizer(workdir / FILE, context=config.text.context)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--workdir: found no vocabulary of the run ({error})") from error


def tokenize(sources: Sources, tokenizer: Tokenizer) -> Sources:
    """The splits with their captions as tokens; test and held-out images may have none.

    Raises:
        ConfigError: the training images have no captions.
    """
    with as_fields("data"):
        return {
            split: data.with_tokens(source, tokenizer.encode)
            if source.captions is not None or split == "train"
            else source
            for split, source in sources.items()
        }
