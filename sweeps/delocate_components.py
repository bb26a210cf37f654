"""What does each part of Delocate add: recovering, localizing, meta-learning, mapping, encoder-decoder?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 7: trained on all four manipulations of FF++, AUC on Celeb-DF-v2, DeeperForensics and DFDC.

    uv run python sweeps/delocate_components.py                              # no datasets: made-up sample corpus
    uv run python sweeps/delocate_components.py --datasets datasets.toml     # the experiment itself: 12 x 3 seeds
    uv run python sweeps/delocate_components.py --dry-run                    # only the plan

Differs from the paper: its MAE and VideoMAE are the original methods, ours are Delocate's video model with their masks:
with the localization stage they are the first rows of Table 6, though the paper's values differ. Our reading: "w/o
Recovering" is the localization stage alone, with nothing to map to; "w/o Mapping" leaves out L_map, "w/o
Encoder-Decoder" L_loc. The loss "w/o Meta-learning" counts twice, as Eq. 6 has two brackets: its steps are as large as
the others'. Not in the paper: the last two rows. At the paper's rate of 0.001 the inner step hardly moves the weights
(`train/meta_test_before` and `train/meta_test_after` in MLflow): larger ones show what it can do.
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._delocate import SHORT

MAE = {"model.recover.strategy": "mae"}
VIDEO_MAE = {"model.recover.strategy": "video_mae", "model.recover.mask_ratio": 0.9}
NO_LOCALIZATION = {"model.stages": ("recover", "finetune")}

SWEEP = Sweep(
    name="delocate_components",
    title="Delocate, Table 7: components",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="variant",
    headings=("celeb_df", "deeper_forensics", "dfdc"),
    rows=(
        Row("MAE", MAE | NO_LOCALIZATION, "76.4 88.2 71.1"),
        Row("VideoMAE", VIDEO_MAE | NO_LOCALIZATION, "77.4 89.3 71.8"),
        Row("w/o Recovering", {"model.stages": ("localize",), "model.localize.use_map_loss": False}, "89.0 96.5 80.9"),
        Row("w/o Localization", NO_LOCALIZATION, "85.8 95.4 80.0"),
        Row("w/o Meta-learning", {"model.localize.use_meta": False}, "89.6 96.1 81.4"),
        Row(
            "w/o Mapping", {"model.localize.use_mapping": False, "model.localize.use_map_loss": False}, "88.2 95.3 80.9"
        ),
        Row(
            "w/o Encoder-Decoder",
            {"model.localize.use_encoder_decoder": False, "model.localize.use_loc_loss": False},
            "89.9 96.7 82.8",
        ),
        Row("MAE + Localization", MAE, "82.8 92.9 75.1"),
        Row("VideoMAE + Localization", VIDEO_MAE, "83.7 93.2 75.8"),
        Row("RECCE + Localization", published="81.8 92.4 76.2"),
        Row("Delocate", {}, "91.3 99.1 84.0"),
        Row("meta rate 0.01", {"model.localize.inner_lr": 0.01}),
        Row("meta rate 0.1", {"model.localize.inner_lr": 0.1}),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
