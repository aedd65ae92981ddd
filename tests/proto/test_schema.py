"""The declared messages are those of the public schema, byte for byte, and the generated code is current."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shared.messages import ext_pb2, nv_pb2
from tests.proto import schema

ROOT = Path(__file__).parents[2]
TYPES = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


def _row(field: FieldDescriptor) -> schema.Row:
    if field.message_type and field.message_type.GetOptions().map_entry:
        assert field.message_type.name == field.name[0].upper() + field.name[1:] + "Entry"
        assert [f.type for f in field.message_type.fields] == [FieldDescriptor.TYPE_STRING] * 2
        return field.number, field.name, "map", False
    if field.enum_type:
        return field.number, field.name, field.enum_type.name, field.is_repeated
    if field.message_type:
        name = field.message_type.full_name.removeprefix("nv.").removeprefix("google.protobuf.")
        return field.number, field.name, name, field.is_repeated
    return field.number, field.name, TYPES[field.type], field.is_repeated


def _messages(module: Any) -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    for message in module.DESCRIPTOR.message_types_by_name.values():
        found[message.name] = message
        for nested in message.nested_types:
            if not nested.GetOptions().map_entry:
                found[f"{message.name}.{nested.name}"] = nested
    return found


@pytest.mark.parametrize(("module", "table"), [(nv_pb2, schema.NV), (ext_pb2, schema.EXT)])
def test_every_field_is_declared_as_in_the_table(module: Any, table: str) -> None:
    declared = {name: [_row(f) for f in message.fields] for name, message in _messages(module).items()}
    assert declared == schema.rows(table)


def test_files_and_package_are_named_as_consumers_know_them() -> None:
    assert (nv_pb2.DESCRIPTOR.name, ext_pb2.DESCRIPTOR.name) == ("nv.proto", "ext.proto")
    assert nv_pb2.DESCRIPTOR.package == ext_pb2.DESCRIPTOR.package == "nv"
    assert [file.name for file in ext_pb2.DESCRIPTOR.dependencies][-1] == "nv.proto"


def test_image_formats() -> None:
    values = nv_pb2.DESCRIPTOR.enum_types_by_name["ImageFormat"].values
    assert {v.name: v.number for v in values} == schema.ENUM


def test_json_names_are_the_field_names() -> None:
    for module in (nv_pb2, ext_pb2):
        for message in _messages(module).values():
            assert all(field.json_name == field.name for field in message.fields)


def test_golden_bytes_of_a_message_with_every_label() -> None:
    message = nv_pb2.VisionLLM(version="m", info={"a": "b"}, frames=[nv_pb2.Frame(id="0:0")])
    message.llm.visionEmbeddings.add(vector=[1.0, 2.0])
    golden = "0a016d3a0c1a0a0a080000803f0000004042060a01611201624a051203303a30"
    assert message.SerializeToString(deterministic=True).hex() == golden


def test_golden_bytes_of_a_vector() -> None:
    message = nv_pb2.VisionLLM()
    message.llm.visionEmbeddings.add(vector=[1.0])
    assert message.SerializeToString().hex() == "3a081a060a040000803f"


def test_golden_bytes_of_a_query() -> None:
    message = nv_pb2.VisionLLM()
    message.llm.queries.add(params={"k": "v"})
    assert message.SerializeToString().hex() == "3a0a120812060a016b120176"


def test_size_of_768_floats() -> None:
    message = nv_pb2.VisionLLM()
    message.llm.visionEmbeddings.add(vector=[0.5] * 768)
    assert message.ByteSize() == 3081


def test_independent_classes_read_what_ours_write() -> None:
    incident = ext_pb2.Incident(sensorId="door", isAnomaly=True, place=nv_pb2.Place(name="hall"))
    incident.llm.queries.add(id="r:0", params={"k": "v"})
    read: Any = schema.classes()["Incident"].FromString(incident.SerializeToString())
    assert (read.sensorId, read.isAnomaly, read.place.name) == ("door", True, "hall")
    assert dict(read.llm.queries[0].params) == {"k": "v"}


def test_generated_code_is_up_to_date() -> None:
    pytest.importorskip("grpc_tools", reason="needs the development extra")
    check = subprocess.run(
        [ROOT / "scripts" / "proto", "--check"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert check.returncode == 0, check.stderr
