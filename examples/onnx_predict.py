"""Find instances with an exported model, without torch: needs numpy, opencv and onnxruntime.

yolact export RUN --format onnx --nms --out model.onnx
python examples/onnx_predict.py model.onnx photo.jpg --out drawn.png --json found.json
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

COLOURS = [(70, 60, 230), (235, 130, 40), (85, 185, 35), (20, 170, 250), (225, 80, 160)]  # BGR


class Model:
    """An ONNX file of `yolact export --nms`: model(image) gives a list of what is found."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        if "count" not in self.outputs:
            raise SystemExit(f"error: {path} holds the network alone: export it with --nms")
        about = self.session.get_modelmeta().custom_metadata_map
        self.class_names = json.loads(about["class_names"])
        self.side = int(about["input_size"])

    def __call__(self, image, score=0.15):
        """image (h,w,3) uint8 BGR, as OpenCV reads it -> dictionaries by falling mask score: label,
        name, score, box (x1,y1,x2,y2) in pixels of the image, and mask (h,w) bool."""
        height, width = image.shape[:2]
        pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.float32)
        pixels = cv2.resize(pixels, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (1,3,S,S), 0..255
        values = self.session.run(None, {"images": images})
        found = dict(zip(self.outputs, (value[0] for value in values)))
        scale = np.array([width, height, width, height]) / self.side
        instances = []
        for i in range(int(found["count"])):
            if found["mask_scores"][i] < score:
                continue
            mask = cv2.resize(found["masks"][i].astype(np.float32), (width, height)) > 0.5
            instances.append(
                {
                    "label": int(found["labels"][i]),
                    "name": self.class_names[found["labels"][i]],
                    "score": float(found["mask_scores"][i]),
                    "box": (found["boxes"][i] * scale).tolist(),
                    "mask": mask,
                }
            )
        return sorted(instances, key=lambda instance: -instance["score"])


def draw(image, instances):
    """A copy of the image with masks, boxes and names; the best on top."""
    drawn = image.copy()
    for number, instance in reversed(list(enumerate(instances))):
        colour = np.array(COLOURS[number % len(COLOURS)])
        mask = instance["mask"]
        drawn[mask] = (0.6 * drawn[mask] + 0.4 * colour).astype(np.uint8)
        x1, y1, x2, y2 = (round(value) for value in instance["box"])
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour.tolist(), 1)
        text = f"{instance['name']} {instance['score']:.2f}"
        place = (x1, max(12, y1 - 4))
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour.tolist(), 1)
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--out", type=Path, help="picture to draw")
    parser.add_argument("--json", type=Path, help="file for names, scores, boxes and areas")
    parser.add_argument("--score", type=float, default=0.15, help="lowest mask score")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.image):
        if not path.is_file():
            sys.exit(f"error: {path} does not exist")
    image = cv2.imread(str(arguments.image), cv2.IMREAD_COLOR)
    if image is None:
        sys.exit(f"error: {arguments.image} is no picture that OpenCV reads")
    instances = Model(arguments.model)(image, arguments.score)
    if arguments.out and not cv2.imwrite(str(arguments.out), draw(image, instances)):
        sys.exit(f"error: cannot write {arguments.out}")
    entries = [
        {
            **{key: value for key, value in one.items() if key != "mask"},
            "area": int(one["mask"].sum()),
        }
        for one in instances
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    for entry in entries:
        print(f"{entry['name']}  {entry['score']:.3f}  {entry['area']} pixels")


if __name__ == "__main__":
    main()
