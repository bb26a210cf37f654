"""How much of a face should LRE hide while it learns to reconstruct faces?

Paper: Wu, Leng, Yu, "Learning Local Reconstruction Errors for Face Forgery Detection", Sec. IV-B hides 75 % and gives
no table of other ratios: published values, those of Table IV, stand in that row only.

    uv run python sweeps/lre_mask_ratio.py                              # no datasets: made-up sample corpus
    uv run python sweeps/lre_mask_ratio.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/lre_mask_ratio.py --dry-run                    # only the plan

Numbers are of frames: our reading, as the method is one of single images. Trained on all four manipulations of FF++
(c23). What is hidden lies mostly in the key region; the lower the ratio, the more so.
"""

from pipelines.sweep import Experiment, Sweep, grid, main
from sweeps._lre import SHORT

SWEEP = Sweep(
    name="lre_mask_ratio",
    title="LRE, Sec. IV-B: mask ratio",
    base=Experiment(model="lre", train_on="ffpp", test_on=("ffpp", "celeb_df", "dfd")),
    small=SHORT,
    level="frame",
    row_name="mask ratio",
    headings=("ffpp", "celeb_df", "dfd"),
    rows=grid("model.mask.ratio", {0.25: "", 0.5: "", 0.75: "97.24 77.47 95.23", 0.9: ""}),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
