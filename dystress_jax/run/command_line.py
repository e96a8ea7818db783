"""The words of a command line: which of them are flags, and with what value."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .config import ConfigError


class Word(NamedTuple):
    """One word of a command line, or a flag with the word after it, which is its value.

    Attributes:
        text: as it was given; a value of its own word follows `=`.
        flag: the name without dashes; "": it is no flag.
        value: None: there is none.
    """

    text: str
    flag: str = ""
    value: str | None = None


def words(
    arguments: Iterable[str],
    takes_value: Callable[[str], bool] = lambda flag: False,
    *,
    value: str = "VALUE",
) -> Iterator[Word]:
    """The words of a command line, `--flag value` as one where the flag takes a value.

    Args:
        arguments: the command line.
        takes_value: by the name of a flag whether it must have a value. Of others the next word is
            a word of its own.
        value: what errors call it.

    Raises:
        ConfigError: such a flag has none, as where another flag follows.

    Example:
        >>> [word.text for word in words(["train", "--seed", "1", "--x"], {"seed"}.__contains__)]
        ['train', '--seed=1', '--x']
        >>> list(words(["--seed=1"]))
        [Word(text='--seed=1', flag='seed', value='1')]
    """
    rest = iter(arguments)
    for text in rest:
        if not text.startswith("-"):
            yield Word(text)
            continue
        flag, equals, found = text.lstrip("-").partition("=")
        if equals:
            yield Word(text, flag, found)
        elif takes_value(flag):
            found = next(rest, "--")
            if found.startswith("--"):
                called = flag if flag.startswith("config.") else f"--{flag}"
                raise ConfigError(f"{called}: found no value; allowed: --{flag}={value}.")
            yield Word(f"{text}={found}", flag, found)
        else:
            yield Word(text, flag)
