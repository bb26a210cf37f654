"""Should a self-blended image change its source, its target, or both?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 6:
SBI with LAL masks, colour and frequency changed in the source, the target, both, or either; AUC on FF++, Celeb-DF-v2,
DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_transform_objects.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_transform_objects.py --datasets datasets.toml     # the experiment itself: 4 x 3 seeds
    uv run python sweeps/adfd_transform_objects.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. The affine transform acts on the source in all rows.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

OBJECTS = "model.data.blend.transform.objects"

SWEEP = Sweep(
    name="adfd_transform_objects",
    title="BBMG + NRS, Table 6: what SBI transforms",
    base=BASE.override(SBI),
    small=SHORT,
    row_name="transformed",
    headings=HEADINGS,
    rows=(
        Row("source", {OBJECTS: "source"}, "99.19 74.09 65.73 84.82 86.06 77.68"),
        Row("target", {OBJECTS: "target"}, "98.10 90.76 66.16 77.65 64.90 74.87"),
        Row("target and source", {OBJECTS: "target_and_source"}, "98.89 89.19 71.95 89.57 80.83 82.89"),
        Row("target or source", {OBJECTS: "either"}, "99.56 91.23 72.10 86.25 83.68 83.32"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
