"""How much of a facial part should Delocate hide while it learns to recover faces?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 5: trained on all of FF++, AUC on Celeb-DF-v2, DeeperForensics and DFDC for five mask
ratios. The ratio is the share of hidden patches among the regions of interest of the one part (eyes, cheek and nose,
lips) that is chosen for a clip. The paper names no level: that ours is of videos is our reading.

    uv run python sweeps/mask_ratio.py                              # no datasets: made-up sample corpus, small preset
    uv run python sweeps/mask_ratio.py --datasets datasets.toml     # the experiment itself: 5 ratios x 3 seeds
    uv run python sweeps/mask_ratio.py --dry-run                    # only the plan
"""

from pipelines.sweep import Experiment, Sweep, grid, main
from sweeps._delocate import SHORT

SWEEP = Sweep(
    name="mask_ratio",
    title="Delocate, Table 5: mask ratio",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    # Two of the four manipulations: of four, a step of meta-learning has three times as many terms. With eight faces of
    # each, batch norm's statistics come from four pairs.
    small=SHORT | {"manipulations": ("Deepfakes", "FaceSwap"), "model.localize.batch_size": 8},
    row_name="mask ratio",
    headings=("celeb_df", "deeper_forensics", "dfdc"),
    rows=grid(
        "model.recover.mask_ratio",
        {
            0.55: "89.0 94.2 80.8",
            0.65: "90.6 92.6 81.8",
            0.75: "91.3 99.1 84.0",
            0.85: "90.3 92.8 81.9",
            0.95: "89.9 92.7 81.0",
        },
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
