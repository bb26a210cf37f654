"""Does the face detector decide what a classifier finds: dlib's HOG detector, its CNN, or RetinaFace?

No paper has this table, though papers differ in it: MC-LCR uses dlib, LRE, LAA-Net and BBMG + NRS RetinaFace. A
detector decides which frames have a face at all, and how the crop lies: a box of RetinaFace is about 1.2 times as high
as dlib's, so with the same margin its crop shows more round the face.

    uv run python sweeps/detector.py                              # no datasets: made-up sample corpus, small preset
    uv run python sweeps/detector.py --datasets datasets.toml     # the experiment itself: 3 detectors x 3 seeds
    uv run python sweeps/detector.py --dry-run                    # only the plan

dlib's wheel runs the CNN on the CPU: on one core 0.6 to 5 s for each sampled frame of a 720p video, the longer the
smaller the face, against 20 ms for HOG and 5 ms for RetinaFace. The coverage report beside the table says what each of
them found.
"""

from pipelines.sweep import Experiment, Row, Sweep, main

COLUMNS = ("ffpp", "celeb_df", "deeper_forensics", "dfdc")

SWEEP = Sweep(
    name="detector",
    title="Face detectors, Xception trained on FF++",
    base=Experiment(model="plain", train_on="ffpp", test_on=COLUMNS),
    small={"model.num_epochs": 4, "faces.num_frames": 4},
    row_name="detector",
    headings=COLUMNS,
    rows=(
        Row("dlib", {"faces.detector": "dlib"}),
        Row("dlib-cnn", {"faces.detector": "dlib-cnn"}),
        Row("retinaface", {"faces.detector": "retinaface"}),
    ),
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
