"""The uploaded files on the disk."""

from pathlib import Path

from web.training.uploads import Uploads


def test_only_uploads_of_an_earlier_run_are_deleted(tmp_path: Path) -> None:
    """A user can choose a data folder with a folder of this name that holds other things."""
    for _ in range(20):  # random names
        _, upload = Uploads(tmp_path).begin("anna", "rows.jsonl", 2)
        upload.write_text("{}")
    other = tmp_path / "photos" / "a.jpg"
    other.parent.mkdir()
    other.touch()
    Uploads(tmp_path)
    assert list(tmp_path.glob("*/*")) == [other]


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    _, upload = Uploads(tmp_path / "data" / "uploads").begin("anna", "rows.jsonl", 2)
    assert upload.parent.is_dir()
