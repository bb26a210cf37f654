"""How many levels of features should LAA-Net merge, and is E-FPN better at it than a plain feature pyramid?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 4: the features F6 alone (a), then F5 (b), F4 (c), F3 (d) and F2 (e) as well, merged by FPN
or by E-FPN; AUC on Celeb-DF-v2, DFD, WildDeepfake and DFDC preview ("DFDC" in the paper).

    uv run python sweeps/laa_net_feature_levels.py                              # no datasets: made-up sample corpus
    uv run python sweeps/laa_net_feature_levels.py --datasets datasets.toml     # the experiment itself: 9 x 3 seeds
    uv run python sweeps/laa_net_feature_levels.py --dry-run                    # only the plan

Needs FF++ and DFD uncompressed. The paper's columns FPN and E-FPN are rows here; (a), which merges nothing, has one
value for both. FPN is wired as in the released code: the same network with features as they are, not weighted. No
averages.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._laa_net import BASE, SHORT

LEVEL, MERGE = "model.net.lowest_level", "model.net.merge"

SWEEP = Sweep(
    name="laa_net_feature_levels",
    title="LAA-Net, Table 4: feature levels, FPN and E-FPN",
    base=BASE,
    small=SHORT,
    row_name="features",
    headings=("celeb_df", "dfd", "wild_deepfake", "dfdcp"),
    rows=(
        Row("F6", {LEVEL: 6}, "91.56 98.27 73.02 78.35"),
        Row("F6 to F5, FPN", {LEVEL: 5, MERGE: "fpn"}, "93.42 98.59 73.78 78.40"),
        Row("F6 to F5, E-FPN", {LEVEL: 5, MERGE: "efpn"}, "91.79 97.12 71.39 75.80"),
        Row("F6 to F4, FPN", {LEVEL: 4, MERGE: "fpn"}, "88.72 97.96 69.40 71.91"),
        Row("F6 to F4, E-FPN", {LEVEL: 4, MERGE: "efpn"}, "92.86 98.95 74.93 83.97"),
        Row("F6 to F3, FPN", {LEVEL: 3, MERGE: "fpn"}, "88.35 98.89 70.94 79.02"),
        Row("F6 to F3, E-FPN", {LEVEL: 3, MERGE: "efpn"}, "95.40 98.43 80.03 86.94"),
        Row("F6 to F2, FPN", {LEVEL: 2, MERGE: "fpn"}, "92.16 96.58 65.17 74.31"),
        Row("F6 to F2, E-FPN", {LEVEL: 2, MERGE: "efpn"}, "94.22 97.31 72.54 82.90"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
