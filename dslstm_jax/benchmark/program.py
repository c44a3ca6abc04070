"""What a program does, read from its HLO text: all-reduces, products and loops, each as often as it runs.

XLA's own analysis counts the body of a loop once, however often it runs.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dslstm_jax.config import Config
from dslstm_jax.data.batches import Batch
from dslstm_jax.models.recognizer import variable_shapes
from dslstm_jax.runs.state import TrainState
from dslstm_jax.training.parallel import Parallel
from dslstm_jax.training.step import make_optimizer

Shape = tuple[int, tuple[int, ...]]
"""Bytes of an element, and the dimensions."""

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.+?) (?P<opcode>[a-z][a-z\d\-]*)\(")
_SHAPE = re.compile(r"\b(?:pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<dimensions>[\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|true_computation|false_computation)=(%?[\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIP_COUNT = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_BOUND = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


@dataclass(frozen=True)
class Instruction:
    """A line of HLO."""

    opcode: str
    name: str
    shapes: tuple[Shape, ...]
    """Of its outputs."""
    text: str

    @property
    def bytes(self) -> int:
        """Of its outputs."""
        return sum(width * math.prod(dimensions) for width, dimensions in self.shapes)

    @property
    def operation(self) -> str:
        """Where in our code it comes from; empty in a program that was only lowered."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""


@dataclass(frozen=True)
class Run:
    """An instruction, and how often a call of the program runs it."""

    instruction: Instruction
    times: int
    flops: int
    """Of one run, where it is a product or a convolution (two for each multiplication), or an FFT (5 n log2 n; half
    of it where one side is real)."""
    trips: int
    """How often one run goes round, where it is a loop; else 0."""


def runs(program: str) -> Iterator[Run]:
    """All instructions that a call of the program runs, those of the computations it calls among them.

    Args:
      program: HLO text, of a lowered program (`lowered.as_text(dialect="hlo")`) or a compiled one. Of the branches of
        a conditional all are counted.

    Raises:
      ValueError: a loop whose length does not show.
    """
    computations, entry = _parse(program)
    yield from _runs(computations, entry, 1)


def _parse(program: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in program.splitlines():
        if heads := _COMPUTATION.match(line):
            current = heads["name"]
            computations[current] = []
            entry = current if heads["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            shapes = tuple(map(_shape, _SHAPE.finditer(found["shape"])))
            computations[current].append(Instruction(found["opcode"], found["name"], shapes, line))
    return computations, entry


def _shape(found: re.Match[str]) -> Shape:
    dimensions = tuple(int(size) for size in found["dimensions"].split(",") if size)
    return int(found["bits"] or 8) // 8, dimensions


def _runs(computations: dict[str, list[Instruction]], name: str, times: int) -> Iterator[Run]:
    shapes = {instruction.name: instruction.shapes for instruction in computations[name]}
    for instruction in computations[name]:
        trips = _trip_count(instruction, computations) if instruction.opcode == "while" else 0
        yield Run(instruction, times, _flops(instruction, shapes), trips)
        for called in _called(instruction):
            yield from _runs(computations, called, times * (trips or 1))


def _called(instruction: Instruction) -> Iterator[str]:
    """The computations that an instruction calls."""
    for called in _CALLED.finditer(instruction.text):
        yield from re.findall(r"[\w.\-]+", called[1] or called[2])


def _trip_count(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """How often a loop goes round: as the compiler found out, or the bound that its index is compared with."""
    if known := _TRIP_COUNT.search(loop.text):
        return int(known[1])
    condition = computations[_CONDITION.findall(loop.text)[0]]
    condition = condition + [part for whole in condition for name in _called(whole) for part in computations[name]]
    bounds = {int(bound) for instruction in condition for bound in _BOUND.findall(instruction.text)}
    if len(bounds) != 1:
        raise ValueError(f"loop {loop.name}: its length does not show; its condition names {sorted(bounds)}")
    return bounds.pop()


def _flops(instruction: Instruction, shapes: dict[str, tuple[Shape, ...]]) -> int:
    if instruction.opcode == "fft":
        size = int(re.findall(r"fft_length=\{(\d+)\}", instruction.text)[0])
        transforms = math.prod(instruction.shapes[0][1][:-1])
        complex_to_complex = re.search(r"fft_type=I?FFT", instruction.text)
        return round((5 if complex_to_complex else 2.5) * size * math.log2(size)) * transforms
    if instruction.opcode not in ("dot", "convolution"):
        return 0
    operands = re.findall(r"%?([\w.\-]+)", instruction.text.split(f" {instruction.opcode}(", 1)[1])
    left, right = (shapes[operand][0][1] for operand in operands[:2])
    if instruction.opcode == "dot":
        axes = re.findall(r"lhs_contracting_dims=\{([\d,]+)\}", instruction.text)
        summed = math.prod(left[int(axis)] for group in axes for axis in group.split(","))
    else:
        labels = re.findall(r"dim_labels=\w+_(\w+)->", instruction.text)[0]
        summed = math.prod(right) // right[labels.index("o")]
    return 2 * math.prod(instruction.shapes[0][1]) * summed


def all_reduces(program: Iterable[Run]) -> list[Run]:
    """The all-reduces of a program, one for each place where there is one."""
    return [run for run in program if run.instruction.opcode in ("all-reduce", "all-reduce-start")]


def outputs(instruction: Instruction, program: Iterable[Run]) -> list[Instruction]:
    """What takes an instruction's outputs apart, once for each; the instruction itself if it has but one."""
    if len(instruction.shapes) == 1:
        return [instruction]
    taken = re.compile(rf"get-tuple-element\(%?{re.escape(instruction.name)}\), index=(\d+)")
    found = ((taken.search(run.instruction.text), run.instruction) for run in program)
    return list({match[1]: part for match, part in found if match}.values())


def trace_train_step(
    config: Config, parallel: Parallel, *, rows: int, samples: int, classes: int = 4
) -> jax.stages.Traced:
    """The train step as training runs it, traced with shapes alone: nothing is computed or compiled.

    Args:
      config: what is trained, without a moving average.
      parallel: the devices, in mode single or shard_map; described ones will do.
      rows: of a whole batch.
      samples: of each waveform.
      classes: emotions.
    """
    optimizer = make_optimizer(config.training, steps_per_epoch=1)
    variables = variable_shapes(config.recognizer, classes)
    shape: Any = jax.ShapeDtypeStruct
    state = TrainState(shape((), jnp.int32), variables, jax.eval_shape(optimizer.init, variables["params"]))
    numbers = shape((rows,), jnp.int32)
    batch = Batch(shape((rows, samples), jnp.float32), numbers, numbers, shape((rows,), jnp.float32), numbers)
    return parallel.train_step(config, optimizer).trace(state, batch, shape((), jnp.uint32))
