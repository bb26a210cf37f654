"""Which operation should blur the boundary of a self-blended image's mask?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 4:
Gaussian, average and median blur; AUC on FF++, Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_blur_operation.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_blur_operation.py --datasets datasets.toml     # the experiment itself: 3 x 3 seeds
    uv run python sweeps/adfd_blur_operation.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. The paper does not say which mask it blurs, and its Gaussian row is no row
of its other tables; ours is the float32 convex hull, the nearest of them, and the operation replaces both blurs of
SBI's routine.
"""

from pipelines.sweep import Sweep, grid, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

SWEEP = Sweep(
    name="adfd_blur_operation",
    title="BBMG + NRS, Table 4: blurring operation",
    base=BASE.override(SBI | {"model.data.blend.mask.kind": "facehull"}),
    small=SHORT,
    row_name="operation",
    headings=HEADINGS,
    rows=grid(
        "model.data.blend.mask.operation",
        {
            "gaussian": "99.37 88.45 71.57 84.79 83.19 82.00",
            "average": "99.31 89.41 71.80 84.67 87.02 83.23",
            "median": "96.16 83.08 63.52 83.63 73.95 76.05",
        },
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
