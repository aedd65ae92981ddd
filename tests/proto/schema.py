"""Message classes built from a table of the schema, apart from the project's own generated code.

They stand for a consumer that was written by someone else: nothing here reads `proto/`.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.message import Message

TIMESTAMP = "google.protobuf.Timestamp"

NV = """
VisionLLM: 1 version string; 2 timestamp Timestamp; 3 end Timestamp; 4 startFrameId string;
  5 endFrameId string; 6 sensor Sensor; 7 llm LLM; 8 info map; 9 frames Frame rep
LLM: 1 info map; 2 queries Query rep; 3 visionEmbeddings Embedding rep
Query: 1 id string; 2 params map; 3 prompts map; 4 response string; 5 embeddings Embedding rep
Embedding: 1 vector float rep; 2 info map
Sensor: 1 id string; 2 type string; 3 description string; 4 location Location; 5 coordinate Coordinate;
  6 info map
Frame: 1 version string; 2 id string; 3 timestamp Timestamp; 4 sensorId string; 5 objects Object rep;
  6 fov TypeMetrics rep; 7 rois TypeMetrics rep; 8 socialDistancing SD; 9 segmentation Segmentation;
  10 interactions Interaction rep; 11 congestions Congestion rep; 12 info map
Location: 1 lat double; 2 lon double; 3 alt double
Coordinate: 1 x double; 2 y double; 3 z double
Object: 1 id string; 2 bbox Bbox; 3 type string; 4 confidence float; 5 info map; 6 embedding Embedding;
  7 pose Pose; 8 gaze Gaze; 9 lipActivity LipActivity; 10 speed float; 11 dir float rep;
  12 coordinate Coordinate; 13 location Location; 14 bbox3d Bbox3d
Bbox: 1 leftX float; 2 topY float; 3 rightX float; 4 bottomY float; 5 embeddings Embedding rep;
  6 confidence float; 7 info map
Bbox3d: 1 coordinates double rep; 2 embeddings Embedding rep; 3 confidence float; 4 info map
Segmentation: 1 mask int32 rep; 2 info map
TypeMetrics: 1 id string; 2 type string; 3 count int32; 4 coordinates Coordinate rep;
  5 objectIds string rep; 6 info map
Cluster: 1 points Point2D rep
Point2D: 1 x double; 2 y double
SD: 1 threshold double; 2 proximityDetections int32; 3 clusters Cluster rep; 4 info map
Interaction: 1 id string; 2 objectIds string rep; 3 coordinates Coordinate rep; 4 description string;
  5 info map
Congestion: 1 id string; 2 objectIds string rep; 3 amount float; 4 info map
Pose: 1 type string; 2 keypoints Pose.Keypoint rep; 3 actions Pose.Action rep; 4 info map
Pose.Keypoint: 1 name string; 2 coordinates float rep; 3 quaternion float rep
Pose.Action: 1 type string; 2 confidence float
Gaze: 1 x float; 2 y float; 3 z float; 4 theta float; 5 phi float
LipActivity: 1 classLabel string
Place: 1 id string; 2 name string; 3 type string; 4 location Location; 5 coordinate Coordinate; 6 info map
AnalyticsModule: 1 id string; 2 description string; 3 source string; 4 version string; 5 info map
Event: 1 id string; 2 type string; 5 info map
Message: 1 messageid string; 2 mdsversion string; 3 timestamp Timestamp; 4 place Place; 5 sensor Sensor;
  6 analyticsModule AnalyticsModule; 7 object Object; 8 event Event; 9 videoPath string
Polygon: 1 coordinates Point2D rep; 2 holes PolygonHole rep
PolygonHole: 1 coordinates Point2D rep
ImageData: 1 format ImageFormat; 2 encoding string; 3 name string; 4 data bytes; 5 info map
"""
EXT = """
Incident: 1 sensorId string; 2 timestamp Timestamp; 3 end Timestamp; 4 objectIds string rep;
  5 frameIds string rep; 6 place Place; 7 analyticsModule AnalyticsModule; 8 category string;
  9 embeddings Embedding rep; 10 isAnomaly bool; 11 info map; 12 llm LLM
"""
ENUM = {"RAW": 0, "JPG": 1, "JPEG": 2, "PNG": 3}
FieldType = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "double": FieldType.TYPE_DOUBLE,
    "float": FieldType.TYPE_FLOAT,
    "int32": FieldType.TYPE_INT32,
    "bool": FieldType.TYPE_BOOL,
    "string": FieldType.TYPE_STRING,
    "bytes": FieldType.TYPE_BYTES,
}

Row = tuple[int, str, str, bool]


def rows(table: str) -> dict[str, list[Row]]:
    """The table as (number, name, type, repeated) by message."""
    messages: dict[str, list[Row]] = {}
    for line in table.replace("\n  ", " ").strip().splitlines():
        name, _, fields = line.partition(": ")
        messages[name] = []
        for field in fields.split(";"):
            number, label, kind, *rep = field.split()
            messages[name].append((int(number), label, kind, bool(rep)))
    return messages


def _declare(message: descriptor_pb2.DescriptorProto, fields: list[Row]) -> None:
    for number, name, kind, repeated in fields:
        field = message.field.add(name=name, number=number, label=3 if repeated or kind == "map" else 1)
        if kind == "map":
            entry = message.nested_type.add(name=name[0].upper() + name[1:] + "Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=9, label=1)
            entry.field.add(name="value", number=2, type=9, label=1)
            field.type, field.type_name = FieldType.TYPE_MESSAGE, entry.name
        elif kind in SCALARS:
            field.type = SCALARS[kind]
        elif kind == "ImageFormat":
            field.type, field.type_name = FieldType.TYPE_ENUM, ".nv.ImageFormat"
        else:
            field.type, field.type_name = (
                FieldType.TYPE_MESSAGE,
                f".{TIMESTAMP}" if kind == "Timestamp" else f".nv.{kind}",
            )


def classes() -> dict[str, type[Message]]:
    """A message class per name of the table, in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="independent.proto", package="nv", syntax="proto3", dependency=[timestamp_pb2.DESCRIPTOR.name]
    )
    file.enum_type.add(name="ImageFormat").value.extend(
        descriptor_pb2.EnumValueDescriptorProto(name=name, number=number) for name, number in ENUM.items()
    )
    declared: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in (rows(NV) | rows(EXT)).items():
        outer, _, inner = name.rpartition(".")
        parent = declared[outer].nested_type if outer else file.message_type
        declared[name] = parent.add(name=inner)
        _declare(declared[name], fields)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"nv.{name}")) for name in declared
    }
