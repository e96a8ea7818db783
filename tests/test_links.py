"""Links to other sites, by their form: nothing is asked over the network.

Links between pages, and their anchors, are checked when the site is built (mkdocs build --strict).
"""

import pathlib
import re
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "dystress_jax").rglob("*.py")),
    ROOT / "CITATION.cff",
    ROOT / "pyproject.toml",
]
URL = re.compile(r"https?://[^\s<>\"'`]+")
WITH_WORDS = re.compile(r"\[([^\]]*)\]\((https?://[^)\s]*)\)")


def external():
    """Each address, and the file that has it."""
    for path in FILES:
        for found in URL.findall(path.read_text(encoding="utf-8")):
            # What closes a link or a sentence is no part of it.
            address = found.split(")")[0] if "(" not in found else found
            yield address.rstrip(".,;:|\\"), path.relative_to(ROOT)


ADDRESSES = sorted({address for address, _ in external()})


def test_there_are_links():
    assert len(ADDRESSES) > 50, "\n".join(ADDRESSES)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_well_formed(address):
    parts = urllib.parse.urlsplit(address)
    assert parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1")
    assert parts.hostname
    assert "." in parts.hostname
    assert parts.username is None
    assert re.fullmatch(r"[\w./~%+@=-]*", parts.path), parts.path
    if parts.hostname == "arxiv.org":
        assert re.fullmatch(r"/abs/\d{4}\.\d{4,5}", parts.path)
    if parts.hostname == "github.com":
        assert re.fullmatch(r"/[\w.-]+/[\w.-]+(/(blob|tree|issues|pull)/.+)?", parts.path)


def test_a_paper_that_is_named_by_its_number_is_the_one_that_is_linked():
    wrong = [
        (path.relative_to(ROOT), words, address)
        for path in FILES
        for words, address in WITH_WORDS.findall(path.read_text(encoding="utf-8"))
        if (number := re.search(r"\b\d{4}\.\d{4,5}\b", words)) and number[0] not in address
    ]
    assert wrong == []


def test_one_address_is_written_in_one_way():
    bare = {}
    for address in ADDRESSES:
        bare.setdefault(address.rstrip("/").removesuffix(".git").lower(), []).append(address)
    assert [forms for forms in bare.values() if len(forms) > 1] == []
