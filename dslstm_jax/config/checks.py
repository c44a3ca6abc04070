"""What the dataclasses check of themselves, so that a value without sense is one error that names the flag."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dslstm_jax.errors import ConfigError


def check_choices(room: str, values: Any) -> None:
    """Refuses names that a Literal field does not offer; a config file's values meet no other check."""
    for field, kind in get_type_hints(type(values)).items():
        if get_origin(kind) is Literal and (value := getattr(values, field)) not in get_args(kind):
            raise ConfigError(f"{room}.{field} is {value}; it must be one of {', '.join(get_args(kind))}")


def check_counts(room: str, values: Any, *, but: tuple[str, ...] = ()) -> None:
    """Refuses whole numbers below 1 in any field of a dataclass, however deep in its tuples, `but` in those named."""
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if field.type is not float and field.name not in but and min(_integers(value), default=1) < 1:
            raise ConfigError(f"{room}.{field.name} is {value}; its counts must be at least 1")


def _integers(value: Any) -> list[int]:
    """All whole numbers in a tuple, however deep."""
    if isinstance(value, tuple):
        return [count for item in value for count in _integers(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
