"""iscsi-test-cu's families about reservations, on a served image and on plain LIO of the same node in the same run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab_product.reserving import (
    NODE,
    PLAIN,
    plain_disk,
    portals_of,
    second_initiator,
    second_name,
    served_image,
)
from tests.lab_product.scene import Scene

IMAGE = "rbd/compliant"
FAMILIES = (
    "PrinReadKeys",
    "PrinServiceactionRange",
    "PrinReportCapabilities",
    "ProutRegister",
    "ProutReserve",
    "ProutClear",
    "ProutPreempt",
    "Reserve6",
)
FAMILY_WITHIN = 120.0  # seconds
PASSING = re.compile(r"elapsed|^\s*$|10\.77\.\d+\.\d+", re.IGNORECASE)
"""Lines that say when and where, not what."""


@dataclass(frozen=True)
class Both:
    """The two targets' URLs, as libiscsi has them."""

    served: str
    plain: str


@pytest.fixture(scope="module")
def both(scene: Scene) -> Iterator[Both]:
    """An image, and a plain LIO disk on the gateway that serves it."""
    with (
        second_initiator(scene),
        served_image(scene, IMAGE) as image,
        plain_disk(scene, str(image["holder"])) as plain,
    ):
        yield Both(f"iscsi://{portals_of(image)[0][1]}/{image['iqn']}/0", f"iscsi://{plain[0][1]}/{PLAIN}/0")


def results(scene: Scene, family: str, url: str) -> list[str]:
    """What the family says of a target, a line a fact; it may destroy data, and has two initiators' names."""
    names = (f"--initiator-name={scene.initiator_name(NODE)}", f"--initiator-name-2={second_name(scene)}")
    command = ("iscsi-test-cu", "--dataloss", *names, f"--test=ALL.{family}", url)
    said = scene.run(NODE, *command, within=FAMILY_WITHIN, check=False)
    return [line.strip() for line in said.splitlines() if not PASSING.search(line)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_says_of_an_image_what_it_says_of_plain_lio(scene: Scene, both: Both, family: str) -> None:
    """Line by line the results are the same, none failed, and nothing is skipped that plain LIO does not skip."""
    served, plain = (results(scene, family, url) for url in (both.served, both.plain))
    assert any("passed" in line for line in plain), plain
    assert served == plain
    assert not [line for line in served if "...FAILED" in line]
