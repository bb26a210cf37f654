"""Which pseudo-fakes teach LAA-Net more about real forgeries: faces blended with themselves, or with others?

Paper: Nguyen et al., "LAA-Net: Localized Artifact Attention Network for Quality-Agnostic and Generalizable Deepfake
Detection", CVPR 2024, Table 1, last two rows: trained on the real faces of FF++ with blended (BI) or self-blended
images (SBI); AUC on FF++, AUC and average precision on Celeb-DF-v2, WildDeepfake, DFD and DFDC preview.

    python sweeps/laa_net_cross_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/laa_net_cross_dataset.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    python sweeps/laa_net_cross_dataset.py --dry-run                    # only the plan

Needs FF++ and DFD uncompressed: an experiment has one compression for all datasets that come in several. The paper's
column "DFDC" is the preview (dfdcp): its authors say so. Differs from the paper: its sixteen other methods are not
here; average precision goes with the share of fakes, which for DFDC is not that of the preview's list; an epoch shows
8 (SBI) or 32 (BI) faces of each video's 32, not of its 128.
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._laa_net import BASE, SHORT

SWEEP = Sweep(
    name="laa_net_cross_dataset",
    title="LAA-Net, Table 1: BI and SBI",
    base=dataclasses.replace(BASE, test_on=("ffpp", *BASE.test_on)),
    small=SHORT,
    row_name="pseudo-fakes",
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
        Row("BI", {"model.data.synthesis": "bi"}, "99.95 86.28 91.93 57.13 56.89 99.51 99.80 69.69 93.67"),
        Row("SBI", {"model.data.synthesis": "sbi"}, "99.96 95.40 97.64 80.03 81.08 98.43 99.40 86.94 97.70"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
