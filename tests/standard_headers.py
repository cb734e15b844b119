"""Names of std:: whose header no file includes that the name's file reaches.

Such a file compiles where some library happens to include the header, and fails with the next
version of that library or compiler: `std::copy_n` needs `<algorithm>` since GCC 13. Read are quoted
includes, which are paths from the root; what libraries bring does not count."""
import functools
import os
import re

SOURCES = (".h", ".cpp", ".cu", ".cuh")
HEADER_OF = {  # where it is the only one, or the one that a reader expects
    "algorithm": "adjacent_find all_of any_of clamp copy copy_if copy_n count count_if equal fill fill_n find find_if "
                 "for_each lower_bound max max_element min min_element minmax minmax_element mismatch none_of "
                 "nth_element partial_sort remove_if replace reverse rotate shuffle sort stable_sort transform "
                 "unique upper_bound",
    "array": "array", "atomic": "atomic atomic_flag", "bit": "bit_cast bit_width countl_zero countr_zero popcount",
    "charconv": "from_chars to_chars", "cmath": "ceil exp exp2 floor isfinite isinf isnan ldexp log log2 lrint "
    "lround nearbyint nextafter pow sqrt tanh", "condition_variable": "condition_variable",
    "cstdlib": "exit getenv strtod strtol", "cstring": "memchr memcmp memcpy memset strlen",
    "fstream": "ifstream ofstream", "functional": "function", "iterator": "back_inserter istreambuf_iterator",
    "limits": "numeric_limits", "map": "map", "memory": "make_shared make_unique shared_ptr unique_ptr weak_ptr",
    "mutex": "lock_guard mutex once_flag scoped_lock unique_lock",
    "numeric": "accumulate inner_product iota lcm reduce transform_reduce", "optional": "nullopt optional",
    "random": "mt19937 mt19937_64", "set": "set", "span": "span",
    "sstream": "istringstream ostringstream stringstream", "stdexcept": "invalid_argument logic_error runtime_error",
    "thread": "jthread thread", "tuple": "tie tuple", "unordered_map": "unordered_map", "variant": "variant"}
NAME = {name: header for header, names in HEADER_OF.items() for name in names.split()}
USED = re.compile(r"\bstd::(?:ranges::)?(\w+)\b(?!::)")


@functools.cache
def code_of(path):
    with open(path, encoding="utf-8") as file:
        return re.sub(r"//[^\n]*", "", file.read())


@functools.cache
def directly(path):
    """(files of the project, headers of libraries) that a file includes itself."""
    quoted = re.findall(r'#include "([^"]+)"', code_of(path))
    return [one for one in quoted if os.path.exists(one)], set(re.findall(r"#include <([^>]+)>", code_of(path)))


def reached(path):
    """Every header of a library that the file includes, itself or through files of the project."""
    seen, left, headers = {path}, [path], set()
    while left:
        files, found = directly(left.pop())
        headers |= found
        left += [one for one in files if one not in seen]
        seen.update(files)
    return headers


def lacking(path):
    """[(line, name, header)]: the first use of each name whose header is not reached."""
    if not path.endswith(SOURCES):
        return []
    headers, found, code = reached(path), {}, code_of(path)
    for use in USED.finditer(code):
        header = NAME.get(use[1])
        if header and header not in headers:
            found.setdefault((use[1], header), code.count("\n", 0, use.start()) + 1)
    return [(line, name, header) for (name, header), line in found.items()]
