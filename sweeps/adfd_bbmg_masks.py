"""Which of the masks that BBMG can make should it blend with?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table 12,
Fig. 7: the blurred rest of the face alone (1), with narrowed features (2), with the features as they are (3), all
without NRS; AUC on FF++, Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K.

    uv run python sweeps/adfd_bbmg_masks.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_bbmg_masks.py --datasets datasets.toml     # the experiment itself: 3 x 3 seeds
    uv run python sweeps/adfd_bbmg_masks.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. The paper does not say how far it narrows the features: ours are 0.75 of
their size (`mask.narrow`).
"""

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, HEADINGS, SHORT

BBMG = "model.data.blend.mask.bbmg"

SWEEP = Sweep(
    name="adfd_bbmg_masks",
    title="BBMG + NRS, Table 12: masks of BBMG",
    base=BASE.override({"model.nrs.enabled": False}),
    small=SHORT,
    row_name="mask",
    headings=HEADINGS,
    rows=(
        Row("1, global only", {BBMG: "global_only"}, "99.64 91.30 71.96 84.40 83.79 82.86"),
        Row("2, narrowed local", {BBMG: "narrow_local"}, "99.60 90.90 72.04 84.37 85.76 83.27"),
        Row("3, both", {BBMG: "full"}, "99.55 91.37 72.57 85.66 86.31 83.98"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
