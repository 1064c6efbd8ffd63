"""What the rows of scripts/bench-peers stand on: synthetic chains, contenders, judged numbers."""

import contextlib
import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

from measure import Contender, interleaved, need_room, quietly, run

ROOT = Path(__file__).resolve().parent.parent.parent
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
RSS_LIMIT_MIB = 64
SERVER_RSS_LIMIT_MIB = 128


@dataclass
class Line:
    """One judged number of the table."""

    row: str
    what: str
    ours: str
    peer: str
    value: float
    unit: str
    target: float
    at_least: bool = False
    note: str = ""

    @property
    def ok(self):
        return self.value >= self.target if self.at_least else self.value <= self.target

    def markdown(self):
        sign = "≥" if self.at_least else "≤"
        number = lambda x: f"{x:.0f}" if x >= 50 else f"{x:.3g}"  # noqa: E731
        cells = [self.row, self.what + (f" ({self.note})" if self.note else ""), self.ours, self.peer]
        cells += [f"{number(self.value)} {self.unit}", f"{sign} {self.target:g} {self.unit}"]
        return "| " + " | ".join([*cells, "ok" if self.ok else "**miss**"]) + " |"


@dataclass
class Chain:
    """A synthetic replica as benches/synth makes it; all sizes in bytes."""

    layers: int
    volume: int
    writes: int
    write: int = 64 << 10
    overlap: int = 0

    def recipe(self):
        return [
            "--layers", self.layers, "--volume", self.volume, "--extents", self.writes, "--write", self.write,
            "--overlap", self.overlap,
        ]

    @property
    def data(self):
        return self.writes * self.write * (100 + self.overlap) // 100

    def __str__(self):
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return f"{layers}, {size(self.volume)} volume, {size(self.writes * self.write)} in {size(self.write)} writes"


def size(number):
    """A size in the unit that leaves it whole, or nearly."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number >> 10} KiB"


def seconds(value):
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


class Bench:
    """The programs, the place, and the lines so far."""

    def __init__(self, args, directory):
        self.dir = directory
        self.short = args.short
        self.reps = args.reps or (3 if args.short else 5)
        self.lhrecover = args.lhrecover or ROOT / "target/release/lhrecover"
        self.synth = ROOT / "target/release/examples/synth-chain"
        self.lines = []
        self.skipped = []
        self.notes = []
        self.runs = []
        self.peak_rss = (0.0, "")

    def scaled(self, full, short):
        return short if self.short else full

    @contextlib.contextmanager
    def made(self, chain, flat=True, where=None, spare=1):
        """Makes a chain and its flat image; both are removed afterwards. Room for `spare` outputs is asked for."""
        where = where or self.dir
        replica, image = where / "replica", where / "flat.img"
        need_room(where, chain.data * (1 + bool(flat) + spare) + GIB // 4)
        with contextlib.ExitStack() as undo:
            undo.callback(image.unlink, missing_ok=True)
            undo.callback(shutil.rmtree, replica, ignore_errors=True)
            quietly(self.synth, replica, *chain.recipe(), *(["--flat", image] if flat else []))
            yield replica, image

    def checker(self, chain):
        return lambda output: quietly(self.synth, *chain.recipe(), "--check", output)

    def ours(self, chain, replica, output, before, sync=False, name="lhrecover"):
        options = ["--force", "--quiet"] + ([] if sync else ["--no-sync"])
        command = [self.lhrecover, "merge", replica, output, *options]
        return Contender(name, command, output, before, self.checker(chain))

    def measured(self, row, contenders, written=None):
        interleaved(contenders, self.reps, written)
        for c in contenders:
            self.runs.append(
                {"row": row, "name": c.name, "seconds": c.seconds, "rss_mib": round(c.rss_mib, 1), "written": c.written}
            )
            self.note_rss(row, c)

    def measured_without_output(self, row, *contenders):
        """The same of programs that write nothing."""
        for turn in range(self.reps + 1):
            for contender in contenders[turn % 2 :] + contenders[: turn % 2]:
                seconds = run(contender)
                if turn:
                    contender.seconds.append(seconds)
        for c in contenders:
            self.runs.append({"row": row, "name": c.name, "seconds": c.seconds, "rss_mib": round(c.rss_mib, 1)})

    def note_floor(self, row, chain, output, peers):
        """What the writes alone take, of what each of `peers` took: no copy through the page cache goes below that."""
        took = []
        for _ in range(self.reps):
            output.unlink(missing_ok=True)
            os.sync()
            took.append(float(quietly(self.synth, *chain.recipe(), "--bare", output)))
        output.unlink()
        median = statistics.median(took)
        self.runs.append({"row": row, "name": "the writes alone", "seconds": took})
        for peer in peers:
            part = median / peer.median
            compared = f"{part:.2f} of what {peer.name} took" if part > 0.1 else f"{1 / part:.0f} x faster than {peer.name}"
            self.notes.append(
                f"{row}: writing as much to the same places from memory, and nothing else: {seconds(median)}, {compared}"
            )

    def note_rss(self, row, contender):
        if contender.name.startswith("lhrecover"):
            self.peak_rss = max(self.peak_rss, (contender.rss_mib, row))

    def line(self, *args, **kwargs):
        line = Line(*args, **kwargs)
        self.lines.append(line)
        print(line.markdown(), flush=True)

    def ratio(self, row, what, ours, peer, target, note=""):
        self.line(
            row, what, seconds(ours.median), f"{seconds(peer.median)} {peer.name}", ours.median / peer.median, "x",
            target, note=note,
        )
