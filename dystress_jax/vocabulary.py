"""The words of an image-text run: made when it begins, the same ones ever after."""

import pathlib

from . import checkpoint, data
from .config import Config, ConfigError
from .data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

FILE = "tokenizer.json"


def make_tokenizer(config: Config, train: data.Source, workdir: pathlib.Path) -> Tokenizer:
    """The vocabulary of the run: the one it has begun with, a given one, or one of its captions.

    Raises:
        ConfigError: there are no captions, the file is no vocabulary, or it is not the run's.
    """
    t, saved = config.text, workdir / FILE
    try:
        # Without a checkpoint there is nothing yet that knows the words by their numbers.
        begun = saved.exists() and bool(checkpoint.steps(workdir / "checkpoints"))
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
            return given
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.text.vocabulary: {error}") from error
    try:
        captions = data.list_captions(train).texts
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    return train_tokenizer(captions, vocab_size=t.vocab_size, context=t.context)


def tokenize(sources: dict[str, data.Source], tokenizer: Tokenizer) -> dict[str, data.Source]:
    """The splits with their captions as tokens; test and held-out images may have none.

    Raises:
        ConfigError: the training images have no captions.
    """
    try:
        return {
            split: data.with_tokens(source, tokenizer.encode)
            if source.captions is not None or split == "train"
            else source
            for split, source in sources.items()
        }
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
