"""A published model for tests that read one, and a copy for those that break it."""

import shutil

import pytest

from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")
