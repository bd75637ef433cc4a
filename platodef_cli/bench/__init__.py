"""The zoo of encoders with and without backdoors, and the benchmark that fills the paper's tables on it.

``zoo`` builds the encoders, ``attacks`` plants their backdoors. ``run.bench`` opens a zoo and its images
(``feature_store``), and lets a row of :data:`TABLES` fill a table from one ``benchmark_run``: mostly by
``defending`` (every detector and purifier on the ``evaluation`` of one suspect), cell by cell (``cells``).
``results`` are records; ``rendering`` and ``page`` write them.
"""

from platodef_cli.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "supervised": "platodef_cli.bench.zoo.objectives:Supervised",
        "adversarial": "platodef_cli.bench.zoo.objectives:Adversarial",
        "simclr": "platodef_cli.bench.zoo.objectives:SimClr",
        "self-distillation": "platodef_cli.bench.zoo.objectives:SelfDistillation",
        "masked": "platodef_cli.bench.zoo.masked:MaskedAutoencoder",
        "masked-images": "platodef_cli.bench.zoo.masked:MaskedImages",
        "image-text": "platodef_cli.bench.zoo.objectives:ImageText",
        "image-caption": "platodef_cli.bench.zoo.objectives:ImageCaption",
        "captioning": "platodef_cli.bench.zoo.captioning:Captioning",
    },
)
DERIVATIVES = Registry(
    "benign derivative",
    {
        "fine-tuned": "platodef_cli.bench.zoo.derivatives:fine_tuned",
        "distilled": "platodef_cli.bench.zoo.derivatives:distilled",
        "pruned": "platodef_cli.bench.zoo.derivatives:pruned",
        "quantised": "platodef_cli.bench.zoo.derivatives:quantised",
        "low-rank": "platodef_cli.bench.zoo.derivatives:low_rank",
        "patch-augmented": "platodef_cli.bench.zoo.derivatives:patch_augmented",
    },
)
TABLES = Registry(
    "benchmark table",
    {
        "1": "platodef_cli.bench.table1:fill",
        "2": "platodef_cli.bench.table2:fill",
        "3": "platodef_cli.bench.ablations:training_modes",
        "defences": "platodef_cli.bench.defence_matrix:fill",
        "encoder": "platodef_cli.bench.encoder_level:fill",
        "solvers": "platodef_cli.bench.solvers:fill",
        "backbones": "platodef_cli.bench.ablations:backbones",
        "alignment": "platodef_cli.bench.alignment:fill",
        "figure3": "platodef_cli.bench.figure3:fill",
    },
)
FORMATS = Registry(
    "benchmark format",
    {
        "json": "platodef_cli.bench.rendering:to_json",
        "markdown": "platodef_cli.bench.rendering:to_markdown",
        "html": "platodef_cli.bench.page:to_html",
    },
)
