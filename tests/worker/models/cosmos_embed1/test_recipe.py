from pathlib import Path

from worker.models.cosmos_embed1.recipe import CLIP_MEAN, CLIP_STD, Recipe, pixel_constants, tails


def test_tails_begin_with_the_recipe_itself_and_share_its_pixels() -> None:
    recipe = Recipe(temporal="before_norm", pooling="first")
    ways = tails(recipe)
    assert ways[0] == recipe
    assert len(set(ways)) == len(ways) == 6
    assert {way.pixels for way in ways} == {recipe.pixels}


def test_known_pixel_constants_come_first(tmp_path: Path) -> None:
    pairs = list(pixel_constants(tmp_path))
    assert pairs[0] == (CLIP_MEAN, CLIP_STD)
    assert len(pairs) == 4


def test_constants_in_the_code_are_found(tmp_path: Path) -> None:
    (tmp_path / "modeling_x.py").write_text(
        "MEAN = (0.1, .2, 0.3)\nsize = (1, 2, 3)\nself.std = torch.tensor([0.25,\n  0.5, 7.5e-1,])\n"
    )
    (tmp_path / "readme.txt").write_text("(0.9, 0.9, 0.9), (0.8, 0.8, 0.8)")
    assert list(pixel_constants(tmp_path))[4:] == [((0.1, 0.2, 0.3), (0.25, 0.5, 0.75))]


def test_the_known_constants_in_the_code_are_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(f"a = {CLIP_MEAN}\nb = {CLIP_STD}\nc = (0.0, 0.1, 0.2)\n")
    assert list(pixel_constants(tmp_path))[4:] == []
