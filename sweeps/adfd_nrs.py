"""From which real faces, and by which distance, should NRS judge a pseudo-fake?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 13:
the 500 real faces taken at random or by their prediction, cosine distance or L2; AUC on FF++, Celeb-DF-v2, DFDC, DFDC
preview and FFIW-10K.

    uv run python sweeps/adfd_nrs.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_nrs.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/adfd_nrs.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. L2 is that of unit vectors, with the same threshold; the paper does not
say.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SHORT

FILTER, DISTANCE = "model.nrs.filter", "model.nrs.distance"

SWEEP = Sweep(
    name="adfd_nrs",
    title="BBMG + NRS, Table 13: filter and distance of NRS",
    base=BASE,
    small=SHORT,
    row_name="filter, distance",
    headings=HEADINGS,
    rows=(
        Row("random, cosine", {FILTER: "random", DISTANCE: "cosine"}, "99.51 90.91 72.38 85.24 86.96 83.87"),
        Row("random, L2", {FILTER: "random", DISTANCE: "l2"}, "99.52 90.85 72.39 85.37 87.12 83.93"),
        Row("predicts, cosine", {FILTER: "predicts", DISTANCE: "cosine"}, "99.52 91.37 72.98 85.89 87.77 84.50"),
        Row("predicts, L2", {FILTER: "predicts", DISTANCE: "l2"}, "99.52 91.40 73.06 85.90 87.00 84.34"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
