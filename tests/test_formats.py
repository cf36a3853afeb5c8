"""Images in files of official formats, generated here and read back."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from harness import plugins
from harness.data.source import find
from harness.formats import cifar
from tests import fake_data


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_files_that_python_2_has_pickled(name, data, monkeypatch):
    arrays = fake_data.cifar(data, plugins.load("datasets", name), monkeypatch)
    image, label = find(name).samples()["test"][3]
    assert np.array_equal(image.ravel(), arrays["test" if name == "cifar100" else "test_batch"][3])
    assert type(label) is int


def test_file_with_other_content_is_named(data, monkeypatch):
    fake_data.cifar(data, plugins.load("datasets", "cifar10"), monkeypatch)
    (data / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"")
    with pytest.raises(ValueError, match="data_batch_2 is damaged"):
        len(find("cifar10").samples()["train"])


def test_pickle_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "data_batch_1"
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system"):
        cifar.read(file, fake_data.md5(file.read_bytes()))


def test_imagenet_with_other_classes_is_refused(data):
    fake_data.image_folder(data / "imagenet").joinpath("test").rename(data / "imagenet" / "val")
    with pytest.raises(ValueError, match="has 3 classes instead of 1000"):
        len(find("imagenet").samples()["train"])
