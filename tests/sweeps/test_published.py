"""The numbers that stand beside ours, typed from the papers a second time, line by line as they print them.

A line is a row's label, `:`, and its values in %, `-` where the paper gives none. Where a line holds several groups of
columns side by side, their names stand behind the text, `;` between them: of it becomes a row for each group. Lines
behind these are of no group.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.experiments.sweep import Sweep

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "sweeps").glob("[!_]*.py"))

PRINTED: Mapping[str, tuple[str, ...]] = {
    # ------------------------------------------------------------------------------------- Delocate
    "delocate_cross_dataset": (  # Table 1
        "celeb_df, celeb_df eer, deeper_forensics, deeper_forensics eer, dfdc, dfdc eer",
        """
        MultiAtt: 76.7 32.8 72.4 34.7 67.3 38.3
        LipForensics: 82.4 24.2 97.6 10.6 73.5 36.5
        Huang et al.: 83.8 24.9 90.8 15.3 81.2 26.8
        OST: 74.8 31.2 95.1 9.7 83.3 25.0
        RECCE: 73.7 30.3 89.3 16.9 74.0 31.1
        MRL: 86.7 18.3 91.1 15.6 74.5 30.1
        DisGRL: 76.7 28.3 88.4 18.5 74.8 30.0
        Kong et al.: 70.7 35.5 82.6 24.7 63.3 40.8
        Zhao et al.: 74.8 30.0 80.9 25.8 79.0 26.1
        Chao et al.: 86.2 18.1 99.0 7.6 82.5 25.1
        Delocate: 91.3 14.1 99.1 6.6 84.0 24.7
        """,
    ),
    "delocate_one_manipulation": (  # Table 2
        "celeb_df, deeper_forensics, dfdc",
        """
        MultiAtt: 68.7 80.6 70.1 69.6 81.9 68.6 70.4 82.5 70.1 70.2 82.9 66.9
        LipForensics: 69.3 90.1 70.8 69.1 72.4 71.4 72.3 71.9 71.8 70.9 73.2 69.8
        Huang et al.: 72.9 90.9 72.8 74.2 91.2 75.8 72.7 89.9 71.9 74.8 91.3 73.5
        OST: 76.6 93.8 75.7 79.9 94.7 79.8 79.2 90.9 80.2 75.3 92.9 75.2
        RECCE: 69.7 78.0 68.0 70.5 75.7 71.1 69.7 73.3 71.1 70.1 74.5 70.2
        MRL: 72.9 79.3 72.2 70.6 79.5 71.2 73.1 84.2 70.5 71.4 82.1 72.4
        DisGRL: 71.5 79.2 70.2 70.3 78.9 72.0 73.3 82.9 71.0 72.8 83.7 72.3
        Kong et al.: 69.3 80.8 62.6 68.4 79.4 62.1 69.2 79.2 62.9 70.1 79.2 62.3
        Zhao et al.: 71.2 79.8 76.2 70.4 79.6 76.1 73.0 79.0 75.9 71.8 79.2 74.6
        Chao et al.: 72.4 89.1 75.0 79.7 90.6 76.2 80.4 90.5 80.1 75.4 91.6 72.3
        Delocate: 78.2 94.5 76.3 80.9 93.3 79.9 81.6 91.5 80.8 76.8 90.9 75.9
        """,
        "Deepfakes; Face2Face; FaceSwap; NeuralTextures",
    ),
    "delocate_localization": (  # Table 3, which prints 0.801
        "celeb_df iou, celeb_df pbca, deeper_forensics iou, deeper_forensics pbca, dfdc iou, dfdc pbca",
        """
        Kong et al.: 70.9 72.1 84.3 82.6 61.6 62.4
        Zhao et al.: 78.9 76.7 90.4 90.5 70.8 70.6
        Chao et al.: 79.8 78.4 92.1 91.9 74.1 72.6
        Delocate: 80.1 80.2 93.7 92.6 73.8 72.7
        """,
    ),
    "delocate_in_dataset": (  # Table 4
        "auc",
        """
        MultiAtt: 99.6 100 99.3 98.3
        LipForensics: 99.8 100 99.3 99.7
        Huang et al.: 99.6 99.8 99.5 98.4
        OST: 99.0 98.8 99.1 95.9
        RECCE: 99.7 99.9 99.2 98.4
        MRL: 99.2 98.1 97.3 98.6
        DisGRL: 99.0 99.1 98.3 99.6
        Kong et al.: 99.7 99.6 99.4 98.9
        Zhao et al.: 99.8 99.4 99.0 97.9
        Chao et al.: 100 100 99.9 99.4
        Delocate: 99.8 99.7 99.7 99.3
        """,
        "Deepfakes; FaceSwap; Face2Face; NeuralTextures",
    ),
    "mask_ratio": (  # Table 5
        "celeb_df, deeper_forensics, dfdc",
        """
        0.55: 89.0 94.2 80.8
        0.65: 90.6 92.6 81.8
        0.75: 91.3 99.1 84.0
        0.85: 90.3 92.8 81.9
        0.95: 89.9 92.7 81.0
        """,
    ),
    "delocate_mask_strategy": (  # Table 6
        "celeb_df, deeper_forensics, dfdc",
        """
        MAE: 86.4 95.8 79.1
        VideoMAE: 86.5 95.6 79.5
        eyes: 91.1 98.7 80.1
        cheek and nose: 90.2 88.2 81.3
        lips: 90.8 88.2 81.7
        w/o ROIs: 90.9 88.9 83.5
        proposed: 91.3 99.1 84.0
        """,
    ),
    "delocate_components": (  # Table 7
        "celeb_df, deeper_forensics, dfdc",
        """
        MAE: 76.4 88.2 71.1
        VideoMAE: 77.4 89.3 71.8
        w/o Recovering: 89.0 96.5 80.9
        w/o Localization: 85.8 95.4 80.0
        w/o Meta-learning: 89.6 96.1 81.4
        w/o Mapping: 88.2 95.3 80.9
        w/o Encoder-Decoder: 89.9 96.7 82.8
        MAE + Localization: 82.8 92.9 75.1
        VideoMAE + Localization: 83.7 93.2 75.8
        RECCE + Localization: 81.8 92.4 76.2
        Delocate: 91.3 99.1 84.0
        meta rate 0.01: - - -
        meta rate 0.1: - - -
        """,
    ),
    # -------------------------------------------------------------------------------------- LAA-Net
    "laa_net_cross_dataset": (  # Table 1
        "ffpp, celeb_df, celeb_df ap, wild_deepfake, wild_deepfake ap, dfd, dfd ap, dfdcp, dfdcp ap",
        """
        Xception: 99.09 61.18 66.93 65.29 55.37 89.75 85.48 69.90 91.98
        Face X-ray + BI: 99.20 79.5 - - - 95.40 93.34 65.5 -
        LRNet: - 53.20 - - - 52.29 - - -
        LocalRL: 99.92 78.26 - - - 89.24 - 76.53 -
        TI2Net: - 68.22 - - - 72.03 - - -
        Multi-attentional: - 68.26 75.25 73.56 73.79 92.95 96.51 63.02 -
        RECCE: - 70.93 70.35 68.16 54.41 98.26 79.42 - -
        SFDG: 99.53 75.83 - 69.27 - 88.00 - 73.63 -
        EIC + IIE: 99.32 83.80 - - - 93.92 - 81.23 -
        AltFreezing: 98.6 89.50 - - - 98.50 - - -
        CADDM: 99.79 93.88 91.12 74.48 75.23 99.03 99.59 - -
        UCF: - 82.4 - - - 94.5 - 80.5 -
        Controllable GS: - 84.97 - - - - - 81.65 -
        PCL + I2G: 99.11 90.03 - - - 99.07 - 74.27 -
        SBI: 99.64 93.18 85.16 67.47 55.87 97.56 92.79 86.15 93.24
        AUNet: 99.46 92.77 - - - 99.22 - 86.16 -
        LAA-Net (BI): 99.95 86.28 91.93 57.13 56.89 99.51 99.80 69.69 93.67
        LAA-Net (SBI): 99.96 95.40 97.64 80.03 81.08 98.43 99.40 86.94 97.70
        """,
    ),
    "laa_net_components": (  # Table 3
        "celeb_df, dfd, dfdcp, wild_deepfake",
        """
        none: 74.54 92.24 70.81 59.81
        E-FPN: 80.89 94.53 77.93 67.12
        H: 84.21 95.03 80.68 65.47
        H + E-FPN: 95.56 98.54 82.21 74.98
        C + E-FPN: 79.87 94.60 71.70 72.47
        C + H: 91.56 98.27 78.35 73.02
        C + H + E-FPN: 95.40 98.43 86.94 80.03
        """,
    ),
    "laa_net_feature_levels": (  # Table 4; its lines hold FPN and E-FPN side by side
        "celeb_df, dfd, wild_deepfake, dfdcp",
        """
        F6: 91.56 98.27 73.02 78.35
        F6 to F5, FPN: 93.42 98.59 73.78 78.40
        F6 to F5, E-FPN: 91.79 97.12 71.39 75.80
        F6 to F4, FPN: 88.72 97.96 69.40 71.91
        F6 to F4, E-FPN: 92.86 98.95 74.93 83.97
        F6 to F3, FPN: 88.35 98.89 70.94 79.02
        F6 to F3, E-FPN: 95.40 98.43 80.03 86.94
        F6 to F2, FPN: 92.16 96.58 65.17 74.31
        F6 to F2, E-FPN: 94.22 97.31 72.54 82.90
        """,
    ),
    "laa_net_loss_weights": (  # Table 5
        "celeb_df, dfdcp, wild_deepfake",
        """
        1, 1: 90.69 78.12 70.98
        10, 10: 95.73 85.87 73.56
        100, 100: 93.72 78.60 75.25
        100, 10: 93.05 83.86 76.72
        10, 100: 95.40 86.94 80.03
        """,
    ),
    "laa_net_robustness": (  # Table 2; the clean value from Table 1
        "auc, saturation, contrast, block, noise, blur, pixelation",
        """
        Xception: - 99.3 98.6 99.7 53.8 60.2 74.2
        Face X-ray: - 97.6 88.5 99.1 49.8 63.8 88.6
        LipForensics: - 99.9 99.6 87.4 73.8 96.1 95.6
        CADDM: - 99.6 99.8 99.8 87.4 99.0 98.8
        LAA-Net: 99.96 99.96 99.96 99.96 53.9 98.22 99.80
        """,
    ),
    # ----------------------------------------------------------------------------------- BBMG + NRS
    "adfd_mask_region": (  # Table 2
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        global: 99.01 80.31 70.40 82.37 79.58 78.17
        LAL: 99.56 91.23 72.10 86.25 83.68 83.32
        local: 95.89 73.99 61.70 60.89 72.08 67.17
        LAL and local: 99.29 88.73 71.70 81.55 84.49 81.62
        """,
    ),
    "adfd_mask_parameters": (  # Table 3
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        LINE_8, uint8, 1, facehull: 99.01 80.31 70.40 82.37 79.58 78.17
        LINE_8, uint8, 255, facehull: 99.01 80.31 70.40 82.37 79.58 78.17
        LINE_AA, uint8, 1, facehull: 99.05 79.67 70.37 83.19 79.88 78.28
        LINE_8, float32, 1, facehull: 99.36 89.74 71.52 84.05 85.76 82.77
        LINE_AA, float32, 255, facehull: 99.36 88.23 71.46 84.54 85.41 82.41
        LINE_AA, float32, 255, LAL: 99.56 91.23 72.10 86.25 83.68 83.32
        """,
    ),
    "adfd_blur_operation": (  # Table 4
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        gaussian: 99.37 88.45 71.57 84.79 83.19 82.00
        average: 99.31 89.41 71.80 84.67 87.02 83.23
        median: 96.16 83.08 63.52 83.63 73.95 76.05
        """,
    ),
    "adfd_blur_degree": (  # Fig. 5
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        5: - - - - - -
        9: - - - - - -
        13: - - - - - -
        17: - - - - - -
        21: - - - - - -
        25: - - - - - -
        """,
    ),
    "adfd_transforms": (  # Table 5
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        all: 99.56 91.23 72.10 86.25 83.68 83.32
        w/o color: 99.54 90.81 69.70 82.05 82.71 81.32
        w/o frequency: 91.19 71.79 66.99 86.72 89.81 78.83
        w/o affine: 99.62 80.50 61.47 78.26 73.66 73.47
        """,
    ),
    "adfd_transform_objects": (  # Table 6
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        source: 99.19 74.09 65.73 84.82 86.06 77.68
        target: 98.10 90.76 66.16 77.65 64.90 74.87
        target and source: 98.89 89.19 71.95 89.57 80.83 82.89
        target or source: 99.56 91.23 72.10 86.25 83.68 83.32
        """,
    ),
    "adfd_blending": (  # Table 7
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        dynamic: 99.56 91.23 72.10 86.25 83.68 83.32
        alpha: 98.61 87.02 67.83 80.80 81.25 79.23
        """,
    ),
    "adfd_cross_dataset": (  # Table 8
        "celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        DSP-FWA: 69.30 - - - 69.30
        Face X-ray + BI, real faces: - - 71.15 - 71.15
        Face X-ray + BI, real and fake: - - 80.92 - 80.92
        Two-branch: 76.65 - - - 76.65
        DAM: 75.30 - 72.80 - 74.05
        LipForensics: 82.40 - - - 82.40
        FTCN: 86.90 71.00 74.00 74.47 76.59
        LRL: 78.26 - 76.53 - 77.40
        FRDM: 79.40 - 79.70 - 79.55
        PCL + I2G: 90.03 67.52 74.37 - 77.31
        SBI: 91.23 72.10 86.25 83.68 83.32
        SLADD: 79.70 - 76.00 - 77.85
        BBMG + NRS: 91.37 72.98 85.89 87.77 84.50
        """,
    ),
    "adfd_cross_manipulation": (  # Table 9
        "ffpp/Deepfakes, ffpp/Face2Face, ffpp/FaceSwap, ffpp/NeuralTextures, ffpp",
        """
        Face X-ray + BI: 99.17 98.57 98.21 98.13 98.52
        PCL + I2G: 100.00 98.93 99.86 97.63 99.11
        SLADD: - - - - 98.40
        SBI: 99.99 99.77 99.90 98.57 99.56
        BBMG + NRS: 99.98 99.83 99.89 98.38 99.52
        """,
    ),
    "adfd_components": (  # Table 11; FF++ from Table 9 (first and last row) and Table 12 (row 3)
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        neither: 99.56 91.23 72.10 86.25 83.68 83.32
        BBMG: 99.55 91.37 72.57 85.66 86.31 83.98
        NRS: - 91.38 72.80 86.50 86.18 84.22
        BBMG + NRS: 99.52 91.37 72.98 85.89 87.77 84.50
        other frames in each epoch: - - - - - -
        """,
    ),
    "adfd_robustness": (  # Table 10, on its side: FF++ and Avg of raw, resize, blur, JPEG
        "ffpp, unseen, ffpp resize-128, unseen resize-128, ffpp resize-256, unseen resize-256, ffpp gaussian-3, "
        "unseen gaussian-3, ffpp gaussian-5, unseen gaussian-5, ffpp jpeg-50, unseen jpeg-50, ffpp jpeg-100, "
        "unseen jpeg-100",
        """
        SBI: 99.56 83.32 98.00 81.17 99.29 83.20 99.35 80.34 98.81 79.50 92.48 81.95 99.48 81.71
        BBMG + NRS: 99.52 84.50 98.16 82.26 99.29 84.34 99.32 82.09 98.90 81.33 93.35 83.04 99.51 82.53
        """,
    ),
    "adfd_bbmg_masks": (  # Table 12
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        1, global only: 99.64 91.30 71.96 84.40 83.79 82.86
        2, narrowed local: 99.60 90.90 72.04 84.37 85.76 83.27
        3, both: 99.55 91.37 72.57 85.66 86.31 83.98
        """,
    ),
    "adfd_nrs": (  # Table 13
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        random, cosine: 99.51 90.91 72.38 85.24 86.96 83.87
        random, L2: 99.52 90.85 72.39 85.37 87.12 83.93
        predicts, cosine: 99.52 91.37 72.98 85.89 87.77 84.50
        predicts, L2: 99.52 91.40 73.06 85.90 87.00 84.34
        """,
    ),
    "adfd_nrs_threshold": (  # Table 13, row 3: the paper's lambda = 0.5
        "ffpp, celeb_df, dfdc, dfdcp, ffiw, unseen",
        """
        0.05: - - - - - -
        0.1: - - - - - -
        0.25: - - - - - -
        0.5: 99.52 91.37 72.98 85.89 87.77 84.50
        1.0: - - - - - -
        """,
    ),
    # --------------------------------------------------------------------------------------- MC-LCR
    "mc_lcr_compression": (  # Table 2, whose body is missing: Table 5, row 5
        "acc_at_0_5, auc",
        """
        Xception: - - - -
        MC-LCR: 97.21 99.62 88.07 90.28
        """,
        "c23; c40",
    ),
    "mc_lcr_manipulations": (  # Table 3
        "acc_at_0_5, auc",
        """
        Steg.Features: 73.64 - 73.72 - 68.93 - 63.33 -
        LD-CNN: 85.45 - 67.88 - 73.79 - 78.00 -
        C-Conv: 85.45 - 64.23 - 56.31 - 60.07 -
        CP-CNN: 84.55 - 73.72 - 82.52 - 70.67 -
        MesoNet: 87.27 - 56.20 - 61.17 - 40.67 -
        Xception: 95.13 99.24 87.34 93.62 92.42 97.08 77.54 84.51
        SPSL: 93.48 98.50 86.02 94.62 92.26 98.10 76.78 80.49
        MC-LCR: 97.23 99.53 91.08 96.72 94.44 98.60 82.13 87.39
        """,
        "Deepfakes; Face2Face; FaceSwap; NeuralTextures",
    ),
    "mc_lcr_cross_dataset": (  # Table 4, whose FF++ is Deepfakes alone
        "ffpp/Deepfakes, celeb_df",
        """
        Two-stream: 70.10 53.80
        Meso4: 84.70 54.80
        MesoInception4: 83.00 53.60
        FWA: 80.10 56.90
        Xception-raw: 99.70 48.20
        Xception-c23: 99.70 65.30
        Xception-c40: 95.50 65.50
        Multi-task: 76.30 54.30
        Capsule: 96.60 57.50
        DSP-FWA: 93.00 64.60
        Two-Branch: 93.18 73.41
        F3-Net: 98.10 65.17
        SMIL: 96.80 56.30
        EfficientNet-B4: 99.70 64.29
        MADD: 99.80 67.44
        SPSL: 96.91 76.88
        M2TR: 99.50 65.70
        MC-LCR: 99.84 71.61
        """,
    ),
    "mc_lcr_components": (  # Table 5
        "acc_at_0_5, auc",
        """
        baseline: 95.79 97.73 86.84 89.38
        w/o SSRB: 96.54 98.59 86.93 89.44
        w/o PAPDA: 96.26 98.61 86.05 88.83
        w/o SC loss: 96.91 99.38 87.53 89.65
        MC-LCR: 97.21 99.62 88.07 90.28
        Eq. 13, mean: - - - -
        Eq. 13, as printed: - - - -
        """,
        "c23; c40",
    ),
    "mc_lcr_components_celeb_df": (  # Table 6
        "celeb_df",
        """
        baseline: 65.29
        w/o SSRB: 65.41
        w/o PAPDA: 69.27
        w/o SC loss: 66.76
        MC-LCR: 71.61
        Eq. 13, mean: -
        Eq. 13, as printed: -
        """,
    ),
    # ------------------------------------------------------------------------------------------ LRE
    "lre_in_dataset": (  # Table I
        "acc_at_0_5, auc",
        """
        Face X-ray: - 87.4 - 61.6
        MesoNet: 83.1 84.3 70.47 72.62
        Multi-task: 85.65 85.43 81.3 75.59
        XceptionELA: 93.86 94.8 79.63 82.9
        SPSL: 91.5 95.32 81.57 82.82
        CFFs: - 97.21 - 86.56
        M2TR: 91.86 96.75 83.89 87.15
        Two-branch: 96.43 98.7 86.34 86.59
        HFI-Net: 91.87 97.07 58.69 88.4
        RFM: 95.69 98.79 87.06 89.83
        LRE: 91.78 97.4 80.75 90.12
        """,
        "c23; c40",
        "LRE, c40, autoencoder too: - -",
    ),
    "lre_cross_manipulation": (  # Table II; the four parts of a line are four lines there
        "ffpp/Deepfakes, ffpp/Face2Face, ffpp/FaceSwap, ffpp/NeuralTextures",
        """
        EfficientNet-b4: 99.65 73.6 40.73 73.94 87.15 99.26 51.6 66.85 61.44 68.96 99.57 49.83 83.98 69.08 46.32 97.59
        SimMIM: 99.64 62.43 66.74 62.74 84.27 99.28 53.49 53.87 88.12 58.88 99.19 52.55 85.26 64.38 46.62 69.95
        FDFL: 98.91 58.9 66.87 63.61 67.55 93.06 55.35 66.66 75.9 54.64 98.37 49.72 79.09 74.21 53.99 88.54
        LRE: 99.85 70 41.38 71.42 78.99 99.01 55.53 70.45 63.4 70.79 99.53 51.48 84.14 76.4 50.88 96.51
        """,
        "Deepfakes; Face2Face; FaceSwap; NeuralTextures",
    ),
    "lre_leave_one_out": (  # Table III
        "acc_at_0_5, auc",
        """
        EfficientNet: 82.4 91.11 67.6 75.3 63.32 80.1 61.41 67.4
        Focalloss: 81.33 90.31 67.47 74.95 60.8 79.8 64 67.21
        ForensicTransfer: 72.01 - 68.2 - 64.5 - 55 -
        Multi-task: 70.3 - 66.76 - 58.74 - 56.5 -
        MLDG: 84.21 91.82 67.15 73.12 63.46 77.1 58.12 61.7
        LTW: 85.6 92.7 69.15 75.6 65.6 80.2 65.7 72.4
        DCL: 87.7 94.9 75.9 83.82 68.4 82.93 67.85 75.07
        LRE: 79.28 87.9 70.22 78.67 73.62 84.29 69.25 76.5
        """,
        "Deepfakes, c23; Deepfakes, c40; Face2Face, c23; Face2Face, c40",
    ),
    "lre_cross_dataset": (  # Table IV
        "ffpp, celeb_df, dfd",
        """
        TI2Net: 99.95 68.22 72.03
        FRLM: 99.5 70.58 68.17
        F3Net: 98.1 71.21 86.1
        Face X-ray: 87.4 74.2 85.6
        MLDG: 98.99 74.56 88.14
        GFF: 98.36 75.31 85.51
        SFDG: 99.53 75.83 88
        SOLA: 99.25 76.02 -
        MultiAtt: 99.27 76.65 87.58
        BIG-Arts: 99.39 77.04 89.92
        LTW: 99.17 77.14 88.56
        FAAFF: 99.27 77.59 -
        Local-Relation: 99.46 78.26 89.24
        DCL: 99.3 82.3 91.66
        LRE: 97.24 77.47 95.23
        """,
    ),
    "lre_components": (  # Table V, whose body is missing: Table IV
        "celeb_df, dfd",
        """
        Xception: - -
        LRE w/o maps: - -
        LRE: 77.47 95.23
        """,
    ),
    "lre_mask_ratio": (  # Table IV, which hides 75 %
        "ffpp, celeb_df, dfd",
        """
        0.25: - - -
        0.5: - - -
        0.75: 97.24 77.47 95.23
        0.9: - - -
        """,
    ),
    "lre_gate": (  # Table IV, beside our default reading
        "ffpp, celeb_df, dfd",
        """
        entry flow, A y: 97.24 77.47 95.23
        entry flow, (1 + A) y: - - -
        middle flow, A y: - - -
        middle flow, (1 + A) y: - - -
        """,
    ),
    # --------------------------------------------------------------------------- of several papers
    "methods": (  # Delocate, Table 1; BBMG + NRS, Table 8; LAA-Net, Table 1
        "ffpp, celeb_df, deeper_forensics, dfdc, dfdcp, dfd, ffiw, wild_deepfake, unseen",
        """
        Xception: - - - - - - - - -
        EfficientNet-b4: - - - - - - - - -
        lre: - - - - - - - - -
        mc_lcr: - - - - - - - - -
        delocate: - 91.3 99.1 84.0 - - - - -
        adfd: - 91.37 - 72.98 85.89 - 87.77 - -
        laa_net: - 95.40 - - 86.94 98.43 - 80.03 -
        """,
    ),
    # ------------------------------------------------------------------------------- of no paper
    "preprocessing": (
        "ffpp, celeb_df, dfdc, dfdcp",
        """
        margin 1.3, 32 frames, c23: - - - -
        margin 1.0: - - - -
        margin 1.6: - - - -
        margin 2.0: - - - -
        8 frames: - - - -
        64 frames: - - - -
        a box for each frame: - - - -
        c40: - - - -
        """,
    ),
    "detector": ("ffpp, celeb_df, deeper_forensics, dfdc", "dlib: - - - -\ndlib-cnn: - - - -\nretinaface: - - - -"),
}


def sweep_of(name: str) -> Sweep:
    return importlib.import_module(f"sweeps.{name}").SWEEP


def rows_of(text: str, groups: str = "", more: str = "") -> dict[str, tuple[str, ...]]:
    """Label -> what is printed, word by word; group by group where there are several."""
    lines = [line.strip().rpartition(": ") for line in text.strip().splitlines()]
    if not groups:
        return {label: tuple(words.split()) for label, _, words in lines}
    rows, names = {}, groups.split("; ")
    for i, group in enumerate(names):
        for label, _, words in lines:
            width = len(words.split()) // len(names)
            rows[f"{label}, {group}"] = tuple(words.split()[width * i : width * (i + 1)])
    return rows | (rows_of(more) if more else {})


def test_every_sweep_is_typed_twice() -> None:
    assert sorted(PRINTED) == NAMES


@pytest.mark.parametrize("name", PRINTED)
def test_the_published_values_are_those_of_the_paper_to_the_last_digit(name: str) -> None:
    columns, *lines = PRINTED[name]
    sweep, rows = sweep_of(name), rows_of(*lines)
    assert list(sweep.headings) == columns.split(", ")
    assert [row.label for row in sweep.rows] == list(rows)
    for row in sweep.rows:
        assert sweep.published(row) == rows[row.label], row.label
