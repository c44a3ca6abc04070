"""What the dataclasses check of themselves, so that a value without sense is one error that names the flag."""

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dslstm_jax.errors import ConfigError

Range = tuple[float, float, str]
"""The lowest and the highest value, both allowed, and what the error says that a value must be."""

POSITIVE: Range = (math.ulp(0.0), math.inf, "positive")
AT_LEAST_0: Range = (0, sys.float_info.max, "at least 0")
AT_LEAST_1: Range = (1, math.inf, "at least 1")
SHARE: Range = (0, math.nextafter(1.0, 0.0), "at least 0 and below 1")


def check(room: str, values: Any, ranges: Mapping[str, Range] | None = None) -> None:
    """Refuses names that a Literal field does not offer, numbers outside their ranges, and whole numbers below 1 in
    all other fields but those of floats, however deep in tuples; a config file's values meet no other check.

    Raises:
      ConfigError: one field is such; the message names it and `room`, the dataclass's place in the config.
    """
    for field, kind in get_type_hints(type(values)).items():
        value = getattr(values, field)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ConfigError(f"{room}.{field} is {value}; it must be one of {', '.join(get_args(kind))}")
        if ranges and field in ranges:
            lowest, highest, said = ranges[field]
            if not lowest <= value <= highest:
                raise ConfigError(f"{room}.{field} is {value}; it must be {said}")
        elif kind is not float and min(_integers(value), default=1) < 1:
            raise ConfigError(f"{room}.{field} is {value}; its counts must be at least 1")


def _integers(value: Any) -> list[int]:
    """All whole numbers in a tuple, however deep."""
    if isinstance(value, tuple):
        return [count for item in value for count in _integers(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []
