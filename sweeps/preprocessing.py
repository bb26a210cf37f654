"""How much of a result is preprocessing: margin of the crop, frames of a video, steadiness of the box, compression?

No paper has this table. One plain Xception, trained on FF++ and scored on datasets that it has never seen; each row
changes one thing about how faces are cut, in training and test datasets alike. What varies here by accident between two
papers is to be held against what their methods differ by.

    python sweeps/preprocessing.py                              # no datasets: made-up sample corpus, small preset
    python sweeps/preprocessing.py --datasets datasets.toml     # the experiment itself: 8 rows x 3 seeds
    python sweeps/preprocessing.py --dry-run                    # only the plan

Each margin, number of frames and way of cutting is an extraction of its own. The detector is a question of its own:
sweeps/detector.py.
"""

from math import nan
from typing import Any

from pipelines.sweep import Experiment, Sweep, main

COLUMNS = ("ffpp", "celeb_df", "dfdc", "dfdcp")
ROWS: dict[str, dict[str, Any]] = {
    "margin 1.3, 32 frames, c23": {},
    "margin 1.0": {"faces.margin": 1.0},
    "margin 1.6": {"faces.margin": 1.6},
    "margin 2.0": {"faces.margin": 2.0},
    "8 frames": {"faces.num_frames": 8},
    "64 frames": {"faces.num_frames": 64},
    "a box for each frame": {"faces.constant_box": False},
    "c40": {"codec": "c40"},
}

SWEEP = Sweep(
    name="preprocessing",
    title="Preprocessing, Xception trained on FF++",
    base=Experiment(model="plain", train_on="ffpp", test_on=COLUMNS),
    # The sample corpus's videos are short: as many frames less as the small preset takes.
    small={"model.num_epochs": 4},
    small_rows={"8 frames": {"faces.num_frames": 4}, "64 frames": {"faces.num_frames": 20}},
    row_name="faces",
    rows=ROWS,
    published={row: dict.fromkeys(COLUMNS, nan) for row in ROWS},
    baseline="margin 1.3, 32 frames, c23",
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
