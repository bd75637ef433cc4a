import hashlib
import os

import pytest

from platodef_cli.errors import UsageError
from platodef_cli.images.decode import ImageError
from platodef_cli.images.folder import FolderSource
from tests.unit.images.image_fakes import encode, noise, png


def fill(root, names):
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


def test_a_folder_of_avif(tmp_path):
    for name, number in (("a.avif", 1), ("b.AVIF", 2)):
        (tmp_path / name).write_bytes(encode(noise(seed=number), "AVIF", quality=90))
    source = FolderSource(tmp_path)
    assert [ref.id for ref in source.refs] == ["a.avif", "b.AVIF"]
    assert (source.open(0).mode, source.open(0).size) == ("RGB", noise().size)


def test_flat_folder_has_no_labels_and_a_fixed_order(tmp_path):
    fill(tmp_path, ["b.png", "a.JPG", "c.webp", ".hidden.png", ".git/x.png"])
    (tmp_path / "README.txt").write_text("no image")
    source = FolderSource(tmp_path)
    assert [ref.id for ref in source.refs] == ["a.JPG", "b.png", "c.webp"]
    assert source.classes is None
    assert {ref.label for ref in source.refs} == {None}
    assert source.refs[1].digest == hashlib.sha256(png(0)).hexdigest()
    assert source.uri == str(tmp_path)
    assert source.open(1).mode == "RGB"
    assert source.skipped == []


def test_sub_folders_are_classes_at_any_depth(tmp_path):
    fill(tmp_path, ["dog/1.png", "cat/deep/er/2.png", "cat/0.png", "ant/x.png"])
    (tmp_path / "empty").mkdir()
    source = FolderSource(tmp_path)
    assert source.classes == ("ant", "cat", "dog")
    assert [(ref.id, ref.label) for ref in source.refs] == [
        ("ant/x.png", 0),
        ("cat/0.png", 1),
        ("cat/deep/er/2.png", 1),
        ("dog/1.png", 2),
    ]


def test_one_sub_folder_is_no_class(tmp_path):
    fill(tmp_path, ["photos/1.png", "photos/2.png"])
    assert FolderSource(tmp_path).classes is None


def test_images_beside_the_classes_are_skipped(tmp_path):
    fill(tmp_path, ["a/1.png", "b/2.png", "stray.png"])
    source = FolderSource(tmp_path)
    assert source.skipped == [("stray.png", "it lies beside the class folders, not in one")]
    assert len(source.refs) == 2


def test_splits_are_not_classes(tmp_path):
    fill(tmp_path, ["train/cat/1.png", "test/cat/2.png"])
    with pytest.raises(UsageError, match=r"are splits \(test, train\), not classes; give one of them"):
        FolderSource(tmp_path)


def test_limit_is_seeded_and_ordered(tmp_path):
    fill(tmp_path, [f"{i:02d}.png" for i in range(20)])
    ids = [ref.id for ref in FolderSource(tmp_path, limit=6, seed=1).refs]
    assert ids == [ref.id for ref in FolderSource(tmp_path, limit=6, seed=1).refs]
    assert ids == sorted(ids)
    assert len(set(ids)) == 6
    assert ids != [ref.id for ref in FolderSource(tmp_path, limit=6, seed=2).refs]
    assert len(FolderSource(tmp_path, limit=99).refs) == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"holds no image \(nothing\)"),
        (lambda root: (root / "data.parquet").write_bytes(b"x"), r"holds no image \(1 other files\)"),
        (lambda root: (root / "a.png").mkdir(), r"holds no image \(nothing\)"),
        (
            lambda root: (root / "a.png").symlink_to("gone"),
            r"can be used \(first: a.png: it cannot be read: no such",
        ),
        (lambda root: os.mkfifo(root / "a.png"), r"can be used \(first: a.png: it is not a regular file"),
    ],
)
def test_folders_without_images(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UsageError, match=message):
        FolderSource(tmp_path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(UsageError, match="does not exist; give a folder"):
        FolderSource(tmp_path / "gone")


def test_a_loop_of_links_ends(tmp_path):
    fill(tmp_path, ["a/1.png"])
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(FolderSource(tmp_path).refs) == 1


@pytest.mark.parametrize(
    ("change", "reason", "transient"),
    [
        (lambda path: path.unlink(), "cannot be read: no such file", True),
        (lambda path: path.write_bytes(png(99)), "changed after it was listed", True),
    ],
)
def test_files_that_change_while_in_use(tmp_path, change, reason, transient):
    fill(tmp_path, ["a.png"])
    source = FolderSource(tmp_path)
    change(tmp_path / "a.png")
    with pytest.raises(ImageError, match=reason) as caught:
        source.open(0)
    assert caught.value.transient is transient
    assert source.skipped == [("a.png", caught.value.reason)]


def test_a_broken_file_is_listed_and_fails_on_opening(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    source = FolderSource(tmp_path)
    with pytest.raises(ImageError, match="'a.png' cannot be used: not a readable image"):
        source.open(0)
    assert source.skipped[0][0] == "a.png"


def test_a_huge_file_is_not_read(tmp_path):
    fill(tmp_path, ["a.png"])
    with (tmp_path / "b.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    source = FolderSource(tmp_path)
    assert len(source.refs) == 1
    assert "more than the limit" in source.skipped[0][1]
