"""Below which distance to real faces should a pseudo-fake count as noise?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS). Sec. 4.1
gives one threshold of NRS, lambda = 0.5, and no table of others: published values stand in that row only (Table 13,
predicts and cosine).

    uv run python sweeps/adfd_nrs_threshold.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_nrs_threshold.py --datasets datasets.toml     # the experiment itself: 5 x 3 seeds
    uv run python sweeps/adfd_nrs_threshold.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Early in training all distances are small: then every pseudo-fake lies
below most thresholds, and NRS only makes fakes count less.
"""

from pipelines.sweep import Sweep, grid, main
from sweeps._adfd import BASE, HEADINGS, SHORT

SWEEP = Sweep(
    name="adfd_nrs_threshold",
    title="BBMG + NRS, Sec. 4.1: threshold of NRS",
    base=BASE,
    small=SHORT,
    row_name="threshold",
    headings=HEADINGS,
    rows=grid(
        "model.nrs.threshold", {0.05: "", 0.1: "", 0.25: "", 0.5: "99.52 91.37 72.98 85.89 87.77 84.50", 1.0: ""}
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
