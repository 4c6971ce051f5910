"""The trap's file system in this machine's own kernel: a text is answered when its callback returns, and never before.

Writers and servers that get killed are processes of their own: a process that waits for a file system it serves itself
could not even be killed, as its descriptor would stay open.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import Inconsistent, KernelRefused, Unavailable
from gateway.model import Iqn
from gateway.reservations.fuse import KIND, MAX_TEXT, FileTrap, mount, mounted, unmount
from gateway.reservations.telling import RESTORED, leaving, tell

ROOT = Path(__file__).parents[2]
BOUND = 10.0
"""Seconds that anything here may take on a loaded machine."""
A_WHILE = 0.3
"""Seconds in which an answer that must not come would have come."""

WRITE = """
import os, sys
flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
handle = os.open(sys.argv[1], flags, 0o600)
size = int(sys.argv[2])
text = sys.stdin.buffer.read()
for start in range(0, len(text), size):
    piece = text[start : start + size]
    if (done := os.write(handle, piece)) != len(piece):
        sys.exit(f"only {done} bytes")
"""

SERVE = """
import sys, time
from gateway.reservations.fuse import FileTrap

def on_text(name, text):
    print(name, flush=True)
    time.sleep(60)

FileTrap(int(sys.argv[1]), on_text).serve()
"""

ACCOUNT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.close(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600))
if libc.acct(os.fsencode(sys.argv[1])):
    sys.exit(os.strerror(ctypes.get_errno()))
if not os.fork():
    os._exit(0)
os.wait()
libc.acct(None)
"""


class Mounted:
    """A mounted trap, served in a thread; its callback waits at every held name until that is let go."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.came: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.held: dict[str, threading.Event] = {}
        self.writers: list[subprocess.Popen[bytes]] = []
        self.descriptor = mount(where)
        self.trap = FileTrap(self.descriptor, self.on_text)
        self.server = threading.Thread(target=self.trap.serve, daemon=True)

    def on_text(self, name: str, text: bytes) -> None:
        """The trap's callback."""
        self.came.put((name, text))
        if name in self.held:
            assert self.held[name].wait(2 * BOUND)

    def hold(self, name: str) -> threading.Event:
        """Let the callback wait at a name until the event is set."""
        return self.held.setdefault(name, threading.Event())

    def write(self, name: str, text: bytes, piece: int = MAX_TEXT) -> subprocess.Popen[bytes]:
        """A process that writes a text as LIO does, in pieces of so many bytes."""
        writer = started(self.where / name, text, piece)
        self.writers.append(writer)
        return writer

    def next(self) -> tuple[str, bytes]:
        """The next text that came."""
        return self.came.get(timeout=BOUND)

    def end(self) -> None:
        """Take everything away, whatever state it is in."""
        for event in self.held.values():
            event.set()
        while mounted(self.where):
            unmount(self.where)
        for writer in self.writers:
            writer.kill()
            writer.communicate(timeout=BOUND)
        if self.server.is_alive():
            self.server.join(BOUND)
        os.close(self.descriptor)
        assert not self.server.is_alive()


def started(path: Path, text: bytes, piece: int = MAX_TEXT) -> subprocess.Popen[bytes]:
    """A process that writes a text in pieces; its text is given, it runs."""
    command = (sys.executable, "-I", "-S", "-c", WRITE, str(path), str(piece))
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(text)
    writer.stdin.close()
    writer.stdin = None  # `communicate` would write to it
    return writer


def ended(writer: subprocess.Popen[bytes]) -> str:
    """The last line the writer said at its end; nothing if all was written."""
    _, said = writer.communicate(timeout=BOUND)
    assert (writer.returncode == 0) == (not said)
    return said.decode().strip().rpartition("\n")[2]


def waits(writer: subprocess.Popen[bytes]) -> bool:
    """Whether the writer has not ended in a while."""
    try:
        writer.wait(A_WHILE)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Mounted]:
    """A mounted trap that nobody serves yet."""
    where = tmp_path / "pr"
    where.mkdir()
    found = Mounted(where)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def trap(bare: Mounted) -> Mounted:
    """A mounted trap that is served."""
    bare.server.start()
    return bare


def test_a_write_is_answered_only_after_its_callback_returned(trap: Mounted) -> None:
    """The writer waits in the kernel as long as the callback does, and then has written everything."""
    let_go = trap.hold("aptpl_1")
    writer = trap.write("aptpl_1", b"a text\0")
    assert trap.next() == ("aptpl_1", b"a text\0")
    assert waits(writer)
    let_go.set()
    assert ended(writer) == ""


def test_a_text_in_pieces_comes_once_and_exactly(trap: Mounted) -> None:
    """Only the piece with the NUL is handed over, with all that came before it."""
    text = bytes(1 + number % 255 for number in range(200 << 10)) + b"\0"
    assert ended(trap.write("aptpl_1", text, piece=4096)) == ""
    assert trap.next() == ("aptpl_1", text)
    assert trap.came.empty()


def test_the_kernels_own_write_is_held_too(trap: Mounted) -> None:
    """kernel_write(), which LIO uses, waits as write(2) does; shown with acct(2), whose 64 bytes end with a NUL."""
    let_go = trap.hold("account")
    command = ("unshare", "--pid", "--fork", sys.executable, "-I", "-S", "-c", ACCOUNT, str(trap.where / "account"))
    writer = subprocess.Popen(command, stderr=subprocess.PIPE)
    trap.writers.append(writer)
    name, record = trap.next()
    assert (name, len(record)) == ("account", 64)
    assert waits(writer)
    let_go.set()
    assert ended(writer) == ""


def test_a_big_text_is_one_request(trap: Mounted) -> None:
    """A text in one write(2) fails whole: in two requests the first one's success would hide the second one's error."""
    trap.hold("aptpl_1")
    text = b"x" * (900 << 10) + b"\0"
    writer = trap.write("aptpl_1", text)
    assert trap.next() == ("aptpl_1", text)
    unmount(trap.where)
    assert "[Errno" in ended(writer)


def test_a_text_without_its_end_is_not_handed_over(trap: Mounted) -> None:
    """What never ends with a NUL is answered at once and forgotten with its handle."""
    assert ended(trap.write("aptpl_1", b"half")) == ""
    assert ended(trap.write("aptpl_1", b"whole\0")) == ""
    assert trap.next() == ("aptpl_1", b"whole\0")
    assert trap.came.empty()


def test_a_text_that_is_too_long_is_refused(trap: Mounted) -> None:
    """More than 1 MiB is answered EFBIG, and nothing is handed over."""
    assert "[Errno 27]" in ended(trap.write("aptpl_1", b"x" * MAX_TEXT + b"\0"))
    assert trap.came.empty()


def test_a_held_name_does_not_delay_another(trap: Mounted) -> None:
    """While one text is held, another name's is written, and files can be listed and read."""
    let_go = trap.hold("aptpl_1")
    held = trap.write("aptpl_1", b"one\0")
    assert trap.next()[0] == "aptpl_1"
    assert ended(trap.write("aptpl_2", b"two\0")) == ""
    assert trap.next() == ("aptpl_2", b"two\0")
    assert run("ls", str(trap.where)) == b"aptpl_1\naptpl_2\n"
    assert run("cat", str(trap.where / "aptpl_2")) == b"two\0"
    assert waits(held)
    let_go.set()
    assert ended(held) == ""


def test_two_writers_of_one_name_come_one_after_the_other(trap: Mounted) -> None:
    """The kernel keeps the second writer of a name waiting until the first is answered; both texts come, unmixed."""
    let_go = trap.hold("aptpl_1")
    writers = [trap.write("aptpl_1", (letter * 9000).encode() + b"\0", piece=4096) for letter in "ab"]
    first = trap.next()[1]
    assert all(waits(writer) for writer in writers)
    assert trap.came.empty()
    let_go.set()
    assert [ended(writer) for writer in writers] == ["", ""]
    assert {first, trap.next()[1]} == {b"a" * 9000 + b"\0", b"b" * 9000 + b"\0"}


def test_open_files_of_one_name_do_not_mix(trap: Mounted) -> None:
    """Pieces that come in turns through two open files are two texts."""
    script = (
        "import os, sys; a, b = (os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC) for _ in 'ab')\n"
        "for handle, piece in ((a, b'a1 '), (b, b'b1 '), (a, b'a2\\0'), (b, b'b2\\0')): os.write(handle, piece)"
    )
    run(sys.executable, "-I", "-S", "-c", script, str(trap.where / "aptpl_1"))
    assert [trap.next()[1], trap.next()[1]] == [b"a1 a2\0", b"b1 b2\0"]


def test_a_shorter_text_replaces_a_longer_one(trap: Mounted) -> None:
    """Opened with O_TRUNC or written anew from the start of an open file, a text is only what was written last."""
    for text in (b"a long text\0", b"short\0"):
        assert ended(trap.write("aptpl_1", text)) == ""
        assert trap.next() == ("aptpl_1", text)
        assert run("cat", str(trap.where / "aptpl_1")) == text
    script = (
        "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.write(f, b'abc'); os.truncate(f, 0)\n"
        "os.lseek(f, 0, 0); os.write(f, b'de\\0'); os.pwrite(f, b'f\\0', 0); os.fsync(f)"
    )
    run(sys.executable, "-I", "-S", "-c", script, str(trap.where / "aptpl_1"))
    assert [trap.next()[1], trap.next()[1]] == [b"de\0", b"f\0"]
    assert run("cat", str(trap.where / "aptpl_1")) == b"f\0"


def test_the_last_whole_text_stands_while_the_next_is_held(trap: Mounted) -> None:
    """A reader sees what was said yes to, not what waits."""
    assert ended(trap.write("aptpl_1", b"old\0")) == ""
    assert trap.next() == ("aptpl_1", b"old\0")
    let_go = trap.hold("aptpl_1")
    held = trap.write("aptpl_1", b"newer\0")
    assert trap.next() == ("aptpl_1", b"newer\0")
    assert run("cat", str(trap.where / "aptpl_1")) == b"old\0"
    let_go.set()
    assert ended(held) == ""
    assert run("cat", str(trap.where / "aptpl_1")) == b"newer\0"


def test_unmounting_fails_held_writes_and_ends_the_server(trap: Mounted) -> None:
    """A held writer, and one that waits behind it, hear an error at once, and `serve` returns."""
    trap.hold("aptpl_1")
    first = trap.write("aptpl_1", b"text\0")
    assert trap.next()[0] == "aptpl_1"
    second = trap.write("aptpl_1", b"next\0")
    assert waits(second)
    start = time.monotonic()
    unmount(trap.where)
    assert "[Errno" in ended(first)
    assert "[Errno" in ended(second)
    trap.server.join(BOUND)
    assert not trap.server.is_alive()
    assert time.monotonic() - start < BOUND
    assert mounted(trap.where) is None


def test_an_answer_that_comes_after_the_unmount_goes_nowhere(trap: Mounted) -> None:
    """A callback that returns when its writer has gone does no harm, and a new mount there serves."""
    let_go = trap.hold("aptpl_1")
    writer = trap.write("aptpl_1", b"text\0")
    assert trap.next()[0] == "aptpl_1"
    unmount(trap.where)
    assert "[Errno" in ended(writer)
    again = Mounted(trap.where)
    try:
        again.server.start()
        let_go.set()
        assert ended(again.write("aptpl_1", b"anew\0")) == ""
        assert again.next() == ("aptpl_1", b"anew\0")
    finally:
        again.end()


def test_a_dead_servers_writer_waits_until_the_unmount(bare: Mounted) -> None:
    """With the descriptor kept by another process, a killed server's writers wait until the unmount."""
    command = (sys.executable, "-c", SERVE, str(bare.descriptor))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, pass_fds=(bare.descriptor,)) as server:
        assert server.stdout is not None
        try:
            taken = bare.write("aptpl_1", b"text\0")
            assert server.stdout.readline() == b"aptpl_1\n"
        finally:
            server.kill()
    not_taken = bare.write("aptpl_2", b"text\0")
    assert waits(taken)
    assert waits(not_taken)
    assert mounted(bare.where) == KIND
    with pytest.raises(Inconsistent, match="mount anew"):
        bare.trap.serve()
    assert waits(not_taken)
    unmount(bare.where)
    assert "[Errno" in ended(taken)
    assert "[Errno" in ended(not_taken)


def test_the_last_close_fails_the_held_write(bare: Mounted) -> None:
    """When nobody keeps the descriptor, the end of the server is an answer."""
    where = bare.where.parent / "second"
    where.mkdir()
    descriptor = mount(where)
    try:
        command = (sys.executable, "-c", SERVE, str(descriptor))
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, pass_fds=(descriptor,)) as server:
            os.close(descriptor)
            assert server.stdout is not None
            try:
                writer = started(where / "aptpl_1", b"text\0")
                assert server.stdout.readline() == b"aptpl_1\n"
                assert waits(writer)
            finally:
                server.kill()
        assert "[Errno" in ended(writer)
    finally:
        unmount(where)


def test_stopping_holds_what_comes_later_and_serving_goes_on(trap: Mounted) -> None:
    """After `stop` a writer waits, and the same trap can serve again; a text held meanwhile is still answered."""
    let_go = trap.hold("aptpl_1")
    held = trap.write("aptpl_1", b"held\0")
    assert trap.next()[0] == "aptpl_1"
    trap.trap.stop()
    trap.server.join(BOUND)
    assert not trap.server.is_alive()
    let_go.set()
    later = trap.write("aptpl_2", b"later\0")
    assert waits(later)
    trap.server = threading.Thread(target=trap.trap.serve, daemon=True)
    trap.server.start()
    assert ended(held) == ""
    assert ended(later) == ""
    assert trap.next() == ("aptpl_2", b"later\0")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_answers_nothing(bare: Mounted) -> None:
    """A bug in the callback leaves the writer waiting: an error would be taken for GOOD."""

    def fail(name: str, text: bytes) -> None:
        raise ValueError(name)

    bare.trap = FileTrap(bare.descriptor, fail)
    bare.server = threading.Thread(target=bare.trap.serve, daemon=True)
    bare.server.start()
    writer = bare.write("aptpl_1", b"text\0")
    assert waits(writer)


def test_files_are_listed_removed_and_nothing_else_can_be_made(trap: Mounted) -> None:
    """`ls` shows every file also when there are many, `rm` removes one, and what has no use is refused."""
    names = [f"aptpl_{number:036d}" for number in range(200)]
    run("touch", *(str(trap.where / name) for name in names))
    assert run("ls", str(trap.where)).decode().split() == names
    run("rm", *(str(trap.where / name) for name in names[1:]))
    assert run("ls", "-la", str(trap.where)).decode().splitlines()[-1].endswith(names[0])
    run("df", str(trap.where))
    made = subprocess.run(("mkdir", str(trap.where / "more")), capture_output=True, check=False, timeout=BOUND)
    assert b"Function not implemented" in made.stderr
    assert trap.came.empty()


def test_what_is_mounted_is_told(bare: Mounted) -> None:
    """The type that is mounted exactly there is told, without a server, and nothing where nothing is mounted."""
    assert mounted(bare.where) == KIND == "fuse.rbdgate"
    assert mounted(bare.where.parent) is None
    link = bare.where.parent / "link"
    link.symlink_to(bare.where)
    assert mounted(link) is None
    run("mount", "-t", "tmpfs", "tmpfs", str(bare.where.parent))
    try:
        assert mounted(bare.where.parent) == "tmpfs"
    finally:
        unmount(bare.where.parent)
    assert mounted(bare.where.parent) is None
    assert mounted(bare.where) == KIND
    unmount(bare.where)
    assert mounted(bare.where) is None
    unmount(bare.where)
    unmount(bare.where / "never made")


def test_a_mount_on_a_mount_is_told_and_taken_first(bare: Mounted) -> None:
    """Of two mounts on one place the upper one is told, and taken away alone; a hidden one of that path is not told."""
    run("mount", "-t", "tmpfs", "tmpfs", str(bare.where.parent))
    try:
        bare.where.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", str(bare.where))
        os.close(mount(bare.where))
        assert mounted(bare.where) == KIND
        unmount(bare.where)
        assert mounted(bare.where) == "tmpfs"
        unmount(bare.where)
        assert mounted(bare.where) is None
    finally:
        unmount(bare.where.parent)


def test_a_mount_that_cannot_be_names_its_reason(tmp_path: Path) -> None:
    """The error has the place and the errno, and no descriptor is left."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KernelRefused, match=r"never made.*ENOENT"):
        mount(tmp_path / "never made")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def run(*command: str) -> bytes:
    """What a command says; it may take as long as anything here."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=BOUND).stdout


def test_the_agent_tells_the_guard_through_the_same_file(tmp_path: Path) -> None:
    """Its words come as the kernel's do, and it goes on when they were acted on, or when nobody can any more."""
    place = tmp_path / "pr"
    place.mkdir()
    made = Mounted(place)
    made.server.start()
    try:
        tell(tmp_path, "4711", leaving({Iqn("iqn.1993-08.org.debian:01:a")}))
        assert made.next() == ("aptpl_4711", b"without iqn.1993-08.org.debian:01:a\n\0")
        made.hold("aptpl_4711")
        cut = threading.Timer(A_WHILE, lambda: unmount(place))
        cut.start()
        with pytest.raises(Unavailable, match="did not take a word"):
            tell(tmp_path, "4711", RESTORED)
        cut.join()
    finally:
        made.end()
