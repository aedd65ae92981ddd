"""Converts texts to BERT token ids, and writes a model directory's `tokenizer.json`."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from shared.errors import ModelError

TokenIds = NDArray[np.int64]

BERT_BASE_UNCASED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
"""Digest of bert-base-uncased's `vocab.txt`: 30,522 tokens, one per line."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TextTokenizer:
    """BERT's tokenizer for a model's text tower: `[CLS] tokens [SEP]`, truncated on the right."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Load `path`, a `tokenizer.json`. Raises ModelError."""
        self._tokenizer = _load(path)
        # Truncation is tokenizer state: set once here, then only read, so any thread may call it.
        self._tokenizer.enable_truncation(max_tokens, direction="right")
        self._tokenizer.no_padding()
        self._pad = _token_id(self._tokenizer, "[PAD]", path)

    def __call__(self, texts: Sequence[str]) -> tuple[TokenIds, TokenIds]:
        """Return `input_ids` and `attention_mask`, int64 [len(texts), S]; S is the longest of these texts."""
        return self.padded(self.tokens(texts))

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        # One by one: encode_batch would start a thread pool that competes with the video for the cores.
        return [self._tokenizer.encode(text).ids for text in texts]

    def padded(self, rows: Sequence[list[int]]) -> tuple[TokenIds, TokenIds]:
        """Return what `self(texts)` returns, for texts with these tokens."""
        longest = max(map(len, rows), default=0)
        input_ids = np.full((len(rows), longest), self._pad, np.int64)
        attention_mask = np.zeros_like(input_ids)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        return input_ids, attention_mask


def write_tokenizer(
    source: Path,
    target: Path,
    *,
    extra_tokens: Sequence[str] = (),
    vocabulary_sha256: str | None = BERT_BASE_UNCASED_SHA256,
) -> None:
    """Write `target`, a `tokenizer.json` for lower-cased BERT, from a `vocab.txt` or a `tokenizer.json`.

    Only the vocabulary is taken from `source`. `extra_tokens` (Cosmos-Embed1: `[DEC]`) become special
    tokens with the ids after it. The vocabulary's digest must be `vocabulary_sha256`, unless that is
    None. Raises ModelError.
    """
    vocabulary = read_vocabulary(source)
    digest = hashlib.sha256("".join(f"{token}\n" for token in vocabulary).encode()).hexdigest()
    if vocabulary_sha256 is not None and digest != vocabulary_sha256:
        raise ModelError(f"{source} holds a vocabulary with SHA-256 {digest}, expected {vocabulary_sha256}")
    tokenizer = bert_tokenizer(vocabulary, source)
    tokenizer.add_special_tokens([_special(token) for token in extra_tokens])
    for i, token in enumerate(extra_tokens, start=len(vocabulary)):
        if tokenizer.token_to_id(token) != i:
            raise ModelError(f"{source} already has the token {token}, which should get the id {i}")
    tokenizer.save(str(target), pretty=False)


def read_vocabulary(source: Path) -> list[str]:
    """Return the tokens of a `vocab.txt` or of a `tokenizer.json`'s model in id order, without added tokens.
    Raises ModelError."""
    try:
        text = source.read_text(encoding="utf-8")
        if source.suffix != ".json":
            return text.removesuffix("\n").split("\n")
        document = json.loads(text)
        vocabulary: dict[str, int] = document["model"]["vocab"]
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read the vocabulary {source}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{source} is not a tokenizer with a WordPiece vocabulary: {error!r}") from error
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ModelError(f"the token ids of {source} are not 0 to {len(tokens) - 1}")
    return tokens


def bert_tokenizer(vocabulary: Sequence[str], source: Path) -> Tokenizer:
    """Return a tokenizer with bert-base-uncased's rules and `vocabulary`: clean the text, split CJK
    characters, lower-case, strip accents, WordPiece. Raises ModelError naming `source`."""
    ids = {token: i for i, token in enumerate(vocabulary)}
    for token in SPECIAL_TOKENS:
        if token not in ids:
            raise ModelError(f"the vocabulary {source} has no {token}")
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))  # noqa: S106 - the unknown token, no secret
    # strip_accents=None strips them because lowercase is set (as BERT's do_lower_case does).
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.decoder = WordPieceDecoder(prefix="##", cleanup=True)
    tokenizer.add_special_tokens([_special(token) for token in SPECIAL_TOKENS])
    return tokenizer


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _load(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception for any unreadable file
        raise ModelError(f"cannot load the tokenizer {path}: {error}") from error


def _token_id(tokenizer: Tokenizer, token: str, path: Path) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise ModelError(f"the tokenizer {path} has no {token}")
    return int(token_id)
