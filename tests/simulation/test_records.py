"""What stays on record of a machine, and for how long: seen in whole schedules."""

from __future__ import annotations

from tests.simulation.schedule import world_of
from tests.simulation.world import World


def world_after(*lines: str) -> World:
    """The world that a schedule leaves, at rest."""
    first, *rest = lines
    world = world_of(first)
    try:
        for line in rest:
            world.do(line)
        world.settle()
    finally:
        world.end()
    return world


def test_a_machine_forgets_the_fences_of_its_own_boot() -> None:
    """A gateway that lost its lease and comes back, not booted, finds its former clients gone and forgets them."""
    world = world_after(
        "world seed=1 nodes=2 images=1 locks=1 news=1", "run 4", "holder lose requests", "run 30", "holder regain"
    )
    assert world.rados.listed
    assert world.store.fences() == {}


def test_a_machine_booted_anew_forgets_no_fence() -> None:
    """After a power cut nobody can tell the machine that comes back from another one under its name."""
    world = world_after(
        "world seed=1 nodes=2 images=1 locks=1 news=1", "run 4", "holder crash", "run 15", "gw1 boot", "gw2 boot"
    )
    assert world.rados.listed
    assert set(world.store.fences()) == set(world.rados.listed)
