"""How much wear of a video does LAA-Net stand?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 2: trained on FF++, AUC on its test part under six perturbations, each the mean over five
levels (DeeperForensics-1.0's, as LipForensics uses them), beside Xception (here the plain classifier) and three others.

    uv run python sweeps/laa_net_robustness.py                              # no datasets: made-up sample corpus
    uv run python sweeps/laa_net_robustness.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    uv run python sweeps/laa_net_robustness.py --dry-run                    # only the plan

Row LAA-Net needs no faces and no training that Table 1 has not (its row SBI); the test part is scored 31 times. The
curves over levels are in the report. Column "auc" is clean, from Table 1; "pixelation" is the paper's "Pixel". Differs
from the paper: faces are perturbed, not frames (how: pipelines/faces/perturb.py), so that landmarks and boxes are those
of clean videos; that a number is the mean over levels is our reading; its row Xception is copied from LipForensics,
whose training is not this one's.
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._laa_net import BASE, SHORT
from sweeps._plain import XCEPTION

PERTURBATIONS = ("saturation", "contrast", "block", "noise", "blur", "pixelation")  # each at five levels

SWEEP = Sweep(
    name="laa_net_robustness",
    title="LAA-Net, Table 2: perturbed faces",
    base=dataclasses.replace(BASE, test_on=(), protocol="in_dataset", perturbations=PERTURBATIONS),
    small=SHORT,
    row_name="method",
    headings=("auc", *PERTURBATIONS),
    rows=(
        Row("Xception", XCEPTION, "- 99.3 98.6 99.7 53.8 60.2 74.2"),
        Row("Face X-ray", published="- 97.6 88.5 99.1 49.8 63.8 88.6"),
        Row("LipForensics", published="- 99.9 99.6 87.4 73.8 96.1 95.6"),
        Row("CADDM", published="- 99.6 99.8 99.8 87.4 99.0 98.8"),
        Row("LAA-Net", {}, "99.96 99.96 99.96 99.96 53.9 98.22 99.80"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
