"""What the start of a process does not load: every start pays it, and every interruption once more."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from platodef_cli.encoders.local import _NothingComputed
from platodef_cli.environment import import_without_compiler
from tests.unit.cli.calls import python

LATE = ("torch._dynamo", "sympy", "sklearn", "scipy.stats", "matplotlib", "datasets", "transformers")
START = f"""
import sys, torch
import platodef_cli.audit.run
from platodef_cli.encoders.load import open_encoder
for name in ("clean", "reference-vit", "reference-cnx"):
    pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
    open_encoder("builtin:" + name).differentiable(pixels).sum().backward()
print(sorted(set({LATE!r}) & set(sys.modules)))
from torchvision.ops import roi_align
print(roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 1).item())
torch.compiler.disable(len)
print("torch._dynamo" in sys.modules, type(sys.modules["torch._dynamo.utils"]).__name__)
"""


def test_an_audit_begins_without_compiler_and_statistics() -> None:
    done = python(START)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["[]", "1.0", "True module"]


def test_a_library_that_wants_more_of_the_compiler_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def load(name: str) -> ModuleType:
        tried.append("torch._dynamo.utils" in sys.modules)
        if len(tried) == 1:
            from torch._dynamo.utils import counters  # noqa: F401
        return ModuleType(name)

    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("platodef_cli.environment.importlib.import_module", load)
    before = torch.compiler.disable
    import_without_compiler("some_library")
    assert tried == [True, False]
    assert torch.compiler.disable is before


def test_on_meta_only_numbers_are_left_alone() -> None:
    with torch.device("meta"), _NothingComputed():
        layer = nn.Linear(3, 5)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        assert (1e-6 * torch.ones(7)).shape == (7,)
        assert (2 * torch.ones(7, dtype=torch.int64) * 0.5).dtype == torch.float32
    assert layer.weight.is_meta
    assert layer.weight.shape == (5, 3)
    with _NothingComputed():
        assert (2 * torch.ones(2)).tolist() == [2.0, 2.0]
        assert nn.init.constant_(torch.empty(2), 3.0).tolist() == [3.0, 3.0]
