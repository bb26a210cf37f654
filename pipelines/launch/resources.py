"""What each trial of a launch gets: workers, their loaders, actors; and how many trials run at once.

worker   trains on a GPU or a CPU; all workers of a trial share each step's samples
loader   a process of one CPU that decodes and prepares the samples of one worker
actor    a process that scores faces with a trained stage, once training is done
"""

from pipelines.common.cluster import DRIVER_BYTES, TRIAL_BYTES, Resources
from pipelines.launch.options import Options
from pipelines.training.job import Compute

LOADER_BYTES = 2**30  # a loader's process, at most
# Of a worker: what keeps an H100 busy. CPU seconds that a sample takes, as measured, x samples/s come to 3.4 with
# Xception, 2.5 with EfficientNet-B4, 6.6 with clips of 16 frames, 2 with BBMG's pairs and 0.8 with LAA-Net's.
ENOUGH_LOADERS = 8
MOST_ACTORS_PER_GPU = 4


def divide(options: Options, preset: str, resources: Resources, num_trials: int) -> tuple[Compute, int]:
    """Return what each trial gets, and how many of `num_trials` run at once.

    Raises ValueError where not even one trial fits into what Ray has.
    """
    least, most, gpus = asked(options, preset, resources)
    # Of a range, as many as the cluster has, or can grow to: training begins with fewer and takes in what comes.
    workers = most if most * gpus <= resources.gpus else int(resources.gpus / gpus)
    concurrent = trials_at_once(workers, gpus, resources, num_trials)
    loaders, on_node = loaders_per_worker(workers, gpus, resources, concurrent)
    # A trial that scores holds no more GPUs than one that trains: another may be waiting to start. Several actors
    # share one of them, since each spends most of its time on decoding.
    sharing = min(MOST_ACTORS_PER_GPU, loaders)
    actors = workers * sharing if gpus else max(1, resources.cpus // concurrent)
    compute = Compute(
        num_workers=most,
        min_workers=least if least < most else None,
        gpus_per_worker=gpus,
        num_loaders=loaders,
        loaders_on_node=on_node,
        # One actor would take seconds to start and do what the trial's process can do.
        scoring_actors=actors if workers or actors > 1 else 0,
        gpus_per_actor=gpus / sharing,
        accumulate=options.accumulate,
    )
    return compute, concurrent


def asked(options: Options, preset: str, resources: Resources) -> tuple[int, int, float]:
    """Return the fewest and the most workers of a trial, and the GPUs of each, a fraction maybe.

    Raises ValueError for GPUs that Ray has not got, and for a range of workers without GPUs.
    """
    default = 1 if preset == "paper" else 0
    least, most = options.workers or (default, default)
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if most and resources.gpus else 0.0
    if gpus < 0 or least * gpus > resources.gpus:
        raise ValueError(
            f"a trial wants {least} workers with {gpus:g} GPUs each, Ray has {resources.gpus} GPUs; "
            "choose --workers and --gpus-per-worker to fit"
        )
    if most > 1 and 0 < gpus < 1:
        raise ValueError(
            f"--workers {most if least == most else f'{least}-{most}'} --gpus-per-worker {gpus:g}: the workers of one "
            "trial can't share a GPU, as NCCL refuses it; choose --workers 1, so that trials share one, or whole GPUs"
        )
    if least < most and not gpus:
        raise ValueError(
            f"--workers {least}-{most}: a range is for workers with GPUs; without, those of a cluster that has "
            "shrunk would take the CPUs that their own loaders need; choose one number"
        )
    return least, most, gpus


def trials_at_once(workers: int, gpus: float, resources: Resources, num_trials: int) -> int:
    """Return how many trials of so many workers have room for themselves and one loader of each worker.

    Raises ValueError where not even one has.
    """
    per_trial = 2 * workers  # CPUs
    beside = beside_worker(gpus, resources) >= 1  # they have them beside their GPUs
    if per_trial > resources.cpus and not beside:
        raise ValueError(
            f"{workers} workers and their loaders need {per_trial} CPUs, Ray has {resources.cpus}; "
            "choose fewer --workers"
        )
    by_cpu = num_trials if beside else resources.cpus // max(1, per_trial)
    by_memory = resources.memory_bytes // TRIAL_BYTES
    if workers and resources.head_bytes is not None:  # their drivers are all on the head
        by_memory = min(by_memory, resources.head_bytes // DRIVER_BYTES)
    by_gpu = int(resources.gpus / (workers * gpus)) if workers * gpus else num_trials
    return max(1, min(by_cpu, by_memory, by_gpu, num_trials))


def loaders_per_worker(workers: int, gpus: float, resources: Resources, concurrent: int) -> tuple[int, bool]:
    """Return how many loaders a worker gets, from 1 to `ENOUGH_LOADERS`, and whether they run on its own node.

    A GPU waits for a single loader. It gets the CPUs that no worker of any trial needs, as far as memory goes. A CPU
    that trains does not wait, and would rather have the loaders' CPUs: there it is 1. Where nodes with GPUs have roles,
    the CPUs beside a GPU load for it, unless nodes for video have room for more loaders.
    """
    if not workers * gpus:
        return 1, False
    everywhere = concurrent * workers
    memory = resources.memory_bytes - concurrent * TRIAL_BYTES
    most = min(ENOUGH_LOADERS, memory // (everywhere * LOADER_BYTES))
    beside, elsewhere = min(most, beside_worker(gpus, resources)), min(most, resources.cpus // everywhere - 1)
    return max(1, beside, elsewhere), 1 <= beside >= elsewhere


def beside_worker(gpus: float, resources: Resources) -> int:
    """Return the CPUs of its own node that a worker's loaders may take: those of its GPUs, but one for itself."""
    return int(resources.cpus_per_gpu * gpus) - 1
