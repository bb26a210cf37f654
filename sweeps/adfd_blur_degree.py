"""How wide should the blurred boundary of a self-blended image's mask be?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Fig. 5:
Gaussian blur with kernels of several sizes, around a core of the mask that stays 1. The text gives two values, of sizes
that it does not name: the lowest and the highest average, 62.39 and 72.03, of datasets that it does not name either;
both lie below all averages of Table 4. No other value can be read: none is published beside ours.

    uv run python sweeps/adfd_blur_degree.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_blur_degree.py --datasets datasets.toml     # the experiment itself: 6 x 3 seeds
    uv run python sweeps/adfd_blur_degree.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. The mask is that of Table 4 (sweeps/adfd_blur_operation.py); the sizes span
SBI's own range of 5 to 25 px.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

SWEEP = Sweep(
    name="adfd_blur_degree",
    title="BBMG + NRS, Fig. 5: degree of blurring",
    base=BASE.override(SBI | {"model.data.blend.mask.kind": "facehull", "model.data.blend.mask.fixed_core": True}),
    small=SHORT,
    row_name="kernel, px",
    headings=HEADINGS,
    rows=tuple(Row(str(px), {"model.data.blend.mask.blur_kernel": (px, px)}) for px in (5, 9, 13, 17, 21, 25)),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
