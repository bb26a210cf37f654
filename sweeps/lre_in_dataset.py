"""How well does LRE find forgeries of FF++ in light and in heavy compression?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table I, last row: trained and
tested on all four manipulations of FF++ in c23 and in c40, accuracy and AUC.

    python sweeps/lre_in_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/lre_in_dataset.py --datasets datasets.toml     # the experiment itself: 3 x 3 seeds
    python sweeps/lre_in_dataset.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Accuracy is at a threshold of 0.5, with
four fakes for each real face. In c40 the autoencoder sees c23, as the paper's saw high quality only: it is the same for
both compressions. Not in the paper: the last row, whose autoencoder sees c40. Its ten other methods are not here.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._lre import SHORT

SWEEP = Sweep(
    name="lre_in_dataset",
    title="LRE, Table I: compression",
    base=Experiment(model="lre", train_on="ffpp", test_on=(), protocol="in_dataset"),
    small=SHORT,
    level="frame",
    row_name="method, compression",
    headings=("acc_at_0_5", "auc"),
    rows=(
        *side_by_side(
            {"c23": {"codec": "c23"}, "c40": {"codec": "c40", "model.reconstruct.codec": "c23"}},
            Row("LRE", {}, "91.78 97.4 80.75 90.12"),
            baseline="LRE",
        ),
        Row("LRE, c40, autoencoder too", {"codec": "c40"}, baseline="LRE, c40"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
