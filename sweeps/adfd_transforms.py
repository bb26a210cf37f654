"""Which differences between source and target does a self-blended image need?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 5:
SBI with LAL masks, with and without its transforms of colour, frequency and place; AUC on FF++, Celeb-DF-v2, DFDC, DFDC
preview and FFIW-10K.

    uv run python sweeps/adfd_transforms.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_transforms.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/adfd_transforms.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

SWEEP = Sweep(
    name="adfd_transforms",
    title="BBMG + NRS, Table 5: transforms of SBI",
    base=BASE.override(SBI),
    small=SHORT,
    row_name="transforms",
    headings=HEADINGS,
    rows=(
        Row("all", {}, "99.56 91.23 72.10 86.25 83.68 83.32"),
        Row("w/o color", {"model.data.blend.transform.color": False}, "99.54 90.81 69.70 82.05 82.71 81.32"),
        Row("w/o frequency", {"model.data.blend.transform.frequency": False}, "91.19 71.79 66.99 86.72 89.81 78.83"),
        Row("w/o affine", {"model.data.blend.transform.affine": False}, "99.62 80.50 61.47 78.26 73.66 73.47"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
