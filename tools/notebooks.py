"""The tutorials as notebooks, made from their pages, which stay the one source.

    python tools/notebooks.py DIRECTORY

writes them all. On the site each tutorial offers its notebook for download.
"""

import base64
import pathlib
import re
import sys
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode, v4

TUTORIALS = sorted((pathlib.Path(__file__).parent.parent / "docs" / "tutorials").glob("*.md"))

CODE = re.compile(r"^```python\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)
IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]+\)")
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
    "language_info": {"name": "python"},
}


def notebook(page: pathlib.Path) -> NotebookNode:
    """The notebook of a page: its Python blocks are the cells of code.

    It stands alone. Pictures are inside, and what links to other pages is plain text.

    Args:
        page: Markdown.
    """
    cells = list(_cells(page.read_text(encoding="utf-8"), page.parent))
    for number, cell in enumerate(cells):
        cell.id = f"{page.stem}-{number}"
    return v4.new_notebook(cells=cells, metadata=METADATA)


def _cells(text: str, folder: pathlib.Path) -> Iterator[NotebookNode]:
    for number, part in enumerate(CODE.split(text)):
        if number % 2:
            yield v4.new_code_cell(part)
        elif part.strip():
            yield _prose(part.strip(), folder)


def _prose(text: str, folder: pathlib.Path) -> NotebookNode:
    attachments = {}

    def attached(match: re.Match[str]) -> str:
        name = pathlib.Path(match[2]).name
        content = base64.b64encode((folder / match[2]).read_bytes()).decode("ascii")
        attachments[name] = {"image/png": content}
        return f"![{match[1]}](attachment:{name})"

    text = LINK.sub(r"\1", IMAGE.sub(attached, text))
    return v4.new_markdown_cell(text, **({"attachments": attachments} if attachments else {}))


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for source in TUTORIALS:
        nbformat.write(notebook(source), target / f"{source.stem}.ipynb")
