"""What the site has beside docs/: a MkDocs hook (see mkdocs.yml).

Files of the root that people read on GitHub are pages too, and each public module has a page that
mkdocstrings fills from its docstrings. Each tutorial is a notebook too.
"""

import ast
import html
import pathlib
import posixpath
import re
from collections.abc import Iterator

import latex2mathml.converter
import nbformat
import notebooks
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parent.parent

# Files of the repository outside docs/, and the page that shows each.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "dystress_jax/data/embedded/NOTICE.md": "notice.md",
    "LICENSE": "license.md",
}

# The modules whose names a user may rely on, in the order of the reference.
MODULES = {
    "losses": (),
    "temperatures": (),
    "similarities": (),
    "schemes": (),
    "gradcache": (),
    "metrics": (),
    "models": (),
    "optim": (),
    "augment": (),
    "data": ("tokenizer",),
    "methods": (),
    "weights": (),
    "microscope": (),
    "explorer": (),
    "report": (),
    "evaluation": (),
    "training": (*("resident", "checkpoint", "log", "loggers", "interrupt", "processes", "watch"),),
    "run": (),
    "sharding": (),
    "errors": (),
    "files": (),
}

FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</(?:span|div)>', flags=re.DOTALL
)
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(?=[)#])")


def public_names(module: str) -> list[str]:
    """The names of a module that are meant for others: read, not imported.

    Example:
        >>> public_names("dystress_jax.errors")
        ['UserError', 'ArgumentError', 'look_up', 'hint']
    """
    path = ROOT.joinpath(*module.split("."))
    package = path.is_dir()
    path = path / "__init__.py" if package else path.with_suffix(".py")
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    found = [name for node in nodes for name in (_exported if package else _defined)(node)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def _exported(node: ast.stmt) -> list[str]:
    """`from ._x import name as name`."""
    if not isinstance(node, ast.ImportFrom):
        return []
    return [alias.name for alias in node.names if alias.name == alias.asname]


def _defined(node: ast.stmt) -> list[str]:
    """Functions, classes and constants, but no TypeVar."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign) and "TypeVar(" not in ast.unparse(node.value):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def reference(group: str) -> str:
    """The page of a module: its docstring, then each public name."""
    parts = []
    for name in (group, *(f"{group}.{inner}" for inner in MODULES[group])):
        module = f"dystress_jax.{name}"
        level = "#" if name == group else "##"
        below = 2 if name == group else 3
        names = public_names(module)
        parts += [
            f"{level} `{module}`\n",
            f"::: {module}\n    options:\n      members: false\n      show_root_heading: false\n",
            " · ".join(f"[`{each}`][{module}.{each}]" for each in names) + "\n",
            *(
                f"::: {module}.{each}\n    options:\n      heading_level: {below}\n"
                for each in names
            ),
        ]
    return "\n".join(parts)


def relinked(text: str, source: str, page: str) -> str:
    """Links between files of the repository become links between pages of the site.

    Args:
        text: Markdown.
        source: where it is in the repository.
        page: where it is on the site.

    Example:
        >>> relinked("[data](docs/data.md#tfds) [log](CHANGELOG.md)", "README.md", "index.md")
        '[data](data.md#tfds) [log](changelog.md)'
        >>> relinked("[home](../../README.md)", "docs/results/loss.md", "results/loss.md")
        '[home](../index.md)'
    """

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target = PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(page) or ".")

    return LINK.sub(moved, text)


def generated() -> Iterator[tuple[str, str]]:
    """Each page, and each notebook, that is no file in docs/, and its text."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source == "LICENSE":
            text = f"# License\n\n```text\n{text}```\n"
        if source == "README.md":  # the whole width is for it
            text = f"---\nhide: [navigation, toc]\n---\n\n{text}"
        yield page, relinked(text, source, page)
    for group in MODULES:
        yield f"reference/{group}.md", reference(group)
    for page in notebooks.TUTORIALS:
        yield f"tutorials/{page.stem}.ipynb", nbformat.writes(notebooks.notebook(page))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs: add the generated pages."""
    for page, text in generated():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by MkDocs: links of a page in docs/ to files outside it, and to its notebook."""
    if page.file.generated_by is not None:
        return markdown
    if page.file.src_uri.startswith("tutorials/"):
        title, _, rest = markdown.partition("\n")
        file = pathlib.PurePosixPath(page.file.src_uri).stem + ".ipynb"
        markdown = f"{title}\n\n[Download this page as a notebook]({file})\n{rest}"
    return relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def on_page_content(html_of_page: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Called by MkDocs: formulas become MathML, which browsers show without a script."""

    def written(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        latex = html.unescape(match[2]).strip()
        formula = latex2mathml.converter.convert(latex, display=display)
        return f'<div class="formula">{formula}</div>' if match[1] == "div" else formula

    return FORMULA.sub(written, html_of_page)
