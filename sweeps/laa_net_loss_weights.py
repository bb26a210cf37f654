"""How much should LAA-Net's heatmap and consistency losses count beside the classification?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 5: five pairs of the weights lambda_1 (heatmap) and lambda_2 (consistency) of Eq. 8; AUC on
Celeb-DF-v2, DFDC preview ("DFDC" in the paper) and WildDeepfake.

    uv run python sweeps/laa_net_loss_weights.py                              # no datasets: made-up sample corpus
    uv run python sweeps/laa_net_loss_weights.py --datasets datasets.toml     # the experiment itself: 5 x 3 seeds
    uv run python sweeps/laa_net_loss_weights.py --dry-run                    # only the plan

Needs FF++ uncompressed. The weights mean what they mean in the released code, whose heatmap loss is divided by the
number of points (`model.loss` has Eq. 5 as printed). The paper's average is left out.
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._laa_net import BASE, SHORT

HEATMAP, CONSISTENCY = "model.loss.heatmap_weight", "model.loss.consistency_weight"

SWEEP = Sweep(
    name="laa_net_loss_weights",
    title="LAA-Net, Table 5: weights of the losses",
    base=dataclasses.replace(BASE, test_on=("celeb_df", "dfdcp", "wild_deepfake")),
    small=SHORT,
    row_name="lambda 1, 2",
    headings=("celeb_df", "dfdcp", "wild_deepfake"),
    rows=(
        Row("1, 1", {HEATMAP: 1.0, CONSISTENCY: 1.0}, "90.69 78.12 70.98"),
        Row("10, 10", {HEATMAP: 10.0, CONSISTENCY: 10.0}, "95.73 85.87 73.56"),
        Row("100, 100", {HEATMAP: 100.0, CONSISTENCY: 100.0}, "93.72 78.60 75.25"),
        Row("100, 10", {HEATMAP: 100.0, CONSISTENCY: 10.0}, "93.05 83.86 76.72"),
        Row("10, 100", {HEATMAP: 10.0, CONSISTENCY: 100.0}, "95.40 86.94 80.03"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
