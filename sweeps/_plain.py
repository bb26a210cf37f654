"""Plain classifiers that stand as rows in several papers' tables."""

from typing import Any

XCEPTION = {"model": "plain"}
EFFICIENTNET: dict[str, Any] = {
    "model": "plain",
    "model.backbone": "tf_efficientnet_b4.ap_in1k",
    "model.input_px": 380,
}
EFFICIENTNET_SMALL = {"model": "plain", "model.backbone": "test_efficientnet"}
