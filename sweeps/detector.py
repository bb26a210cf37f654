"""Does the face detector decide what a classifier finds: dlib's HOG detector, or its CNN?

No paper has this table, though papers differ in it: MC-LCR uses dlib, LRE, LAA-Net and BBMG + NRS RetinaFace. A
detector decides which frames have a face at all, and how the crop lies.

    python sweeps/detector.py                              # no datasets: made-up sample corpus, small preset
    python sweeps/detector.py --datasets datasets.toml     # the experiment itself: 2 detectors x 3 seeds
    python sweeps/detector.py --dry-run                    # only the plan

dlib's wheel runs the CNN on the CPU: on one core 0.6 to 5 s for each sampled frame of a 720p video, the longer the
smaller the face, against 20 ms for HOG. The coverage report beside the table says what each of them found.
"""

from math import nan

from pipelines.sweep import Experiment, Sweep, main

COLUMNS = ("ffpp", "celeb_df", "deeper_forensics", "dfdc")

SWEEP = Sweep(
    name="detector",
    title="Face detectors, Xception trained on FF++",
    base=Experiment(model="plain", train_on="ffpp", test_on=COLUMNS),
    small={"model.num_epochs": 4, "faces.num_frames": 4},
    row_name="detector",
    rows={"dlib": {}, "dlib-cnn": {"faces.detector": "dlib-cnn"}},
    published={row: dict.fromkeys(COLUMNS, nan) for row in ("dlib", "dlib-cnn")},
)

if __name__ == "__main__":
    main(SWEEP, __doc__)
