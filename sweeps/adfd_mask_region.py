"""Which region of a face should a self-blended image blend: all of it, or single features?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 2:
SBI with four ways of drawing the mask; AUC on FF++, Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_mask_region.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_mask_region.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/adfd_mask_region.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Our reading: the global mask is the convex hull of the landmarks in 8 bit;
the local mask is SLADD's, one of its ten choices of features; "LAL and local" draws one of the two for each face.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

KIND = "model.data.blend.mask.kind"

SWEEP = Sweep(
    name="adfd_mask_region",
    title="BBMG + NRS, Table 2: mask regions of SBI",
    base=BASE.override(SBI),
    small=SHORT,
    row_name="mask",
    headings=HEADINGS,
    rows=(
        Row(
            "global", {KIND: "facehull", "model.data.blend.mask.dtype": "uint8"}, "99.01 80.31 70.40 82.37 79.58 78.17"
        ),
        Row("LAL", {KIND: "lal"}, "99.56 91.23 72.10 86.25 83.68 83.32"),
        Row("local", {KIND: "local"}, "95.89 73.99 61.70 60.89 72.08 67.17"),
        Row("LAL and local", {KIND: "lal_or_local"}, "99.29 88.73 71.70 81.55 84.49 81.62"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
