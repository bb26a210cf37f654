"""A trained trial as an MLflow model: paths of videos in, their scores out.

`registry` writes such models. One holds settings and weights and no code, but the name of this module and of
`VideoScores`: they are loaded from the installed package.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema
from rich.console import Console

from pipelines.common.storage import expanded
from pipelines.scoring import predict, trained

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
    """What MLflow loads: it gives the same scores as `uv run crossforge predict`."""

    def load_context(self, context: Any) -> None:
        """Read the trial. Raise ValueError if it was trained by another version of the paper's model."""
        storage = Path(context.artifacts[ARTIFACT])
        (folder,) = storage.glob("runs/*")
        self.trained = trained.read(folder.resolve())

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return one row for each of `model_input["video"]`, under its index; `SIGNATURE` says what is in it."""
        videos = [expanded(str(name)) for name in model_input["video"]]
        rows = [
            {
                "score": float("nan") if video.score is None else video.score,
                "status": video.status,
                "reason": video.reason,
                "num_frames": video.num_frames,
                "num_faces": video.num_faces,
            }
            for video in predict.predict(self.trained, videos, Console(quiet=True))
        ]
        return pd.DataFrame(rows, index=model_input.index, columns=SIGNATURE.outputs.input_names())
