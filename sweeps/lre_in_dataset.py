"""How well does LRE find forgeries of FF++ in light and in heavy compression?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Table I: trained and tested on
all four manipulations of FF++ in c23 and in c40, accuracy and AUC, beside ten other methods.

    uv run python sweeps/lre_in_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_in_dataset.py --datasets datasets.toml     # the experiment itself: 3 x 3 seeds
    uv run python sweeps/lre_in_dataset.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Accuracy is at a threshold of 0.5, with
four fakes for each real face. In c40 the autoencoder sees c23, as the paper's saw high quality only: it is the same for
both compressions. Not in the paper: the last row, whose autoencoder sees c40.
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._lre import SHORT

HFI_NET = "the accuracy in c40, 58.69, is the one that other papers print for LD-CNN, and probably copied by mistake"

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
            {"c23": {"codec": "c23"}, "c40": {"codec": "c40"}},
            Row("Face X-ray", published="- 87.4 - 61.6"),
            Row("MesoNet", published="83.1 84.3 70.47 72.62"),
            Row("Multi-task", published="85.65 85.43 81.3 75.59"),
            Row("XceptionELA", published="93.86 94.8 79.63 82.9"),
            Row("SPSL", published="91.5 95.32 81.57 82.82"),
            Row("CFFs", published="- 97.21 - 86.56"),
            Row("M2TR", published="91.86 96.75 83.89 87.15"),
            Row("Two-branch", published="96.43 98.7 86.34 86.59"),
            Row("HFI-Net", published="91.87 97.07 58.69 88.4", note=HFI_NET),
            Row("RFM", published="95.69 98.79 87.06 89.83"),
            Row("LRE", {"model.reconstruct.codec": "c23"}, "91.78 97.4 80.75 90.12"),
            baseline="LRE",
        ),
        Row("LRE, c40, autoencoder too", {"codec": "c40"}, baseline="LRE, c40"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
