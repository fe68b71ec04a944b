import pytest

from worker.stack.home import LocalError, make_own_folder, published_environment


@pytest.mark.parametrize("place", ["{file}/home", "/proc/no/home", "/" + "x" * 300])
def test_a_data_folder_that_cannot_be_created_gets_a_sentence(tmp_path, place):
    """Inside a file, on a file system without files of users, and with a name that is too long."""
    (tmp_path / "file").touch()
    folder = tmp_path.joinpath(place.format(file=tmp_path / "file"))
    with pytest.raises(LocalError, match=f"cannot create {folder}: .*; set OPAD_HOME to a folder of yours"):
        make_own_folder(folder)


def test_nothing_is_published_inside_a_file(tmp_path):
    (tmp_path / "file").touch()
    assert published_environment(tmp_path / "file" / "home") == {}
