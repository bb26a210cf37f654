"""How well does LRE, trained on FF++, find forgeries of datasets that it has never seen?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table IV, last row: trained on
all four manipulations of FF++ (c23), AUC on FF++, Celeb-DF-v2 and DFD.

    python sweeps/lre_cross_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/lre_cross_dataset.py --datasets datasets.toml     # the experiment itself: 3 seeds
    python sweeps/lre_cross_dataset.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Of DFD all videos are scored, as it has no
split. Differs from the paper: its fourteen other methods are not here.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._lre import SHORT

SWEEP = Sweep(
    name="lre_cross_dataset",
    title="LRE, Table IV: datasets never seen",
    base=Experiment(model="lre", train_on="ffpp", test_on=("ffpp", "celeb_df", "dfd")),
    small=SHORT,
    level="frame",
    row_name="method",
    headings=("ffpp", "celeb_df", "dfd"),
    rows=(Row("LRE", {}, "97.24 77.47 95.23"),),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
