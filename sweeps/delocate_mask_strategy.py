"""Which part of a face should Delocate hide while it learns to recover faces?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 6: seven strategies of masking, trained on all four manipulations of FF++, AUC on
Celeb-DF-v2, DeeperForensics and DFDC.

    uv run python sweeps/delocate_mask_strategy.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_mask_strategy.py --datasets datasets.toml     # the experiment itself: 7 x 3 seeds
    uv run python sweeps/delocate_mask_strategy.py --dry-run                    # only the plan

Our reading, as the paper does not say how it masked: MAE hides 75 % of all tokens, VideoMAE 90 % of the positions, the
same in all frames; "w/o ROIs" hides 75 % of the patches of a horizontal band around the drawn part.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._delocate import SHORT

STRATEGY = "model.recover.strategy"

SWEEP = Sweep(
    name="delocate_mask_strategy",
    title="Delocate, Table 6: masking strategy",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="strategy",
    headings=("celeb_df", "deeper_forensics", "dfdc"),
    rows=(
        Row("MAE", {STRATEGY: "mae"}, "86.4 95.8 79.1"),
        Row("VideoMAE", {STRATEGY: "video_mae", "model.recover.mask_ratio": 0.9}, "86.5 95.6 79.5"),
        Row("eyes", {STRATEGY: "eyes"}, "91.1 98.7 80.1"),
        Row("cheek and nose", {STRATEGY: "cheek_nose"}, "90.2 88.2 81.3"),
        Row("lips", {STRATEGY: "lips"}, "90.8 88.2 81.7"),
        Row("w/o ROIs", {STRATEGY: "without_rois"}, "90.9 88.9 83.5"),
        Row("proposed", {STRATEGY: "proposed"}, "91.3 99.1 84.0"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
