"""What the sweeps of BBMG + NRS have in common."""

from pipelines.sweep import Experiment

DATASETS = ("ffpp", "celeb_df", "dfdc", "dfdcp", "ffiw")
HEADINGS = (*DATASETS, "unseen")  # the paper's "Avg w/o FF++" is the mean over the others; its "Avg" follows
BASE = Experiment(
    model="adfd",
    train_on="ffpp",
    codec="raw",  # as in SBI's code, which this paper builds on
    test_on=DATASETS,
    failed_videos="half",  # Sec. 4.1: a video without a face scores 0.5
)
# The paper's baseline: SBI with the landmark masks (LAL) of Face X-ray.
SBI = {"model.data.blend.mask.kind": "lal", "model.nrs.enabled": False}
# The sample corpus has nothing uncompressed. Frames are fixed, as in the paper; the small preset draws them.
SMALL = {"codec": "c23", "model.optim.fixed_frames": True}
# Half of what the small preset trains, in tables of many rows: hardly enough to tell faces apart.
SHORT = {**SMALL, "model.optim.num_epochs": 6, "model.optim.decay_start": 4, "model.nrs.start_epoch": 3}
