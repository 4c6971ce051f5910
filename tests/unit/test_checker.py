"""The checker's judgement, as values: what it must report, and what it must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.block import BLOCK, SECTOR, Found, decode, encode
from tests.checker.journal import BadJournal, History, longest_stall, parse
from tests.checker.verify import UNREADABLE, judge

RUN = bytes(range(16))
HEAD = f"run {RUN.hex()} /dev/x 0 4 1 0\n"


def history(*lines: str) -> History:
    """A journal of these lines behind its first."""
    return parse([HEAD, *(line + "\n" for line in lines)])


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**40), st.integers(0, 2**60))
def test_a_block_reads_back_as_written(run: bytes, block: int, sequence: int) -> None:
    """A block that was encoded decodes to its own sequence, and is 4096 bytes long."""
    data = encode(run, block, sequence)
    assert len(data) == BLOCK
    assert decode(data, run, block) == Found(sequence, sequence)


@given(st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    """A block with one byte changed is nothing of this run."""
    data = bytearray(encode(RUN, 1, 7))
    data[position] ^= change
    assert decode(bytes(data), RUN, 1) is None


def test_a_block_of_another_place_or_run_is_foreign() -> None:
    """A block is not accepted where it does not belong."""
    assert decode(encode(RUN, 1, 7), RUN, 2) is None
    assert decode(encode(b"x" * 16, 1, 7), RUN, 1) is None


def test_a_torn_write_shows_both_sequences() -> None:
    """A block of which only some sectors were rewritten names its oldest and newest sequence."""
    torn = encode(RUN, 1, 9)[: 3 * SECTOR] + encode(RUN, 1, 5)[3 * SECTOR :]
    assert decode(torn, RUN, 1) == Found(5, 9)


def test_what_was_acknowledged_and_found_is_clean() -> None:
    """Acknowledged writes that are found as last written leave nothing to report."""
    verdict = judge(history("w 0 0 1 10", "a 0 0 1 20", "w 0 0 2 30", "a 0 0 2 40"), {0: Found(2, 2)})
    assert verdict.clean
    assert (verdict.acknowledged_writes, verdict.lost_writes) == (2, 0)


def test_a_block_changed_behind_its_back_is_reported() -> None:
    """A block with an older value, or with nothing of this run, is stale or foreign, and its writes are lost."""
    journal = history("w 0 0 1 10", "a 0 0 1 20", "w 0 0 2 30", "a 0 0 2 40", "w 0 1 3 50", "a 0 1 3 60")
    verdict = judge(journal, {0: Found(1, 1), 1: None})
    assert (verdict.stale_blocks, verdict.foreign_blocks, verdict.lost_writes) == ((0,), (1,), 2)


def test_an_acknowledged_record_added_by_hand_is_reported() -> None:
    """A write that was never done but is on record as acknowledged is reported as lost."""
    verdict = judge(history("w 0 0 1 10", "a 0 0 1 20", "a 0 0 99 30"), {0: Found(1, 1)})
    assert (verdict.stale_blocks, verdict.lost_writes) == ((0,), 1)


@pytest.mark.parametrize("end", ["e 0 0 2 40 5", None])
@pytest.mark.parametrize("found", [Found(1, 1), Found(2, 2), Found(1, 2)])
def test_an_unacknowledged_write_may_or_may_not_have_landed(end: str | None, found: Found) -> None:
    """After an error, or in flight, the old value, the new one, and a part of each are all in order."""
    lines = ["w 0 0 1 10", "a 0 0 1 20", "w 0 0 2 30", *([end] if end else [])]
    assert judge(history(*lines), {0: found}).clean


def test_a_failed_write_that_lands_after_a_later_acknowledged_one_is_stale() -> None:
    """A write that ended in an error must not be seen again once its block was written anew."""
    verdict = judge(history("w 0 0 1 10", "e 0 0 1 20 5", "w 0 0 2 30", "a 0 0 2 40"), {0: Found(1, 1)})
    assert (verdict.stale_blocks, verdict.lost_writes) == ((0,), 1)
    torn = judge(history("w 0 0 1 10", "e 0 0 1 20 5", "w 0 0 2 30", "a 0 0 2 40"), {0: Found(1, 2)})
    assert torn.stale_blocks == (0,)


def test_a_value_from_nowhere_is_foreign() -> None:
    """A sequence that was never begun on that block is not taken for a later write."""
    verdict = judge(history("w 0 0 1 10", "a 0 0 1 20"), {0: Found(7, 7)})
    assert verdict.foreign_blocks == (0,)


def test_an_unreadable_block_and_a_misread_are_reported() -> None:
    """A block that cannot be read, or was once read stale during the run, spoils the verdict."""
    assert judge(history("w 0 0 1 10", "a 0 0 1 20"), {0: UNREADABLE}).unreadable_blocks == (0,)
    seen = judge(history("w 0 0 1 10", "a 0 0 1 20", "r 0 0 0 0 30"), {0: Found(1, 1)})
    assert (seen.stale_blocks, seen.clean) == ((0,), False)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from("aew")), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_an_honest_disk_is_never_accused_and_a_forgetful_one_always(
    script: list[tuple[int, str]], random: st.DataObject
) -> None:
    """Any run on a disk that keeps what it acknowledges is clean; dropping any last acknowledged write is not."""
    disk: dict[int, Found | None] = dict.fromkeys(range(4))
    lines, acknowledged = [], {}
    for sequence, (block, outcome) in enumerate(script, 1):
        lines.append(f"w 0 {block} {sequence} {sequence * 10}")
        if outcome == "a":
            lines.append(f"a 0 {block} {sequence} {sequence * 10 + 5}")
            acknowledged[block] = sequence
        elif outcome == "e":
            lines.append(f"e 0 {block} {sequence} {sequence * 10 + 5} 5")
        if outcome == "a" or random.random() < 0.5:  # type: ignore[attr-defined]
            disk[block] = Found(sequence, sequence)
    journal = history(*lines)
    assert judge(journal, disk).clean
    for block in acknowledged:
        verdict = judge(journal, disk | {block: None})
        assert verdict.foreign_blocks == (block,)
        assert verdict.lost_writes >= 1


def test_the_longest_stall_is_the_longest_gap_of_one_lane() -> None:
    """A lane's gap counts even while another lane goes on, and only if it overlaps the time asked for."""
    journal = history(
        "w 0 0 1 0", "a 0 0 1 1000000", "w 1 1 2 0", "a 1 1 2 500000", "m cut 2000000", "w 0 0 3 1000001",
        "w 1 1 4 500001", "a 1 1 4 1500000", "a 0 0 3 4000000",
    )  # fmt: skip
    assert longest_stall(journal).seconds == 3.0
    assert longest_stall(journal, until=900000).seconds == 1.0
    assert longest_stall(journal, since=journal.mark("cut")).began == 1000000


def test_a_write_is_in_flight_from_its_beginning_to_its_end() -> None:
    """What was handed over and has not come back counts, whatever its lane; what is done does not."""
    journal = history("w 0 0 1 10", "w 1 1 2 20", "a 0 0 1 30", "a 1 1 2 40", "w 0 0 3 50")
    assert [journal.in_flight(time) for time in (9, 10, 25, 35, 45, 99)] == [0, 1, 2, 1, 0, 1]


def test_a_lane_that_hangs_to_the_end_counts_as_a_stall() -> None:
    """A write that never came back stalls until the last thing on record."""
    assert longest_stall(history("w 0 0 1 0", "a 0 0 1 10", "w 0 1 2 20", "end 5000010")).seconds == 5.0


@pytest.mark.parametrize("line", ["x", "w 0 0", "a 0 0 one 2", "w 0 0 1 10", "m"])
def test_a_damaged_journal_names_the_line(line: str) -> None:
    """A line that no writer writes is refused with its number."""
    with pytest.raises(BadJournal, match="line 3"):
        history("w 0 0 1 5", line)


def test_a_line_cut_off_at_the_end_is_left_out() -> None:
    """A journal fetched while it is written to is read up to its last whole line."""
    assert parse([HEAD, "w 0 0 1 5\n", "a 0 0"]).acknowledged == 0
