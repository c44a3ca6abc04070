"""Dataclasses as flags: one line of help each, and what only a config file sets left out."""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import textwrap
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from dslstm_jax.config import Config, CorpusConfig, FeaturesConfig, ModelConfig, TrainingConfig
from dslstm_jax.errors import ConfigError

FILE_ONLY: dict[type, tuple[str, ...]] = {
    CorpusConfig: ("synthetic",),
    FeaturesConfig: ("mfcc", "spectrograms"),
    ModelConfig: ("kernels", "layers"),
    TrainingConfig: ("clip_norm", "choose_over"),
}
"""Fields without a flag."""

registry = ConstructorRegistry()


@registry.struct_rule
def _dataclass_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Our dataclasses, with the first sentence of a field's docstring as its help."""
    kind: Any = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__.startswith("dslstm_jax.")):
        return None
    default = info.default if isinstance(info.default, kind) else None
    hints = get_type_hints(kind, include_extras=True)
    fields = [
        StructFieldSpec(
            name=field.name,
            type=_PARTS if hints[field.name] == tuple[CorpusConfig, ...] else _plain(hints[field.name]),
            default=_default_of(field) if default is None else getattr(default, field.name),
            helptext=functools.partial(_help, kind, field.name),
        )
        for field in dataclasses.fields(kind)
        if field.name not in FILE_ONLY.get(kind, ())
    ]

    def build(**values: Any) -> Any:
        return kind(**values) if default is None else dataclasses.replace(default, **values)

    build.__doc__ = kind.__doc__  # heads the flags
    return StructConstructorSpec(instantiate=build, fields=tuple(fields))


def file_only(flag: str) -> bool:
    """Whether a field of this name is set in a config file only; `flag` is such as --model.kernels."""
    rooms = {field.type: field.name for field in dataclasses.fields(Config)}
    names = [f"--{rooms[kind]}.{name.replace('_', '-')}" for kind, hidden in FILE_ONLY.items() for name in hidden]
    return any(flag == name or flag.startswith(f"{name}.") for name in names)


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    return tyro.MISSING_NONPROP if field.default is dataclasses.MISSING else field.default


def _plain(hint: Any) -> Any:
    """The type of a field, whose help has no default where that is nothing, and no None among what can be given."""
    base, *own = (hint.__origin__, *hint.__metadata__) if get_origin(hint) is Annotated else (hint,)
    given = [kind for kind in get_args(base) if kind is not type(None)]
    optional = len(given) == 1 < len(get_args(base)) and given[0] in _METAVARS
    metavar = _METAVARS[given[0]] if optional else None
    return Annotated[base, tyro.conf.arg(metavar=metavar, help_behavior_hint=_shown), *own]


def _shown(default: str) -> str:
    return "" if default in ("", "None") else f"(default: {default})"


_METAVARS: dict[Any, str] = {str: "STR", int: "INT", Path: "PATH"}


def _parse_parts(values: list[str]) -> tuple[CorpusConfig, ...]:
    """`["emodb=DIR", "manifest=FILE.csv"]`: a manifest is named by its table, any other corpus by its folder."""
    parts = []
    for value in values:
        name, _, path = value.partition("=")
        if not name or not path:
            raise ConfigError(f"--corpus.parts {value}: give NAME=DIR, such as emodb=DIR ravdess=DIR")
        parts.append(CorpusConfig(name, manifest=path) if name == "manifest" else CorpusConfig(name, root=path))
    return tuple(parts)


_PARTS = Annotated[
    tuple[CorpusConfig, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[NAME=DIR [NAME=DIR ...]]",
        instance_from_str=_parse_parts,
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
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
