"""Delocate: recover masked facial parts of real videos, then detect and localize what does not recover.

Paper: Hu, Liao, Gao, Tsutsui, Wang, Qin, Shou, "Delocate: Detection and Localization for Deepfake Videos with
Randomly-Located Tampered Traces", IJCAI 2024, arXiv:2401.13516. Sec. 3, Eq. 1 to 6, Algorithm 1.

    recover   masked autoencoder of real clips; hides regions of interest of one facial part (Sec. 3.1, Eq. 1:
              `_masking`, `_video_mae`)
    finetune  its encoder and a linear head on real and fake clips, nothing hidden (Eq. 2)
    localize  a mapping net A^m must repeat the recovered face A^r; with the face A^o it goes through an
              encoder-decoder that predicts the manipulated pixels (`_localization_net`); both classify;
              meta-learning over manipulations (Sec. 3.2, Eq. 6: `_meta_learning`)
    score     mean of finetune and localize; the recovered face is a training target and not needed to score

Differs from the paper, or settles what it leaves open:
- A clip is 16 in a row of the 30 evenly spaced frames that are kept of a video. The paper has neither a length of clips
  nor numbers of epochs, warm-up or layer decay: these are ours, after VideoMAE.
- A mask is constant in time and one part is drawn per clip (`recover.temporal`); boxes are in `_masking`.
- A^r comes from the frozen recovery model, one pass for each part: its predictions are pasted into A^o. The masks of a
  face are drawn once: A^r is the same in all epochs.
- "First convolutional layer ... first three residual blocks" of ResNet-18 are its stem and stages 1 to 3.
- Each of A^m and the encoder's deepest feature has a linear head; P(fake) is the mean of their two
  probabilities. SE-ResNeXt-50 is the default encoder (`localize.encoder`).
- The encoder starts from random weights; VideoMAE's of Kinetics are not offered. ViT-B is our choice of size.
- Eq. 5 is a threshold for evaluation, above 0.5 where it prints 0.5 and above; L_loc compares the soft mask, because a
  threshold has no gradient.
- Eq. 6 is used once, as means over the meta-train domains of its two brackets; Algorithm 1, line 24, would count three
  of its terms twice. Without meta-learning the loss counts twice, so that both take steps of one size.
- The inner step of Eq. 6 moves the mapping convolutions and the two heads, not the shared backbones, along the gradient
  of the classification loss alone (`localize.inner_loss`).
- A step holds 8 faces of each manipulation, 32 in all, where Algorithm 1 has 8.
- lr: 1e-3 in finetune is per 256 samples, as in VideoMAE; SGD in localize starts at 0.01, not 0.1.
- The paper does not say whether its AUC is of frames or of videos: of videos here.
- Eq. 3 and 4 motivate and are not computed.

Shapes: B samples, T frames, N tokens, P values of a tubelet, H = W = `input_px`, S = H / 4, K heads.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from models._config import named
from models._delocate_config import SMALL, STRATEGIES, Config, FinetuneConfig, LocalizeConfig, RecoverConfig
from models._distributed import mean_over_workers, total, world_size
from models._layers import places_of, tagged, without_prefix
from models._localization_net import LocalizationNet, Localized
from models._masking import draw_cells, flip_landmarks, part_cells
from models._meta_learning import by_domain, inner_update, split_domains
from models._schedule import parameter_groups, warmup_cosine
from models._stage import Batch, CamLayer, Feed, Mode, Sample, Stage, on_cpu
from models._video_mae import Decoder, Encoder, to_tubelets, to_video, visible_index

VERSION = 3

MAP_STRIDE = 4  # of the mapped face; the paper's 56 for 224
BRACKETS = 2  # of Eq. 6: the loss on meta-train domains, and the one on the meta-test domain


# ----------------------------------------------------------------------------------------- samples
def draw_mask(cfg: Config, landmarks: NDArray[np.float32], part: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a mask (N,), True for hidden tokens.

    landmarks: (T, 68 or 81, 2), of which 68 are used; part: one of `STRATEGIES[cfg.recover.strategy]`.
    """
    clip, recover = cfg.clip, cfg.recover
    grid, num_slots = clip.grid, clip.num_slots
    if recover.strategy == "mae":
        return draw_cells(np.ones((num_slots, grid, grid), bool), recover.mask_ratio, rng).ravel()

    def draw_slot(points: NDArray[np.float32]) -> NDArray[np.bool_]:
        if part == "clip":
            cells = np.ones((grid, grid), bool)
        else:
            cells = part_cells(points, part, grid, clip.patch_px, use_rois=recover.strategy != "without_rois")
        return draw_cells(cells, recover.mask_ratio, rng)

    if recover.temporal == "tube" or part == "clip":
        # The same positions in all slots: nothing to copy from the frame before.
        return np.tile(draw_slot(landmarks.mean(0)).ravel(), num_slots)
    by_slot = landmarks[:, :68].reshape(num_slots, clip.tubelet_frames, 68, 2).mean(1)
    return np.concatenate([draw_slot(points).ravel() for points in by_slot])


def _flipped(array: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.flip(array, axis))


def _to_unit(image: Tensor) -> Tensor:
    """Return uint8 as float32 in [0, 1]."""
    return image.float() / 255


# ----------------------------------------------------------------------------- recover and finetune
def _encoder(cfg: Config, *, final_norm: bool) -> Encoder:
    return Encoder(
        cfg.clip.num_tokens,
        cfg.clip.tubelet_values,
        cfg.vit.width,
        cfg.vit.depth,
        cfg.vit.num_heads,
        final_norm=final_norm,
        checkpoint_activations=cfg.vit.checkpoint_activations,
    )


def _encoder_settings(cfg: Config) -> dict[str, Any]:
    vit = named(cfg.vit)
    del vit["checkpoint_activations"]  # changes memory and time only
    return {"clip": named(cfg.clip), "vit": vit}


def _without_feed(cfg: FinetuneConfig | LocalizeConfig) -> dict[str, Any]:
    """Return the settings of a stage but for those that only its feed has."""
    settings = named(cfg)
    del settings["pairs"]
    return settings


def _clip_feed(cfg: Config, stage: RecoverConfig | FinetuneConfig) -> Feed:
    return Feed(
        input_px=cfg.stored_px,
        clip_frames=cfg.clip.num_frames,
        batch_size=stage.batch_size,
        num_epochs=stage.num_epochs,
        pairs=isinstance(stage, FinetuneConfig) and stage.pairs,
    )


def _tubelets(cfg: Config, image_BTHWC: Tensor) -> Tensor:
    """Cut a uint8 clip into tubelets (B, N, P) with values in [0, 1]."""
    return to_tubelets(_to_unit(image_BTHWC), cfg.clip.tubelet_frames, cfg.clip.patch_px)


class Recover(Stage):
    """Sec. 3.1: an autoencoder predicts hidden patches of one facial part of a real clip from all the others.

    Batch: image (B, T, H, W, 3) uint8, mask (B, N) bool; `derive` also part_masks (B, parts, N) bool.
    """

    name = "recover"
    view = "real_clips"
    selects_by = "loss"
    scores = False
    accumulates = "exactly"
    left_on_cpu = ("mask",)

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return _encoder_settings(cfg) | {"recover": named(cfg.recover)}

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return _clip_feed(cfg, cfg.recover)

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image, landmarks = sample["image"], sample["landmarks"]
        if mode == "train" and rng.random() < 0.5:
            image, landmarks = _flipped(image, 2), flip_landmarks(landmarks, cfg.clip.input_px)
        parts = STRATEGIES[cfg.recover.strategy]
        part = parts[rng.integers(len(parts))]
        arrays = {"image": image, "mask": draw_mask(cfg, landmarks, part, rng)}
        if mode != "train":
            arrays["part_masks"] = np.stack([draw_mask(cfg, landmarks, part, rng) for part in parts])
        return arrays

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = _encoder(cfg, final_norm=True)
        recover = cfg.recover
        self.decoder = Decoder(
            cfg.clip.num_tokens,
            cfg.clip.tubelet_values,
            cfg.vit.width,
            recover.decoder_width,
            recover.decoder_depth,
            recover.decoder_heads,
        )

    def predict(self, tubelets_BNP: Tensor, mask_BN: Tensor, num_masked: Sequence[int]) -> Tensor:
        """Predict the masked tubelets (M, P), in the order of `tubelets_BNP[mask_BN]`, from the visible ones.

        num_masked: how many each sample has.
        """
        index_BV, valid_BV = visible_index(mask_BN, num_masked)
        visible_BVP = tubelets_BNP.gather(1, index_BV[..., None].expand(-1, -1, tubelets_BNP.shape[-1]))
        encoded_BVD = self.encoder(visible_BVP, index_BV, valid_BV)
        return self.decoder(encoded_BVD, index_BV, mask_BN, sum(num_masked))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        tubelets_BNP, mask_BN = _tubelets(self.cfg, batch["image"]), batch["mask"]
        num_masked = on_cpu(batch, "mask").sum(1).tolist()
        predicted_MP = self.predict(tubelets_BNP, mask_BN, num_masked)
        true_MP = tubelets_BNP.flatten(0, 1)[places_of(mask_BN, sum(num_masked))]
        error_M = (predicted_MP.float() - true_MP).square().mean(1)
        loss = mean_over_workers(error_M.sum(), error_M.new_full((), len(error_M)))  # Eq. 1
        return {"loss": loss, "mae": loss.detach()}

    def weight(self, batch: Batch) -> float:
        """Return the number of hidden tokens: parts differ in size."""
        hidden = on_cpu(batch, "mask").sum().float()
        if world_size() > 1:
            hidden = total(hidden.to(batch["mask"].device))  # workers on GPUs sum what lies there
        return float(hidden)

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.recover
        groups = parameter_groups(self.named_parameters(), cfg.lr, cfg.weight_decay)
        optimizer = AdamW(groups, betas=(0.9, 0.95))
        return optimizer, warmup_cosine(optimizer, num_steps, num_steps * cfg.warmup_epochs // cfg.num_epochs)

    def recovered(self, batch: Batch) -> Tensor:
        """Return A^r (B, T, H, W, 3) in [0, 1]: each part is hidden in turn, its prediction pasted into A^o.

        A patch of two parts shows the later one.
        """
        clip = self.cfg.clip
        tubelets_BNP = _tubelets(self.cfg, batch["image"])
        recovered_BNP = tubelets_BNP.clone()
        num_masked_BQ = on_cpu(batch, "part_masks").sum(2)
        for mask_BN, num_masked_B in zip(batch["part_masks"].unbind(1), num_masked_BQ.unbind(1), strict=True):
            num_masked = num_masked_B.tolist()
            predicted_MP = self.predict(tubelets_BNP, mask_BN, num_masked).float().clamp(0, 1)
            recovered_BNP.flatten(0, 1)[places_of(mask_BN, sum(num_masked))] = predicted_MP
        return to_video(recovered_BNP, clip.tubelet_frames, clip.patch_px, clip.grid)

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return A^r, as in Fig. 2."""
        return {"recovered": self.recovered(batch).permute(0, 1, 4, 2, 3)}

    def derive(self, batch: Batch) -> dict[str, Tensor]:
        """Return A^r as `recovered` uint8 (B, T, S, S, 3)."""
        video = self.recovered(batch)
        frames = F.avg_pool2d(video.flatten(0, 1).permute(0, 3, 1, 2), MAP_STRIDE)
        small = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return {"recovered": small.unflatten(0, video.shape[:2])}


class Finetune(Stage):
    """Sec. 3.1, Eq. 2: the recovery encoder on whole clips, mean over tokens, norm, one logit.

    Batch: image (B, T, H, W, 3) uint8, label (B,).
    """

    name = "finetune"
    view = "clips"
    starts_from = "recover"
    accumulates = "exactly"

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return _encoder_settings(cfg) | {"finetune": _without_feed(cfg.finetune)}

    @staticmethod
    def feed(cfg: Config) -> Feed:
        return _clip_feed(cfg, cfg.finetune)

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        image = sample["image"]
        if mode == "train" and rng.random() < 0.5:
            image = _flipped(image, 2)
        return {"image": image, "label": np.asarray(sample["label"])}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = _encoder(cfg, final_norm=False)
        self.norm = nn.LayerNorm(cfg.vit.width, eps=1e-6)
        self.head = nn.Linear(cfg.vit.width, 1)
        nn.init.trunc_normal_(self.head.weight, std=0.02 * 0.001)  # starts at P(fake) = 0.5 for every clip
        nn.init.zeros_(self.head.bias)

    def load_start(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the encoder of `recover`; its closing norm and its decoder are dropped."""
        encoder = without_prefix(weights, "encoder.")
        self.encoder.load_state_dict({name: w for name, w in encoder.items() if not name.startswith("norm.")})

    def features(self, batch: Batch) -> Tensor:
        """Return the mean over tokens, normed: (B, D)."""
        tokens_BND = self.encoder(_tubelets(self.cfg, batch["image"]))
        return self.norm(tokens_BND.mean(1))

    def logit(self, batch: Batch) -> Tensor:
        """Return logits (B,), above 0 means fake."""
        return self.head(self.features(batch)).squeeze(1).float()

    def cam_layer(self) -> CamLayer:
        """Return the last block: all its tokens reach the head through their mean."""
        clip = self.cfg.clip
        shape = (clip.num_slots, clip.grid, clip.grid)
        return CamLayer(self.encoder.blocks[-1], lambda tokens_BND: tokens_BND.mT.unflatten(2, shape))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logit = self.logit(batch)
        loss = F.binary_cross_entropy_with_logits(logit, batch["label"].float())  # Eq. 2
        return {"loss": loss, "cls": loss.detach(), "logit": logit.detach()}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg, depth = self.cfg.finetune, self.cfg.vit.depth

        def lr_scale(name: str) -> float:
            """Return `layer_decay` to the power of the layers above: head, blocks from last to first, embedding."""
            if name.startswith("encoder.blocks."):
                layer = 1 + int(name.split(".")[2])
            else:
                layer = 0 if name.startswith("encoder.") else depth + 1
            return cfg.layer_decay ** (depth + 1 - layer)

        lr = cfg.base_lr * cfg.batch_size / 256
        optimizer = AdamW(parameter_groups(self.named_parameters(), lr, cfg.weight_decay, lr_scale), betas=(0.9, 0.999))
        return optimizer, warmup_cosine(optimizer, num_steps, num_steps * cfg.warmup_epochs // cfg.num_epochs)


# ---------------------------------------------------------------------------------------- localize
def mean_probability_bce(logits_BK: Tensor, label_B: Tensor) -> Tensor:
    """Return the cross-entropy (B,) of the mean of K probabilities, from their logits z.

    log(mean(sigmoid(z))) is computed without overflow.
    """
    log_heads = math.log(logits_BK.shape[1])
    log_fake_B = F.logsigmoid(logits_BK).logsumexp(1) - log_heads
    log_real_B = F.logsigmoid(-logits_BK).logsumexp(1) - log_heads
    return -torch.where(label_B.bool(), log_fake_B, log_real_B)


def losses_of_faces(out: Localized, batch: Batch) -> dict[str, Tensor]:
    """Return the terms (B,) of one bracket of Eq. 6 that the net and the batch allow: cls, map, loc.

    loc is 0 for a face whose mask is not known.
    """
    terms = {"cls": mean_probability_bce(out.logits, batch["label"])}
    if out.mapped is not None and "recovered" in batch:
        target = _to_unit(batch["recovered"]).permute(0, 3, 1, 2)
        terms["map"] = F.mse_loss(out.mapped, target, reduction="none").mean((1, 2, 3))
    if out.mask is not None:
        error_B = (out.mask - batch["mask"].float()).square().mean((1, 2))
        terms["loc"] = error_B * batch["mask_valid"]
    return terms


def losses(out: Localized, batch: Batch) -> dict[str, Tensor]:
    """Return the means of `losses_of_faces`: over all faces, of loc over those whose mask is known."""
    terms = losses_of_faces(out, batch)
    means = {name: term.mean() for name, term in terms.items()}
    if "loc" in terms:
        means["loc"] = mean_over_workers(terms["loc"].sum(), batch["mask_valid"].float().sum())
    return means


def _mean_terms(losses_by_domain: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    first = losses_by_domain[0]
    return {name: torch.stack([terms[name] for terms in losses_by_domain]).mean().detach() for name in first}


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum(0)


def _face(batch: Batch) -> Tensor:
    """Return A^o: the faces of a batch as float32 (B, 3, H, W) in [0, 1]."""
    return _to_unit(batch["image"]).permute(0, 3, 1, 2)


def mean_probability_logit(logits_BK: Tensor) -> Tensor:
    """Return the log odds (B,) of the mean of K probabilities, from their logits, without overflow."""
    return F.logsigmoid(logits_BK).logsumexp(1) - F.logsigmoid(-logits_BK).logsumexp(1)


class Localize(Stage):
    """Sec. 3.2: the mapped face and the predicted mask, trained by meta-learning over manipulations (Eq. 6).

    Batch: image (B, H, W, 3) uint8, label, domain (B,), mask (B, H, W), mask_valid (B,), and with
    `use_map_loss` recovered (B, S, S, 3) uint8. In evaluation a batch without recovered has no L_map.
    """

    name = "localize"
    view = "domain_frames"
    reads = "recover"
    differentiates_twice = True  # the outer loss is that of a network after an inner step
    accumulates = "no"  # meta-learning: every cut would need all domains, and its own inner step
    left_on_cpu = ("domain",)

    @staticmethod
    def settings(cfg: Config) -> Mapping[str, Any]:
        return {"input_px": cfg.clip.input_px, "pretrained": cfg.pretrained, "localize": _without_feed(cfg.localize)}

    @classmethod
    def reads_of(cls, cfg: Config) -> str | None:
        return cls.reads if cfg.localize.use_map_loss else None

    @staticmethod
    def pretrained_networks(cfg: Config) -> tuple[str, ...]:
        localize = cfg.localize
        used = [(localize.mapping, localize.use_mapping), (localize.encoder, localize.use_encoder_decoder)]
        return tuple(tagged(name) for name, is_used in used if is_used and cfg.pretrained)

    @staticmethod
    def feed(cfg: Config) -> Feed:
        localize = cfg.localize
        return Feed(
            input_px=cfg.stored_px,
            batch_size=localize.batch_size,
            num_epochs=localize.num_epochs,
            steps_per_epoch=localize.steps_per_epoch,
            pairs=localize.pairs,
        )

    @classmethod
    def prepare(cls, cfg: Config, sample: Sample, rng: np.random.Generator, mode: Mode) -> dict[str, NDArray[Any]]:
        images = {name: sample[name] for name in ("image", "mask")}
        if cfg.localize.use_map_loss and (mode == "train" or "recovered" in sample):
            images["recovered"] = sample["recovered"]
        if mode == "train" and rng.random() < 0.5:
            images = {name: _flipped(value, 1) for name, value in images.items()}
        return images | {name: np.asarray(sample[name]) for name in ("label", "domain", "mask_valid")}

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.cfg = cfg
        localize = cfg.localize
        self.net = LocalizationNet(
            mapping=localize.mapping if localize.use_mapping else None,
            encoder=localize.encoder if localize.use_encoder_decoder else None,
            map_widths=localize.map_widths,
            decoder_widths=localize.decoder_widths if localize.use_loc_loss else None,
            pretrained=cfg.pretrained,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and self.cfg.localize.use_meta:
            return self._meta_forward(batch)
        out = self.net(_face(batch))
        terms = losses(out, batch)
        # In training as large as Eq. 6: with and without meta-learning steps are of one size. In evaluation that of
        # each face, as the terms are means over unequal numbers of them.
        loss = BRACKETS * _sum(terms) if self.training else _sum(losses_of_faces(out, batch))
        logit = mean_probability_logit(out.logits.detach())
        return {"loss": loss, "logit": logit} | {name: term.detach() for name, term in terms.items()}

    def _meta_forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute Eq. 6: the loss, and the meta-test loss after a step; both as means over the meta-train domains.

        Parts: the terms on meta-train and, after the step, on meta-test domains; the sum of the latter before the step
        (`meta_test_before`) and after it (`meta_test_after`).
        """
        faces = by_domain(batch)
        train_domains, test_domain = split_domains(faces, int(batch["step_seed"]))
        test = faces[test_domain]
        train_terms, test_terms = [], []
        for domain in train_domains:
            train = faces[domain]
            out = self.net(_face(train))
            train_terms.append(losses(out, train))
            adapted = self._adapt(train, train_terms[-1])
            test_out = self._forward_with(adapted, test)
            test_terms.append(losses(test_out, test))
        loss = torch.stack([_sum(terms) for terms in train_terms + test_terms]).sum() / len(train_domains)
        parts = _mean_terms(train_terms)
        after = _mean_terms(test_terms)
        with torch.no_grad():
            before = losses(self._forward_with({}, test), test)
        parts |= {f"meta_test_{name}": value for name, value in after.items()}
        parts |= {"meta_test_before": _sum(before), "meta_test_after": _sum(after)}
        return {"loss": loss} | parts

    def _adapt(self, batch: Batch, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the adapted parameters after the inner steps on `batch`; `terms` are its losses before the first."""
        cfg = self.cfg.localize
        adapted: dict[str, Tensor] = {
            name: value for name, value in self.net.named_parameters() if name.startswith(LocalizationNet.ADAPTED)
        }
        for step in range(cfg.num_inner_steps):
            if step > 0:
                terms = losses(self._forward_with(adapted, batch), batch)
            loss = terms["cls"] if cfg.inner_loss == "cls" else _sum(terms)
            adapted = inner_update(adapted, loss, cfg.inner_lr, first_order=cfg.first_order)
        return adapted

    def _forward_with(self, adapted: Mapping[str, Tensor], batch: Batch) -> Localized:
        """Run the net with other parameters. Batch norm uses the batch; its running statistics go into copies."""
        buffers = {name: value.clone() for name, value in self.net.named_buffers()}
        return functional_call(self.net, {**adapted, **buffers}, (_face(batch),))

    def cam_layer(self) -> CamLayer:
        """Return the layer of the encoder's deepest feature; without an encoder the last hidden one of the mapping."""
        return CamLayer(self.net.deepest() if self.net.use_encoder else self.net.map[5])

    def logit(self, batch: Batch) -> Tensor:
        """Return the log odds (B,) of the mean of the heads' probabilities."""
        return mean_probability_logit(self.net(_face(batch)).logits)

    def features(self, batch: Batch) -> Tensor:
        """Return what the two heads get, side by side."""
        return self.net.pooled(_face(batch))

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted `mask` and the `mapped` face A^m, where the net makes them (Fig. 2 and 4)."""
        out = self.net(_face(batch))
        pictures = {"mask": out.mask, "mapped": out.mapped}
        return {name: picture for name, picture in pictures.items() if picture is not None}

    def score(self, batch: Batch) -> dict[str, Tensor]:
        out = self.net(_face(batch))
        return {"logit": mean_probability_logit(out.logits)} | ({} if out.mask is None else {"mask": out.mask})

    def optimizer(self, num_steps: int) -> tuple[Optimizer, LRScheduler]:
        cfg = self.cfg.localize
        optimizer: Optimizer
        if cfg.optimizer == "sgd":
            optimizer = SGD(self.parameters(), lr=cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        else:
            optimizer = Adam(self.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
        return optimizer, warmup_cosine(optimizer, num_steps)


STAGES = (Recover, Finetune, Localize)

__all__ = ["SMALL", "STAGES", "STRATEGIES", "VERSION", "Config"]
