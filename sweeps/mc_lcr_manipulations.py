"""Which manipulation of FF++ is hard for MC-LCR in heavy compression?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 3: trained
and tested on one manipulation of FF++ in c40, accuracy and AUC, beside Xception (here the plain classifier) and six
other methods.

    uv run python sweeps/mc_lcr_manipulations.py                              # no datasets: made-up sample corpus
    uv run python sweeps/mc_lcr_manipulations.py --datasets datasets.toml     # the experiment itself: 8 x 3 seeds
    uv run python sweeps/mc_lcr_manipulations.py --dry-run                    # only the plan

Numbers are of frames, at a threshold of 0.5 for accuracy. The heading of the table is scrambled in the text that we
have; the order of manipulations follows from what the text says of NeuralTextures.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._ffpp import FOUR
from sweeps._plain import XCEPTION

SWEEP = Sweep(
    name="mc_lcr_manipulations",
    title="MC-LCR, Table 3: manipulations in c40",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=(), protocol="per_manipulation", codec="c40"),
    level="frame",
    row_name="method, manipulation",
    headings=("acc_at_0_5", "auc"),
    rows=side_by_side(
        {name: {"manipulations": (name,)} for name in FOUR},
        Row("Steg.Features", published="73.64 - 73.72 - 68.93 - 63.33 -"),
        Row("LD-CNN", published="85.45 - 67.88 - 73.79 - 78.00 -"),
        Row("C-Conv", published="85.45 - 64.23 - 56.31 - 60.07 -"),
        Row("CP-CNN", published="84.55 - 73.72 - 82.52 - 70.67 -"),
        Row("MesoNet", published="87.27 - 56.20 - 61.17 - 40.67 -"),
        Row("Xception", XCEPTION, "95.13 99.24 87.34 93.62 92.42 97.08 77.54 84.51"),
        Row("SPSL", published="93.48 98.50 86.02 94.62 92.26 98.10 76.78 80.49"),
        Row("MC-LCR", {}, "97.23 99.53 91.08 96.72 94.44 98.60 82.13 87.39"),
        baseline="MC-LCR",
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
