"""What MC-LCR's sweeps have in common."""

from collections.abc import Mapping
from typing import Any

# Tables 5 and 6. The baseline is Xception alone: pooled, then classified.
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
}
SHORT = {"model.detect.num_epochs": 8}  # half of what the small preset trains: many rows in minutes
