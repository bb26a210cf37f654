"""NRS, ADFD's noise refinement: pseudo-fakes that look like real faces count less in the loss.

Source: Wang, Chen et al., "Explore and Enhance the Generalization of Anomaly DeepFake Detection", Sec. 3.4, Eqs. 5
and 6, Algorithm 1; Table 13 for the options.

In every epoch t >= T_k - 1 a memory takes up the features of the most confidently real faces, as the training's own
forward passes make them (Algorithm 1, line 19). k-means of it gives the centres C that epoch t + 1 compares with.
Memory and centres are buffers, equal on all workers and part of a checkpoint.

Shapes: B rows of this worker, M = `memory_size`, K = `num_centres`, D width of a feature.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models._adfd_config import NrsConfig
from models._distributed import broadcast, gather


class NoiseRefinement(nn.Module):
    """The memory of real features, its centres, and the weights of pseudo-fakes."""

    epoch: Tensor  # () int64, counted from 1; 0 before the training
    features: Tensor  # (M, D) float32; ordered by key
    rank: Tensor  # (M,) float32: the higher, the sooner kept; -inf where the memory is empty
    keys: Tensor  # (M,) int64
    centres: Tensor  # (K, D) float32
    num_clustered: Tensor  # () int64: features that the centres were made of; 0: there are no centres

    def __init__(self, cfg: NrsConfig, width: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("features", torch.zeros(cfg.memory_size, width))
        self.register_buffer("rank", torch.full((cfg.memory_size,), -torch.inf))
        self.register_buffer("keys", torch.full((cfg.memory_size,), -1))
        self.register_buffer("centres", torch.zeros(cfg.num_centres, width))
        self.register_buffer("num_clustered", torch.tensor(0))
        # What decides on the way of a step: to read it from a buffer in each is to wait for the GPU.
        self.takes_up, self.active = False, False
        self.register_load_state_dict_post_hook(_loaded)

    def start_epoch(self, epoch: int) -> None:
        """From epoch T_k on, make the centres of what the last epoch left in the memory; empty the memory.

        From then on `active` says whether there are centres, so that weights can differ from 1.
        """
        self.epoch.fill_(epoch)
        remembered = self.features[self.rank > -torch.inf]
        usable = epoch >= self.cfg.start_epoch and len(remembered) >= self.cfg.num_centres
        self.num_clustered.fill_(len(remembered) if usable else 0)
        if usable:
            self.centres.copy_(broadcast(k_means(remembered, self.cfg.num_centres)))
        self.features.zero_()
        self.rank.fill_(-torch.inf)
        self.keys.fill_(-1)
        self._read_buffers()

    def _read_buffers(self) -> None:
        self.takes_up = int(self.epoch) >= self.cfg.start_epoch - 1
        self.active = int(self.num_clustered) > 0

    @torch.no_grad()
    def collect(self, features_BD: Tensor, margin_B: Tensor, keys_B: Tensor, seed: int) -> None:
        """Take the real faces of a step, of all workers, into the memory if they are among the epoch's best k_s.

        margin_B: logit of real minus logit of fake, which ranks as P_real does, without its ties near 1; faces taken
        for fakes (margin <= 0) are left out. keys_B: a face counts once, with its highest rank. seed: of the step,
        the same on all workers; with filter `random` it draws the ranks. Before epoch T_k - 1 nothing happens.
        """
        if not self.takes_up:
            return
        features, margin, keys = (gather(x) for x in (features_BD.float(), margin_B.float(), keys_B))
        if self.cfg.filter == "random":
            drawn = torch.rand(len(keys), generator=torch.Generator().manual_seed(seed)).to(margin)
            # In the order of the keys, so that it does not matter which worker brings which face.
            rank = torch.empty_like(margin).scatter_(0, keys.argsort(stable=True), drawn)
        else:
            rank = margin.masked_fill(margin <= 0, -torch.inf)

        # The memory and the new faces: of each key the best row stays, and of these the best k_s.
        features = torch.cat([self.features, features])
        rank, keys = torch.cat([self.rank, rank]), torch.cat([self.keys, keys])
        order = rank.argsort(descending=True, stable=True)
        repeated = (keys[order][:, None] == keys[order]).tril(-1).any(1)
        unfit = repeated | (rank[order] == -torch.inf)
        # A sort for each choice, and the unfit at the end: how many are fit is not asked, as that waits for the GPU.
        best = order[unfit.to(torch.uint8).argsort(stable=True)][: self.cfg.memory_size]
        empty = torch.arange(len(best), device=best.device) >= (~unfit).sum()
        # By key: k-means starts from places in the memory, and they must not hang on rounding.
        by_key = keys[best].masked_fill(empty, torch.iinfo(keys.dtype).max).argsort(stable=True)
        best, empty = best[by_key], empty[by_key]
        self.features.copy_(features[best].masked_fill(empty[:, None], 0))
        self.rank.copy_(rank[best].masked_fill(empty, -torch.inf))
        self.keys.copy_(keys[best].masked_fill(empty, -1))

    def distance(self, features_BD: Tensor) -> Tensor:
        """Return the distance (B,) to the nearest centre, of vectors scaled to length 1: float32 in [0, 2]."""
        with torch.autocast(features_BD.device.type, enabled=False):
            f_B1D = F.normalize(features_BD.float(), dim=1)[:, None]
            c_KD = F.normalize(self.centres, dim=1)
            cosine = self.cfg.distance == "cosine"
            distance_BK = 1 - (f_B1D * c_KD).sum(2) if cosine else (f_B1D - c_KD).norm(dim=2)
            return distance_BK.min(1).values.clamp(0, 2)

    def weight(self, distance_B: Tensor) -> Tensor:
        """Return the weights (B,) of pseudo-fakes at these distances (Eq. 5 and 6); 1 while there are no centres."""
        if not self.active:
            return torch.ones_like(distance_B)
        share = self.epoch / self.cfg.beta
        noise_B = (distance_B * share + (1 - share)).clamp(max=1)  # l2 distances can lie above 1
        return torch.where(distance_B < self.cfg.threshold, noise_B, 1.0)


def _loaded(refinement: NoiseRefinement, keys: object) -> None:
    """Follow the buffers that were loaded; not a lambda, which can't be pickled."""
    refinement._read_buffers()


def k_means(features_MD: Tensor, num_centres: int) -> Tensor:
    """Return the centres (K, D) of Euclidean k-means: k-means++, the best of 10 starts, always the same ones."""
    from sklearn.cluster import KMeans  # takes a second to import

    points = features_MD.detach().cpu().numpy().astype(np.float64)
    clusters = KMeans(num_centres, init="k-means++", n_init=10, random_state=0).fit(points)
    return torch.from_numpy(clusters.cluster_centers_).to(features_MD)
