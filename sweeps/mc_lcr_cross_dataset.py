"""How well does MC-LCR, trained on FF++, find forgeries of Celeb-DF?

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", Knowledge-Based Systems 2022, arXiv:2110.03290, Table 4: trained
on all four manipulations of FF++, AUC on FF++'s Deepfakes and on Celeb-DF-v2, beside Xception in three compressions and
EfficientNet-B4 (here the plain classifier), and thirteen other methods.

    uv run python sweeps/mc_lcr_cross_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/mc_lcr_cross_dataset.py --datasets datasets.toml     # the experiment itself: 5 x 3 seeds
    uv run python sweeps/mc_lcr_cross_dataset.py --dry-run                    # only the plan

Numbers are of frames. The compression of MC-LCR is not given: c23 here, as in the row Xception-c23. Xception-raw needs
FF++ uncompressed; with another compression the column of FF++ is of other videos. How Xception and EfficientNet-B4 were
trained the paper does not say: here as `plain` is, at 299 and 380 px.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._plain import EFFICIENTNET, EFFICIENTNET_SMALL, XCEPTION

SWEEP = Sweep(
    name="mc_lcr_cross_dataset",
    title="MC-LCR, Table 4: a dataset never seen",
    base=Experiment(model="mc_lcr", train_on="ffpp", test_on=("ffpp/Deepfakes", "celeb_df")),
    level="frame",
    row_name="method",
    headings=("ffpp/Deepfakes", "celeb_df"),
    rows=(
        Row("Two-stream", published="70.10 53.80"),
        Row("Meso4", published="84.70 54.80"),
        Row("MesoInception4", published="83.00 53.60"),
        Row("FWA", published="80.10 56.90"),
        # The sample corpus has nothing uncompressed: a shorter training, so that it is another row there.
        Row("Xception-raw", {**XCEPTION, "codec": "raw"}, "99.70 48.20", small={**XCEPTION, "model.num_epochs": 5}),
        Row("Xception-c23", XCEPTION, "99.70 65.30"),
        Row("Xception-c40", {**XCEPTION, "codec": "c40"}, "95.50 65.50"),
        Row("Multi-task", published="76.30 54.30"),
        Row("Capsule", published="96.60 57.50"),
        Row("DSP-FWA", published="93.00 64.60"),
        Row("Two-Branch", published="93.18 73.41"),
        Row("F3-Net", published="98.10 65.17"),
        Row("SMIL", published="96.80 56.30"),
        Row("EfficientNet-B4", EFFICIENTNET, "99.70 64.29", small=EFFICIENTNET_SMALL),
        Row("MADD", published="99.80 67.44"),
        Row("SPSL", published="96.91 76.88"),
        Row("M2TR", published="99.50 65.70"),
        Row("MC-LCR", {}, "99.84 71.61"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
