"""What the docstring of every public function says."""

import ast
import collections.abc
import dataclasses
import doctest
import functools
import importlib
import inspect
import re
import textwrap
import types
import typing

import jax
import numpy as np
import pytest
from jax.typing import ArrayLike

from dystress_jax import run, temperatures
from tests import public

# What nobody has published: plain tools, or our own ways.
WITHOUT_SOURCE = {
    *("temperatures.as_temperature", "temperatures.constant", "temperatures.exponential"),
    *("temperatures.linear", "temperatures.monotone_cosine"),
    *("temperatures.per_anchor", "temperatures.separate"),
    *("schemes.as_scheme", "schemes.fixed", "schemes.of_views", "schemes.of_image_text"),
    "schemes.scheduled",
    *("methods.with_online_probe", "methods.with_probe_optimizer", "methods.without_probe"),
    *("methods.check_queue", "methods.follow", "methods.follow_from", "methods.embed_texts"),
    *("methods.accepts", "methods.takes_labels"),
    *("losses.on_mesh", "losses.dense", "losses.tiled", "losses.gathered", "losses.ring"),
    "losses.statistics",
    *("similarities.oblique_geodesic",),
    *("metrics.negative_similarities", "metrics.pair_statistics", "metrics.recall_at_k"),
}
TOLD = {"FileNotFoundError": "FileError"}
# How the range of a number is said. A value that stands for another, such as 0, is part of it; what
# divides something or is a multiple of it, has its range from that; so has what another function's
# argument is like.
RANGE = re.compile(
    r"above|below|at least|at most|between|in [\[(]|positive|any (number|real|value)|finite|"
    r"[(\[]\d, ?\d[\])]|[<>]=? |\d or \d|\b0 = |\bNone (for|is)|None:|a divisor|divides|a multiple|"
    r"\b(see|as in|as for) `"
)
SCIENCE = {"losses", "temperatures", "similarities", "schemes", "metrics", "methods"}


class Public(typing.NamedTuple):
    """A public function or class, and the module that users import it from."""

    module: str
    name: str

    def __str__(self):
        return f"{self.module.removeprefix('dystress_jax.')}.{self.name}"

    @property
    def object(self):
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def function(self):
        """As it is written, without decorators."""
        return inspect.unwrap(self.object)

    @property
    def text(self):
        return inspect.getdoc(self.object) or ""

    def section(self, name):
        """The lines of a section of the docstring."""
        found = re.search(rf"^{name}:\n((?: .*\n|\n)+)", self.text + "\n", flags=re.MULTILINE)
        return found[1] if found else ""


PUBLIC = [
    Public(module.__name__, name) for module in public.modules() for name in public.names(module)
]
FUNCTIONS = [
    each
    for each in PUBLIC
    if not isinstance(each.object, type) and inspect.isfunction(inspect.unwrap(each.object))
]
CLASSES = [each for each in PUBLIC if inspect.isclass(each.object)]
each_function = pytest.mark.parametrize("name", FUNCTIONS, ids=str)


def test_there_are_names_to_hold():
    assert len(FUNCTIONS) > 150
    assert len(CLASSES) > 50
    assert {str(each) for each in FUNCTIONS} >= WITHOUT_SOURCE


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES], ids=str)
def test_it_begins_with_one_line(name):
    first, _, rest = name.text.partition("\n")
    assert first.endswith("."), first
    assert not rest or rest.startswith("\n")


@each_function
def test_every_argument_has_its_line(name):
    listed = re.findall(r"^ {4}\**(\w+):", name.section("Args"), flags=re.MULTILINE)
    assert listed == list(inspect.signature(name.function).parameters)


def numeric(annotation):
    """A number, several, or none; no text, no shape of an image, no array with a shape."""
    if annotation in (int, float):
        return True
    if typing.get_origin(annotation) is collections.abc.Callable:
        return False
    parts = [each for each in typing.get_args(annotation) if each is not type(None)]
    if set(typing.get_args(ArrayLike)) <= set(parts):
        return set(parts) <= {*typing.get_args(ArrayLike), temperatures.HoldsArray}
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return all(map(numeric, parts))
    return typing.get_origin(annotation) is collections.abc.Sequence and numeric(parts[0])


@each_function
def test_every_number_has_its_range(name):
    lines = re.findall(r"^ {4}\**(\w+):((?:.*\n)(?: {8}.*\n)*)", name.section("Args"), re.MULTILINE)
    parameters = inspect.signature(name.function).parameters
    without = [
        argument
        for argument, text in lines
        if numeric(parameters[argument].annotation) and not RANGE.search(" ".join(text.split()))
    ]
    assert without == []


@pytest.mark.parametrize(
    ("annotation", "counts"),
    [
        *((int, True), (float | None, True), (collections.abc.Sequence[int], True)),
        *((ArrayLike, True), (ArrayLike | None, True), (float | str, False), (bool, False)),
        *((str, False), (tuple[int, int, int], False), (jax.Array, False)),
    ],
)
def test_what_counts_as_a_number(annotation, counts):
    assert numeric(annotation) == counts


@pytest.mark.parametrize("text", ["size of a tile", "the width; wide is better", "of each image"])
def test_a_line_without_a_range_is_seen(text):
    assert not RANGE.search(text)


@each_function
def test_what_it_raises_is_said(name):
    """What its own code raises; what it calls may raise more."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(name.function)))
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    said = name.section("Raises")
    # A function that makes the error has a small letter; `files.told` tells of what OSErrors say.
    for error in (each for each in raised if each[:1].isupper()):
        assert re.search(rf"\b({error}|{TOLD.get(error, 'ValueError')})\b", said), error


@functools.cache
def examples(module):
    """The examples that doctest finds in a module, by the name of what has them."""
    found = doctest.DocTestFinder(exclude_empty=False).find(importlib.import_module(module))
    return {test.name.removeprefix(f"{module}."): test.examples for test in found}


@each_function
def test_it_has_an_example_that_doctest_runs(name):
    made = name.function
    shown = examples(made.__module__)[made.__name__]
    assert shown, "no example"
    assert not any(doctest.SKIP in example.options for example in shown)


@each_function
def test_its_arrays_have_shapes(name):
    def bare(annotation):
        if typing.get_origin(annotation) in (
            collections.abc.Callable,
            collections.abc.Mapping,
            dict,
        ):
            return False  # of their arrays each has a shape of its own
        if set(typing.get_args(ArrayLike)) <= set(typing.get_args(annotation)):
            return False  # a number, or what stands for one
        return annotation in (jax.Array, np.ndarray) or any(
            bare(each) for each in typing.get_args(annotation)
        )

    signature = inspect.signature(name.function)
    assert [each for each, of in signature.parameters.items() if bare(of.annotation)] == []
    assert not bare(signature.return_annotation), "what it returns"


@each_function
def test_its_source_is_named(name):
    if name.module.split(".")[1] in SCIENCE and str(name) not in WITHOUT_SOURCE:
        assert name.section("References"), "no source"


@pytest.mark.parametrize("name", CLASSES, ids=str)
def test_every_field_of_a_class_is_explained(name):
    """In its docstring, or beside the field."""
    made = name.object
    if issubclass(made, BaseException):
        return
    fields = list(getattr(made, "_fields", ()))
    if made is run.Config:
        return  # each has a description, which the page of settings shows
    if re.fullmatch(r"See `\w+`\.", name.text):
        return  # of the function that makes it
    if dataclasses.is_dataclass(made):
        fields = [field.name for field in dataclasses.fields(made)]
    source = inspect.getsource(made)
    for field in (field for field in fields if not field.startswith("_")):
        beside = re.search(rf"^    {field}: [^#\n]*#", source, flags=re.MULTILINE)
        assert beside or re.search(rf"\b{field}\b", name.text), field
