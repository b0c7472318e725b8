#!/usr/bin/env python3
"""Writes the images of Parquet files in the form of the Hugging Face hub into folders for mk-imbalance.

    python3 scripts/parquet-to-folders.py photographs train-*.parquet test-*.parquet
    mk-imbalance --dataset folder --data photographs --size 64

Each image becomes photographs/SPLIT/CLASS/FILE-ROW.ENDING, with the same bytes as in the Parquet file. SPLIT is the
beginning of the name of the file; CLASS is the name of the label in the metadata of the file, or the label itself if
there is none. mk-imbalance numbers the classes in the order of their sorted names; photographs/classes.txt has them
in the order of the labels, for --class-order. Needs pyarrow."""

import argparse
import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq

ENDINGS = [
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"RIFF", "webp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
]


def ending(data, name):
    found = [end for begin, end in ENDINGS if data.startswith(begin)]
    return found[0] if found else (Path(name or "").suffix.lstrip(".") or "jpg")


def columns(schema, label):
    """The columns of the images and of the labels, and the names of the classes, or None."""
    features = (
        json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    )
    kind = {name: f.get("_type") for name, f in features.items() if isinstance(f, dict)}
    images = [name for name, of in kind.items() if of == "Image"]
    images = images or [name for name in ("image", "img") if name in schema.names]
    labels = [label] if label else [name for name, of in kind.items() if of == "ClassLabel"]
    labels = labels or [name for name in ("label", "labels") if name in schema.names]
    if len(images) != 1 or len(labels) != 1 or labels[0] not in schema.names:
        sys.exit(
            f"columns {schema.names}: found the image columns {images} and the label columns {labels}; one of each is needed (--label NAME)"
        )
    names = features[labels[0]].get("names") if kind.get(labels[0]) == "ClassLabel" else None
    if names and (len(set(map(directory_of, names))) < len(names) or {"", ".", ".."} & set(names)):
        sys.exit("the names of the classes cannot be used for directories: " + ", ".join(names[:20]))
    return images[0], labels[0], names


def directory_of(name):
    return name.replace("/", "-")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="directory to write to, empty or new")
    parser.add_argument("files", type=Path, nargs="+", help="Parquet files, such as train-*.parquet")
    parser.add_argument("--label", help="column of the labels, if there are several")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        sys.exit(f"{args.out}: is not empty; choose another directory")
    if len({path.stem for path in args.files}) < len(args.files):
        sys.exit("two of the files have the same name, so their images would have the same names")
    known = None
    for path in args.files:
        split = re.match(r"(train|validation|valid|val|test)(?![A-Za-z])", path.stem)
        if not split:
            sys.exit(f"{path}: the name must begin with train, validation, valid, val or test")
        directory = args.out / {"validation": "val"}.get(split[1], split[1])
        file = pq.ParquetFile(path)
        image, label, names = columns(file.schema_arrow, args.label)
        if names:
            if known not in (None, names):
                sys.exit(f"{path}: its classes differ from those of the other files")
            known = names
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[image, label]):
            for one, of in zip(batch.column(image).to_pylist(), batch.column(label).to_pylist()):
                data, name = (one["bytes"], one.get("path")) if isinstance(one, dict) else (one, None)
                if data is None:
                    sys.exit(f"{path}: row {row} contains no image")
                if of is None or (names and not (isinstance(of, int) and 0 <= of < len(names))) or of == -1:
                    sys.exit(
                        f"{path}: row {row} has the label {of}, which is not a class; leave out files without labels"
                    )
                to = (
                    directory
                    / directory_of(names[of] if names else str(of))
                    / f"{path.stem}-{row:07}.{ending(data, name)}"
                )
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes(data)
                row += 1
        print(f"{path}: {row} images", file=sys.stderr)
    if known:
        (args.out / "classes.txt").write_text("".join(f"{directory_of(name)}\n" for name in known))


if __name__ == "__main__":
    main()
