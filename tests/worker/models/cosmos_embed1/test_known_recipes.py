"""A recipe that was verified once is known again by the digests of the checkpoint's code."""

import json
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ModelError
from tests.worker.models.cosmos_embed1.conftest import MakeCheckpoint, Miniature
from worker.models.cosmos_embed1 import known_recipes
from worker.models.cosmos_embed1.convert import recipe_of
from worker.models.cosmos_embed1.known_recipes import digests, exported, known_recipe
from worker.models.cosmos_embed1.recipe import IMAGENET_MEAN, IMAGENET_STD, Recipe
from worker.models.directory import ModelDirectory
from worker.models.prepare import prepare, require_verified
from worker.models.sources import Hubs

SOURCE = "https://huggingface.co/nvidia/Cosmos-Embed1-224p"
FOUND = Recipe(temporal="before_norm")
DETAILS: dict[str, object] = {"cosine_video": 1.0, "cosine_text": 0.9999999, "reference": "torch 2.13.0"}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, miniature: Miniature) -> Path:
    """A list that has the miniature's code, by an unlikely recipe."""
    entry = exported(miniature.path, FOUND, SOURCE, "787e0b9", DETAILS)
    path = tmp_path / "known.json"
    path.write_text(f"[{entry}]")
    monkeypatch.setattr(known_recipes, "KNOWN", path)
    return path


def prepared(checkpoint: Miniature, cache: Path) -> ModelDirectory:
    def nobody() -> str:
        raise AssertionError("no code needs to be run")

    return prepare(str(checkpoint.path), cache, "fp32", Hubs(), python=nobody)


@pytest.mark.usefixtures("known")
def test_another_variant_with_the_same_code_needs_no_pytorch(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "Cosmos-Embed1-Other", seed=5, resolution=56)
    model = prepared(other, tmp_path / "cache")
    assert model.info.verified
    assert recipe_of(model) == FOUND
    assert model.info.details["verification"] == "digest"
    assert model.info.details["verified_with"] == f"{SOURCE}@787e0b9"
    require_verified(model, allow=False)


@pytest.mark.parametrize("name", ["modeling_embed1.py", "modeling_vit.py"])
@pytest.mark.usefixtures("known")
def test_other_code_is_not_known(make_checkpoint: MakeCheckpoint, tmp_path: Path, name: str) -> None:
    other = make_checkpoint(tmp_path / "c")
    with (other.path / name).open("a") as file:
        file.write("# changed\n")
    assert known_recipe(other.path) is None


@pytest.mark.parametrize(
    ("constants", "fits"),
    [
        ("x = 1", True),
        (f"MEAN = {IMAGENET_MEAN}\nSTD = {IMAGENET_STD}", False),
        (f"M = {FOUND.mean}\nS = {FOUND.std}", True),
    ],
)
@pytest.mark.usefixtures("known")
def test_preprocessing_with_other_pixel_constants_is_not_known(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, constants: str, *, fits: bool
) -> None:
    other = make_checkpoint(tmp_path / "c")
    (other.path / "preprocessing_embed1.py").write_text(constants)
    assert (known_recipe(other.path) is not None) is fits


def test_nothing_is_known_yet(miniature: Miniature) -> None:
    assert json.loads(known_recipes.KNOWN.read_text()) == []
    assert known_recipe(miniature.path) is None


@pytest.mark.parametrize("damaged", ["{", '[{"files": 1}]'])
def test_a_damaged_list_is_said(known: Path, miniature: Miniature, damaged: str) -> None:
    known.write_text(damaged)
    with pytest.raises(ModelError, match=r"known\.json is damaged"):
        known_recipe(miniature.path)


def test_code_that_is_not_all_there_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "modeling_vit.py").write_text("")
    arguments: Any = (tmp_path, FOUND, "", "", DETAILS)
    with pytest.raises(ModelError, match=r"lacks modeling_embed1\.py"):
        exported(*arguments)
    assert digests(tmp_path).keys() == {"modeling_vit.py"}
