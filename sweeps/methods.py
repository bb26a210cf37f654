"""Which method finds forgeries of datasets that it has never seen?

No paper has this table: all five methods and two plain classifiers, trained on the same FF++ videos (c23), selected on
the same validation videos, scored on the same test videos, at video level. Published values stand beside it only where
a paper trained on FF++ and gave a video-level AUC: Delocate, Table 1 (the level is our reading); BBMG + NRS, Table 8,
and LAA-Net (SBI), Table 1, both trained on uncompressed videos. LRE (Celeb-DF 77.5) and MC-LCR (Celeb-DF 71.6)
published frame-level values. "unseen" is the mean over all but FF++.

    uv run python sweeps/methods.py                              # no datasets: made-up sample corpus, small preset
    uv run python sweeps/methods.py --datasets datasets.toml     # the experiment itself: 7 methods x 3 seeds
    uv run python sweeps/methods.py --datasets datasets.toml --test-on ffpp celeb_df dfdc     # with those that you have
    uv run python sweeps/methods.py --dry-run                    # only the plan
"""

from pipelines.sweep import Experiment, Row, Sweep, main
from sweeps._plain import EFFICIENTNET, EFFICIENTNET_SMALL

COLUMNS = ("ffpp", "celeb_df", "deeper_forensics", "dfdc", "dfdcp", "dfd", "ffiw", "wild_deepfake")

SWEEP = Sweep(
    name="methods",
    title="All methods, trained on FF++",
    base=Experiment(model="plain", train_on="ffpp", test_on=COLUMNS),
    row_name="method",
    headings=(*COLUMNS, "unseen"),
    rows=(
        Row("Xception", {}),
        Row("EfficientNet-b4", EFFICIENTNET, small=EFFICIENTNET_SMALL),
        Row("lre", {"model": "lre"}),
        Row("mc_lcr", {"model": "mc_lcr"}),
        Row("delocate", {"model": "delocate"}, "- 91.3 99.1 84.0 - - - - -"),
        Row("adfd", {"model": "adfd"}, "- 91.37 - 72.98 85.89 - 87.77 - -"),
        Row("laa_net", {"model": "laa_net"}, "- 95.40 - - 86.94 98.43 - 80.03 -"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
