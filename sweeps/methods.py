"""Which method finds forgeries of datasets that it has never seen?

No paper has this table: all five methods and a plain Xception, trained on the same FF++ videos (c23), selected on the
same validation videos, scored on the same test videos, at video level. Published values stand beside it only where a
paper trained on FF++ and gave a video-level AUC: Delocate, Table 1; BBMG + NRS, Table 8, and LAA-Net (SBI), Table 1,
both trained on uncompressed videos. LRE (Celeb-DF 77.5) and MC-LCR (Celeb-DF 71.6) published frame-level values.

    python sweeps/methods.py                              # no datasets: made-up sample corpus, small preset
    python sweeps/methods.py --datasets datasets.toml     # the experiment itself: 6 methods x 3 seeds
    python sweeps/methods.py --dry-run                    # only the plan
"""

from math import nan

from pipelines.experiment import Experiment
from pipelines.sweep import Sweep, main

SWEEP = Sweep(
    name="methods",
    title="All methods, trained on FF++",
    base=Experiment(
        model="plain",
        train_on="ffpp",
        test_on=("ffpp", "celeb_df", "deeper_forensics", "dfdc"),
    ),
    row_name="method",
    rows={name: {"model": name} for name in ("plain", "lre", "mc_lcr", "delocate", "adfd", "laa_net")},
    published={
        "plain": {"ffpp": nan, "celeb_df": nan, "deeper_forensics": nan, "dfdc": nan},
        "lre": {"ffpp": nan, "celeb_df": nan, "deeper_forensics": nan, "dfdc": nan},
        "mc_lcr": {"ffpp": nan, "celeb_df": nan, "deeper_forensics": nan, "dfdc": nan},
        "delocate": {"ffpp": nan, "celeb_df": 0.913, "deeper_forensics": 0.991, "dfdc": 0.840},
        "adfd": {"ffpp": nan, "celeb_df": 0.9137, "deeper_forensics": nan, "dfdc": 0.7298},
        "laa_net": {"ffpp": nan, "celeb_df": 0.9540, "deeper_forensics": nan, "dfdc": nan},
    },
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
