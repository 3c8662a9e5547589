"""Train the small CLIP of ``--backbone demo`` on captioned drawings and write it as safetensors.

Loss: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML
2021); all drawings of a batch that a caption is true of count as equally right (Yang et al., "Unified
Contrastive Learning in Image-Text-Label Space", CVPR 2022).

Axes: N drawings of the pool, V captions of each, B drawings of a batch, L tokens, A attributes,
D joint dimension.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cptlite.backbones import CLIP, Tokenizer, load_backbone
from cptlite.backbones.architectures import ARCHITECTURES, PIXEL_MEAN, PIXEL_STD
from cptlite.backbones.checkpoints import DEMO_CHECKPOINT, seeded_token_rows
from cptlite.drawings.captions import ATTRIBUTES, attributes, caption, training_choices
from cptlite.drawings.render import CLEAN, render
from cptlite.drawings.scenes import sample_scene
from cptlite.drawings.suite import TASKS, suite_images

ARCHITECTURE: dict[str, Any] = ARCHITECTURES["demo"]
TOKEN_SEED = 0
CAPTIONS_PER_DRAWING = 6
MAX_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True)
class Pool:
    """Drawings with their captions; token ids count the used tokens only, so that the table is small."""

    images: Tensor  # (N, 3, 64, 64), uint8
    tokens: Tensor  # (N, V, L), padded with 0
    used_ids: Tensor  # (U,), CLIP's id of each used token, ascending
    facts: Tensor  # (N, A), int64, equal where two drawings share an attribute
    says: Tensor  # (N, V, A), bool, the attributes that a caption gives


@dataclass(frozen=True)
class Batch:
    """Preprocessed drawings and one caption of each."""

    images: Tensor  # (B, 3, 64, 64)
    tokens: Tensor  # (B, L)
    facts: Tensor  # (B, A)
    says: Tensor  # (B, A)


def draw_pool(size: int, seed: int) -> Pool:
    """Draw ``size`` captioned images."""
    rng = np.random.default_rng((seed, 2**20))  # no key of the suite's has this length
    tokenizer, choices = Tokenizer(), training_choices()
    images = torch.empty(size, 3, 64, 64, dtype=torch.uint8)
    captions: list[list[int]] = []
    words: dict[str, int] = {}
    facts, says = [], []
    for row in range(size):
        scene = sample_scene(rng, choices)
        images[row] = torch.from_numpy(render(scene, CLEAN, rng)).permute(2, 0, 1)
        known = attributes(scene)
        facts.append([words.setdefault(known[name], len(words)) for name in ATTRIBUTES])
        for _ in range(CAPTIONS_PER_DRAWING):
            said = caption(scene, rng)
            captions.append([tokenizer.sos, *tokenizer.encode(said.text), tokenizer.eos])
            says.append([name in said.says for name in ATTRIBUTES])
    used_ids, tokens = compact_tokens(captions)
    views = (size, CAPTIONS_PER_DRAWING, -1)
    return Pool(images, tokens.view(views), used_ids, torch.tensor(facts), torch.tensor(says).view(views))


def compact_tokens(captions: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the used token ids, ascending, and each caption as places among them, padded with 0."""
    used = sorted({token for ids in captions for token in ids})
    place = {token: index for index, token in enumerate(used)}  # EOS stays the largest
    tokens = torch.zeros(len(captions), max(map(len, captions)), dtype=torch.long)
    for row, ids in enumerate(captions):
        tokens[row, : len(ids)] = torch.tensor([place[token] for token in ids])
    return torch.tensor(used), tokens


def build_model(pool: Pool, seed: int) -> CLIP:
    """Start weights; the token table holds the used rows of the seeded one."""
    torch.manual_seed(seed)
    model = CLIP(**{**ARCHITECTURE, "vocab_size": len(pool.used_ids)}).float()
    table = seeded_token_rows(TOKEN_SEED, ARCHITECTURE["vocab_size"], ARCHITECTURE["transformer_width"])
    model.token_embedding.weight.data.copy_(table[pool.used_ids])
    model.visual.to(memory_format=torch.channels_last)
    return model


def normalised(images: Tensor) -> Tensor:
    """CLIP's preprocessing of (B, 3, 64, 64) uint8 images, without a resize."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (images.float() / 255 - mean) / std


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each batch by up to 3 pixels; change brightness, contrast and add noise per image."""
    size = images.shape[0]
    padded = F.pad(images.float(), (3, 3, 3, 3), mode="reflect")
    top, left = torch.randint(0, 7, (2,), generator=generator).tolist()
    x = padded[:, :, top : top + 64, left : left + 64]
    draws = torch.rand(3, size, 1, 1, 1, generator=generator)
    x = 128 + (1.0 - 0.25 * draws[0]) * (x - 128) + 30 * (draws[1] - 0.5)
    return x + 8 * draws[2] * torch.randn(x.shape, generator=generator)


def batches(pool: Pool, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Endless shuffled batches, each drawing with one of its captions."""
    count, views = pool.tokens.shape[:2]
    while True:
        order = torch.randperm(count, generator=generator)
        for rows in order[: count - count % size].split(size):
            view = torch.randint(0, views, (size,), generator=generator)
            images = normalised(augmented(pool.images[rows], generator))
            images = images.contiguous(memory_format=torch.channels_last)
            yield Batch(images, pool.tokens[rows, view], pool.facts[rows], pool.says[rows, view])


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """Encode distinct captions (B, L) to (B, D) in two groups by length, each trimmed to its longest."""
    end = tokens.argmax(dim=1)
    order = end.argsort()
    parts = [model.encode_text(tokens[rows, : int(end[rows].max()) + 1]) for rows in order.chunk(2)]
    return torch.cat(parts)[order.argsort()]


def true_pairs(facts: Tensor, says: Tensor) -> Tensor:
    """Which captions are true of which drawings, bool of shape (B drawings, B captions)."""
    agrees = facts[:, None] == facts  # (B, B, A)
    return (agrees | ~says).all(dim=2)


def contrastive_loss(model: CLIP, batch: Batch) -> Tensor:
    """Symmetric cross-entropy between drawings and captions."""
    texts, of_image = torch.unique(batch.tokens, dim=0, return_inverse=True)
    image = F.normalize(model.encode_image(batch.images).float(), dim=1)  # (B, D)
    text = F.normalize(encode_text(model, texts).float(), dim=1)[of_image]  # (B, D)
    logits = model.logit_scale.exp() * image @ text.T  # (B, B)
    true = true_pairs(batch.facts, batch.says).float()
    by_image = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    by_text = F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
    return 0.5 * (by_image + by_text)


def make_optimizer(model: CLIP, lr: float) -> torch.optim.AdamW:
    """AdamW; decay on the matrices only, not on token or position tables."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or "embedding" in name
        (free if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def train(model: CLIP, pool: Pool, options: argparse.Namespace) -> None:
    """Train for ``options.steps`` steps with a warm-up and a cosine; prints as it goes."""
    optimizer = make_optimizer(model, options.lr)
    generator = torch.Generator().manual_seed(options.seed)
    stream = batches(pool, options.batch_size, generator)
    start, losses = time.perf_counter(), []
    model.train()
    for step in range(1, options.steps + 1):
        share = step / options.steps
        lr = options.lr * min(step / 100, 0.5 * (1 + math.cos(math.pi * share)) + 1e-3)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = contrastive_loss(model, next(stream))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        losses.append(loss.item())
        if step % 50 == 0 or step == options.steps:
            seconds = time.perf_counter() - start
            scale = math.exp(float(model.logit_scale))
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {step} loss {mean:.3f} scale {scale:.1f} {seconds:.0f} s", flush=True)
        if step % 500 == 0:
            save(model, pool, options.out)


def save(model: CLIP, pool: Pool, path: Path) -> None:
    """Write the weights as float16, of the token table the used rows only."""
    state = {key: value.half() for key, value in model.state_dict().items() if value.ndim}
    state |= {key: value for key, value in model.state_dict().items() if not value.ndim}
    state["token_embedding.used_rows"] = state.pop("token_embedding.weight")
    state["token_embedding.used_ids"] = pool.used_ids.int()
    facts = {"vocab_size": str(ARCHITECTURE["vocab_size"]), "token_seed": str(TOKEN_SEED)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=facts)
    path.chmod(0o644)  # safetensors leaves it to its owner alone


@torch.inference_mode()
def zero_shot_accuracy(path: Path) -> dict[str, float]:
    """Accuracy in [0, 1] of the written file on each task's test drawings, with its template."""
    backbone = load_backbone(str(path), device="cpu")
    tokenizer, accuracy = backbone.tokenizer, {}
    for folder, task in TASKS.items():
        rows = [item for item in suite_images(folder) if item[0] == "test"]
        images = torch.from_numpy(np.stack([item[3] for item in rows])).permute(0, 3, 1, 2)
        features = F.normalize(backbone.encode_images(normalised(images)), dim=1)
        tokens = torch.zeros(len(task.class_names), 77, dtype=torch.long)
        for row, name in enumerate(task.class_names):
            ids = tokenizer.encode(task.template.format(name))
            assert tokenizer.sos is not None
            ids = [tokenizer.sos, *ids, tokenizer.eos]
            tokens[row, : len(ids)] = torch.tensor(ids)
        weights = F.normalize(backbone.model.encode_text(tokens).float(), dim=1)
        labels = torch.tensor([task.class_names.index(item[1]) for item in rows])
        accuracy[folder] = float(((features @ weights.T).argmax(1) == labels).float().mean())
    return accuracy


def parse_options() -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--pool", type=int, default=40_000, help="number of drawings")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    # The same weights again only with as many threads; the shipped file took one.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=DEMO_CHECKPOINT)
    return parser.parse_args()


def main() -> None:
    """Draw, train, save, and print the zero-shot accuracies."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    pool = draw_pool(options.pool, options.seed)
    used, longest = len(pool.used_ids), pool.tokens.shape[2]
    seconds = time.perf_counter() - start
    print(f"{options.pool} drawings, {used} tokens, {longest} at most: {seconds:.0f} s", flush=True)
    model = build_model(pool, options.seed)
    train(model, pool, options)
    save(model, pool, options.out)
    accuracy = zero_shot_accuracy(options.out)
    for folder, value in accuracy.items():
        print(f"{folder:14s} {100 * value:5.1f} %")
    print(f"{'mean':14s} {100 * sum(accuracy.values()) / len(accuracy):5.1f} %")


if __name__ == "__main__":
    main()
