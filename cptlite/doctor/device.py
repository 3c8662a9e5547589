"""What multiplies here: device, precision, and what runs frozen linear layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from cptlite.doctor.findings import FAILED, OK, WARNING, Finding, named, one_line

__all__ = ["check_device", "check_precision"]

DRIVER = Path("/proc/driver/nvidia/version")  # there while NVIDIA's kernel module is loaded
SIDE = 8


def check_device() -> Iterator[Finding]:
    """Find the device that ``auto`` is, and multiply on it."""
    import numpy as np
    import torch

    from cptlite.environment import find_device, usable_cores

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        device = find_device("auto")
    cores = usable_cores()
    found = f"{device.type}, {cores} {'core' if cores == 1 else 'cores'}"
    if device.type == "cuda":
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30
        found = f"{torch.cuda.get_device_name(device)} with {gib:.0f} GiB, {found}"
    try:
        ones = torch.from_numpy(np.ones((SIDE, SIDE), np.float32)).to(device)
        if float((ones @ ones).sum()) != SIDE**3:
            raise ArithmeticError(f"ones multiplied by ones give {float((ones @ ones).sum()):g}, wanted {SIDE**3}")
    except Exception as error:  # CUDA's, or NumPy's that torch was not built for
        advice = "give --device cpu, or install a torch built for this GPU" if device.type == "cuda" else ""
        advice = advice or "pip install --force-reinstall torch numpy"
        yield Finding(name="device", state=FAILED, found=f"{found}: cannot multiply: {named(error)}", advice=advice)
        return
    if device.type == "cpu" and DRIVER.exists():
        reason = one_line(told[0].message) if told else f"torch {torch.__version__}"
        yield Finding(
            name="device",
            state=WARNING,
            found=f"{found}; there is a GPU, of which torch finds nothing ({reason})",
            advice="this torch is built without CUDA: install one with it, and its torchvision"
            if torch.version.cuda is None
            else f"see whether nvidia-smi works, and whether the driver is for CUDA {torch.version.cuda} or later",
        )
        return
    yield Finding(name="device", state=OK, found=found)


def check_precision() -> Iterator[Finding]:
    """Find what ``--precision auto`` and ``--linear-backend auto`` are, and run a layer by them."""
    import torch

    from cptlite.backbones.backbone import PRECISIONS, resolve_precision
    from cptlite.backbones.linear import FrozenLinear, find_linear_backend
    from cptlite.environment import find_device, multiplies_bf16

    device = find_device("auto")
    precision = resolve_precision("auto", device)
    fast = device.type == "cpu" and multiplies_bf16()
    kinds = dict.fromkeys((precision, "bf16")) if device.type == "cpu" else (precision,)
    backends = {kind: find_linear_backend("auto", device, PRECISIONS[kind]) for kind in kinds}
    yield Finding(
        name="precision",
        state=OK,
        found=f"{precision}{', and the processor multiplies bf16' if fast else ''}",
        advice="--precision bf16 is faster with OpenAI's towers" if fast else "",
    )
    for kind, backend in backends.items():
        ones = torch.ones(SIDE, SIDE, dtype=PRECISIONS[kind], device=device)
        name = f"linear, {kind}"
        try:
            FrozenLinear(ones, ones[0], backend)(ones)
        except Exception as error:  # of a kernel, any
            yield Finding(
                name=name,
                state=FAILED if kind == precision else WARNING,
                found=f"{backend}: {named(error)}",
                advice="give --linear-backend torch" if backend != "torch" else "pip install --force-reinstall torch",
            )
        else:
            yield Finding(name=name, state=OK, found=f"{backend}, by --linear-backend auto")
