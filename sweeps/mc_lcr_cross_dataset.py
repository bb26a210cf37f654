"""How well does MC-LCR, trained on FF++, find forgeries of Celeb-DF?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 4:
trained on all four manipulations of FF++, AUC on Celeb-DF-v2, beside Xception (here the plain classifier).

    python sweeps/mc_lcr_cross_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/mc_lcr_cross_dataset.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    python sweeps/mc_lcr_cross_dataset.py --dry-run                    # only the plan

Numbers are of frames. The compression is not given: c23 here, as in the row Xception-c23. Differs from the paper: its
column FF++ (99.70 for Xception-c23, 99.84 for MC-LCR) is of Deepfakes alone, after training on all four; no protocol
here scores that, so ours shows all four beside no published value. Its fourteen other methods are not here.
"""

from pipelines.sweep import Experiment, Row, Sweep, main

SWEEP = Sweep(
    name="mc_lcr_cross_dataset",
    title="MC-LCR, Table 4: a dataset never seen",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=("ffpp", "celeb_df")),
    level="frame",
    row_name="method",
    headings=("ffpp", "celeb_df"),
    rows=(
        Row("Xception", {"model": "plain"}, "- 65.30"),
        Row("MC-LCR", {}, "- 71.61"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
