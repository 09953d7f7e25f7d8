"""The first images of a set in the Cigarettes layout, as one picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from data.generated import ANNOTATION_FILE, IMAGES_FOLDER, PARTIAL


def contact_sheet(
    root: str | Path,
    file: str | Path,
    *,
    count: int = 64,
    split: str = "train",
    thumbnail: int = 144,
) -> Path:
    """Writes the first `count` images of a set in the Cigarettes layout, side by side in a
    near-square grid, to `file` (.jpg or .png)."""
    root, file = Path(root), Path(file)
    if count < 1:
        raise ValueError(f"a contact sheet of {count} images: use 1 or more")
    if file.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"{file}: a contact sheet is written as .jpg or .png")
    records = json.loads((root / split / ANNOTATION_FILE).read_text())["images"][:count]
    columns = int(np.ceil(np.sqrt(len(records))))
    rows = -(-len(records) // columns)
    sheet = np.full((rows * thumbnail, columns * thumbnail, 3), 255, np.uint8)
    for place, record in enumerate(records):
        path = root / split / IMAGES_FOLDER / record["file_name"]
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"{path} is missing or no image: make the set again")
        y, x = place // columns * thumbnail, place % columns * thumbnail
        sheet[y : y + thumbnail, x : x + thumbnail] = cv2.resize(
            image, (thumbnail, thumbnail), interpolation=cv2.INTER_AREA
        )
    options = [] if file.suffix.lower() == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 82]
    ok, data = cv2.imencode(file.suffix, sheet, options)
    assert ok, "OpenCV was built without an encoder for this format"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + PARTIAL)
    part.write_bytes(data.tobytes())
    part.replace(file)
    return file
