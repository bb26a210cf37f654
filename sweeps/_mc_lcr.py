"""What MC-LCR's sweeps have in common."""

from collections.abc import Mapping
from typing import Any

# Tables 5 and 6. The baseline is Xception alone: pooled, then classified. The last two rows are no rows of the paper:
# its loss of Sec. 3.4 is that of Khosla et al., but Eq. 13 prints another denominator, and a sum over anchors, which
# makes it count 16 times as much.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {
        "model.use_ssrb": False,
        "model.use_frequency": False,
        "model.use_encoder": False,
        "model.gf": "raw2048",
        "model.loss.alpha": 0.0,
    },
    "w/o SSRB": {"model.use_ssrb": False},
    "w/o PAPDA": {"model.use_frequency": False},
    "w/o SC loss": {"model.loss.alpha": 0.0},
    "MC-LCR": {},
    "Eq. 13, mean": {"model.loss.form": "eq13"},
    "Eq. 13, as printed": {"model.loss.form": "eq13", "model.loss.reduction": "sum"},
}
SHORT = {"model.detect.num_epochs": 8}  # half of what the small preset trains: many rows in minutes
