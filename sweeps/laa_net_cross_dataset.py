"""Which pseudo-fakes teach LAA-Net more about real forgeries: faces blended with themselves, or with others?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 1: trained on the real faces of FF++ with blended (BI) or self-blended images (SBI); AUC on
FF++, AUC and average precision on Celeb-DF-v2, WildDeepfake, DFD and DFDC preview; beside Xception (here the plain
classifier), SBI (here BBMG + NRS without both) and fourteen other methods.

    uv run python sweeps/laa_net_cross_dataset.py                              # no datasets: made-up sample corpus
    uv run python sweeps/laa_net_cross_dataset.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/laa_net_cross_dataset.py --dry-run                    # only the plan

Needs FF++ and DFD uncompressed: an experiment has one compression for all datasets that come in several. The paper's
column "DFDC" is the preview (dfdcp): its authors say so. PCL + I2G, SBI, AUNet and LAA-Net are trained on real faces
alone, the others on real and fake ones. Differs from the paper: average precision goes with the share of fakes, which
for DFDC is not that of the preview's list; an epoch shows 8 (SBI) or 32 (BI) faces of each video's 32, not of its 128.
Where paper and released code differ, learning rate, freezing and weights of the losses are the paper's, most else is
the code's (models/laa_net.py). Row "Xception" is trained as `plain` is. Row "SBI" is as near to its released code as
`adfd` is: landmark masks, the same 8 frames of a video in all epochs, the last epoch (what differs: models/adfd.py);
videos without a face are left out, as in the other rows.
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import SBI as ADFD_SBI
from sweeps._adfd import SMALL as ADFD_SMALL
from sweeps._laa_net import BASE, SMALL
from sweeps._plain import XCEPTION

SBI = {"model": "adfd", **ADFD_SBI}

SWEEP = Sweep(
    name="laa_net_cross_dataset",
    title="LAA-Net, Table 1: BI and SBI",
    base=dataclasses.replace(BASE, test_on=("ffpp", *BASE.test_on)),
    small=SMALL,
    row_name="method",
    headings=(
        "ffpp",
        "celeb_df",
        "celeb_df ap",
        "wild_deepfake",
        "wild_deepfake ap",
        "dfd",
        "dfd ap",
        "dfdcp",
        "dfdcp ap",
    ),
    rows=(
        Row("Xception", XCEPTION, "99.09 61.18 66.93 65.29 55.37 89.75 85.48 69.90 91.98"),
        Row("Face X-ray + BI", published="99.20 79.5 - - - 95.40 93.34 65.5 -"),
        Row("LRNet", published="- 53.20 - - - 52.29 - - -"),
        Row("LocalRL", published="99.92 78.26 - - - 89.24 - 76.53 -"),
        Row("TI2Net", published="- 68.22 - - - 72.03 - - -"),
        Row("Multi-attentional", published="- 68.26 75.25 73.56 73.79 92.95 96.51 63.02 -"),
        Row("RECCE", published="- 70.93 70.35 68.16 54.41 98.26 79.42 - -"),
        Row("SFDG", published="99.53 75.83 - 69.27 - 88.00 - 73.63 -"),
        Row("EIC + IIE", published="99.32 83.80 - - - 93.92 - 81.23 -"),
        Row("AltFreezing", published="98.6 89.50 - - - 98.50 - - -"),
        Row("CADDM", published="99.79 93.88 91.12 74.48 75.23 99.03 99.59 - -"),
        Row("UCF", published="- 82.4 - - - 94.5 - 80.5 -"),
        Row("Controllable GS", published="- 84.97 - - - - - 81.65 -"),
        Row("PCL + I2G", published="99.11 90.03 - - - 99.07 - 74.27 -"),
        Row("SBI", SBI, "99.64 93.18 85.16 67.47 55.87 97.56 92.79 86.15 93.24", small=SBI | ADFD_SMALL),
        Row("AUNet", published="99.46 92.77 - - - 99.22 - 86.16 -"),
        Row("LAA-Net (BI)", {"model.data.synthesis": "bi"}, "99.95 86.28 91.93 57.13 56.89 99.51 99.80 69.69 93.67"),
        Row("LAA-Net (SBI)", {"model.data.synthesis": "sbi"}, "99.96 95.40 97.64 80.03 81.08 98.43 99.40 86.94 97.70"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
