"""Real data sets: what the command and the notebooks say when a set is there, is missing, or cannot be fetched."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from course_lib import cli, real_data


def test_a_set_that_was_not_fetched_says_how_to_fetch_it(tmp_path):
    for name, (_, parts, _, _) in real_data.SETS.items():
        for part in parts:
            with pytest.raises(real_data.DataError, match=f"course data {name}"):
                real_data.open_set(name, part, tmp_path)


def test_names_and_parts_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(real_data.DataError, match="mnist.*cifar10"):
        real_data.open_set("mnist", "train", tmp_path)
    with pytest.raises(real_data.DataError, match="unlabeled.*'validation'"):
        real_data.open_set("stl10", "validation", tmp_path)


def test_without_a_network_the_message_says_so(tmp_path, monkeypatch):
    def no_route(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_route)
    with pytest.raises(real_data.DataError, match="no route to host.*network"):
        real_data.fetch("cifar10", tmp_path, say=lambda _: None)


def test_a_set_that_is_there_is_read_and_its_checksum_is_compared(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar10" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    pixels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    for name, _ in CIFAR10.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 5]}))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": [str(n) for n in range(10)]}))
    with pytest.raises(real_data.DataError):  # these files are not the published ones
        real_data.open_set("cifar10", "test", tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    images = real_data.open_set("cifar10", "test", tmp_path)
    assert len(images) == 2 and images[1][1] == 5


def test_the_command_fetches_by_name(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(real_data, "fetch", asked.append)
    assert cli.main(["data", "stl10"]) == 0 and asked == ["stl10"]
    monkeypatch.undo()
    assert cli.main(["data", "gardening"]) == cli.REFUSED
    assert "cifar10" in capsys.readouterr().err
