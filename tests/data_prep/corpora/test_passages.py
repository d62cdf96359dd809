"""The roles of passages, on disk."""

import numpy as np

from data_prep.corpora.passages import Roles


def test_roles_come_back_from_their_file(tmp_path):
    """The file names its arrays as those of earlier runs do."""
    roles = Roles(
        held_out=np.array([True, False]),
        duplicate=np.array([False, False]),
        container=np.array([-1, -1]),
        gets_queries=np.array([False, True]),
    )
    roles.save(tmp_path / "passages.npz")
    with np.load(tmp_path / "passages.npz") as arrays:
        assert arrays.files == ["held_out", "duplicate", "container", "source"]
    loaded = Roles.load(tmp_path / "passages.npz")
    for name, values in vars(roles).items():
        np.testing.assert_array_equal(getattr(loaded, name), values)
