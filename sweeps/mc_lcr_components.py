"""What do the shallow styles, the patch spectra and the contrast of MC-LCR each add on FF++?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 5: five
variants, trained and tested on all four manipulations of FF++ in c23 (HQ) and in c40 (LQ), accuracy and AUC.

    python sweeps/mc_lcr_components.py                              # no datasets: made-up sample corpus
    python sweeps/mc_lcr_components.py --datasets datasets.toml     # the experiment itself: 14 x 3 seeds
    python sweeps/mc_lcr_components.py --dry-run                    # only the plan

Numbers are of frames, at a threshold of 0.5 for accuracy, on a test part with four fakes for each real face: the
paper does not say how it balanced it. Our reading: without PAPDA the whole frequency branch is gone, as in the
paper's baseline, which is Xception alone. Not in the paper: the rows "Eq. 13", whose denominator holds negatives only,
as the paper prints it; "as printed" also sums over the anchors of a batch.
"""

from math import nan

from pipelines.sweep import Experiment, Sweep, main, printed
from sweeps._mc_lcr import SHORT, VARIANTS

SWEEP = Sweep(
    name="mc_lcr_components",
    title="MC-LCR, Table 5: components on FF++",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=(), protocol="in_dataset"),
    small=SHORT,
    level="frame",
    row_name="variant",
    rows={
        f"{name}, {codec}": {"codec": codec, **change} for codec in ("c23", "c40") for name, change in VARIANTS.items()
    },
    published=printed(
        ("acc_at_0_5", "auc"),
        {
            "baseline, c23": (95.79, 97.73),
            "w/o SSRB, c23": (96.54, 98.59),
            "w/o PAPDA, c23": (96.26, 98.61),
            "w/o SC loss, c23": (96.91, 99.38),
            "MC-LCR, c23": (97.21, 99.62),
            "Eq. 13, mean, c23": (nan, nan),
            "Eq. 13, as printed, c23": (nan, nan),
            "baseline, c40": (86.84, 89.38),
            "w/o SSRB, c40": (86.93, 89.44),
            "w/o PAPDA, c40": (86.05, 88.83),
            "w/o SC loss, c40": (87.53, 89.65),
            "MC-LCR, c40": (88.07, 90.28),
            "Eq. 13, mean, c40": (nan, nan),
            "Eq. 13, as printed, c40": (nan, nan),
        },
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
