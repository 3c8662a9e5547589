"""What is taken from open_clip: the one file that knows it, and imports it when one of its models is named.

Ilharco et al., "OpenCLIP" (2021), in the package open_clip_torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cptlite.backbones.architectures import PIXEL_MEAN, PIXEL_STD
from cptlite.backbones.names import OpenClipName, nearest_name
from cptlite.datasets.tables import near_matches
from cptlite.datasets.text_files import shown
from cptlite.errors import CptliteError, DataError, UsageError

__all__ = [
    "PIXELS",
    "build_model",
    "check_name",
    "download_weights",
    "full_config",
    "load_tokenizer",
    "pixel_facts",
    "read_config",
]

PIXELS = {"mean": PIXEL_MEAN, "std": PIXEL_STD, "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
NO_PROMPTS = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
MAX_SEED = 2**63
QUICK = "-quickgelu"


def _library() -> Any:
    try:
        with warnings.catch_warnings():  # what it imports warns of what it imports
            warnings.simplefilter("ignore")
            import open_clip
    except ImportError as error:
        raise CptliteError(
            f"--backbone openclip:... needs the package open_clip_torch, and {error.name} is not installed. "
            f"Install it with: pip install 'cptlite[openclip]'"
        ) from None
    return open_clip


def check_name(name: str, found: OpenClipName) -> None:
    """Refuse what is no model of open_clip's, no weights it has, or no seed; it says what was meant, if it can.

    Raises
    ------
    UsageError
        The name is none.
    CptliteError
        open_clip is not installed.
    """
    library = _library()
    models = library.list_models()
    if found.model not in models:
        raise UsageError(f"unknown backbone {name!r}: {_meant(name, models)}")
    seeded = found.seed.isdecimal() and int(found.seed) < MAX_SEED
    if name.endswith("/") or (":" in name.removeprefix("openclip:").partition("/")[0] and not seeded):
        raise UsageError(
            f"cannot take backbone {name!r} apart: give openclip:MODEL[:SEED] for random weights, SEED a whole number "
            f"below 2^63, openclip:MODEL/PRETRAINED or openclip:MODEL/FILE"
        )
    if found.seed and (found.tag or found.file):
        raise UsageError(f"backbone {name!r} has a seed of random weights and weights too: leave out one of them")
    if found.tag:
        _check_tag(library, found)


def _meant(name: str, models: list[str]) -> str:
    """Ask whether a model was meant that the name is another spelling of, ``ViT-B/32`` too; or is most like."""
    words = name.removeprefix("openclip:").split("/")
    for count in range(len(words), 0, -1):
        model, _, seed = "-".join(words[:count]).partition(":")
        if known := nearest_name(model, models):
            meant = "/".join([f"openclip:{known}{':' if seed else ''}{seed}", *words[count:]])
            return f"did you mean {meant!r}?"
    model = words[0].partition(":")[0]
    return f"open_clip has no model {model!r}{near_matches(model, models)}; open_clip.list_models() lists them"


def _check_tag(library: Any, found: OpenClipName) -> None:
    """Refuse weights that the model has not, or that were trained with the other activation."""
    tags = library.list_pretrained_tags_by_model(found.model)
    if found.tag not in tags:
        meant = nearest_name(found.tag.replace("_", "-"), [tag.replace("_", "-") for tag in tags])
        known = f"did you mean {meant.replace('-', '_')!r}?" if meant else f"it has {', '.join(tags) or 'none'}"
        raise UsageError(
            f"open_clip has no weights {found.tag!r} for {found.model}: {known} (a file is given as ./{found.tag})"
        )
    quick = bool(library.get_model_config(found.model).get("quick_gelu"))
    other = found.model.removesuffix(QUICK) if quick else f"{found.model}{QUICK}"
    trained_quick = bool(library.get_pretrained_cfg(found.model, found.tag).get("quick_gelu"))
    if trained_quick != quick and found.tag in library.list_pretrained_tags_by_model(other):
        kinds = ("QuickGELU", "GELU") if trained_quick else ("GELU", "QuickGELU")
        raise UsageError(
            f"the weights {found.tag!r} were trained with the activation {kinds[0]}, and {found.model} computes "
            f"{kinds[1]}: give openclip:{other}/{found.tag}"
        )


def read_config(model: str) -> dict[str, Any]:
    """Read the configuration of a model as `build_model` takes it, without what is no part of the two towers.

    Of a text tower of Hugging Face's transformers ``hf_model_name`` in ``text_cfg`` is left.
    """
    config = _library().get_model_config(model)
    for name in ("custom_text", "multimodal_cfg"):
        config.pop(name, None)
    for part in ("vision_cfg", "text_cfg"):
        config[part] = {**config[part], "output_tokens": False}  # CoCa's, for its captions
    return config


def full_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a configuration of a model leaves at open_clip's defaults."""
    library = _library()
    return {
        "embed_dim": config["embed_dim"],
        "quick_gelu": bool(config.get("quick_gelu")),
        "vision_cfg": {**vars(library.CLIPVisionCfg()), **config["vision_cfg"]},
        "text_cfg": {**vars(library.CLIPTextCfg()), **config["text_cfg"]},
    }


def build_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """Build the towers with random weights, but of CoCa those of ``create_model`` after ``torch.manual_seed(seed)``.

    Returns
    -------
    nn.Module
        ``visual``, ``text``, ``logit_scale`` and perhaps ``logit_bias``, in float32, in evaluation mode.
    """
    library = _library()
    text = dict(config["text_cfg"])
    if text.get("hf_model_name"):
        text = NO_PROMPTS  # a tower for nothing, where none can be built without a network
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            # bfloat16 only chooses norms that compute in float32, whatever comes in.
            model: nn.Module = library.CustomTextCLIP(**{**config, "text_cfg": text}, cast_dtype=torch.bfloat16)
    except (RuntimeError, ImportError) as error:  # timm lacks the image tower
        raise CptliteError(
            f"open_clip cannot build this model here ({shown(error)}): pip install --upgrade open_clip_torch timm"
        ) from None
    return model.eval()


def download_weights(found: OpenClipName) -> Path:
    """Path of a model's weights, downloaded by open_clip where they are not there yet.

    Raises
    ------
    DataError
        They cannot be downloaded.
    """
    library = _library()
    facts = library.get_pretrained_cfg(found.model, found.tag)
    try:
        return Path(library.download_pretrained(facts))
    except Exception as error:  # of huggingface_hub, urllib or open_clip itself
        hub = facts.get("hf_hub", "").rstrip("/")
        source = f"https://huggingface.co/{hub}" if hub else facts.get("url", "")
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
        raise DataError(
            f"the weights {found.tag!r} of {found.model} are not here and could not be downloaded ({shown(reason)}). "
            f"Get {source} on a machine with a network, and give --backbone openclip:{found.model}/FILE"
        ) from None


def pixel_facts(model: str, tag: str) -> dict[str, Any]:
    """How images are prepared: for some weights; without a tag, as all published weights of the model agree.

    Notes
    -----
    Where published weights differ, or there are none, it is open_clip's own default, OpenAI's. open_clip takes that for
    every file; so SigLIP's would be given pixels of a range that it never saw.
    """
    library = _library()
    tags = [tag] if tag else library.list_pretrained_tags_by_model(model)
    found = []
    for each in tags:
        facts = library.get_pretrained_cfg(model, each)
        found.append({**PIXELS, **{name: facts[name] for name in PIXELS if facts.get(name) is not None}})
    return found[0] if found and all(each == found[0] for each in found) else dict(PIXELS)


def load_tokenizer(model: str) -> Any:
    """Load the tokenizer of a model, which open_clip gets from the Hugging Face Hub; it fails in many ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _library().get_tokenizer(model)
