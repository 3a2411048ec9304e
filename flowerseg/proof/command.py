"""The line that proves a file again, for those who read of its proof."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT_FIELDS = {
    "min_agreement": "agreement_iou",
    "max_iou_drop": "iou_drop",
    "max_flipped": "flipped_share",
    "max_difference": "largest_difference",
    "max_undecided": "undecided_difference",
    "min_other_agreement": "other_agreement_iou",
    "max_tail": "tail_difference",
    "max_stressed": "stressed_difference",
    "max_batched": "batched_share",
    "max_batched_difference": "batched_difference",
    "max_module_difference": "module_difference",
    "max_agreement_drop": "agreement_drop",
    "max_emulated": "emulated_share",
}
"""Options of flowerseg-verify, and the fields of `Limits` that they set."""


def verify_command(model: Path, asked: Mapping[str, Any]) -> str:
    """The line for these options by name; None and auto, which are the defaults, are left out."""
    words = ["flowerseg-verify", str(model)]
    names = ("reference", "data", "photos", "split", "limit", "largest_batch", *LIMIT_FIELDS)
    for name in (*names, "device", "runtime"):
        if asked.get(name) not in (None, "auto"):
            words += [f"--{name.replace('_', '-')}", str(asked[name])]
    if asked.get("few_photos"):
        words.append("--few-photos")
    if (graph := asked.get("cuda_graph")) is not None:
        words.append("--cuda-graph" if graph else "--no-cuda-graph")
    return shlex.join(words)
