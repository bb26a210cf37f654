"""How well does BBMG + NRS, trained on real faces only, find each manipulation of FF++?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 9:
beside SBI with LAL masks and three other methods; AUC on each manipulation of FF++, and on all four.

    uv run python sweeps/adfd_cross_manipulation.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_cross_manipulation.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    uv run python sweeps/adfd_cross_manipulation.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Trains what Table 8 trains.
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, SBI, SHORT
from sweeps._ffpp import FOUR

HEADINGS = (*(f"ffpp/{name}" for name in FOUR), "ffpp")

SWEEP = Sweep(
    name="adfd_cross_manipulation",
    title="BBMG + NRS, Table 9: manipulations of FF++",
    base=dataclasses.replace(BASE, test_on=HEADINGS),
    small=SHORT,
    row_name="method",
    headings=HEADINGS,
    rows=(
        Row("Face X-ray + BI", published="99.17 98.57 98.21 98.13 98.52"),
        Row("PCL + I2G", published="100.00 98.93 99.86 97.63 99.11"),
        Row("SLADD", published="- - - - 98.40"),
        Row("SBI", SBI, "99.99 99.77 99.90 98.57 99.56"),
        Row("BBMG + NRS", {}, "99.98 99.83 99.89 98.38 99.52"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
