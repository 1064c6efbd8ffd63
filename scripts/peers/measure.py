"""How scripts/bench-peers measures: one run at a time, the output gone before and the disk quiet.

A machine drifts, so contenders take turns (`interleaved`) and medians are compared. The first round is not counted:
it loads programs and allocators, and its outputs are checked.
"""

import contextlib
import os
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

STEP = 1 << 20


class Skip(Exception):
    """A row that cannot be measured here, and why."""


class Wrong(Exception):
    """A program failed, or its output is not the merged volume."""


@dataclass
class Contender:
    """A command that makes `output`, and what running it cost."""

    name: str
    command: list
    output: Path
    before: callable  # brings the caches into the state the row is about
    check: callable  # raises Wrong
    seconds: list = field(default_factory=list)
    rss_mib: float = 0.0
    written: list = field(default_factory=list)

    @property
    def median(self):
        return statistics.median(self.seconds)


def run(contender):
    """Runs once. Returns seconds; keeps the peak RSS.

    The kernel lets a child begin with the peak of the process it was forked from, so nothing below this script's
    own (about 15 MiB) can be seen.
    """
    contender.output.unlink(missing_ok=True)
    os.sync()
    contender.before()
    began = time.perf_counter()
    child = subprocess.Popen(contender.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise Wrong(f"{contender.name} exited with {child.returncode}: {' '.join(map(str, contender.command))}")
    contender.rss_mib = max(contender.rss_mib, usage.ru_maxrss / 1024)
    return seconds


def interleaved(contenders, reps, written=None):
    """Measures every contender `reps` times, in turns, each round beginning with another one.

    `written` tells the bytes that the device has taken so far, where that is asked.
    """
    for turn in range(reps + 1):
        shift = turn % len(contenders)
        for contender in contenders[shift:] + contenders[:shift]:
            if written:
                contender.output.unlink(missing_ok=True)
                os.sync()
                before = written()
            seconds = run(contender)
            if turn == 0:
                contender.check(contender.output)
            else:
                contender.seconds.append(seconds)
                if written:
                    os.sync()
                    contender.written.append(written() - before)
            contender.output.unlink()


def warm(path):
    """Reads the data of a file, or of all files of a directory, into the page cache; holes are left alone."""
    path = Path(path)
    buffer = bytearray(STEP)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        fd = os.open(file, os.O_RDONLY)
        try:
            at, end = 0, os.fstat(fd).st_size
            while at < end:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError:
                    break
                hole = os.lseek(fd, at, os.SEEK_HOLE)
                while at < hole:
                    at += os.preadv(fd, [memoryview(buffer)[: min(STEP, hole - at)]], at)
        finally:
            os.close(fd)


def drop_caches():
    """Empties the page cache and the caches of inodes, so that extents are read from the disk too. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def need_room(directory, wanted_bytes):
    stat = os.statvfs(directory)
    room = stat.f_bavail * stat.f_frsize
    if room < wanted_bytes:
        raise Skip(f"needs {wanted_bytes / 2**30:.0f} GiB free in {directory}, there are {room / 2**30:.0f}")


def quietly(*command):
    """Runs a tool whose output matters only when it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Wrong(f"{command[0]} exited with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def loop_filesystem(kind, directory, size_bytes):
    """A fresh file system of `kind` on a loop device. Yields where it is mounted, and what tells the bytes written."""
    image, mount = directory / f"{kind}.image", directory / f"{kind}.mount"
    mount.mkdir()
    with contextlib.ExitStack() as undo:
        undo.callback(mount.rmdir)
        image.touch()
        undo.callback(image.unlink)
        os.truncate(image, size_bytes)
        quietly(f"mkfs.{kind}", "-q", image)
        device = quietly("losetup", "--find", "--show", "--direct-io=on", image)
        undo.callback(quietly, "losetup", "--detach", device)
        quietly("mount", device, mount)
        undo.callback(quietly, "umount", mount)
        stat = Path("/sys/block") / Path(device).name / "stat"
        yield mount, lambda: int(stat.read_text().split()[6]) * 512
