"""What each trial of a launch gets: workers, their loaders, actors; and how many trials run at once.

worker   trains on a GPU or a CPU; all workers of a trial share each step's samples
loader   a process of one CPU that decodes and prepares the samples of one worker
actor    a process that scores faces with a trained stage, once training is done
"""

from pipelines.common.cluster import DRIVER_BYTES, TRIAL_BYTES, Resources
from pipelines.launch.options import Options
from pipelines.training.job import Compute

MOST_LOADERS = 8  # of a worker: each is a process of up to 1 GB
MOST_ACTORS_PER_GPU = 4


def divide(options: Options, preset: str, resources: Resources, num_trials: int) -> tuple[Compute, int]:
    """Return what each trial gets, and how many of `num_trials` run at once.

    Raises ValueError where not even one trial fits into what Ray has.
    """
    least, most, gpus = asked(options, preset, resources)
    # Of a range, as many as the cluster has, or can grow to: training begins with fewer and takes in what comes.
    workers = most if most * gpus <= resources.gpus else int(resources.gpus / gpus)
    concurrent = trials_at_once(workers, gpus, resources, num_trials)
    loaders = loaders_per_worker(workers, gpus, resources, concurrent)
    # A trial that scores holds no more GPUs than one that trains: another may be waiting to start. Several actors
    # share one of them, since each spends most of its time on decoding.
    sharing = min(MOST_ACTORS_PER_GPU, loaders)
    actors = workers * sharing if gpus else max(1, resources.cpus // concurrent)
    compute = Compute(
        num_workers=most,
        min_workers=least if least < most else None,
        gpus_per_worker=gpus,
        num_loaders=loaders,
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
    if per_trial > resources.cpus:
        raise ValueError(
            f"{workers} workers and their loaders need {per_trial} CPUs, Ray has {resources.cpus}; "
            "choose fewer --workers"
        )
    by_cpu = resources.cpus // max(1, per_trial)
    by_memory = resources.memory_bytes // TRIAL_BYTES
    if workers and resources.head_bytes is not None:  # their drivers are all on the head
        by_memory = min(by_memory, resources.head_bytes // DRIVER_BYTES)
    by_gpu = int(resources.gpus / (workers * gpus)) if workers * gpus else num_trials
    return max(1, min(by_cpu, by_memory, by_gpu, num_trials))


def loaders_per_worker(workers: int, gpus: float, resources: Resources, concurrent: int) -> int:
    """Return how many loaders a worker gets, from 1 to `MOST_LOADERS`: the CPUs that no worker of any trial needs.

    A GPU waits for a single loader. A CPU that trains does not, and would rather have the loaders' CPUs: there it is 1.
    """
    if not workers * gpus:
        return 1
    spare = resources.cpus // (concurrent * workers) - 1
    return max(1, min(MOST_LOADERS, spare))
