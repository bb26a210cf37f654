"""Does Delocate still find forgeries of other datasets when it has seen one manipulation only?

Paper: Hu et al., "Delocate: Detection and Localization for Deepfake Videos with Randomly-Located Tampered
Traces", IJCAI 2024, Table 2, last row: trained on one manipulation of FF++ at a time, AUC on Celeb-DF-v2,
DeeperForensics and DFDC.

    python sweeps/delocate_one_manipulation.py                              # no datasets: made-up sample corpus
    python sweeps/delocate_one_manipulation.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    python sweeps/delocate_one_manipulation.py --dry-run                    # only the plan

The stage `recover` sees real videos only: it is trained once for all four rows. Differs from the paper: the ten other
methods of its table are not here; compression and level are not given (here c23, video).
"""

from pipelines.sweep import Experiment, Row, Sweep, main, side_by_side
from sweeps._delocate import SHORT
from sweeps._ffpp import FOUR

SWEEP = Sweep(
    name="delocate_one_manipulation",
    title="Delocate, Table 2: trained on one manipulation",
    base=Experiment(
        model="delocate",
        train_on="ffpp",
        test_on=("celeb_df", "deeper_forensics", "dfdc"),
    ),
    small=SHORT,
    row_name="method, trained on",
    headings=("celeb_df", "deeper_forensics", "dfdc"),
    rows=side_by_side(
        {name: {"manipulations": (name,)} for name in FOUR},
        Row("Delocate", {}, "78.2 94.5 76.3 80.9 93.3 79.9 81.6 91.5 80.8 76.8 90.9 75.9"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
