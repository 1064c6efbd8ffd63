"""Rows about `merge`: against cp, qemu-img, and the Python script it grew out of."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys

from bench import GIB, ROOT, RSS_LIMIT_MIB, TIB, Chain, seconds, size
from measure import Contender, Skip, Wrong, drop_caches, loop_filesystem, need_room, need_root, run, warm


def cp(flat, output, check, before, *options, sync=False):
    words = ["cp", *(options or ["--sparse=auto"]), str(flat), str(output)]
    if sync:
        words = ["sh", "-c", '"$@" && sync "$0"', str(output), *words]
    return Contender("cp + sync" if sync else "cp", words, output, before, check)


def qemu_img(flat, output, check, before):
    """`qemu-img convert` in both ways; the quicker one counts."""
    if not shutil.which("qemu-img"):
        return []
    plain = ["qemu-img", "convert", "-f", "raw", "-O", "raw", "-S", "4k"]
    ways = (("qemu-img", []), ("qemu-img -W -m 4", ["-W", "-m", "4"]))
    return [Contender(name, [*plain, *extra, flat, output], output, before, check) for name, extra in ways]


def row_warm(bench):
    """Page cache warm, not synced: against cp and qemu-img."""
    chain = Chain(40, 16 * GIB, bench.scaled(2 * GIB, GIB // 2) >> 16)
    with bench.made(chain) as (replica, flat):
        out, check = bench.dir / "out.img", bench.checker(chain)
        ours = bench.ours(chain, replica, out, lambda: warm(replica))
        copy = cp(flat, out, check, lambda: warm(flat))
        qemu = qemu_img(flat, out, check, lambda: warm(flat))
        bench.measured("warm", [ours, copy, *qemu])
        bench.ratio("warm", str(chain), ours, copy, 0.8)
        if qemu:
            bench.ratio("warm", str(chain), ours, min(qemu, key=lambda c: c.median), 0.6)
        else:
            bench.skipped.append(("warm", "qemu-img is not installed (package qemu-utils)"))
        bench.note_floor("warm", chain, out, [copy, *qemu])


def row_cold(bench):
    """Caches dropped, to stable storage: against cp + sync."""
    need_root()
    chain = Chain(40, 16 * GIB, bench.scaled(2 * GIB, GIB // 2) >> 16)
    with bench.made(chain) as (replica, flat):
        out = bench.dir / "out.img"
        ours = bench.ours(chain, replica, out, drop_caches, sync=True)
        copy = cp(flat, out, bench.checker(chain), drop_caches, sync=True)
        bench.measured("cold", [ours, copy])
        bench.ratio("cold", f"{chain}, caches dropped, synced", ours, copy, 0.7)


def row_small(bench):
    """Many small extents: against cp."""
    chain = Chain(40, 64 * GIB, bench.scaled(500_000, 50_000), 4096)
    with bench.made(chain) as (replica, flat):
        out = bench.dir / "out.img"
        ours = bench.ours(chain, replica, out, lambda: warm(replica))
        copy = cp(flat, out, bench.checker(chain), lambda: warm(flat))
        bench.measured("small", [ours, copy])
        bench.ratio("small", str(chain), ours, copy, 0.6)
        bench.note_floor("small", chain, out, [copy])


def row_python(bench):
    """The two-layer Python merge. It takes minutes, so it runs once; it is wrong where zeros hide data."""
    chain = Chain(2, bench.scaled(16 * GIB, GIB), bench.scaled(GIB, GIB // 16) >> 16, overlap=20)
    with bench.made(chain, flat=False) as (replica, _):
        out, verdict = bench.dir / "out.img", []

        def judge(output):
            done = subprocess.run([bench.synth, *map(str, chain.recipe()), "--check", output], capture_output=True)
            verdict.append("its output is wrong" if done.returncode else "")

        ours = bench.ours(chain, replica, out, lambda: warm(replica))
        bench.measured("python", [ours])
        layers = [next(replica.glob("volume-snap-*.img")), next(replica.glob("volume-head-*.img"))]
        script = ROOT / "scripts/peers/merge-two-layers.py"
        peer = Contender("python", [sys.executable, script, *layers, out], out, lambda: warm(replica), judge)
        peer.seconds.append(run(peer))
        judge(out)
        out.unlink()
        bench.runs.append({"row": "python", "name": peer.name, "seconds": peer.seconds, "wrong": bool(verdict[0])})
        times = peer.median / ours.median
        bench.line("python", str(chain), seconds(ours.median), f"{seconds(peer.median)} python", times, "x faster",
                   200, at_least=True, note=verdict[0])
        bench.note_floor("python", chain, out, [peer])


def against_itself(bench, row, chain, other, target, note):
    """`chain` against `other`, both ours; each has its own replica directory."""
    with contextlib.ExitStack() as stack:
        sides = []
        for name, side in (("this", chain), ("that", other)):
            where = bench.dir / f"{row}-{name}"
            where.mkdir()
            stack.callback(where.rmdir)
            replica, _ = stack.enter_context(bench.made(side, flat=False, where=where))
            before = lambda replica=replica: warm(replica)  # noqa: E731
            label = f"lhrecover, {side.layers} x {size(side.volume)}"
            sides.append(bench.ours(side, replica, bench.dir / "out.img", before, name=label))
        bench.measured(row, sides)
        this, that = sides
        bench.line(row, str(chain), seconds(this.median), f"{seconds(that.median)} {note}",
                   this.median / that.median, "x", target)


def row_depth(bench):
    """250 layers against 1 layer: same data, same segments."""
    deep = Chain(250, 16 * GIB, bench.scaled(2 * GIB, GIB // 2) >> 16)
    against_itself(bench, "depth", deep, Chain(1, deep.volume, deep.writes), 1.2, "with 1 layer")


def row_span(bench):
    """A 15 TiB volume against 16 GiB, same data. ext4 with 4 KiB blocks holds files up to just below 16 TiB."""
    huge = Chain(40, 15 * TIB, bench.scaled(GIB, GIB // 4) >> 16)
    try:
        probe = bench.dir / "probe"
        probe.touch()
        os.truncate(probe, huge.volume)
    except OSError as error:
        raise Skip(f"the file system has no files of 15 TiB ({error.strerror})") from error
    finally:
        probe.unlink()
    against_itself(bench, "span", huge, Chain(40, 16 * GIB, huge.writes), 1.1, "with 16 GiB")


def row_rss(bench):
    """Peak memory: of every run so far, and of one with millions of extents."""
    chain = Chain(40, 64 * GIB, bench.scaled(4_000_000, 200_000), 4096)
    with bench.made(chain, flat=False) as (replica, _):
        ours = bench.ours(chain, replica, bench.dir / "out.img", lambda: None)
        duration = run(ours)
        ours.check(ours.output)
        ours.output.unlink()
        bench.runs.append({"row": "rss", "name": ours.name, "seconds": [duration], "rss_mib": round(ours.rss_mib, 1)})
        bench.line("rss", f"peak RSS, {chain.writes:,} extents", f"{ours.rss_mib:.1f} MiB", "", ours.rss_mib, "MiB",
                   RSS_LIMIT_MIB)
    if bench.peak_rss[1]:
        peak, row = bench.peak_rss
        bench.line("rss", "peak RSS of all other runs", f"{peak:.1f} MiB", "", peak, "MiB", RSS_LIMIT_MIB,
                   note=f"row {row}")


def row_reflink(bench, kind):
    """Source and output on one file system that shares blocks: against a full copy, synced."""
    need_root()
    if not shutil.which(f"mkfs.{kind}"):
        raise Skip(f"mkfs.{kind} is not installed (package {'xfsprogs' if kind == 'xfs' else 'btrfs-progs'})")
    chain = Chain(40, 16 * GIB, bench.scaled(GIB, GIB // 4) >> 16)
    need_room(bench.dir, 4 * chain.data + GIB)
    with contextlib.ExitStack() as stack:
        try:
            mount, written = stack.enter_context(loop_filesystem(kind, bench.dir, 4 * chain.data + 2 * GIB))
        except Wrong as error:
            raise Skip(str(error)) from error
        replica, flat = stack.enter_context(bench.made(chain, where=mount))
        out = mount / "out.img"
        ours = bench.ours(chain, replica, out, lambda: warm(replica), sync=True)
        copy = cp(flat, out, bench.checker(chain), lambda: warm(flat), "--reflink=never", sync=True)
        bench.measured(kind, [ours, copy], written)
        bench.ratio(kind, f"{chain}, synced", ours, copy, 0.3)
        took, peer = statistics.median(ours.written), statistics.median(copy.written)
        bench.line(kind, "bytes written, of the data", size(took), f"{size(peer)} cp", 100 * took / chain.data, "%", 5)


ROWS = {
    "warm": row_warm,
    "cold": row_cold,
    "small": row_small,
    "python": row_python,
    "depth": row_depth,
    "span": row_span,
    "xfs": lambda bench: row_reflink(bench, "xfs"),
    "btrfs": lambda bench: row_reflink(bench, "btrfs"),
    "rss": row_rss,
}
