"""Should a self-blended image show its source in full, or at times only in part?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 7:
SBI with LAL masks, its ratio of blending drawn from {0.25, 0.5, 0.75, 1, 1, 1} (dynamic) or always 1 (alpha); AUC on
FF++, Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_blending.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_blending.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    uv run python sweeps/adfd_blending.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does.
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SBI, SHORT

RATIOS = "model.data.blend.ratios"

SWEEP = Sweep(
    name="adfd_blending",
    title="BBMG + NRS, Table 7: blending ratio of SBI",
    base=BASE.override(SBI),
    small=SHORT,
    row_name="blend",
    headings=HEADINGS,
    rows=(
        Row("dynamic", {RATIOS: (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)}, "99.56 91.23 72.10 86.25 83.68 83.32"),
        Row("alpha", {RATIOS: (1.0,)}, "98.61 87.02 67.83 80.80 81.25 79.23"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
