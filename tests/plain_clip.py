"""Labels of images by an exported classifier and the `clip` package, for a process without cptlite.

``python plain_clip.py WEIGHTS EXPORTED IMAGES TASK < names`` prints a class name for each image that is named on a line
of the input. The images of a task go through the tower in batches, rounded as a cache stores their features.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")  # clip imports pkg_resources, and tries a state dict as an archive first
import clip  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402


@torch.no_grad()
def main(checkpoint: str, exported: str, images: str, task: str) -> None:
    with safe_open(exported, "pt") as file:
        weights, bias, facts = (
            file.get_tensor("weights"),
            file.get_tensor("bias"),
            json.loads(file.metadata()["cptlite"]),
        )
    model, preprocess = clip.load(checkpoint, device="cpu")
    paths = [Path(images, line) for line in sys.stdin.read().splitlines()]
    features = model.encode_image(torch.stack([preprocess(Image.open(path)) for path in paths])).half().float()
    if facts["unit_length"]:
        features = features / features.norm(dim=-1, keepdim=True)
    scores = facts["scale"] * features @ weights.T + bias
    (own,) = (each for each in facts["tasks"] if each["id"] == task)
    best = scores[:, own["start"] : own["stop"]].argmax(dim=-1)
    print(json.dumps([facts["class_names"][own["start"] + int(place)] for place in best]))
    assert "cptlite" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
