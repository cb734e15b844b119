"""A GGUF file as two dictionaries, to be changed and written again.

    file = GgufFile.read("model.gguf")
    file.keys["llama.attention.scale"] = (F32, 0.0)
    file.keys["llama.attention.head_count"] = (ARRAY, (I32, [2, 2]))
    file.tensors["blk.0.attn_k.bias"] = Tensor([128], 0, floats(128 * [0.5]))
    file.write("other.gguf")

Extents are as the file has them, the shortest step first; a tensor's type is ggml's number."""
import collections
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?",
           U64: "Q", I64: "q", F64: "d"}
Tensor = collections.namedtuple("Tensor", "extents type data")


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0]

    def string(self):
        size = self.take("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            of, count = self.take("I"), self.take("Q")
            return of, [self.value(of) for _ in range(count)]
        return self.take(FORMATS[kind])


def packed_string(text):
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def packed(kind, value):
    if kind == STRING:
        return packed_string(value)
    if kind == ARRAY:
        of, values = value
        return struct.pack("<IQ", of, len(values)) + b"".join(packed(of, v) for v in values)
    return struct.pack("<" + FORMATS[kind], value)


class GgufFile:
    def __init__(self):
        self.keys = {}     # name: (type, value); of an array: (ARRAY, (type, [values]))
        self.tensors = {}  # name: Tensor

    @classmethod
    def read(cls, path):
        with open(path, "rb") as file:
            reader = Reader(file.read())
        assert reader.take("4s") == b"GGUF" and reader.take("I") == 3
        n_tensors, n_keys = reader.take("Q"), reader.take("Q")
        result = cls()
        for _ in range(n_keys):
            name, kind = reader.string(), reader.take("I")
            result.keys[name] = (kind, reader.value(kind))
        infos = []
        for _ in range(n_tensors):
            name, dimensions = reader.string(), reader.take("I")
            extents = [reader.take("Q") for _ in range(dimensions)]
            infos.append((name, extents, reader.take("I"), reader.take("Q")))
        align = result.alignment()
        start = -(-reader.at // align) * align
        ends = sorted([offset for *_, offset in infos] + [len(reader.data) - start])
        for name, extents, kind, offset in infos:
            end = next(e for e in ends if e > offset) if offset < ends[-1] else offset
            result.tensors[name] = Tensor(extents, kind, reader.data[start + offset:start + end])
        return result

    def alignment(self):
        return self.keys.get("general.alignment", (U32, 32))[1]

    def write(self, path):
        align = self.alignment()
        out = struct.pack("<4sIQQ", b"GGUF", 3, len(self.tensors), len(self.keys))
        for name, (kind, value) in self.keys.items():
            out += packed_string(name) + struct.pack("<I", kind) + packed(kind, value)
        data, offset = [], 0
        for name, tensor in self.tensors.items():
            out += packed_string(name) + struct.pack("<I", len(tensor.extents))
            out += struct.pack(f"<{len(tensor.extents)}Q", *tensor.extents)
            out += struct.pack("<IQ", tensor.type, offset)
            data.append(tensor.data + bytes(-len(tensor.data) % align))
            offset += len(data[-1])
        with open(path, "wb") as file:
            file.write(out + bytes(-len(out) % align))
            file.writelines(data)
