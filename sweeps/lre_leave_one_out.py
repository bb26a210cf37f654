"""Does LRE, trained on three manipulations of FF++, find the fourth?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table III: trained on all
manipulations of FF++ but the one that is tested (GID), in c23 and in c40, accuracy and AUC, beside EfficientNet (here
the plain classifier with EfficientNet-b4) and six others.

    uv run python sweeps/lre_leave_one_out.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_leave_one_out.py --datasets datasets.toml     # the experiment itself: 8 x 3 seeds
    uv run python sweeps/lre_leave_one_out.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Accuracy is at a threshold of 0.5. The
autoencoder sees c23 in all rows, as the paper's saw high quality only. EfficientNet is trained as `plain` is, at 380
px: the paper does not say how it was. Its text has LRE above all others in c40; DCL is higher on Deepfakes.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._ffpp import FOUR
from sweeps._lre import SHORT
from sweeps._plain import EFFICIENTNET, EFFICIENTNET_SMALL

SWEEP = Sweep(
    name="lre_leave_one_out",
    title="LRE, Table III: the manipulation left out",
    base=Experiment(model="lre", train_on="ffpp", test_on=(), protocol="leave_one_out"),
    small=SHORT,
    level="frame",
    row_name="method, tested on",
    headings=("acc_at_0_5", "auc"),
    rows=side_by_side(
        {
            f"{left_out}, {codec}": {
                "manipulations": tuple(name for name in FOUR if name != left_out),
                "codec": codec,
            }
            for left_out in ("Deepfakes", "Face2Face")
            for codec in ("c23", "c40")
        },
        Row("EfficientNet", EFFICIENTNET, "82.4 91.11 67.6 75.3 63.32 80.1 61.41 67.4", small=EFFICIENTNET_SMALL),
        Row("Focalloss", published="81.33 90.31 67.47 74.95 60.8 79.8 64 67.21"),
        Row("ForensicTransfer", published="72.01 - 68.2 - 64.5 - 55 -"),
        Row("Multi-task", published="70.3 - 66.76 - 58.74 - 56.5 -"),
        Row("MLDG", published="84.21 91.82 67.15 73.12 63.46 77.1 58.12 61.7"),
        Row("LTW", published="85.6 92.7 69.15 75.6 65.6 80.2 65.7 72.4"),
        Row("DCL", published="87.7 94.9 75.9 83.82 68.4 82.93 67.85 75.07"),
        Row("LRE", {"model.reconstruct.codec": "c23"}, "79.28 87.9 70.22 78.67 73.62 84.29 69.25 76.5"),
        baseline="LRE",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
