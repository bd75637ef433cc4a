import subprocess
import sys

import pytest

from platodef_cli.errors import UsageError
from platodef_cli.images.open import open_source
from tests.unit.images.image_fakes import png


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "the image source is empty; give a folder"),
        ("gone/away", "'gone/away' does not exist; give a folder"),
        ("builtin:cats", "unknown built-in images 'builtin:cats'"),
        ("builtin:shapes?colour=3", "unknown option 'colour' .* the options are seed, count, size"),
        ("builtin:shapes?seed=x", "seed='x' .* is not a whole number"),
        ("builtin:shapes?count=0", "count=0 is out of range"),
        ("s3://bucket", "unknown scheme"),
        ("hf://spaces/x", "is not a data set address"),
    ],
)
def test_bad_addresses(uri, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        open_source(uri)


def test_a_file_that_is_no_source(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(UsageError, match="neither a folder nor a .parquet or .tar"):
        open_source(str(tmp_path / "x.zip"))


@pytest.mark.parametrize("limit", [0, -3])
def test_bad_limits(limit, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    for uri in (str(tmp_path), "builtin:shapes?count=5"):
        with pytest.raises(UsageError, match="limit of images"):
            open_source(uri, limit=limit)


def test_builtin_with_a_limit_takes_a_subset():
    whole = open_source("builtin:shapes?seed=4&count=40&size=16")
    part = open_source("builtin:shapes?seed=4&count=40&size=16", limit=7, seed=2)
    assert [ref in whole.refs for ref in part.refs] == [True] * 7
    index = whole.refs.index(part.refs[3])
    assert part.open(3).tobytes() == whole.open(index).tobytes()
    assert part.uri == whole.uri
    assert part.classes == whole.classes


def test_the_table_is_light():
    code = "import sys, platodef_cli.images; print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
