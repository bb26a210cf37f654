"""Does LRE, trained on three manipulations of FF++, find the fourth?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table III, last row: trained
on all manipulations of FF++ but the one that is tested (GID), in c23 and in c40, accuracy and AUC.

    python sweeps/lre_leave_one_out.py                              # no datasets: made-up sample corpus
    python sweeps/lre_leave_one_out.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    python sweeps/lre_leave_one_out.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Accuracy is at a threshold of 0.5. The
autoencoder sees c23 in all rows, as the paper's saw high quality only. Differs from the paper: its seven other methods
are not here.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._ffpp import FOUR
from sweeps._lre import SHORT

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
                "model.reconstruct.codec": "c23",
            }
            for left_out in ("Deepfakes", "Face2Face")
            for codec in ("c23", "c40")
        },
        Row("LRE", {}, "79.28 87.9 70.22 78.67 73.62 84.29 69.25 76.5"),
        baseline="LRE",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
