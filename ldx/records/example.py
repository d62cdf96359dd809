"""tf.train.Example messages, encoded and decoded without TensorFlow.

The messages are built at run time in a descriptor pool of their own, so they never collide with
TensorFlow's in one process; field numbers and types are TensorFlow's, so the bytes are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from ldx.common.errors import UserError

_LIST_OF = {
    "string": "bytes_list",
    "int64": "int64_list",
    "int32": "int64_list",
    "float32": "float_list",
}


@dataclass(frozen=True)
class Feature:
    """One column of a record.

    Attributes:
      dtype: string, int64, int32 or float32.
      many: whether the column holds any number of values, not one.
    """

    dtype: str
    many: bool = False


def _example_class() -> Any:
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="ldx/example.proto", package="ldx", syntax="proto3"
    )

    def field(name: str, number: int, kind: int | str, *, many: bool = False) -> Any:
        """A field; `kind` is a type of the protocol, or the name of a message."""
        label = proto.LABEL_REPEATED if many else proto.LABEL_OPTIONAL
        if isinstance(kind, str):
            message = proto.TYPE_MESSAGE
            return proto(name=name, number=number, label=label, type=message, type_name=kind)
        return proto(name=name, number=number, label=label, type=kind)

    for name, kind in (
        ("BytesList", proto.TYPE_BYTES),
        ("FloatList", proto.TYPE_FLOAT),
        ("Int64List", proto.TYPE_INT64),
    ):
        file.message_type.add(name=name, field=[field("value", 1, kind, many=True)])
    feature = file.message_type.add(
        name="Feature",
        field=[
            field("bytes_list", 1, ".ldx.BytesList"),
            field("float_list", 2, ".ldx.FloatList"),
            field("int64_list", 3, ".ldx.Int64List"),
        ],
    )
    features = file.message_type.add(
        name="Features", field=[field("feature", 1, ".ldx.Features.FeatureEntry", many=True)]
    )
    entry = features.nested_type.add(
        name="FeatureEntry",
        field=[field("key", 1, proto.TYPE_STRING), field("value", 2, ".ldx.Feature")],
    )
    feature.oneof_decl.add(name="kind")
    for one_of_three in feature.field:
        one_of_three.oneof_index = 0
    entry.options.map_entry = True
    file.message_type.add(name="Example", field=[field("features", 1, ".ldx.Features")])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ldx.Example"))


_Example = _example_class()


def encode_example(values: Mapping[str, Any], features: Mapping[str, Feature], where: str) -> bytes:
    """Serialise the values of `features`; the bytes depend on the values only.

    Raises:
      UserError: a text is not valid Unicode (a lone surrogate).
    """
    example = _Example()
    columns = example.features.feature
    for name, feature in features.items():
        column = getattr(columns[name], _LIST_OF[feature.dtype])
        value = values[name]
        if feature.dtype == "string":
            try:
                column.value.append(value.encode())
            except UnicodeEncodeError as error:
                raise UserError(f"{where}: {name} is not valid Unicode ({error})") from None
            continue
        # An empty column must still say which kind of list it is.
        column.SetInParent()
        if feature.many:
            column.value.extend(np.asarray(value, feature.dtype).tolist())
        else:
            column.value.append(int(value))
    return example.SerializeToString(deterministic=True)


def decode_example(data: bytes, features: Mapping[str, Feature], where: str) -> dict[str, Any]:
    """Parse one record into str, int and NumPy arrays; columns not in `features` are ignored.

    Raises:
      UserError: the data are no Example, or a feature is missing or has another type or length.
    """
    example = _Example()
    try:
        example.ParseFromString(data)
    except message.DecodeError:
        raise UserError(f"{where}: not a tf.train.Example") from None
    columns = example.features.feature
    values = {}
    for name, feature in features.items():
        if name not in columns:
            raise UserError(f"{where}: the feature {name} is missing")
        column = columns[name]
        kind = column.WhichOneof("kind")
        # tf.train.Example may leave the kind of an empty column open.
        if kind != _LIST_OF[feature.dtype] and not (kind is None and feature.many):
            raise UserError(
                f"{where}: the feature {name} is a {kind}, not a {_LIST_OF[feature.dtype]}"
            )
        raw = getattr(column, _LIST_OF[feature.dtype]).value[:]
        values[name] = _value(raw, feature, f"{where}: the feature {name}")
    return values


def _value(raw: list, feature: Feature, where: str) -> Any:
    if feature.many:
        try:
            return np.array(raw, feature.dtype)
        except OverflowError:
            raise UserError(f"{where} does not fit {feature.dtype}") from None
    if len(raw) != 1:
        raise UserError(f"{where} has {len(raw)} values, not one")
    if feature.dtype != "string":
        return raw[0]
    try:
        return raw[0].decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not valid UTF-8 ({error})") from None
