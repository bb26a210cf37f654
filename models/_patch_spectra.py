"""The frequency stream of MC-LCR: spectra of small patches, amplitude and phase asking each other.

Paper: G. Wang, Jiang, Jin, W. Li, Cui, "MC-LCR: Multi-modal contrastive classification by locally correlated
representations for effective face forgery detection", arXiv:2110.03290. Sec. 3.2 and 3.3, Eq. 2 to 11.

Shapes: B images, P pixels along a patch, N patches of an image, D width of their embedding, H = W image side.
"""

import torch
from torch import Tensor, nn

from models._layers import to_patches
from models._mc_lcr_config import AmplitudeScale, Phase

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ZERO_BIN = 1e-6  # an amplitude below this is rounding, and its phase is noise


# ---------------------------------------------------------------------------------------- spectra
def to_gray(image: Tensor, luma_3: Tensor) -> Tensor:
    """Return the brightness (B, H, W) of RGB images (B, 3, H, W), by the shares of red, green and blue."""
    return torch.einsum("bchw,c->bhw", image, luma_3)


@torch.no_grad()
def spectra(patches: Tensor, phase: Phase = "atan2") -> tuple[Tensor, Tensor]:
    """Return amplitude AS >= 0 and phase PS of the discrete Fourier transform of each patch, as patches (Eq. 2 to 4).

    patches: float32 (..., P, P) with even P. PS is in (-pi, pi] for atan2; Eq. 4 as printed, arctan(I / R), is in
    [-pi/2, pi/2] and cannot tell a bin from its negative. Where AS < `ZERO_BIN`, PS = 0.
    """
    spectrum = torch.fft.fft2(patches, norm="forward")  # Eq. 2 has 1 / P^2 here
    real, imag = spectrum.real, spectrum.imag.clone()
    half = patches.shape[-1] // 2
    # These four bins of a real patch are real: rounding would make the phase of a negative one +pi or -pi by chance.
    imag[..., ::half, ::half] = 0
    amplitude = torch.hypot(real, imag)
    angle = torch.atan2(imag, real) if phase == "atan2" else torch.atan(imag / real)
    return amplitude, torch.where(amplitude < ZERO_BIN, 0.0, angle)


# ------------------------------------------------------------------------------------------ PAPDA
class DualAttention(nn.Module):
    """Patch-wise amplitude and phase dual attention (PAPDA), Eq. 5 to 8: (E_as, E_ps) -> (AT, PT), all (B, N, D).

    The query comes from one spectrum, key and value from the other; each stream has one layer norm for its
    three roles. Both directions read the embeddings, neither reads the other's result.
    """

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_amplitude, self.norm_phase = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend_amplitude = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.attend_phase = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.drop = nn.Dropout(dropout)  # of what attention adds

    def forward(self, amplitude_BND: Tensor, phase_BND: Tensor) -> tuple[Tensor, Tensor]:
        a_BND, p_BND = self.norm_amplitude(amplitude_BND), self.norm_phase(phase_BND)
        from_amplitude_BND, _ = self.attend_amplitude(p_BND, a_BND, a_BND, need_weights=False)
        from_phase_BND, _ = self.attend_phase(a_BND, p_BND, p_BND, need_weights=False)
        return amplitude_BND + self.drop(from_amplitude_BND), phase_BND + self.drop(from_phase_BND)  # Eq. 7, 8


# ------------------------------------------------------------------------------------------ Mixer
class MixerLayer(nn.Module):
    """Eq. 9 and 10: one MLP along the patches, the same for each channel, then one along the channels."""

    def __init__(self, num_patches: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix_patches = _mlp(num_patches, dropout)  # W1, W2
        self.mix_channels = _mlp(width, dropout)  # W3, W4

    def forward(self, t_BND: Tensor) -> Tensor:
        u_BND = t_BND + self.mix_patches(self.norm1(t_BND).mT).mT
        return u_BND + self.mix_channels(self.norm2(u_BND))


def _mlp(width: int, dropout: float) -> nn.Sequential:
    """Return two layers that are as wide as their input (Table 1)."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(dropout))


class Mixer(nn.Module):
    """Eq. 11: mixer layers, layer norm, mean over patches; (B, N, D) -> (B, D)."""

    def __init__(self, num_layers: int, num_patches: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(MixerLayer(num_patches, width, dropout) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)

    def forward(self, t_BND: Tensor) -> Tensor:
        return self.norm(self.layers(t_BND)).mean(1)


# ----------------------------------------------------------------------------------------- stream
class FrequencyStream(nn.Module):
    """Sec. 3.3: RGB in [0, 1] (B, 3, input_px, input_px) -> AF, PF (B, D), float32 whatever autocast says.

    amplitude: AS as it is, in [0, 1] and next to the mean brightness of a patch mostly below 0.01; log(1 + AS),
    which is nearly the same; or log(max(AS, `ZERO_BIN`)), where all bins are of one size.
    cross_attention False: the embeddings go straight to the Mixers.
    """

    luma: Tensor

    def __init__(
        self,
        *,
        input_px: int,
        patch_px: int,
        width: int,
        num_heads: int,
        num_layers: int,
        phase: Phase = "atan2",
        amplitude: AmplitudeScale = "linear",
        cross_attention: bool = True,
        attention_dropout: float = 0.0,
        mixer_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch_px, self.phase, self.amplitude = patch_px, phase, amplitude
        self.register_buffer("luma", torch.tensor(LUMA), persistent=False)
        num_patches = (input_px // patch_px) ** 2
        # Shared by all patches; nothing says where a patch lies, the weights of `mix_patches` do.
        self.embed_amplitude = nn.Linear(patch_px**2, width)
        self.embed_phase = nn.Linear(patch_px**2, width)
        self.papda = DualAttention(width, num_heads, attention_dropout) if cross_attention else None
        self.mix_amplitude = Mixer(num_layers, num_patches, width, mixer_dropout)
        self.mix_phase = Mixer(num_layers, num_patches, width, mixer_dropout)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # All of it in float32: what a forgery changes in AS is smaller than the rounding of bf16; and half precision
        # has an FFT of sizes 2^n only.
        with torch.autocast(image.device.type, enabled=False):
            amplitude, phase = spectra(to_patches(to_gray(image.float(), self.luma), self.patch_px), self.phase)
            if self.amplitude == "log1p":
                amplitude = amplitude.log1p()
            elif self.amplitude == "log":
                amplitude = amplitude.clamp(min=ZERO_BIN).log()
            amplitude_BND = self.embed_amplitude(amplitude.flatten(2))
            phase_BND = self.embed_phase(phase.flatten(2))
            if self.papda is not None:
                amplitude_BND, phase_BND = self.papda(amplitude_BND, phase_BND)
            return self.mix_amplitude(amplitude_BND), self.mix_phase(phase_BND)
