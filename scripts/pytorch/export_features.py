#!/usr/bin/env python3
"""Writes the features of a data set of mk-imbalance under a network of torchvision, timm or open_clip, for import.

    python scripts/pytorch/export_features.py data/photographs --model open_clip:ViT-B-32 --pretrained laion2b_s34b_b79k \\
        --out clip
    embed --import train=clip/train.safetensors --import test=clip/test.safetensors --out features/clip
    train features/clip --classifier linear --loss balanced-softmax

--model is LIBRARY:NAME; without --pretrained the weights are random. Images are resized to the input size of the
network and normalised with the values that the library has for it. Each file has `features` (N, F), `labels` and
`ids` (N); classes.txt has the names of the classes. Needs PyTorch, safetensors and the library."""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def network(model, pretrained):
    """A function from normalised images to features, and the side, mean and standard deviation of its images."""
    library, _, name = model.partition(":")
    if library == "torchvision":
        import torchvision

        net = torchvision.models.get_model(name, weights=pretrained)
        # The last layer, with one of these names, is the classifier.
        last = next(part for part in ("fc", "classifier", "heads", "head") if hasattr(net, part))
        setattr(net, last, torch.nn.Identity())
        return net, 224, *IMAGENET
    if library == "timm":
        import timm

        net = timm.create_model(name, pretrained=bool(pretrained), num_classes=0)
        config = timm.data.resolve_data_config(model=net)
        return net, config["input_size"][-1], config["mean"], config["std"]
    if library == "open_clip":
        import open_clip

        net = open_clip.create_model(name, pretrained=pretrained)
        size = net.visual.image_size
        side = size[0] if isinstance(size, tuple) else size
        mean = net.visual.image_mean or open_clip.OPENAI_DATASET_MEAN
        std = net.visual.image_std or open_clip.OPENAI_DATASET_STD
        return Encoder(net), side, mean, std
    raise SystemExit(f"--model {model}: write it as torchvision:NAME, timm:NAME or open_clip:NAME")


class Encoder(torch.nn.Module):
    """The image encoder of CLIP."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, images):
        return self.clip.encode_image(images, normalize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="directory of the data set")
    parser.add_argument("--model", required=True, metavar="LIBRARY:NAME")
    parser.add_argument("--pretrained", help="name of the weights in the library")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    net, side, mean, std = network(args.model, args.pretrained)
    net = net.eval().to(args.device)
    mean, std = (torch.tensor(v, device=args.device).view(1, 3, 1, 1) for v in (mean, std))
    manifest = json.loads((args.dataset / "manifest.json").read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        files = [args.dataset / o["path"] for o in manifest["outputs"] if o["role"] == split]
        features, labels, ids = [], [], []
        for file in files:
            shard = load_file(file)
            for images in shard["images"].split(args.batch_size):
                x = images.permute(0, 3, 1, 2).to(args.device).float() / 255
                x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
                with torch.inference_mode():
                    features.append(net((x - mean) / std).flatten(1).float().cpu())
            labels.append(shard["labels"])
            ids.append(shard["source_index"].long())
        if files:
            tensors = {"features": torch.cat(features), "labels": torch.cat(labels), "ids": torch.cat(ids)}
            save_file(tensors, args.out / f"{split}.safetensors")
            print(f"{args.out / split}.safetensors: {tuple(tensors['features'].shape)}")
    (args.out / "classes.txt").write_text("".join(f"{name}\n" for name in manifest["metrics"]["class_names"]))


if __name__ == "__main__":
    main()
