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
import typing

import jax
import numpy as np
import pytest
from jax.typing import ArrayLike

from dystress_jax import run
from tests import public

# What nobody has published: plain tools, or our own ways.
WITHOUT_SOURCE = {
    *("temperatures.as_temperature", "temperatures.constant", "temperatures.exponential"),
    *("temperatures.linear", "temperatures.monotone_cosine"),
    *("temperatures.per_anchor", "temperatures.separate"),
    *("schemes.as_scheme", "schemes.fixed", "schemes.of_views", "schemes.scheduled"),
    *("methods.with_online_probe", "methods.with_probe_optimizer", "methods.without_probe"),
    *("methods.check_queue", "methods.follow", "methods.follow_from", "methods.embed_texts"),
    *("losses.on_mesh", "losses.dense", "losses.tiled", "losses.gathered", "losses.ring"),
    "losses.statistics",
    *("similarities.oblique_geodesic",),
    *("metrics.negative_similarities", "metrics.pair_statistics", "metrics.recall_at_k"),
}
TOLD = {"FileNotFoundError": "FileError"}
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
        if typing.get_origin(annotation) in (collections.abc.Callable, collections.abc.Mapping):
            return False  # of their arrays each has a shape of its own
        if set(typing.get_args(ArrayLike)) <= set(typing.get_args(annotation)):
            return False  # a number, or what stands for one
        return annotation in (jax.Array, np.ndarray) or any(
            bare(each) for each in typing.get_args(annotation)
        )

    parameters = inspect.signature(name.function).parameters.values()
    assert [each.name for each in parameters if bare(each.annotation)] == []


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
