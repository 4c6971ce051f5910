"""Schedules as text: made into a world, carried out line by line, and told with what came of them.

A transcript has the schedule's lines behind `> ` and what happened behind a time; only the former are read back, so
that a transcript of a failure *is* a regression test: put it into `schedules/`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from gateway.model import ImageSpec
from tests.simulation.stage import Violation
from tests.simulation.world import Shape, World
from tests.unit.test_plan import NETWORKS, spec_of

SCHEDULES = Path(__file__).with_name("schedules")


def world_of(line: str) -> World:
    """The world of a first line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    shape = Shape.parse(line)
    world = World(shape, tuple(_spec(number) for number in range(1, shape.images + 1)), NETWORKS)
    world.told.append(f"> {shape}")
    return world


def _spec(number: int) -> ImageSpec:
    spec = spec_of(number)
    return replace(spec, identity=replace(spec.identity, serial=str(number) * 32))


def lines_of(transcript: str) -> list[str]:
    """What was done, from a transcript or a plain schedule; `#` begins a remark."""
    lines = []
    for line in transcript.splitlines():
        said = line.partition("#")[0].rstrip()
        if said.startswith("> "):
            lines.append(said[2:])
        elif said and not said.startswith(" "):
            lines.append(said)
    return [line for line in lines if line != "settle"]


def replay(lines: Iterable[str]) -> str:
    """Carry a schedule out and settle; returns the transcript, or raises Violation with it."""
    first, *rest = lines
    world = world_of(first)
    try:
        for line in rest:
            world.do(line)
        world.settle()
    except Violation as violation:
        raise Violation(f"{violation}\n" + "\n".join(world.told)) from violation.__cause__
    finally:
        world.end()
    return "\n".join(world.told)


def main(path: str) -> None:
    """Tell what comes of a schedule's file."""
    sys.stdout.write(replay(lines_of(Path(path).read_text())) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
