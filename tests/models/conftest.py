"""A random BERT of transformers."""

import shutil
from pathlib import Path

import pytest

from tests.models.helpers import HfBert


@pytest.fixture(scope="session")
def hf_bert(tiny_bert: Path) -> HfBert:
    """The tiny model, its weights far enough from their start that every one of them matters."""
    import torch
    import transformers

    torch.manual_seed(1)
    model = transformers.BertModel.from_pretrained(tiny_bert, add_pooling_layer=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    folder = tiny_bert.parent / "shaken"
    shutil.copytree(tiny_bert, folder)
    model.save_pretrained(folder)
    return HfBert(model.eval(), folder)


@pytest.fixture
def st_folder(hf_bert: HfBert, tmp_path: Path) -> Path:
    """A copy of the tiny sentence-transformers folder that a test may spoil."""
    return Path(shutil.copytree(hf_bert.folder, tmp_path / "model"))
