"""Numbers of the paper, as data, for orientation beside ours: another scale, other data.

From "Platonic" (conditional energy and denoising over independent encoders), Table 1: DINO ViT-B/16 victims
on ImageNet-1K (CLIP ViT-B/16 on a part of CC3M in the image-text rows), with the references
SigLIP2-Base/16 and DINOv2-Base/16. AUC and shares in [0, 1].
"""

from collections.abc import Mapping

CITATION = (
    "the paper's Table 1 (DINO ViT-B/16 on ImageNet-1K, SigLIP2-B/16 and DINOv2-B/16 as references), for "
    "orientation only: other data, and encoders some 30 to 300 times larger"
)
PLATONIC_IS = (
    "the paper's own defence is the column 'energy' for AUC and 'heun' (20 steps) for CA, PA and ASR; "
    "'platonic' is platodef's default detector, here with trained networks: the mean of energy, closed form "
    "and robust scores (without the energy in an audit), and the conditional mean"
)

AVERAGES: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "unimodal": {
        "none": {"CA": 0.7563, "PA": 0.0060, "ASR": 0.9918},
        "Decomp": {"CA": 0.7583, "PA": 0.0058, "AUC": 0.99, "ASR": 0.9931},
        "DeDe": {"CA": 0.2956, "PA": 0.0036, "AUC": 0.78, "ASR": 0.3382},
        "ZIP": {"CA": 0.6568, "PA": 0.1735, "ASR": 0.7149},
        "Beatrix": {"AUC": 0.97},
        "DetectCLIP": {"AUC": 0.31},
        "Platonic": {"CA": 0.7747, "PA": 0.6649, "AUC": 0.94, "ASR": 0.0343},
    },
    "image-text": {
        "none": {"CA": 0.5213, "PA": 0.0040, "ASR": 0.9880},
        "Decomp": {"CA": 0.5334, "PA": 0.0469, "AUC": 0.72, "ASR": 0.8079},
        "DeDe": {"CA": 0.1560, "PA": 0.0120, "AUC": 0.69, "ASR": 0.1640},
        "ZIP": {"CA": 0.4197, "PA": 0.1044, "ASR": 0.5180},
        "Beatrix": {"AUC": 0.59},
        "DetectCLIP": {"AUC": 1.00},
        "Platonic": {"CA": 0.6403, "PA": 0.5480, "AUC": 0.95, "ASR": 0.0},
    },
    "adversarial": {
        "none": {"CA": 0.7830, "PA": 0.0044, "ASR": 0.9956},
        "Decomp": {"CA": 0.7822, "PA": 0.0084, "AUC": 0.46, "ASR": 0.9916},
        "DeDe": {"CA": 0.4678, "PA": 0.0466, "AUC": 0.53, "ASR": 0.9534},
        "ZIP": {"CA": 0.6799, "PA": 0.5542, "ASR": 0.4458},
        "Beatrix": {"AUC": 0.39},
        "DetectCLIP": {"AUC": 0.79},
        "Platonic": {"CA": 0.7860, "PA": 0.6368, "AUC": 0.76, "ASR": 0.3632},
    },
}
"""Group of attacks -> defence -> averages."""

PLATONIC: Mapping[str, tuple[float, float, float, float]] = {
    "ssl-backdoor": (0.7747, 0.7413, 0.99, 0.0010),
    "corrupt-encoder": (0.7731, 0.7394, 1.00, 0.0030),
    "ctrl": (0.7742, 0.6465, 0.99, 0.0198),
    "blto": (0.7734, 0.5580, 0.84, 0.0331),
    "noisy-alignment": (0.7741, 0.4955, 0.95, 0.1815),
    "bad-encoder": (0.7805, 0.7444, 0.84, 0.0016),
    "drupe": (0.7732, 0.7291, 0.99, 0.0003),
    "clip-backdoor": (0.6399, 0.5741, 0.95, 0.0),
    "bad-clip": (0.6407, 0.5219, 0.94, 0.0),
    "fgsm": (0.786, 0.584, 0.63, 0.416),
    "pgd": (0.786, 0.618, 0.92, 0.382),
    "mi-fgsm": (0.786, 0.538, 0.88, 0.462),
    "cw": (0.786, 0.750, 0.53, 0.250),
    "autoattack": (0.786, 0.694, 0.83, 0.306),
}
"""Attack -> CA, PA, AUC, ASR of the paper's own defence."""

OURS: Mapping[str, tuple[str, str]] = {
    "none": ("none", "none"),
    "Decomp": ("decomp", "decomp"),
    "DeDe": ("dede", "dede"),
    "ZIP": ("zip", "zip"),
    "Beatrix": ("beatrix", "beatrix"),
    "DetectCLIP": ("dao", "dao"),
    "Platonic": ("energy", "heun"),
}
"""The paper's column groups -> our detector and our purifier."""
