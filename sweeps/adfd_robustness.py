"""How much do BBMG + NRS and SBI lose on faces that were resized, blurred or compressed?

Paper: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection" (BBMG + NRS), Table
10: AUC on FF++, and its mean over Celeb-DF-v2, DFDC, DFDC preview and FFIW-10K, for clean and perturbed faces.

    uv run python sweeps/adfd_robustness.py                              # no datasets: made-up sample corpus
    uv run python sweeps/adfd_robustness.py --datasets datasets.toml     # the experiment itself: 2 x 3 seeds
    uv run python sweeps/adfd_robustness.py --dry-run                    # only the plan

Needs FF++ uncompressed, as SBI's code does. Nothing is extracted or trained for it that Table 8 has not but FF++'s
test part; every test part is scored seven times. "unseen" is the paper's "Avg": the mean over the datasets that were
not trained on. Curves for each dataset are in the report. The paper does not say whether it perturbs frames or faces:
here faces of 380 px, at which its smallest size, 128 px, is a face still (how: pipelines/faces/perturb.py).
"""

import dataclasses

from pipelines.sweep import Row, Sweep, main
from sweeps._adfd import BASE, SBI, SHORT

PERTURBATIONS = ("resize-128", "resize-256", "gaussian-3", "gaussian-5", "jpeg-50", "jpeg-100")

SWEEP = Sweep(
    name="adfd_robustness",
    title="BBMG + NRS, Table 10: perturbed faces",
    base=dataclasses.replace(BASE, perturbations=PERTURBATIONS),
    small=SHORT,
    row_name="method",
    headings=tuple(
        " ".join(filter(None, (part, name))) for name in ("", *PERTURBATIONS) for part in ("ffpp", "unseen")
    ),
    rows=(
        Row("SBI", SBI, "99.56 83.32 98.00 81.17 99.29 83.20 99.35 80.34 98.81 79.50 92.48 81.95 99.48 81.71"),
        Row("BBMG + NRS", {}, "99.52 84.50 98.16 82.26 99.29 84.34 99.32 82.09 98.90 81.33 93.35 83.04 99.51 82.53"),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
