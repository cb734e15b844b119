"""tools/bindings/rotkv.h as ctypes: structs and functions as they are declared, so that what is
tested is what is promised, and a function without a test is found."""
import ctypes as c
import os
import re

NUMBERS = {"int32_t": c.c_int32, "int64_t": c.c_int64, "uint8_t": c.c_uint8, "uint64_t": c.c_uint64,
           "size_t": c.c_size_t, "double": c.c_double, "float": c.c_float, "int": c.c_int,
           "rotkv_status": c.c_int, "char": c.c_char}


class Parameter:
    """`kind`: text, pointer, struct (a pointer to one), handle, out (where one goes), callback,
    texts (a list of them), or number."""

    def __init__(self, text, header):
        found = re.fullmatch(r"(const )?(\w+)((?: ?\*(?: ?const)?)*) ?(\w+)((?:\[\d+\])?)", text.strip())
        self.name, self.base, stars = found[4], found[2], found[3].count("*")
        self.type = NUMBERS.get(self.base)
        if self.base in header.callbacks:
            self.kind, self.type = "callback", header.callbacks[self.base]
        elif stars == 0:
            self.kind = "number"
            self.type = self.type or header.structs[self.base]
        elif self.base == "char" and found[1]:
            self.kind, self.type = ("text", c.c_char_p) if stars == 1 else ("texts", c.c_void_p)
        elif self.base in header.structs:
            self.kind, self.type = "struct", c.c_void_p
        elif self.base in header.handles:
            self.kind, self.type = ("handle" if stars == 1 else "out"), c.c_void_p
        else:
            self.kind, self.type = "pointer", c.c_void_p


def included(path, seen):
    """The text of a header, those that lie beside it where it includes them, each once."""
    if path in seen:
        return ""
    seen.add(path)
    with open(path, encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
    beside = lambda found: included(os.path.join(os.path.dirname(path), found[1]), seen)  # noqa: E731
    return re.sub(r'^#include "(.*)"$', beside, text, flags=re.M)


class Header:
    def __init__(self, path):
        text = re.sub(r"^#.*$", "", included(path, set()), flags=re.M)
        self.structs, self.callbacks, self.functions = {}, {}, {}
        self.handles = set(re.findall(r"typedef struct (\w+) \1;", text))
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, re.S):
            self.structs[name] = self.struct(name, body)
        for result, name in re.findall(r"typedef (\w+) \(\*(\w+)\)", text):
            self.callbacks[name] = c.c_void_p
        declared = re.findall(r"ROTKV_API ([\w ]+?\*?) ?(rotkv_\w+)\((.*?)\);", text, re.S)
        for result, name, parameters in declared:
            words = " ".join(parameters.split())
            listed = [] if words == "void" else [Parameter(p, self) for p in words.split(",")]
            self.functions[name] = (result.strip(), listed)
        self.constants = {name: int(value) for name, value in
                          re.findall(r"(ROTKV_\w+) = (\d+)", text)}

    def struct(self, name, body):
        fields = []
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            base, names = re.fullmatch(r"(?:const )?(\w+)(.*)", declaration, re.S).groups()
            for one in names.split(","):
                found = re.fullmatch(r"\s*(\*?)\s*(\w+)(?:\[(\d+)\])?\s*", one)
                kind = c.c_void_p if found[1] or "*" in names.split(",")[0] else (
                    NUMBERS.get(base) or self.structs[base])
                fields.append((found[2], kind * int(found[3]) if found[3] else kind))
        return type(name, (c.Structure,), {"_fields_": fields})

    def load(self, path):
        library = c.CDLL(path)
        for name, (result, parameters) in self.functions.items():
            function = getattr(library, name)
            function.argtypes = [p.type for p in parameters]
            function.restype = {"const char*": c.c_char_p, "void": None}.get(
                result, NUMBERS.get(result))
        return library
