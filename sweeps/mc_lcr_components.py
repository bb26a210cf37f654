"""What do the shallow styles, the patch spectra and the contrast of MC-LCR each add on FF++?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 5: five
variants, trained and tested on all four manipulations of FF++ in c23 (HQ) and in c40 (LQ), accuracy and AUC.

    uv run python sweeps/mc_lcr_components.py                              # no datasets: made-up sample corpus
    uv run python sweeps/mc_lcr_components.py --datasets datasets.toml     # the experiment itself: 14 x 3 seeds
    uv run python sweeps/mc_lcr_components.py --dry-run                    # only the plan

Numbers are of frames, at a threshold of 0.5 for accuracy, on a test part with four fakes for each real face: the paper
does not say how it balanced it. Our reading: without PAPDA the whole frequency branch is gone, as in the paper's
baseline, which is Xception alone. Not in the paper: the rows "Eq. 13", whose denominator holds negatives only, as the
paper prints it; "as printed" also sums over the anchors of a batch.

Fig. 7 of the paper, a t-SNE of the fused features in c40, is in the report's page, below "Example faces": rows
"baseline, c40", "w/o SC loss, c40" and "MC-LCR, c40" are its (a), (b) and (c).
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._mc_lcr import BASELINE, EQ_13, EQ_13_SUM, NO_PAPDA, NO_SC_LOSS, NO_SSRB, SHORT

SWEEP = Sweep(
    name="mc_lcr_components",
    title="MC-LCR, Table 5: components on FF++",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=(), protocol="in_dataset"),
    small=SHORT,
    level="frame",
    row_name="variant",
    headings=("acc_at_0_5", "auc"),
    rows=side_by_side(
        {"c23": {"codec": "c23"}, "c40": {"codec": "c40"}},
        Row("baseline", BASELINE, "95.79 97.73 86.84 89.38"),
        Row("w/o SSRB", NO_SSRB, "96.54 98.59 86.93 89.44"),
        Row("w/o PAPDA", NO_PAPDA, "96.26 98.61 86.05 88.83"),
        Row("w/o SC loss", NO_SC_LOSS, "96.91 99.38 87.53 89.65"),
        Row("MC-LCR", {}, "97.21 99.62 88.07 90.28"),
        Row("Eq. 13, mean", EQ_13),
        Row("Eq. 13, as printed", EQ_13_SUM),
        baseline="MC-LCR",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
