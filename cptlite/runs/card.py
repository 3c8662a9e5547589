"""The model card of an exported classifier, as Markdown: data, method, metrics, limits, use, how to cite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cptlite.backbones.architectures import ARCHITECTURES
from cptlite.backbones.names import OpenClipName, feature_space, openclip_name
from cptlite.datasets.text_files import shown
from cptlite.runs.load import FinishedRun
from cptlite.shots import ALL_SHOTS, mean_shots

__all__ = ["model_card"]

SPECIAL = re.compile(r"([\\`*_\[\]<>|#&])")
WORST = 3  # classes that are named as the hardest
METRIC_WORDS = {"acc1": "accuracy", "mean_per_class_recall": "mean recall of its classes"}
OWN = {"demo"}  # of the named architectures those that are not OpenAI's


def model_card(
    run: FinishedRun,
    facts: Mapping[str, Any],
    environment: Mapping[str, Any],
    *,
    file: str,
    sha256: str,
    difference: float | None,
) -> str:
    """Describe an exported classifier.

    Parameters
    ----------
    run : FinishedRun
    facts : mapping
        What is in the file beside the numbers.
    environment : mapping
        What the run was made on, as its ``config.json`` has it.
    file, sha256 : str
        Name and digest of the file.
    difference : float, optional
        Of an ONNX graph from the classifier, as a share of the largest score.

    Returns
    -------
    str
    """
    sections = {
        f"{run.config.method} on {run.config.suite}": _summary(run, facts, file, sha256, difference),
        "Data": _data(run),
        "Method": _method(run, environment),
        "Metrics": _metrics(run),
        "Limits": _limits(run),
        "Use": _use(facts, file),
        "How to cite": _citations(run),
    }
    parts = (
        f"{'##' if place else '#'} {_escaped(title)}\n\n" + "\n".join(lines)
        for place, (title, lines) in enumerate(sections.items())
    )
    return "\n\n".join(parts) + "\n"


def _escaped(text: object) -> str:
    """Write a text from a file so that it is neither markup nor steers a terminal."""
    return SPECIAL.sub(r"\\\1", shown(text))


def _summary(
    run: FinishedRun, facts: Mapping[str, Any], file: str, sha256: str, difference: float | None
) -> Iterator[str]:
    stored = run.stored
    tasks = f"{len(stored.tasks)} {'task' if len(stored.tasks) == 1 else 'tasks'}"
    yield f"A classifier of {len(stored.class_names)} classes in {tasks} over the image features of a frozen"
    yield f"{_escaped(facts['backbone']['name'])}, learned from {_images(run)}."
    yield ""
    yield f"- File: `{shown(file)}`, sha256 `{sha256}`"
    yield f"- Backbone's weights: sha256 `{stored.backbone.weights_sha256}`"
    yield f"- Made by `cptlite export` from a run with sha256 `{run.results.get('sha256')}`"
    if difference is not None:
        yield f"- Scores in ONNX Runtime differ from the run's by at most {difference:.1g} of the largest"


def _images(run: FinishedRun) -> str:
    """Say how many training images of a class were learned from."""
    if run.config.shots != ALL_SHOTS:
        return f"{run.config.shots} images a class"
    counts = [count for of_task in run.results["images_per_class"].values() for count in of_task if count]
    return f"all {min(counts)} to {max(counts)} training images a class" if counts else "no images"


def _epochs(run: FinishedRun) -> str:
    """Say how many epochs there were: of tasks that were learned separately on all images, each has its own."""
    config = run.config
    assert config.recipe is not None
    tasks = list(run.results["images_per_class"].values()) if config.shots == ALL_SHOTS else [[config.shots]]
    parts = tasks if config.separate else [[count for of_task in tasks for count in of_task]]
    epochs = [config.recipe.at(mean_shots(part, config.shots)).epochs for part in parts if any(part)]
    return " to ".join(map(str, dict.fromkeys((min(epochs), max(epochs)))))


def _data(run: FinishedRun) -> Iterator[str]:
    yield "| task | what it is of | classes | test images |"
    yield "|---|---|---|---|"
    for task in run.stored.tasks:
        rows = run.results["tasks"].get(task.id, {}).get("rows", "")
        yield f"| {_escaped(task.id)} | {_escaped(task.name)} | {len(task.class_names)} | {rows} |"
    yield ""
    drawn = "no training images, since all were taken," if run.config.shots == ALL_SHOTS else ""
    drawn = drawn or f"at most {run.config.shots} training images a class,"
    yield f"Seed {run.config.seed} drew {drawn} and at most 4 validation"
    yield "images a class. The rows, by digest of tasks, paths and labels:"
    yield ""
    for name, fingerprint in run.results.get("caches", {}).items():
        source = "; features imported, not made by cptlite" if fingerprint.get("layer") == "imported" else ""
        yield f"- {_escaped(name)}: `{_escaped(fingerprint.get('split_sha256'))}`{source}"


def _method(run: FinishedRun, environment: Mapping[str, Any]) -> Iterator[str]:
    config, entry = run.config, run.config.entry
    label = "-".join(word for word in (config.method, config.variant) if word)
    yield f"`{label}` ({_escaped(entry.source)}) learns {_escaped(entry.learns)}: {run.results['parameters']} numbers."
    if config.recipe:
        yield f"Recipe: {_escaped(config.recipe_name)}, {_epochs(run)} epochs."
    changed = ", ".join(f"`{name}` {_escaped(value)}" for name, value in config.differences())
    yield f"Options that are not the defaults: {changed or 'none'}."
    if run.results.get("choices"):
        yield "Numbers were chosen on validation images; test images were read once, at the end."
    else:
        yield "Test images were read once, at the end, and nothing was chosen on them."
    made = ", ".join(f"{name} {_escaped(value)}" for name, value in environment.items() if value is not None)
    yield f"Made with: {made or 'not recorded'}."


def _metrics(run: FinishedRun) -> Iterator[str]:
    yield "Of the test images, in %; chance is one class of the task picked blindly. One run with one seed: runs that"
    yield "differ in the seed alone differ by points."
    yield ""
    yield "| task | metric | score | chance | hardest classes |"
    yield "|---|---|---|---|---|"
    for id, scores in run.results["tasks"].items():
        name = METRIC_WORDS.get(scores["metric"], scores["metric"])
        words = [_escaped(id), name, f"{100 * scores[scores['metric']]:.1f}", f"{100 / len(scores['classes']):.1f}"]
        yield f"| {' | '.join(words)} | {_hardest(scores)} |"
    yield ""
    yield f"Suite score, the mean over tasks: {100 * run.results['suite_score']:.1f} %."
    for name in ("seen_score", "base", "new", "harmonic"):
        if run.results.get(name) is not None:
            yield f"{name.replace('_', ' ').capitalize()}: {100 * run.results[name]:.1f} %."


def _hardest(scores: Mapping[str, Any]) -> str:
    """Name the classes of the lowest recall, with it."""
    known = [(recall, name) for name, recall in zip(scores["classes"], scores["recall"], strict=True)]
    worst = sorted((each for each in known if each[0] is not None), key=lambda each: each[0])[:WORST]
    return ", ".join(f"{_escaped(name)} {100 * recall:.0f}" for recall, name in worst)


def _limits(run: FinishedRun) -> Iterator[str]:
    yield "- It knows its classes only: any image gets one of them. Scores compare within a task, not between tasks."
    yield "- Probabilities are softmax of the scores and were not calibrated."
    few = "All training images" if run.config.shots == ALL_SHOTS else "Few images"
    yield f"- {few} taught it ({_images(run)}); images of another source may be harder than the test"
    yield "  images here. It has what biases the backbone and these images have; look at recall by class before use."
    if any(scores.get("held_out") for scores in run.results["tasks"].values()):
        yield "- Some tasks were held out: of these no image was learned from, their classes come from names."
    if run.config.classes == "base":
        yield "- It was learned from the first half of each task's classes; the others come from their names alone."
    if run.stored.backbone.preprocess:
        yield "- It scores features of exactly these weights, preprocessed as they want it; other weights of the same"
        yield "  name give wrong scores without an error."
    else:
        yield "- It scores features made as those it learned from, which cptlite did not make; others get wrong scores."


def _use(facts: Mapping[str, Any], file: str) -> Sequence[str]:
    name = facts["backbone"]["name"]
    if "scores" not in facts or file.endswith(".onnx"):
        side = facts["preprocess"].get("resize", "R")
        return (
            "```python",
            "import json, onnxruntime",
            f"session = onnxruntime.InferenceSession({file!r})",
            'facts = json.loads(session.get_modelmeta().custom_metadata_map["cptlite"])',
            f"# pixels: (B, 3, {side}, {side}), float32, preprocessed",
            '(scores,) = session.run(None, {"images": pixels})',
            'task = facts["tasks"][0]',
            'names = facts["class_names"][task["start"] : task["stop"]]',
            'print(names[scores[0, task["start"] : task["stop"]].argmax()])',
            "```",
            "",
            'Preprocessing is that of the backbone: see `facts["preprocess"]`.',
        )
    divided = ["features = features / features.norm(dim=-1, keepdim=True)"] if facts["unit_length"] else []
    known = name in ARCHITECTURES and name not in OWN
    imports, encoded = _encoding(name, facts, known)
    lines = [
        "```python",
        *imports,
        "from safetensors import safe_open",
        "",
        f'with safe_open({file!r}, "pt") as file:',
        '    weights, bias, facts = *map(file.get_tensor, ("weights", "bias")), json.loads(file.metadata()["cptlite"])',
        *encoded,
        *divided,
        'scores, task = facts["scale"] * features @ weights.T + bias, facts["tasks"][0]',
        'print(facts["class_names"][task["start"] + int(scores[0, task["start"] : task["stop"]].argmax())])',
        "```",
    ]
    if known:
        other = f'{name.replace("/", "-").replace("@336px", "-336")!r}, pretrained="openai", force_quick_gelu=True'
        lines += ["", "With open_clip the model comes from", "", "```python", "import open_clip"]
        lines += [f"model, _, preprocess = open_clip.create_model_and_transforms({other})", "model.eval()", "```"]
    return lines


def _encoding(name: str, facts: Mapping[str, Any], known: bool) -> tuple[list[str], list[str]]:
    """Write what to import, and how an image becomes a feature, in Python."""
    if feature_space(name):
        return ["import json"], [f"# features: (B, {facts['backbone']['embed_dim']}), float32, as they were imported"]
    encoded = 'features = model.encode_image(preprocess(Image.open("IMAGE.jpg"))[None]).float()'
    if (found := openclip_name(name)) is not None:
        return ["import json, open_clip, torch", "from PIL import Image"], [*_openclip_model(found, facts), encoded]
    model = repr(name) if known else '"PATH OF THE WEIGHTS"'
    load = f'model, preprocess = clip.load({model}, device="cpu")'
    return ["import clip, json", "from PIL import Image"], [load, encoded]


def _openclip_model(found: OpenClipName, facts: Mapping[str, Any]) -> Iterator[str]:
    spec = facts["preprocess"]
    mode = {"center": "shortest", "pad": "longest"}.get(spec["crop"], spec["crop"])
    if not (found.tag or found.file):
        yield f"torch.manual_seed({int(found.seed or 0)})"
    weights = repr(found.tag) if found.tag else '"PATH OF THE WEIGHTS"' if found.file else "None"
    yield "model, _, preprocess = open_clip.create_model_and_transforms("
    yield f"    {found.model!r}, pretrained={weights}, image_resize_mode={mode!r},"
    yield f"    image_interpolation={spec['interpolation']!r}, image_mean={spec['mean']}, image_std={spec['std']},"
    yield ")"
    yield "model.eval()"


def _citations(run: FinishedRun) -> Iterator[str]:
    yield f"- The method: {_escaped(run.config.entry.source)}"
    if "Radford" not in run.config.entry.source:
        yield "- The backbone: Radford et al., Learning Transferable Visual Models From Natural Language Supervision,"
        yield "  ICML 2021"
    names = ", ".join(map(_escaped, run.config.datasets))
    yield f"- The images: the papers of {names}, whose licences hold for what is learned"
    yield "- The software: cptlite, few-shot adaptation of CLIP from cached features"
