"""A minimal GGUF reader and writer for F32, F16, BF16 and Q8_0 tensors. Needs numpy only.

The format is described in ggml's docs/gguf.md.
"""

import struct

import numpy as np

STRING, ARRAY = 8, 9
SCALAR_FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
VALUE_TYPES = {"u32": 4, "f32": 6, "bool": 7}
ARRAY_TYPES = {"arr_i32": (5, "<i4"), "arr_f32": (6, "<f4")}
F32, F16, Q8_0, BF16 = 0, 1, 8, 30
Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])


class Reader:
    """Metadata in `metadata`, tensors (dims, type, offset) in `tensors` by name."""

    def __init__(self, path):
        with open(path, "rb") as source:
            self.buffer = memoryview(source.read())
        assert bytes(self.buffer[:4]) == b"GGUF", path
        self.position = 4
        self.version = self.read_scalar("I")
        n_tensors = self.read_scalar("Q")
        n_keys = self.read_scalar("Q")
        self.metadata = {}
        self.value_types = {}
        for _ in range(n_keys):
            key = self.read_string()
            self.value_types[key] = self.read_scalar("I")
            self.metadata[key] = self.read_value(self.value_types[key])
        self.tensors = dict(self.read_tensor_info() for _ in range(n_tensors))
        alignment = self.metadata.get("general.alignment", 32)
        self.data_start = (self.position + alignment - 1) // alignment * alignment

    def read_scalar(self, code):
        (value,) = struct.unpack_from("<" + code, self.buffer, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def read_string(self):
        length = self.read_scalar("Q")
        raw = bytes(self.buffer[self.position : self.position + length])
        self.position += length
        return raw.decode("utf-8", "replace")

    def read_value(self, value_type):
        if value_type == STRING:
            return self.read_string()
        if value_type == ARRAY:
            return self.read_array()
        return self.read_scalar(SCALAR_FORMATS[value_type])

    def read_array(self):
        element_type = self.read_scalar("I")
        count = self.read_scalar("Q")
        if element_type == STRING:
            return [self.read_string() for _ in range(count)]
        dtype = np.dtype("<" + SCALAR_FORMATS[element_type])
        values = np.frombuffer(self.buffer, dtype, count, self.position)
        self.position += values.nbytes
        return values

    def read_tensor_info(self):
        name = self.read_string()
        n_dims = self.read_scalar("I")
        dims = [self.read_scalar("Q") for _ in range(n_dims)]
        tensor_type = self.read_scalar("I")
        offset = self.read_scalar("Q")
        return name, (dims, tensor_type, offset)

    def tensor(self, name):
        """The dequantised float32 array, slowest dimension first."""
        dims, tensor_type, offset = self.tensors[name]
        count = int(np.prod(dims))
        values = decode(self.buffer, tensor_type, count, self.data_start + offset)
        return values.reshape(dims[::-1])


def decode(buffer, tensor_type, count, offset):
    if tensor_type == F32:
        return np.frombuffer(buffer, "<f4", count, offset).astype(np.float32)
    if tensor_type == F16:
        return np.frombuffer(buffer, "<f2", count, offset).astype(np.float32)
    if tensor_type == BF16:
        upper = np.frombuffer(buffer, "<u2", count, offset).astype(np.uint32)
        return (upper << 16).view(np.float32)
    if tensor_type == Q8_0:
        blocks = np.frombuffer(buffer, Q8_0_BLOCK, count // 32, offset)
        scales = blocks["scale"].astype(np.float32)[:, None]
        return (scales * blocks["quants"].astype(np.float32)).reshape(-1)
    raise ValueError(f"tensor type {tensor_type}: expected one of {F32}, {F16}, {Q8_0}, {BF16}")


def encode(values, type_name):
    """(type number, bytes)."""
    values = np.ascontiguousarray(values, np.float32)
    if type_name == "F32":
        return F32, values.tobytes()
    if type_name == "F16":
        return F16, values.astype("<f2").tobytes()
    if type_name == "BF16":
        bits = values.view(np.uint32)
        nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
        return BF16, (nearest_even >> 16).astype("<u2").tobytes()
    if type_name == "Q8_0":
        return Q8_0, encode_q8_0(values)
    raise ValueError(f"tensor type {type_name}: expected F32, F16, BF16 or Q8_0")


def encode_q8_0(values):
    """Blocks of 32: scale = max |x| / 127, quants rounded with halves away from zero."""
    rows = values.reshape(-1, 32)
    scales = np.abs(rows).max(1) / 127.0
    safe_scales = np.where(scales > 0, scales, 1)
    inverse = np.where(scales > 0, 1.0 / safe_scales, 0).astype(np.float32)
    scaled = rows * inverse[:, None]
    rounded = np.where(scaled >= 0, np.floor(scaled + 0.5), np.ceil(scaled - 0.5))
    blocks = np.zeros(len(rows), Q8_0_BLOCK)
    blocks["scale"] = scales
    blocks["quants"] = np.clip(rounded, -127, 127)
    return blocks.tobytes()


def encode_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_entry(key, kind, value):
    """One metadata entry; kind is u32, f32, bool, str, arr_str, arr_i32 or arr_f32."""
    name = encode_string(key)
    if kind in VALUE_TYPES:
        number = VALUE_TYPES[kind]
        return name + struct.pack("<I" + SCALAR_FORMATS[number], number, value)
    if kind == "str":
        return name + struct.pack("<I", STRING) + encode_string(value)
    if kind == "arr_str":
        header = struct.pack("<IIQ", ARRAY, STRING, len(value))
        return name + header + b"".join(encode_string(text) for text in value)
    element_type, dtype = ARRAY_TYPES[kind]
    header = struct.pack("<IIQ", ARRAY, element_type, len(value))
    return name + header + np.asarray(value, dtype).tobytes()


def encode_tensor_info(name, shape, tensor_type, offset):
    dims = b"".join(struct.pack("<Q", n) for n in shape[::-1])
    head = encode_string(name) + struct.pack("<I", len(shape)) + dims
    return head + struct.pack("<IQ", tensor_type, offset)


def write(path, metadata, tensors, alignment=32):
    """metadata: (key, kind, value) each; tensors: (name, array, type name) each."""
    header = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for entry in metadata:
        header += encode_entry(*entry)
    payloads = []
    offset = 0
    for name, values, type_name in tensors:
        tensor_type, payload = encode(values, type_name)
        payloads.append(payload)
        header += encode_tensor_info(name, values.shape, tensor_type, offset)
        offset += (len(payload) + alignment - 1) // alignment * alignment
    header += b"\0" * (-len(header) % alignment)
    with open(path, "wb") as out:
        out.write(header)
        for payload in payloads:
            out.write(payload)
            out.write(b"\0" * (-len(payload) % alignment))
