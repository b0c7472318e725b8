#!/usr/bin/env python3
"""Kills trainings and mk-imbalance with SIGKILL at random moments, restarts them, and compares their final results.

    scripts/random-kills.py --bin target/release --kills 1000

A tool is restarted in the same directory until it finishes, however often it is killed; then its outputs must equal
those of an undisturbed run, byte for byte. Prints the number of kills and of compared results. Exits with 1 at the
first difference."""

import argparse
import hashlib
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

DATA = "--dataset synthetic --train-per-class 12 --test-per-class 2 --imb-ratio 6 -q"
TRAIN = "data --method remix-drs --arch resnet20 --batch-size 32 --epochs 6 -q --threads 1 --device cpu"


def outputs(directory):
    """Hashes of the outputs of a result; logs are hashed without their times."""
    manifest = json.loads((directory / "manifest.json").read_text())
    found = {}
    for output in manifest["outputs"]:
        data = (directory / output["path"]).read_bytes()
        if output["path"] == "log.jsonl":
            lines = [json.loads(line) for line in data.decode().splitlines()]
            for line in lines:
                line.pop("seconds"), line.pop("images_per_second")
            data = json.dumps(lines).encode()
        found[output["path"]] = hashlib.sha256(data).hexdigest()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="directory of the tools")
    parser.add_argument("--kills", type=int, default=1000, help="number of kills [default: 1000]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments [default: 0]")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    home = pathlib.Path(tempfile.mkdtemp(prefix="random-kills-"))
    start = lambda tool, flags: subprocess.Popen(
        [args.bin.resolve() / tool, *flags.split()], cwd=home, stdout=subprocess.DEVNULL
    )
    subprocess.run(
        [args.bin.resolve() / "mk-imbalance", *f"{DATA} --out data".split()],
        cwd=home,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    jobs = []
    # A training continues where it was killed. A data set is begun anew, so some of its processes must have time to
    # finish.
    for tool, flags, share in [("train", TRAIN, 0.7), ("mk-imbalance", f"{DATA} --shard-bytes 32K", 1.5)]:
        started = time.monotonic()
        if start(tool, f"{flags} --out whole-{tool}").wait():
            sys.exit(f"{tool} failed without being killed")
        jobs.append((tool, flags, share * (time.monotonic() - started), outputs(home / f"whole-{tool}")))
    kills = compared = 0
    while kills < args.kills:
        # Nine trainings for each data set.
        tool, flags, seconds, truth = jobs[chance.random() > 0.9]
        out = home / "killed"
        while True:
            process = start(tool, f"{flags} --out killed")
            time.sleep(chance.uniform(0, seconds))
            if process.poll() is None:
                process.kill()
                kills += 1
            if process.wait() == 0:
                break
            if process.returncode > 0:
                sys.exit(f"{tool} exited with {process.returncode} after {kills} kills: {out}")
            if kills >= args.kills:
                if start(tool, f"{flags} --out killed").wait():
                    sys.exit(f"{tool} failed after {kills} kills: {out}")
                break
        if outputs(out) != truth:
            sys.exit(f"{tool} gave different bytes after {kills} kills: {out}")
        compared += 1
        shutil.rmtree(out)
    shutil.rmtree(home)
    print(f"{kills} kills, {compared} results compared, all the same bytes")


if __name__ == "__main__":
    main()
