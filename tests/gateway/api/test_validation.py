"""How any request is turned into its type: conversions, places, messages."""

import json
import string
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from gateway.api import validation
from gateway.api.embedding_schemas import TextRequest, VideoRequest
from gateway.api.schemas import HealthQuery, UploadForm, Uuid
from gateway.api.stream_schemas import AddStreams
from gateway.api.validation import (
    as_stream_id,
    problem,
    validate,
    validate_form,
    validate_json,
    validate_query,
    validate_stream_id,
    validate_uuid,
)
from shared.errors import InvalidParameters, UndecodableBody

ID = "123e4567-e89b-12d3-a456-426614174000"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    number: int


def _even(value: int) -> None:
    if value % 2:
        raise ValueError("Must be even")


class Sample(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    first: int
    number: Annotated[int, Meta(ge=-5, le=99)] = 0
    real: Annotated[float, Meta(ge=-90, le=90)] | None = None
    flag: bool = False
    text: Annotated[str, Meta(min_length=2, max_length=5, pattern=r"^[a-z\n]*\Z")] | None = None
    token: Annotated[str, Meta(pattern=r"^[a-z]*\Z", extra={"secret": True})] = ""
    kind: Literal["video", "image"] = "video"
    id: Uuid | None = None
    inner: Inner | None = None
    items: Annotated[list[Inner], Meta(min_length=1, max_length=2)] | None = None
    names: dict[str, Annotated[str, Meta(max_length=3)]] | None = None
    even: Annotated[int | None, Meta(extra={"check": _even})] = None
    anything: Any = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.first == 13 and self.number == 13:
            yield "number", "Must differ from first"


class Loose(msgspec.Struct):
    name: str = ""


def refusal(body: str | bytes, type_: type[msgspec.Struct] = Sample) -> str:
    with pytest.raises(InvalidParameters) as refused:
        validate_json(body.encode() if isinstance(body, str) else body, type_)
    return refused.value.message


def sample(**fields: Any) -> Sample:
    return validate_json(json.dumps({"first": 1, **fields}).encode(), Sample)


# Conversions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "number"),
    [
        (10, 10), (10.0, 10), (-5, -5), ("10", 10), (" 10 ", 10), ("+10", 10), ("-5", -5), ("1_0", 10),
        ("10.0", 10), ("10.00", 10), ("00", 0), (True, 1), (False, 0),
    ],
)  # fmt: skip
def test_integers_are_converted(given: Any, number: int) -> None:
    converted = sample(number=given).number
    assert converted == number
    assert type(converted) is int


@pytest.mark.parametrize(
    "given",
    [10.5, "10.5", "10.", "1e1", "", "0x10", "٣", "--1", "1__0", "_1", "1 0", None, [], {}, "9" * 5000],
)
def test_what_is_no_integer_is_refused(given: Any) -> None:
    assert refusal(json.dumps({"first": 1, "number": given})) == "('body', 'number'): Must be a whole number"


@pytest.mark.parametrize(
    ("given", "real"),
    [
        (1, 1.0),
        (1.5, 1.5),
        ("1.5", 1.5),
        (" 1.5 ", 1.5),
        ("1e1", 10.0),
        (".5", 0.5),
        ("5.", 5.0),
        (True, 1.0),
    ],
)
def test_reals_are_converted(given: Any, real: float) -> None:
    converted = sample(real=given).real
    assert converted == real
    assert type(converted) is float


@pytest.mark.parametrize("given", ["nan", "inf", "-inf", "", "0x1", "_1", "٣", [], {}, "1e999", 10**400])
def test_what_is_no_finite_number_is_refused(given: Any) -> None:
    body = json.dumps({"first": 1, "real": given})
    with pytest.raises(InvalidParameters):
        validate_json(body.encode(), Sample)


@pytest.mark.parametrize("given", [True, 1, 1.0, "1", "on", "ON", "t", "true", "True", "y", "yes", "YES"])
def test_what_means_true(given: Any) -> None:
    assert sample(flag=given).flag is True


@pytest.mark.parametrize("given", [False, 0, 0.0, "0", "off", "OFF", "f", "false", "n", "no", "No"])
def test_what_means_false(given: Any) -> None:
    assert sample(flag=given).flag is False


@pytest.mark.parametrize("given", [2, -1, 0.5, "2", "", " true", "ja", None, [], {}])
def test_what_is_no_boolean_is_refused(given: Any) -> None:
    assert refusal(json.dumps({"first": 1, "flag": given})) == "('body', 'flag'): Must be true or false"


@pytest.mark.parametrize("given", [1, 1.5, True, [], {}])
def test_nothing_becomes_a_string(given: Any) -> None:
    assert refusal(json.dumps({"first": 1, "text": given})) == "('body', 'text'): Must be a string"


@pytest.mark.parametrize("form", [ID, ID.upper(), ID.replace("-", ""), ID.replace("-", "").upper()])
def test_uuids_are_normalised(form: str) -> None:
    assert sample(id=form).id == ID
    assert validate_uuid(form, ("path", "file_id")) == ID


@pytest.mark.parametrize(
    "form",
    [
        "",
        "x",
        ID[:-1],
        ID + "0",
        ID + "\n",
        f" {ID}",
        f"{{{ID}",
        f"{{{ID.replace('-', '')}}}",
        f"urn:{ID}",
        f"urn:uuid:{{{ID}}}",
        ID.replace("-", "", 1),
        "\uff11" * 32,
    ],
)  # fmt: skip
def test_what_is_no_uuid_is_refused_and_repeated(form: str) -> None:
    with pytest.raises(InvalidParameters) as refused:
        validate_uuid(form, ("path", "file_id"))
    shown = json.dumps(form, ensure_ascii=False)
    assert refused.value.message == f"('path', 'file_id'): Must be a UUID (input: {shown})"


@given(st.uuids(), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}"]), st.booleans())
def test_any_uuid_in_any_form_is_its_canonical_form(any_id: uuid.UUID, form: str, upper: bool) -> None:
    text = form.format(any_id)
    assert validate_uuid(text.upper() if upper else text, ()) == str(any_id)
    assert validate_uuid(any_id.hex, ()) == str(any_id)
    assert validate_stream_id(text, ()) == str(any_id)


@pytest.mark.parametrize("stream_id", ["c", "camera-001", "Front.Door_2", "0" * 256, "a..b", ID])
def test_an_id_of_a_stream_stands_as_it_is(stream_id: str) -> None:
    assert validate_stream_id(stream_id, ("path", "stream_id")) == stream_id
    assert as_stream_id(stream_id) == stream_id


@pytest.mark.parametrize(
    "other", ["", ".", "..", "-c", "_c", "a/b", "a b", "a\n", "\u00e4", "0" * 257, "a,b", "{a}"]
)
def test_what_is_no_id_of_a_stream_is_refused(other: str) -> None:
    with pytest.raises(InvalidParameters, match="Must be a UUID or, for a live stream"):
        validate_stream_id(other, ("path", "stream_id"))
    assert as_stream_id(other) is None


def test_a_byte_order_mark_is_no_part_of_json() -> None:
    assert validate_json(b'\xef\xbb\xbf{"first": 1}', Sample).first == 1


@pytest.mark.parametrize(("body", "at"), [(b"\xff", 0), (b'{"first": "\xff"}', 11)])
def test_a_body_that_is_not_utf8_is_no_question_of_its_type(body: bytes, at: int) -> None:
    with pytest.raises(UndecodableBody, match=f"The body is not UTF-8: byte {at}$") as refused:
        validate_json(body, Sample)
    assert (refused.value.status, refused.value.code) == (400, "BadRequest")


@given(st.integers(-5, 99), st.sampled_from(["{}", " {} ", "{}.0", "{}.000", "\t{}"]))
def test_any_integer_in_any_spelling_is_itself(number: int, spelling: str) -> None:
    assert sample(number=spelling.format(number)).number == number
    assert sample(number=float(number)).number == number


@given(st.floats(-90, 90))
def test_any_real_survives_as_text(real: float) -> None:
    assert sample(real=repr(real)).real == real


@given(st.text(string.printable, max_size=8))
def test_no_text_is_taken_for_a_number_that_is_none(text: str) -> None:
    try:
        number = sample(number=text).number
    except InvalidParameters:
        return
    assert number == int(float(text.replace("_", "")))


# Places and sentences ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "('body', 'first'): Field required"),
        ({"first": None}, "('body', 'first'): Must be a whole number"),
        ({"first": 1, "number": -6}, "('body', 'number'): Must be at least -5"),
        ({"first": 1, "number": "100"}, "('body', 'number'): Must be at most 99"),
        ({"first": 1, "real": 90.5}, "('body', 'real'): Must be at most 90"),
        ({"first": 1, "text": "a"}, "('body', 'text'): Must have at least 2 characters, not 1"),
        ({"first": 1, "text": "abcdef"}, "('body', 'text'): Must have at most 5 characters, not 6"),
        ({"first": 1, "text": "AB"}, "('body', 'text'): Must match ^[a-z\\n]*$ (input: \"AB\")"),
        ({"first": 1, "token": "A"}, "('body', 'token'): Must match ^[a-z]*$"),
        ({"first": 1, "kind": "audio"}, "('body', 'kind'): Must be 'image' or 'video'"),
        ({"first": 1, "kind": []}, "('body', 'kind'): Must be 'image' or 'video'"),
        ({"first": 1, "id": 5}, "('body', 'id'): Must be a UUID (input: 5)"),
        ({"first": 1, "inner": 5}, "('body', 'inner'): Must be an object"),
        ({"first": 1, "inner": {}}, "('body', 'inner', 'number'): Field required"),
        ({"first": 1, "inner": {"number": 1, "x": 1}}, "('body', 'inner', 'x'): No such field"),
        ({"first": 1, "items": {}}, "('body', 'items'): Must be a list"),
        ({"first": 1, "items": []}, "('body', 'items'): Must have at least 1 items, not 0"),
        ({"first": 1, "items": [{}] * 3}, "('body', 'items'): Must have at most 2 items, not 3"),
        ({"first": 1, "items": [{"number": 1}, {}]}, "('body', 'items', 1, 'number'): Field required"),
        ({"first": 1, "names": []}, "('body', 'names'): Must be an object"),
        ({"first": 1, "names": {"a": 5}}, "('body', 'names', 'a'): Must be a string"),
        ({"first": 1, "even": 3}, "('body', 'even'): Must be even (input: 3)"),
        ({"first": 13, "number": 13}, "('body', 'number'): Must differ from first"),
        ({"first": 1, "more": 1}, "('body', 'more'): No such field"),
    ],
)  # fmt: skip
def test_a_message_names_the_place_and_the_reason(fields: dict[str, Any], message: str) -> None:
    assert refusal(json.dumps(fields)) == message


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"more": 1}, "('body', 'first')"),
        ({"more": 1, "number": 100}, "('body', 'first')"),
        ({"more": 1, "number": 100, "first": 1}, "('body', 'number')"),
        ({"even": 3, "flag": 5, "first": 1}, "('body', 'flag')"),
        ({"zeta": 1, "alpha": 1, "even": 3, "first": 1}, "('body', 'even')"),
        ({"zeta": 1, "alpha": 1, "first": 1}, "('body', 'zeta')"),
        ({"zeta": 1, "first": 13, "number": 13}, "('body', 'zeta')"),
        ({"even": 3, "first": 13, "number": 13}, "('body', 'even')"),
    ],
)
def test_the_first_problem_in_declared_order_is_reported(fields: dict[str, Any], place: str) -> None:
    assert refusal(json.dumps(fields)).startswith(f"{place}: ")


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        ('{"first": 1,', 12),
        ('{"first": }', 10),
        ('{"first": 1} x', 13),
        ("{'first': 1}", 1),
        ('{"first": NaN}', 10),
        ("[" * 100_000, 0),
    ],
)
def test_malformed_json_is_placed_by_its_offset(body: str | bytes, offset: int) -> None:
    assert refusal(body).startswith(f"('body', {offset}): Malformed JSON")


@pytest.mark.parametrize("body", ['{"first": "\\ud800"}', '{"first": 1e999}', '{"real": -1e999, "first": 1}'])
def test_what_only_lenient_parsers_take_is_refused(body: str) -> None:
    assert refusal(body).startswith("('body', ")


@pytest.mark.parametrize(
    "body",
    [
        '{"first": ' + "1" * 5000 + "}",
        '{"nonesuch": ' + "1" * 5000 + "}",
        '{"real": ' + "1" * 5000 + ".5}",
        '{"first": 1, ' + "9" * 5000,
    ],
)
def test_numbers_of_thousands_of_digits_are_refused(body: str) -> None:
    assert refusal(body).startswith("('body', ")


@pytest.mark.parametrize(
    "body",
    [
        "[" + "[]," * 200_000 + "[]]",
        '{"nonesuch": [' + "1," * 200_000 + "1]}",
        "{" + ",".join(f'"{number}":1' for number in range(200_000)) + "}",
        '{"first": "' + r"a,\"" * 200_000 + '", "x": [' + "{}," * 200_000 + "1]}",
    ],
    ids=["lists", "numbers", "fields", "beside a long text"],
)
def test_a_body_of_too_many_values_is_refused_before_they_are_made(body: str) -> None:
    assert refusal(body) == "('body',): Must have at most 100000 values"


def test_a_text_may_have_any_number_of_commas_and_quotes() -> None:
    body = '{"nonesuch": "' + r",[{\\\"" * 100_000 + '"}'
    assert refusal(body) == "('body', 'first'): Field required"


@pytest.mark.parametrize("body", ["", " \n", "null"])
def test_a_body_is_required(body: str) -> None:
    assert refusal(body) == "('body',): Field required"


@pytest.mark.parametrize("body", ["[]", "5", '"text"', "true"])
def test_a_body_must_be_an_object(body: str) -> None:
    assert refusal(body) == "('body',): Must be an object"


def test_the_last_of_two_equal_keys_counts() -> None:
    assert validate_json(b'{"first": 1, "first": "2"}', Sample).first == 2


def test_a_long_input_is_shortened() -> None:
    message = refusal(json.dumps({"first": 1, "id": "x" * 10_000_000}))
    assert message.startswith("('body', 'id'): Must be a UUID (input: \"xxx")
    assert message.endswith("...)")
    assert len(message) < 400


def test_a_long_name_is_shortened() -> None:
    assert len(refusal(json.dumps({"first": 1, "x" * 10_000_000: 1}))) < 400


def test_a_deep_input_is_not_repeated() -> None:
    deep: Any = "x"
    for _ in range(2000):
        deep = [deep]
    assert problem(("body",), "No", deep).message == "('body',): No (input: ...)"


# Unions -----------------------------------------------------------------------------------------------


ASSET = "Must be a UUID or, for a live stream, up to 256 letters, digits and ._-"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, f"{ASSET} (input: 5)"),
        ("-x", f'{ASSET} (input: "-x")'),
        ({}, f"{ASSET} (input: {{}})"),
        (["/x"], f'{ASSET} (item 0) (input: ["/x"])'),
        ([ID, 5], f'{ASSET} (item 1) (input: ["{ID}", 5])'),
    ],
)
def test_a_union_is_placed_at_its_first_member(value: Any, reason: str) -> None:
    message = refusal(json.dumps({"id": value, "model": "m"}), VideoRequest)
    assert message == f"('body', 'id', 'uuid'): {reason}"


def test_a_union_takes_either_member_and_normalises_it() -> None:
    one = validate_json(json.dumps({"id": ID.upper(), "model": "m"}).encode(), VideoRequest)
    many = validate_json(json.dumps({"id": [ID.upper(), ID], "model": "m"}).encode(), VideoRequest)
    assert (one.id, many.id) == (ID, [ID, ID])


# Queries and forms ------------------------------------------------------------------------------------


def test_a_query_is_placed_as_one() -> None:
    with pytest.raises(InvalidParameters, match=r"^\('query', 'detailed'\): Must be true or false$"):
        validate_query({"detailed": "maybe"}, HealthQuery)


def test_a_query_may_hold_more_than_is_asked_for() -> None:
    assert validate_query({"detailed": "on", "verbose": "1"}, HealthQuery) == HealthQuery(detailed=True)


def test_an_empty_form_field_counts_as_absent() -> None:
    fields = {"purpose": "vision", "media_type": "video", "filename": "a.mp4", "id": "", "creation_time": ""}
    form = validate_form(fields, UploadForm)
    assert (form.id, form.creation_time) == (None, None)
    with pytest.raises(InvalidParameters, match=r"^\('body', 'purpose'\): Field required$"):
        validate_form({**fields, "purpose": ""}, UploadForm)


def test_unknown_fields_pass_where_the_type_allows_them() -> None:
    assert validate_json(b'{"name": "a", "more": {"x": 1}}', Loose) == Loose("a")


# The strict decoder and the walk agree ----------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 5000) | st.floats(-10, 5000) | st.text(max_size=5),
    lambda some: st.lists(some, max_size=2) | st.dictionaries(st.text(max_size=3), some, max_size=2),
    max_leaves=4,
)
_ID = st.sampled_from([ID, ID.upper(), ID.replace("-", "")])
Fields = dict[str, st.SearchStrategy[Any]]


def _bodies(right: Fields, odd: Fields) -> st.SearchStrategy[dict[str, Any]]:
    """Right bodies, most of them with something odd, arbitrary, missing or more."""
    names = st.sampled_from(sorted(right))
    change = st.one_of(
        st.fixed_dictionaries({}, optional=odd),
        st.dictionaries(names | st.text(max_size=3), _JSON, max_size=1),
        st.just({}),
    )
    return st.builds(
        lambda fields, changed, gone: {k: v for k, v in {**fields, **changed}.items() if k not in gone},
        st.fixed_dictionaries(right),
        change,
        st.sets(names, max_size=1) | st.just(set()),
    )


VIDEO = _bodies(
    {
        "id": _ID | st.lists(_ID, max_size=3),
        "model": st.text(max_size=5),
        "stream": st.booleans(),
        "stream_options": st.none() | st.fixed_dictionaries({"include_usage": st.booleans()}),
        "chunk_duration": st.integers(0, 3600),
        "media_info": st.none() | st.just({"type": "offset", "end_offset": 5}),
        "url": st.none()
        | st.sampled_from(["http://a/b.mp4", "data:video/mp4;base64,AA", "file:///a", "s3://b/k"]),
        "url_headers": st.none() | st.dictionaries(st.text(max_size=3), st.just("a")),
        "media_type": st.sampled_from(["video", "image"]),
        "creation_time": st.none() | st.just("2024-06-09T18:32:11.123Z"),
    },
    {
        "id": st.lists(st.just("x"), max_size=2) | st.lists(_ID, min_size=51, max_size=51),
        "stream": st.sampled_from(["yes", 1, 0.0, 2]),
        "stream_options": st.just({"include_usage": "on"}) | st.just({"other": 1}),
        "chunk_duration": st.sampled_from(["10", 10.0, 10.5, -1, 3601]),
        "media_info": st.just({"type": "timestamp"}) | st.just({"type": "offset", "end_offset": "5"}),
        "url": st.sampled_from(["ftp://a", "data:,", "http://a b", "", "s3://B/k"]),
        "url_headers": st.dictionaries(st.text(max_size=3), st.sampled_from(["a", "a\nb", "x" * 8193])),
        "media_type": st.none(),
        "creation_time": st.sampled_from(["2024-06-09T18:32:11.12Z\n", "2024-02-30T00:00:00.000Z", "x" * 24]),
    },
)
TEXT = _bodies(
    {
        "text_input": st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=3),
        "model": st.text(max_size=5),
    },
    {
        "text_input": st.sampled_from(["x" * 1000, "x" * 1001, ["x" * 1001], ["a"] * 101]),
        "model": st.just("m" * 257),
    },
)
STREAM = _bodies(
    {"liveStreamUrl": st.just("rtsp://a"), "description": st.just("Front door"), "id": st.none() | _ID},
    {
        "liveStreamUrl": st.sampled_from(["http://a", "xrtsp://"]),
        "description": st.sampled_from(["a\n", "é"]),
        "password": st.sampled_from(["secret", "s\n"]),
        "place_lat": st.floats(-100, 100) | st.integers(-100, 100) | st.just("5.5"),
    },
)
STREAMS = _bodies({"streams": st.lists(STREAM, min_size=1, max_size=2)}, {"streams": st.just([])})


def _outcome(call: Any) -> Any:
    try:
        return call()
    except InvalidParameters as refused:
        return refused.message


@pytest.mark.parametrize(
    ("type_", "bodies"), [(VideoRequest, VIDEO), (TextRequest, TEXT), (AddStreams, STREAMS)]
)
def test_the_fast_path_agrees_with_the_walk(type_: type[msgspec.Struct], bodies: Any) -> None:
    assert validation._strict_decoder(type_) is not None
    accepted = refused = 0

    @given(bodies)
    def agree(fields: dict[str, Any]) -> None:
        nonlocal accepted, refused
        body = msgspec.json.encode(fields)
        fast = _outcome(lambda: validate_json(body, type_))
        assert fast == _outcome(lambda: validate(type_, msgspec.json.decode(body), ("body",)))
        accepted += not isinstance(fast, str)
        refused += isinstance(fast, str)

    agree()
    assert accepted
    assert refused


def test_rules_below_the_surface_forbid_the_fast_path() -> None:
    class Ruled(msgspec.Struct, forbid_unknown_fields=True):
        items: list[Sample]

    assert validation._strict_decoder(Ruled) is None
    with pytest.raises(InvalidParameters, match=r"^\('body', 'items', 0, 'even'\): Must be even"):
        validate_json(b'{"items": [{"first": 1, "even": 1}]}', Ruled)
