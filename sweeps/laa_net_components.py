"""What do LAA-Net's consistency branch, its heatmap branch and E-FPN each add?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 3: with and without the consistency branch (C), the heatmap branch (H) and E-FPN; AUC on
Celeb-DF-v2, DFD, DFDC preview ("DFDC" in the paper) and WildDeepfake.

    uv run python sweeps/laa_net_components.py                              # no datasets: made-up sample corpus
    uv run python sweeps/laa_net_components.py --datasets datasets.toml     # the experiment itself: 7 x 3 seeds
    uv run python sweeps/laa_net_components.py --dry-run                    # only the plan

Needs FF++ and DFD uncompressed. Our reading: "without E-FPN" is the decoder of F6 alone, as the row C + H has the
values of Table 4, row (a); the second row, in which the text that we have shows three crosses, is E-FPN alone, as the
rows count up in binary. C alone is not in the paper. Its average is left out.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._laa_net import BASE, SHORT

NO_C = {"model.net.use_consistency": False}
NO_H = {"model.net.use_heatmap": False}
NO_EFPN = {"model.net.lowest_level": 6}

SWEEP = Sweep(
    name="laa_net_components",
    title="LAA-Net, Table 3: components",
    base=BASE,
    small=SHORT,
    row_name="with",
    headings=("celeb_df", "dfd", "dfdcp", "wild_deepfake"),
    rows=(
        Row("none", NO_C | NO_H | NO_EFPN, "74.54 92.24 70.81 59.81"),
        Row("E-FPN", NO_C | NO_H, "80.89 94.53 77.93 67.12"),
        Row("H", NO_C | NO_EFPN, "84.21 95.03 80.68 65.47"),
        Row("H + E-FPN", NO_C, "95.56 98.54 82.21 74.98"),
        Row("C + E-FPN", NO_H, "79.87 94.60 71.70 72.47"),
        Row("C + H", NO_EFPN, "91.56 98.27 78.35 73.02"),
        Row("C + H + E-FPN", {}, "95.40 98.43 86.94 80.03"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
