"""Rows about looking inside without copying: `serve` against nbdkit, `mount` against nbdfuse."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench import GIB, SERVER_RSS_LIMIT_MIB, TIB, Chain, seconds
from measure import Contender, Skip, Wrong, need_root, quietly, warm


def peak_rss_mib(pid):
    """What a process of ours has had resident at most, so far."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


@contextlib.contextmanager
def serving(command, socket):
    """Runs a server until the end of the block, and waits for its socket. Yields its process."""
    socket.unlink(missing_ok=True)
    words = [str(word) for word in command]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"no socket appeared: {' '.join(words)}")
            time.sleep(0.01)
        yield server
    finally:
        server.terminate()
        server.wait()
        socket.unlink(missing_ok=True)


def row_nbd(bench):
    """The whole volume through NBD, to nowhere: against nbdkit, which serves the flat image."""
    for tool, package in (("nbdcopy", "libnbd-bin"), ("nbdkit", "nbdkit")):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed (package {package})")
    chain = Chain(40, 16 * GIB, bench.scaled(2 * GIB, GIB // 2) >> 16)
    # Names of sockets are short.
    with bench.made(chain) as (replica, flat), tempfile.TemporaryDirectory() as run_dir:
        ours_at, peer_at, out = Path(run_dir) / "ours", Path(run_dir) / "peer", bench.dir / "out.img"
        uri = lambda socket: f"nbd+unix:///?socket={socket}"  # noqa: E731
        serve = [bench.lhrecover, "serve", replica, "--nbd", f"unix:{ours_at}", "--quiet"]
        nbdkit = ["nbdkit", "--foreground", "--readonly", "--unix", peer_at, "file", flat]
        with serving(serve, ours_at) as server, serving(nbdkit, peer_at):
            contenders = []
            for name, socket, source in (("lhrecover serve", ours_at, replica), ("nbdkit file", peer_at, flat)):
                quietly("nbdcopy", uri(socket), out)
                bench.checker(chain)(out)
                out.unlink()
                command = ["nbdcopy", uri(socket), "null:"]
                contenders.append(Contender(name, command, out, lambda source=source: warm(source), None))
            ours, peer = contenders
            bench.measured_without_output("nbd", ours, peer)
            bench.line("nbd", f"{chain}, nbdcopy to null", seconds(ours.median), f"{seconds(peer.median)} nbdkit, flat",
                       peer.median / ours.median, "x its rate", 0.9, at_least=True)
            rss = peak_rss_mib(server.pid)
            bench.line("nbd", "peak RSS of the server, the whole volume read", f"{rss:.1f} MiB", "", rss, "MiB",
                       SERVER_RSS_LIMIT_MIB)


class Mounted:
    """A replica's image as `lhrecover mount --image-only` shows it, mounted anew before each run: nothing is cached."""

    def __init__(self, bench, name, replica):
        self.bench, self.replica, self.point = bench, replica, bench.dir / f"{name}.mount"
        self.point.mkdir()
        self.image = self.point / "volume.img"
        self.rss_mib = 0.0

    def command(self):
        return [self.bench.lhrecover, "mount", "--image-only", "--quiet", self.replica, self.point]

    def unmount(self):
        if self.point.is_mount():
            listed = json.loads(quietly(self.bench.lhrecover, "umount", "--list", "--json"))
            ours = [m for m in listed["mounts"] if Path(m["mountpoint"]) == self.point.resolve()]
            self.rss_mib = max(self.rss_mib, peak_rss_mib(ours[0]["server_pid"]))
            quietly(self.bench.lhrecover, "umount", self.point)


def need_fuse():
    need_root()
    if not os.path.exists("/dev/fuse"):
        raise Skip("there is no /dev/fuse")


def row_first_file(bench):
    """From nothing to the first MiB of a mounted image: a huge volume against a small one."""
    need_fuse()
    huge = Chain(bench.scaled(250, 100), TIB, bench.scaled(1_000_000, 50_000), 4096)
    small = Chain(1, GIB, 1024)
    with contextlib.ExitStack() as undo:
        contenders = []
        for name, chain in (("huge", huge), ("small", small)):
            where = bench.dir / name
            where.mkdir()
            undo.callback(shutil.rmtree, where, ignore_errors=True)
            replica, _ = undo.enter_context(bench.made(chain, flat=False, where=where, spare=0))
            mounted = Mounted(bench, name, replica)
            undo.callback(mounted.unmount)
            words = ["sh", "-c", '"$@" && head -c 1M "$0" >/dev/null', mounted.image, *mounted.command()]
            contenders.append(Contender(f"lhrecover mount, {name}", words, bench.dir / "none", mounted.unmount, None))
        bench.measured_without_output("first-file", *contenders)
        ours, peer = contenders
        what = f"mount the image, read 1 MiB: {huge} against {small}"
        bench.line("first-file", what, seconds(ours.median), seconds(peer.median), ours.median - peer.median, "s more", 0.5)


def row_image(bench):
    """The whole volume out of a mounted image: against nbdfuse over nbdkit, which serves the flat image."""
    need_fuse()
    for tool, package in (("nbdfuse", "libnbd-bin"), ("nbdkit", "nbdkit")):
        if not shutil.which(tool):
            raise Skip(f"{tool} is not installed (package {package})")
    chain = Chain(40, bench.scaled(4 * GIB, GIB), bench.scaled(2 * GIB, GIB // 2) >> 16)
    with bench.made(chain) as (replica, flat), contextlib.ExitStack() as undo:
        ours_at, peer_at = Mounted(bench, "image", replica), bench.dir / "nbdfuse.mount"
        peer_at.mkdir()
        undo.callback(ours_at.unmount)

        def unmount_peer():
            if peer_at.is_mount():
                quietly("umount", peer_at)

        def mount_ours():
            ours_at.unmount()
            quietly(*ours_at.command())
            warm(replica)

        def mount_peer():
            unmount_peer()
            subprocess.Popen(["nbdfuse", "--readonly", peer_at / "flat", "[", "nbdkit", "file", flat, "]"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            deadline = time.monotonic() + 20
            while not (peer_at / "flat").exists():
                if time.monotonic() > deadline:
                    raise Wrong("nbdfuse does not serve")
                time.sleep(0.01)
            warm(flat)

        undo.callback(unmount_peer)
        mount_ours()
        bench.checker(chain)(ours_at.image)
        read = lambda image: ["dd", f"if={image}", "of=/dev/null", "bs=1M", "status=none"]  # noqa: E731
        ours = Contender("lhrecover mount", read(ours_at.image), bench.dir / "none", mount_ours, None)
        peer = Contender("nbdfuse", read(peer_at / "flat"), bench.dir / "none", mount_peer, None)
        bench.measured_without_output("image", ours, peer)
        ours_at.unmount()
        bench.ratio("image", f"{chain}, read through FUSE", ours, peer, 1)
        bench.line("image", "peak RSS of the server, the whole volume read", f"{ours_at.rss_mib:.1f} MiB", "",
                   ours_at.rss_mib, "MiB", SERVER_RSS_LIMIT_MIB)


ROWS = {"nbd": row_nbd, "first-file": row_first_file, "image": row_image}
