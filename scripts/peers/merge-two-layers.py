#!/usr/bin/env python3
"""The two-layer merge this project began with, kept as a peer for scripts/bench-peers. Do not recover data with it.

For each 4 KiB it takes the head's block unless that is all zeros, else the snapshot's. That is wrong:

- zeros that were written on purpose (mkfs, deleted pages, zeroed files) fall through to the old data below;
- it knows two layers, one file name each: no chain, no branches, no backing image, no expansion;
- a copy of the replica that turned holes into data, or data into holes, is merged without a word.

It is also slow, since it reads and writes every block of the volume, holes included, and its output takes the volume's
full size on the disk.
"""

import sys

BLOCK = 4096
ZEROS = bytes(BLOCK)


def merge(snapshot_path, head_path, output_path):
    with open(snapshot_path, "rb") as snapshot, open(head_path, "rb") as head, open(output_path, "wb") as output:
        size = head.seek(0, 2)
        for offset in range(0, size, BLOCK):
            head.seek(offset)
            block = head.read(BLOCK)
            if block == ZEROS:
                snapshot.seek(offset)
                block = snapshot.read(BLOCK)
            output.write(block)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: merge-two-layers.py SNAPSHOT.img HEAD.img OUTPUT")
    merge(*sys.argv[1:])
