"""A detector of your own over our faces, in our tables: uv run crossforge score-detector FILE:FACTORY ...

    uv run crossforge score-detector my_detector.py:build --name "My method" --test-on celeb_df --train-on ffpp
    uv run crossforge score-detector my_detector.py:build --sweep sweeps/methods.py

FILE is a Python file of yours, which this command runs, with all rights that you have. Nothing else is loaded, and
nothing is unpickled unless your file does it. FACTORY() in it returns the network and what the network wants:

    def build():
        network = ...          # pictures (B, 3, H, W), or clips (B, T, 3, H, W), to scores (B,); set to evaluation
        return network, {"size_px": 299, "margin": 1.3, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    size_px, margin          the picture's side, and that of the crop in sides of the face's box  (224, 1.3)
    mean, std, colour        of pictures in [0, 1]: taken off, then divided by; "rgb" or "bgr"    (ImageNet's, "rgb")
    clip_frames, batch_size  T, or 1 for single pictures; pictures or clips in one call           (1, 32)
    score_is, higher_is      "probability" or "logit"; "fake" or "real"                           ("logit", "fake")
    frames                   a video's score is the "mean" of P(fake), or "mean_logit"            ("mean")
    precision                "auto": bf16 on GPUs that have it; "fp32", "bf16"                    ("auto")

It is scored as a stage of ours is: the same videos and frames, each face once. A video on which it fails counts as
failed, with the reason. The same command goes on with the parts that are not scored yet.
Exit code: 0, 1 if MLflow can't be reached, 2 for wrong input.
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from pipelines.common import cluster, command
from pipelines.common.command import not_negative
from pipelines.common.storage import check_storage
from pipelines.faces.store import ExtractionError
from pipelines.launch import switches

PROG = "python -m pipelines.score_detector"


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Return the parser of the switches."""
    p = command.parser(prog, __doc__)
    p.add_argument(
        "detector",
        type=_detector,
        metavar="FILE:FACTORY",
        help="your file, and the function in it that makes the network",
    )
    p.add_argument(
        "--name", metavar="METHOD", default="", help="what it is called in tables (default: the file's name)"
    )
    p.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings of the extraction than ours, e.g. num_frames=64 detector=dlib; see `uv run crossforge "
        "preprocess --help`",
    )
    p.add_argument(
        "--actors",
        type=not_negative,
        metavar="N",
        default=0,
        help="score in N processes of Ray, on a GPU each where there are any; 0: in this one (default: %(default)s). "
        "FILE must then lie at the same place on all nodes",
    )
    switches.add_address(p)
    switches.add_foreign(p)
    return p


def _detector(text: str) -> str:
    """Return the file and the function: `<file>:<function>`."""
    file, _, factory = text.rpartition(":")
    if not (file.endswith(".py") and factory.isidentifier()):
        raise argparse.ArgumentTypeError(f"must be FILE:FACTORY, such as my_detector.py:build; got {text!r}")
    return f"{command.path(file)}:{factory}"


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Return the exit code; see the text of the module."""
    arguments = parser(prog).parse_args(argv)
    cluster.prepare_environment(arguments.address)

    def work(console: Console) -> int:
        command.check_there(filter(None, [arguments.detector.rpartition(":")[0], arguments.sweep]))
        check_storage(arguments.storage, write=False)
        # Here: what works takes seconds to import, which `--help` does without.
        from pipelines.commands import score_detector

        return score_detector.execute(arguments, console)

    return command.main(work, errors=(ExtractionError,), stopped="stopped; the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
