"""Recipes that somebody verified, known again by the digests of the checkpoint's code, so that PyTorch is not
needed any more: the published variants share that code."""

import hashlib
from pathlib import Path

import msgspec

from shared.errors import ModelError
from worker.models.cosmos_embed1.recipe import Recipe, written_constants

KNOWN = Path(__file__).with_name("known_recipes.json")
"""Comes with the package; empty until a published checkpoint has been verified."""
SETTLING = ("modeling_embed1.py", "modeling_vit.py")
"""The files that say how the parts are put together."""
PREPROCESSING = "preprocessing_embed1.py"
HERE, BY_DIGEST = "here", "digest"
"""How a model was verified: its vectors were compared on this machine, or its code is known."""


class KnownRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, the SHA-256 of each file that it was verified with, and what the verification saw."""

    files: dict[str, str]
    recipe: Recipe
    source: str
    revision: str
    cosine_video: float
    cosine_text: float
    reference: str


def digests(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of the files that settle a recipe, as far as they are there."""
    paths = [checkpoint / name for name in SETTLING]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


def known_recipe(checkpoint: Path) -> KnownRecipe | None:
    """The recipe that is known for the code of this checkpoint, unless its preprocessing has pixel constants
    of its own that say otherwise. Raises ModelError if the list is damaged."""
    try:
        known = msgspec.json.decode(KNOWN.read_bytes(), type=list[KnownRecipe])
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{KNOWN} is damaged: {error}") from error
    found = digests(checkpoint)
    if len(found) != len(SETTLING):
        return None
    constants = written_constants(checkpoint / PREPROCESSING)
    for entry in known:
        if entry.files == found and (not constants or entry.recipe.pixels in constants):
            return entry
    return None


def exported(checkpoint: Path, recipe: Recipe, source: str, revision: str, details: dict[str, object]) -> str:
    """The entry for a model that was verified here, as JSON. Raises ModelError if its code is not there."""
    files = digests(checkpoint)
    if len(files) != len(SETTLING):
        raise ModelError(f"{checkpoint} lacks {', '.join(set(SETTLING) - files.keys())}")
    entry = msgspec.convert(
        {
            "files": files,
            "recipe": msgspec.to_builtins(recipe),
            "source": source,
            "revision": revision,
            "cosine_video": details["cosine_video"],
            "cosine_text": details["cosine_text"],
            "reference": details["reference"],
        },
        KnownRecipe,
    )
    return msgspec.json.format(msgspec.json.encode(entry), indent=2).decode()
