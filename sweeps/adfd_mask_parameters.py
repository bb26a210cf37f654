"""Does it matter how the mask of a self-blended image is drawn: line, number type, region?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 3:
SBI with masks of other parameters; AUC on FF++, Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_mask_parameters.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_mask_parameters.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/adfd_mask_parameters.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Two of the paper's six rows would be other rows again and do not run:
"LINE_8, uint8, 255" has the values of "LINE_8, uint8, 1" to the last digit; OpenCV draws float masks without
anti-aliasing, so "LINE_AA, float32, 255, facehull" is "LINE_8, float32, 1": their difference is the paper's own spread.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

HULL = {"model.data.blend.mask.kind": "facehull"}
IN_8_BIT = {"model.data.blend.mask.dtype": "uint8"}
SMOOTH = {"model.data.blend.mask.line": "aa"}
SAME = "its masks are those of the row above: nothing was run for it"

SWEEP = Sweep(
    name="adfd_mask_parameters",
    title="BBMG + NRS, Table 3: mask parameters of SBI",
    base=BASE.override(SBI),
    small=SHORT,
    row_name="mask",
    headings=HEADINGS,
    rows=(
        Row("LINE_8, uint8, 1, facehull", HULL | IN_8_BIT, "99.01 80.31 70.40 82.37 79.58 78.17"),
        Row("LINE_8, uint8, 255, facehull", published="99.01 80.31 70.40 82.37 79.58 78.17", note=SAME),
        Row("LINE_AA, uint8, 1, facehull", HULL | IN_8_BIT | SMOOTH, "99.05 79.67 70.37 83.19 79.88 78.28"),
        Row("LINE_8, float32, 1, facehull", HULL, "99.36 89.74 71.52 84.05 85.76 82.77"),
        Row("LINE_AA, float32, 255, facehull", published="99.36 88.23 71.46 84.54 85.41 82.41", note=SAME),
        Row("LINE_AA, float32, 255, LAL", {}, "99.56 91.23 72.10 86.25 83.68 83.32"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
