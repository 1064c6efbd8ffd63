"""Rows about `inject`: the delta against reading both sides."""

import os
import random

from bench import GIB, Chain, size
from measure import Contender, quietly, warm

SECTOR = 4096


def row_delta(bench):
    """A target in which one sector of a hundred differs: against cat of both sides."""
    volume = bench.scaled(4 * GIB, GIB)
    chain = Chain(40, volume, volume // 2 >> 16)
    target, no_output = bench.dir / "target.img", bench.dir / "no-output"
    with bench.made(chain) as (replica, flat):
        command = [bench.lhrecover, "inject", replica, target, "--mode", "blocks", "--allow-file", "--overwrite",
                   "--verify=false", "--quiet"]
        places = random.Random(1).sample(range(volume // SECTOR), volume // SECTOR // 100)

        def differ():
            with open(target, "r+b") as file:
                for place in places:
                    os.pwrite(file.fileno(), b"\xee" * SECTOR, place * SECTOR)
                os.fsync(file.fileno())
            warm(replica), warm(flat), warm(target)

        try:
            # Every sector is allocated, as on a device.
            with open(target, "wb") as file:
                for _ in range(volume >> 20):
                    file.write(bytes(1 << 20))
            ours = Contender("lhrecover inject", command, no_output, differ, None)
            cat = ["sh", "-c", 'cat "$@" >/dev/null', "sh", flat, target]
            peer = Contender("cat of both", cat, no_output, differ, None)
            bench.measured_without_output("delta", ours, peer)
            differ()
            quietly(*command)
            bench.checker(chain)(target)
        finally:
            target.unlink(missing_ok=True)
        what = f"{size(volume)} of which 1 % differs, {size(chain.data)} of data in 40 layers"
        bench.ratio("delta", what, ours, peer, 1.3)


ROWS = {"delta": row_delta}
