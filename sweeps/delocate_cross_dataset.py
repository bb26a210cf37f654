"""How well does Delocate, trained on FF++, find forgeries of datasets that it has never seen?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 1, last row: trained on all four manipulations of FF++, AUC and equal error rate on
Celeb-DF-v2, DeeperForensics and DFDC. Of an error rate, less is better.

    python sweeps/delocate_cross_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/delocate_cross_dataset.py --datasets datasets.toml     # the experiment itself: 3 seeds
    python sweeps/delocate_cross_dataset.py --dry-run                    # only the plan

Differs from the paper: the ten other methods of its table are not here. It names neither the compression (here c23,
as in its Table 4) nor the level (here video).
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._delocate import SHORT

SWEEP = Sweep(
    name="delocate_cross_dataset",
    title="Delocate, Table 1: datasets never seen",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="method",
    headings=("celeb_df", "celeb_df eer", "deeper_forensics", "deeper_forensics eer", "dfdc", "dfdc eer"),
    rows=(Row("Delocate", {}, "91.3 14.1 99.1 6.6 84.0 24.7"),),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
