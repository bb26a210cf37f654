"""A trained trial as an MLflow model: videos by their paths in, their scores out.

A registered model holds settings and weights, no code: it needs this package beside it, see `registry`.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from rich.console import Console

from pipelines.scoring import predict
from pipelines.scoring.predict import Scored
from pipelines.tracking import lookup

ARTIFACT = "storage"  # a storage folder that holds this one trial
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "video")]),
    outputs=Schema(
        [
            ColSpec(DataType.double, "score", required=False),  # P(fake) in [0, 1]; null: no score
            ColSpec(DataType.string, "status"),  # ok, or why there is none
            ColSpec(DataType.string, "reason"),
            ColSpec(DataType.long, "num_frames"),
            ColSpec(DataType.long, "num_faces"),
        ]
    ),
)


class VideoScores(PythonModel):
    """The same scores as `python -m pipelines.predict`.

    Raises ValueError on loading if the paper's model is another version than the one that was trained.
    """

    def load_context(self, context: Any) -> None:
        storage = Path(context.artifacts[ARTIFACT])
        (folder,) = storage.glob("runs/*")
        self.trained = lookup.by_name(str(folder), storage)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each of `model_input["video"]`, under its index."""
        videos = [Path(str(name)).expanduser() for name in model_input["video"]]
        scored = predict.predict(self.trained, videos, Console(quiet=True))
        return pd.DataFrame(
            [_row(one) for one in scored], index=model_input.index, columns=SIGNATURE.outputs.input_names()
        )


def _row(one: Scored) -> dict[str, Any]:
    return {
        "score": float("nan") if one.score is None else one.score,
        "status": one.status,
        "reason": one.reason,
        "num_frames": one.num_frames,
        "num_faces": one.num_faces,
    }
