"""Verified recipes, recognised by the digests of the checkpoint's code, so that PyTorch is no longer needed:
the published variants share that code."""

import hashlib
from pathlib import Path

import msgspec

from shared.errors import ModelError
from worker.models.cosmos_embed1.recipe import Recipe, written_constants

KNOWN = Path(__file__).with_name("known_recipes.json")
"""Part of the package; empty until a published checkpoint has been verified."""
SETTLING = ("modeling_embed1.py", "modeling_vit.py")
"""The files that determine the recipe."""
PREPROCESSING = "preprocessing_embed1.py"
HERE, BY_DIGEST = "here", "digest"
"""How a model was verified: its vectors were compared on this machine, or its code is known."""


class KnownRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, the SHA-256 of each file that it was verified with, and the verification's result."""

    files: dict[str, str]
    recipe: Recipe
    source: str
    revision: str
    cosine_video: float
    cosine_text: float
    reference: str


def digests(checkpoint: Path) -> dict[str, str]:
    """Return the SHA-256 of those files that determine a recipe and exist."""
    paths = [checkpoint / name for name in SETTLING]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


def known_recipe(checkpoint: Path) -> KnownRecipe | None:
    """Return the known recipe for this checkpoint's code, unless its preprocessing has other pixel constants.
    Raises ModelError if the list is damaged."""
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
    """Return the entry for a model verified here, as JSON. Raises ModelError if its code is missing."""
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
