"""What do the components of MC-LCR add on a dataset that it has never seen?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 6: the
five variants of Table 5, trained on all four manipulations of FF++, AUC on Celeb-DF-v2.

    uv run python sweeps/mc_lcr_components_celeb_df.py                              # no datasets: made-up sample corpus
    uv run python sweeps/mc_lcr_components_celeb_df.py --datasets datasets.toml     # the experiment itself: 7 x 3 seeds
    uv run python sweeps/mc_lcr_components_celeb_df.py --dry-run                    # only the plan

Numbers are of frames. The compression is not given: c23 here, so that the training is that of Table 5
(sweeps/mc_lcr_components.py). Our reading: without PAPDA the whole frequency branch is gone, as in the paper's
baseline, which is Xception alone. Not in the paper: the rows "Eq. 13", whose denominator holds negatives only, as the
paper prints it; "as printed" also sums over the anchors of a batch.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._mc_lcr import BASELINE, EQ_13, EQ_13_SUM, NO_PAPDA, NO_SC_LOSS, NO_SSRB, SHORT

SWEEP = Sweep(
    name="mc_lcr_components_celeb_df",
    title="MC-LCR, Table 6: components on Celeb-DF",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=("celeb_df",)),
    small=SHORT,
    level="frame",
    row_name="variant",
    headings=("celeb_df",),
    rows=(
        Row("baseline", BASELINE, "65.29"),
        Row("w/o SSRB", NO_SSRB, "65.41"),
        Row("w/o PAPDA", NO_PAPDA, "69.27"),
        Row("w/o SC loss", NO_SC_LOSS, "66.76"),
        Row("MC-LCR", {}, "71.61"),
        Row("Eq. 13, mean", EQ_13),
        Row("Eq. 13, as printed", EQ_13_SUM),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
