"""How well does MC-LCR find forgeries of FF++ in light and in heavy compression?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 2: trained
and tested on all four manipulations of FF++ in c23 and in c40, accuracy and AUC. The body of Table 2 is missing in the
text that we have: MC-LCR's values are those of Table 5, last row; of Xception, here the plain classifier, and of the
other methods there are none.

    uv run python sweeps/mc_lcr_compression.py                              # no datasets: made-up sample corpus
    uv run python sweeps/mc_lcr_compression.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/mc_lcr_compression.py --dry-run                    # only the plan

Numbers are of frames, at a threshold of 0.5 for accuracy, on a test part with four fakes for each real face: the paper
does not say how it balanced it. Its AUC in c23 has two values: 99.62 in Table 5, and, as the text has it 12.25 above
Face X-ray's 87.40, 99.65 in Table 2.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._plain import XCEPTION

TABLE_5 = "published in Table 5; by the text on Table 2, AUC in c23 is 99.65"

SWEEP = Sweep(
    name="mc_lcr_compression",
    title="MC-LCR, Table 2: compression",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=(), protocol="in_dataset"),
    level="frame",
    row_name="method",
    headings=("acc_at_0_5", "auc"),
    rows=side_by_side(
        {"c23": {"codec": "c23"}, "c40": {"codec": "c40"}},
        Row("Xception", XCEPTION),
        Row("MC-LCR", {}, "97.21 99.62 88.07 90.28", note=TABLE_5),
        baseline="MC-LCR",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
