#!/usr/bin/env python3
"""Compares hashes of weights after a few training steps, and of their features, with recorded hashes.

    scripts/pins.py --bin target/release            # compares, for each instruction set of this machine
    scripts/pins.py --bin target/release --write    # records the hashes in scripts/pins.json

So a change of the engine that must not change any result can be checked bit for bit. The networks, precisions and
methods are those below; the data are synthetic. Hashes are recorded for each instruction set; sets without recorded
hashes are reported and skipped."""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

FILE = pathlib.Path(__file__).with_suffix(".json")
ARCHS = ["resnet20", "resnet32"]
PRECISIONS = ["f32", "bf16"]
METHODS = ["erm", "remix-rw", "ldam", "manifold-mixup"]
SETS = ["amx", "avx512", "avx2", "neon", "portable"]


def run(tool, args, isa=None):
    env = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    if isa:
        env["REMIX_ISA"] = isa
    done = subprocess.run([str(tool), *args, "-q"], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{tool} {' '.join(args)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def is_here(tool, isa):
    """Whether the machine has an instruction set: the tools refuse a REMIX_ISA that it does not have."""
    asked = subprocess.run(
        [str(tool), "data", "--dry-run"], env=dict(os.environ, REMIX_ISA=isa), capture_output=True, text=True
    )
    return "REMIX_ISA" not in asked.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of the tools")
    parser.add_argument("--write", action="store_true", help="record the hashes instead of comparing them")
    args = parser.parse_args()
    tools = args.bin.resolve()
    pins = json.loads(FILE.read_text()) if FILE.exists() else {}
    compared, wrong = 0, []
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        data = "--dataset synthetic --train-per-class 12 --test-per-class 1 --imb-ratio 4 --out data"
        run(tools / "mk-imbalance", data.split())
        for isa in SETS:
            if not is_here(tools / "train", isa):
                continue
            if not args.write and not any(name.startswith(isa + "/") for name in pins):
                print(f"{isa}: no recorded hashes, skipped")
                continue
            for arch, precision, method in itertools.product(ARCHS, PRECISIONS, METHODS):
                name = f"{isa}/{arch}/{precision}/{method}"
                out = name.replace("/", "-")
                flags = ["--arch", arch, "--precision", precision, "--method", method]
                rest = ["--epochs", "2", "--batch-size", "24", "--device", "cpu", "--out", out]
                m = run(tools / "train", ["data", *flags, *rest], isa)
                weights = next(o["blake3"] for o in m["outputs"] if o["role"] == "last")
                e = run(
                    tools / "embed", [out, "--split", "train", "--device", "cpu", "--out", out + "-e"], isa
                )
                for what, found in [("weights", weights), ("features", e["outputs"][0]["blake3"])]:
                    pin = f"{name}/{what}"
                    if args.write:
                        pins[pin] = found
                    else:
                        compared += 1
                        if pins.get(pin) != found:
                            wrong.append(pin)
    if args.write:
        FILE.write_text(json.dumps(dict(sorted(pins.items())), indent=1) + "\n")
        print(f"recorded {len(pins)} hashes")
        return
    print(f"{compared} hashes compared, {len(wrong)} differ")
    for name in wrong:
        print(f"  {name}")
    sys.exit(bool(wrong) or compared == 0)


if __name__ == "__main__":
    main()
