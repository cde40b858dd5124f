import pytest
from helpers import write_tokenizer

from models.backbone import create_llama, load_backbone, load_tokenizer, save_backbone
from pipeline.cli import StageError
from train.backbone import fetch_backbone


def test_a_folder_becomes_the_workflows_own_copy(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "tokenizer"))
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=len(tokenizer), row_tokens=16, seed=3
    )
    save_backbone(model, tokenizer, tmp_path / "source")
    fetch_backbone(str(tmp_path / "source"), None, "downloads", str(tmp_path / "copy"))
    ours, theirs = (load_backbone(str(tmp_path / name)).state_dict() for name in ("copy", "source"))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert load_tokenizer(str(tmp_path / "copy")).get_vocab() == tokenizer.get_vocab()


def test_a_missing_model_names_the_key(tmp_path):
    with pytest.raises(StageError, match=r"backbone\.source .*/nowhere: "):
        fetch_backbone(str(tmp_path / "nowhere"), None, "downloads", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
