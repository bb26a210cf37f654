"""What MC-LCR's sweeps have in common."""

from typing import Any

# Variants of Tables 5 and 6. The baseline is Xception alone: pooled, then classified.
BASELINE: dict[str, Any] = {
    "model.use_ssrb": False,
    "model.use_frequency": False,
    "model.use_encoder": False,
    "model.gf": "raw2048",
    "model.loss.alpha": 0.0,
}
NO_SSRB = {"model.use_ssrb": False}
NO_PAPDA = {"model.use_frequency": False}
NO_SC_LOSS = {"model.loss.alpha": 0.0}
# No variants of the paper: its loss of Sec. 3.4 is that of Khosla et al., but Eq. 13 prints another denominator, and a
# sum over anchors, which makes it count 16 times as much.
EQ_13 = {"model.loss.form": "eq13"}
EQ_13_SUM = {"model.loss.form": "eq13", "model.loss.reduction": "sum"}
SHORT = {"model.detect.num_epochs": 8}  # half of what the small preset trains: many rows in minutes
