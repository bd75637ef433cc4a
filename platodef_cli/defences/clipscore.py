"""CLIPScore (Hessel et al. 2021): does the image still say what its text says?

Needs features of each sample's own text, by an encoder of images and texts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, Setup
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import TEXT, Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads


class ClipScoreDetector:
    """Negative CLIPScore ``-2.5 max(cos(image, text), 0)`` of a sample and its own text.

    The text features stand beside the references, under the name ``text``, in the source's own space.

    Args:
        heads: Not used.
        clean: Not used.
        setup: ``published`` clips cosines at 0; the default does not, so that the worst stay ordered.
    """

    name = "clipscore"
    needs = frozenset({Access.features, Access.text})
    bank = 0
    description = (
        "Image against its own text, image-text encoders only: blind where captions were poisoned as well."
    )
    use_when = "Your encoder reads text too, and every image has a caption that you trust."
    published = "cosines below 0 are cut to 0 and tie"
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._floor = 0.0 if setup.mode == "published" else -1.0

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious.

        Raises:
            NotApplicable: There are no text features, or they are not in the source's space.
        """
        text = tuples.references.get(TEXT)
        if text is None:
            raise NotApplicable("needs text: features of each sample's caption, as reference 'text'")
        if text.shape != tuples.source.shape:
            raise NotApplicable(
                f"needs text in the source's own space: it is {list(text.shape)}, "
                f"not {list(tuples.source.shape)}"
            )
        cosine = F.cosine_similarity(tuples.source.double(), text.double(), dim=1)
        return -2.5 * torch.clamp(cosine, min=self._floor)
