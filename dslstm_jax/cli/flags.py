"""Dataclasses as flags: one line of help each, and what only a config file sets left out."""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro
from tyro import constructors

from dslstm_jax.config import CorpusConfig
from dslstm_jax.errors import ConfigError

FILE_ONLY = (
    "corpus.synthetic",
    "features.mfcc",
    "features.spectrograms",
    "model.kernels",
    "model.layers",
    "training.clip_norm",
    "training.choose_over",
)
"""Fields without a flag."""

registry = constructors.ConstructorRegistry()


@registry.struct_rule
def _dataclass_rule(info: constructors.StructTypeInfo) -> constructors.StructConstructorSpec | None:
    """Our dataclasses, with the first sentence of a field's docstring as its help."""
    kind: Any = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__.startswith("dslstm_jax.")):
        return None
    room = kind.__name__.removesuffix("Config").lower()
    default = info.default if isinstance(info.default, kind) else None
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        constructors.StructFieldSpec(
            name=field.name,
            type=_PARTS if hints[field.name] == tuple[CorpusConfig, ...] else _plain(hints[field.name]),
            default=getattr(kind if default is None else default, field.name, tyro.MISSING_NONPROP),
            helptext=functools.partial(_help, kind, field.name),
        )
        for field in dataclasses.fields(kind)
        if f"{room}.{field.name}" not in FILE_ONLY
    ]

    def build(**values: Any) -> Any:
        return kind(**values) if default is None else dataclasses.replace(default, **values)

    build.__doc__ = kind.__doc__  # heads the flags
    return constructors.StructConstructorSpec(instantiate=build, fields=tuple(fields))


def _plain(hint: Any) -> Any:
    """The type of a field, whose help has no default where that is nothing, and no None among what can be given."""
    return Annotated[hint, tyro.conf.arg(metavar=_METAVARS.get(hint), help_behavior_hint=_shown)]


def _shown(default: str) -> str:
    return "" if default in ("", "None") else f"(default: {default})"


_METAVARS: dict[Any, str] = {str | None: "STR", int | None: "INT", Path | None: "PATH"}


def _parse_part(value: str) -> CorpusConfig:
    """`emodb=DIR`, or `manifest=FILE.csv`: a manifest is named by its table, any other corpus by its folder."""
    name, _, path = value.partition("=")
    if not name or not path:
        raise ConfigError(f"--corpus.parts {value}: give NAME=DIR, such as emodb=DIR ravdess=DIR")
    return CorpusConfig(name, manifest=path) if name == "manifest" else CorpusConfig(name, root=path)


_PARTS = Annotated[
    tuple[CorpusConfig, ...],
    constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=DIR [NAME=DIR ...]]",
        instance_from_str=lambda values: tuple(map(_parse_part, values)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda parts: [f"{part.name}={part.root or part.manifest or 'DIR'}" for part in parts],
    ),
    tyro.conf.arg(help_behavior_hint=_shown),
]


def _help(kind: type, field: str) -> str | None:
    """The first sentence of a field's docstring, on one line."""
    docstring = _docstrings(kind).get(field)
    return docstring and re.split(r"(?<=\.)\s", " ".join(docstring.split()), maxsplit=1)[0]


@functools.cache
def _docstrings(kind: type) -> dict[str, str]:
    """The string below each field in the source."""
    (source,) = ast.parse(inspect.getsource(kind)).body
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in itertools.pairwise(source.body)  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
