"""A network that reads images goes on with a caption of their class."""

import torch
from torch import Tensor

from platodef_cli.bench.zoo import reading
from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.networks import Network, captions
from platodef_cli.bench.zoo.objectives import Batch, PretrainingObjective
from platodef_cli.errors import UsageError

_TOLD = 4  # every so many images of a batch have a caption to write, which takes twice as long as a feature


class Captioning(PretrainingObjective):
    """Writes the caption of each image's class behind the instruction, token by token.

    Raises:
        UsageError: The network writes nothing.
    """

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        if network.architecture.format != "qwen":
            raise UsageError(f"the objective captioning needs a language model, not {network.name!r}")
        self._captions = [captions(name) for name in dataset.classes]

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = self.weak(batch, generator)
        features = self.network.encode(view)
        some = slice(0, max(1, len(view) // _TOLD))
        choices = torch.randint(len(self._captions[0]), (len(view),), generator=generator)
        told = [
            self._captions[label][choice]
            for label, choice in zip(batch.labels[some].tolist(), choices[some].tolist(), strict=True)
        ]
        inputs = view[some].to(self.network.device) * 2 - 1
        loss = reading.caption_error(self.network.module, inputs, told)
        return loss + self.common(features, view, batch, self.label_weight)
