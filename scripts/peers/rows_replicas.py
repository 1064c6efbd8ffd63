"""Rows about replica directories as they are: `scan` against du, `verify` against cat."""

import contextlib
import json
import os
import shutil
import subprocess
import time

from bench import GIB, MIB, RSS_LIMIT_MIB, size
from measure import Contender, Wrong, need_room, quietly, warm


def make_replicas(data_path, replicas, layers):
    """Replica directories with small layers, three to a volume: what a scan reads is metadata."""
    block = b"x" * 4096
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for number in range(replicas):
        replica = data_path / "replicas" / f"pvc-{number // 3:08x}-0000-4000-8000-000000000000-{number:08x}"
        replica.mkdir(parents=True)
        parent = ""
        for layer in range(layers):
            top = layer == layers - 1
            name = "volume-head-001.img" if top else f"volume-snap-{layer:08x}-0000-4000-8000-000000000000.img"
            with open(replica / name, "wb") as image:
                image.truncate(GIB)
                image.seek(layer << 20)
                image.write(block)
            meta = {"Name": name, "Parent": parent, "Removed": False, "UserCreated": True, "Created": now,
                    "Labels": None}
            (replica / f"{name}.meta").write_text(json.dumps(meta) + "\n")
            parent = name
        info = {"Size": GIB, "Head": parent, "Dirty": False, "Rebuilding": False, "Error": "", "Parent": "",
                "SectorSize": 512, "BackingFilePath": "", "Encrypted": False}
        (replica / "volume.meta").write_text(json.dumps(info) + "\n")


def row_scan(bench):
    """Many replica directories on one node: against du, which asks for the size of every file."""
    replicas, layers = bench.scaled(2000, 500), 20
    data_path, no_output = bench.dir / "longhorn", bench.dir / "no-output"
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, data_path, ignore_errors=True)
        make_replicas(data_path, replicas, layers)
        warm_up = lambda: quietly("du", "-sk", data_path)  # noqa: E731
        command = [bench.lhrecover, "scan", "--json", "--quiet", data_path]
        # Counted by grep, not parsed here: a child begins with the peak memory of this process.
        found = quietly("sh", "-c", '"$@" | grep -c \'"verdict"\'', "sh", *command)
        if int(found) != replicas:
            raise Wrong(f"{found} of {replicas} replicas were found")
        ours = Contender("lhrecover scan", command, no_output, warm_up, None)
        peer = Contender("du", ["du", "-sk", data_path], no_output, warm_up, None)
        bench.measured_without_output("scan", ours, peer)
        what = f"{replicas:,} replica directories of {layers} layers"
        bench.ratio("scan", what, ours, peer, 4)
        bench.line("scan", f"peak RSS, {what}", f"{ours.rss_mib:.1f} MiB", "", ours.rss_mib, "MiB", RSS_LIMIT_MIB)


def make_hashed_layers(replica, layers, size):
    """Fully allocated snapshots of different bytes below an empty head; returns their file names."""
    replica.mkdir()
    block = os.urandom(MIB)
    parent, names = "", []
    for layer in range(layers + 1):
        names.append("volume-head-001.img" if layer == layers else f"volume-snap-{layer:08x}.img")
        with open(replica / names[-1], "wb") as image:
            image.truncate(size)
            for at in range(0, size if layer < layers else 0, MIB):
                image.write(block[layer:] + block[:layer])
        meta = {"Name": names[-1], "Parent": parent, "Removed": False, "UserCreated": True,
                "Created": "2026-08-18T09:54:39Z", "Labels": None}
        (replica / f"{names[-1]}.meta").write_text(json.dumps(meta) + "\n")
        parent = names[-1]
    info = {"Size": size, "Head": parent, "Dirty": False, "Rebuilding": False, "Error": "", "Parent": names[-2],
            "SectorSize": 512, "BackingFilePath": "", "Encrypted": False}
    (replica / "volume.meta").write_text(json.dumps(info) + "\n")
    return names[:-1]


def row_verify(bench):
    """Checksums of fully allocated layers: against cat, which only reads them."""
    layers, layer_size = bench.scaled(8, 4), bench.scaled(GIB // 2, GIB // 4)
    replica, no_output = bench.dir / "replica", bench.dir / "no-output"
    need_room(bench.dir, layers * layer_size + GIB // 4)
    command = [bench.lhrecover, "verify", replica, "--quiet"]
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, replica, ignore_errors=True)
        names = make_hashed_layers(replica, layers, layer_size)
        record = lambda name, crc: (replica / f"{name}.checksum").write_text(json.dumps(  # noqa: E731
            {"method": "crc64", "checksum": crc, "change_time": "", "last_hashed_at": "", "silently_corrupted": False}))
        # That a sum is right is for the tests to show. Here it has to be compared, and to be the same each time.
        for name in names:
            record(name, f"{0:016x}")
        first = subprocess.run([*map(str, command), "--json"], capture_output=True, text=True)
        for layer in json.loads(first.stdout)["checksums"]:
            if layer["computed"]:
                record(layer["layer"], layer["computed"])
        ours = Contender("lhrecover verify", command, no_output, lambda: warm(replica), None)
        cat = ["sh", "-c", 'cat "$@" >/dev/null', "sh", *(replica / name for name in names)]
        peer = Contender("cat", cat, no_output, lambda: warm(replica), None)
        bench.measured_without_output("verify", ours, peer)
        bench.ratio("verify", f"{layers} fully allocated layers of {size(layer_size)}, warm", ours, peer, 1.25,
                    note="1.25 x is 0.8 of its rate")


ROWS = {"scan": row_scan, "verify": row_verify}
