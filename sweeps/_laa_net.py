"""What LAA-Net's sweeps have in common."""

from pipelines.sweep import Experiment

BASE = Experiment(
    model="laa_net",
    train_on="ffpp",
    codec="raw",  # the authors: never c23
    test_on=("celeb_df", "dfd", "dfdcp", "wild_deepfake"),
)
SMALL = {"codec": "c23"}  # the sample corpus has nothing uncompressed
# A quarter of what the small preset trains, in tables of many rows: hardly enough to tell faces apart.
SHORT = {**SMALL, "model.optim.num_epochs": 4}
