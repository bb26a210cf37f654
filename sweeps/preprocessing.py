"""How much of a result is preprocessing: margin of the crop, frames of a video, steadiness of the box, compression?

No paper has this table. One plain Xception, trained on FF++ and scored on datasets that it has never seen; each row
changes one thing about how faces are cut, in training and test datasets alike. What varies here by accident between two
papers is to be held against what their methods differ by.

    uv run python sweeps/preprocessing.py                            # no datasets: made-up sample corpus, small preset
    uv run python sweeps/preprocessing.py --datasets datasets.toml   # the experiment itself: 8 rows x 3 seeds
    uv run python sweeps/preprocessing.py --dry-run                  # only the plan

Each margin, number of frames and way of cutting is an extraction of its own. The detector is a question of its own:
sweeps/detector.py.
"""

from pipelines.sweep import Experiment, Row, Sweep, main

SWEEP = Sweep(
    name="preprocessing",
    title="Preprocessing, Xception trained on FF++",
    base=Experiment(model="plain", train_on="ffpp", test_on=("ffpp", "celeb_df", "dfdc", "dfdcp")),
    small={"model.num_epochs": 4},
    row_name="faces",
    headings=("ffpp", "celeb_df", "dfdc", "dfdcp"),
    rows=(
        Row("margin 1.3, 32 frames, c23", {}),
        Row("margin 1.0", {"faces.margin": 1.0}),
        Row("margin 1.6", {"faces.margin": 1.6}),
        Row("margin 2.0", {"faces.margin": 2.0}),
        # The sample corpus's videos are short: as many frames less as the small preset takes.
        Row("8 frames", {"faces.num_frames": 8}, small={"faces.num_frames": 4}),
        Row("64 frames", {"faces.num_frames": 64}, small={"faces.num_frames": 20}),
        Row("a box for each frame", {"faces.constant_box": False}),
        Row("c40", {"codec": "c40"}),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
