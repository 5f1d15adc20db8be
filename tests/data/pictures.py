"""Pictures for tests, as encoded files."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(width: int = 20, height: int = 16, mode: str = "RGB", kind: str = "PNG", seed: int = 0, **options) -> bytes:
    """A random picture in a format."""
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4, "L": 1}[mode]
    shape = (height, width) if channels == 1 else (height, width, channels)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode if mode == "CMYK" else None).save(buffer, kind, **options)
    return buffer.getvalue()


def write_coco(folder: Path) -> None:
    """A COCO 2017 of nine training and four validation pictures, and Karpathy's split of it."""
    (folder / "annotations").mkdir(parents=True)
    karpathy = []
    for split, ids in (("train", range(1, 10)), ("val", range(10, 14))):
        (folder / f"{split}2017").mkdir()
        for k in ids:
            (folder / f"{split}2017" / f"{k:012d}.jpg").write_bytes(picture(kind="JPEG", seed=k))
            part = "train" if split == "train" else ("val", "test")[k % 2]
            image = {
                "cocoid": k,
                "filepath": f"{split}2014",
                "filename": f"COCO_{split}2014_{k:012d}.jpg",
                "split": part,
            }
            karpathy.append(image | {"sentences": [{"raw": f"picture {k} of a {word}"} for word in ("dog", "cat")]})
        images = [{"id": k, "file_name": f"{k:012d}.jpg"} for k in ids]
        captions = [{"image_id": k, "id": k, "caption": f"number {k}"} for k in ids]
        tree = {"images": images, "annotations": captions}
        (folder / "annotations" / f"captions_{split}2017.json").write_text(json.dumps(tree))
    (folder / "dataset_coco.json").write_text(json.dumps({"images": karpathy, "dataset": "coco"}))
