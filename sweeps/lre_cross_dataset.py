"""How well does LRE, trained on FF++, find forgeries of datasets that it has never seen?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table IV: trained on all four
manipulations of FF++ (c23), AUC on FF++, Celeb-DF-v2 and DFD, beside fourteen other methods.

    uv run python sweeps/lre_cross_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_cross_dataset.py --datasets datasets.toml     # the experiment itself: 3 seeds
    uv run python sweeps/lre_cross_dataset.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Of DFD all videos are scored, as it has no
split. For FF++ the paper's Table I has 97.4, where this one has 97.24.
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
    rows=(
        Row("TI2Net", published="99.95 68.22 72.03"),
        Row("FRLM", published="99.5 70.58 68.17"),
        Row("F3Net", published="98.1 71.21 86.1"),
        Row("Face X-ray", published="87.4 74.2 85.6"),
        Row("MLDG", published="98.99 74.56 88.14"),
        Row("GFF", published="98.36 75.31 85.51"),
        Row("SFDG", published="99.53 75.83 88"),
        Row("SOLA", published="99.25 76.02 -"),
        Row("MultiAtt", published="99.27 76.65 87.58"),
        Row("BIG-Arts", published="99.39 77.04 89.92"),
        Row("LTW", published="99.17 77.14 88.56"),
        Row("FAAFF", published="99.27 77.59 -"),
        Row("Local-Relation", published="99.46 78.26 89.24"),
        Row("DCL", published="99.3 82.3 91.66"),
        Row("LRE", {}, "97.24 77.47 95.23"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
