"""How well does BBMG + NRS, trained on real faces of FF++, find forgeries of other datasets?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table
8: beside SBI with LAL masks, which its authors trained themselves; AUC on Celeb-DF-v2, DFDC, DFDC preview and
FFIW-10K.

    python sweeps/adfd_cross_dataset.py                              # no datasets: made-up sample corpus
    python sweeps/adfd_cross_dataset.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    python sweeps/adfd_cross_dataset.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Both rows are rows of Table 11 as well. Differs from the paper: its
ten other methods are not here. The paper's averages are left out.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, COLUMNS, SBI, SHORT

SWEEP = Sweep(
    name="adfd_cross_dataset",
    title="BBMG + NRS, Table 8: datasets never seen",
    base=BASE,
    small=SHORT,
    row_name="method",
    headings=COLUMNS[1:],
    rows=(
        Row("SBI", SBI, "91.23 72.10 86.25 83.68"),
        Row("BBMG + NRS", {}, "91.37 72.98 85.89 87.77"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
