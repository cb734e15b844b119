"""What Metal forbids and C++ allows, in the texts of kernels: findings(path, text) gives lines. Also what
the emulation cannot play (threadgroup memory that is no argument), and what would make results
depend on the machine (functions of the library that may be four units off)."""
import re

FORBIDDEN = [  # pattern, what it is
    (r"\bdouble\b", "double, which Metal has not"),
    (r"\bstd\s*::", "std::, which Metal has not"),
    (r"\b(throw|try|catch)\b", "exceptions, which Metal has not"),
    (r"\b(new|delete)\b", "memory from a heap, which Metal has not"),
    (r"\bgoto\b", "goto, which Metal has not"),
    (r"\bvirtual\b", "virtual functions, which Metal has not"),
    (r"\b(struct|class)\s+\w+\s*:\s*(?!:)", "a derived class, which Metal has not"),
    (r"\bnoexcept\b", "noexcept, which Metal has not"),
    (r"\b(dynamic_cast|typeid)\b", "types at run time, which Metal has not"),
    (r"\b(thread_local|register)\b", "a storage class that Metal has not"),
    (r"\(\s*[*&]\s*\w*\s*\)\s*\(", "a function pointer, which no kernel here needs"),
    (r"\[[&=]?\]\s*\(", "a lambda, which Metal has not before 3.2"),
    (r"\bthreadgroup\s+[\w:<>]+\s+\w+\s*\[\s*\]", "an array of threadgroup memory without a size"),
    (r"\bthreadgroup\s+[\w:<>]+\s+\w+\s*(?:\[\s*\w|;|=)",
     "threadgroup memory in a function, expected an argument [[threadgroup(n)]]"),
    (r"(?<![\w:.])(?:fast\s*::\s*)?(exp|exp2|log|log2|sqrt|rsqrt|tanh|sin|cos|pow)\s*\(",
     "a function of the library that is not precise::, expected functions.msl"),
    (r"\b0x[0-9a-fA-F.]*p[-+]?\d", "a hexadecimal float, which C++14 has not"),
    (r"(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=e[-+]?\d))(?:e[-+]?\d+)?(?![\w.])",
     "a literal that is double in C++ and float in Metal, expected f at its end"),
]
TYPES = r"(?:float|half|bool|u?int|u?short|u?char|u?long|u?int\d+_t|[A-Z]\w*|metal_args::\w+)"
POINTER = re.compile(r"(?:^|[(,;{}])\s*((?:\w+\s+)*?)(" + TYPES + r"(?:<[^<>;]*>)?(?:::\w+)?)"
                     r"\s*[*&]\s*\w+\s*(?=[,)=\[;])", re.M)
CAST = re.compile(r"\(\s*((?:\w+\s+)*?)(" + TYPES + r")\s*\*+\s*\)")
SPACES = {"device", "constant", "threadgroup", "thread"}
FUNCTION = re.compile(r"(?<![\w:.])(\w+)\s*\(([^;{}]*)\)\s*\{")
CPP_WORDS = {"if", "for", "while", "switch", "return", "sizeof", "decltype", "static_assert", "int",
             "char", "short", "long", "maybe_unused"}
NO_FUNCTION = {"if", "for", "while", "switch"}


def without_comments(text):
    """The same lines, comments and strings blank."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'//[^\n]*|/\*.*?\*/|"[^"\n]*"', blank, text, flags=re.S)


def bodies(text):
    """(name, first line, body) of every function."""
    for found in FUNCTION.finditer(text):
        if found[1] in NO_FUNCTION:
            continue
        depth, at = 1, found.end()
        while depth and at < len(text):
            depth += (text[at] == "{") - (text[at] == "}")
            at += 1
        yield found[1], text.count("\n", 0, found.start()) + 1, text[found.end():at]


def recursions(text):
    """Functions of a text that reach themselves by calls of unqualified names."""
    calls, lines = {}, {}
    for name, line, body in bodies(text):
        lines.setdefault(name, line)
        found = set(re.findall(r"(?<![\w:.])(\w+)\s*(?:<[^;(){}]*>)?\s*\(", body))
        calls.setdefault(name, set()).update(found)
    for name in calls:
        reached, left = set(), list(calls[name])
        while left:
            one = left.pop()
            if one not in reached:
                reached.add(one)
                left += calls.get(one, ())
        if name in reached:
            yield lines[name], f"{name} calls itself, for which Metal has no stack before 2.4"


def words_of_the_library(texts):
    """What kernels call or write in [[...]] and do not define: functions, types, attributes."""
    code = ";\n".join(without_comments(text) for text in texts)
    called = set(re.findall(r"(?<![\w.:])((?:[a-z]\w*::)?[a-z]\w*)\s*(?:<[\w\s,]*>)?\s*\(", code))
    attributes = set(re.findall(r"\[\[(\w+)", code))
    defined = {name for name, _, _ in bodies(code)} | set(re.findall(r"\bvoid (\w+)\(", code))
    types = set(re.findall(r"\b(u?(?:char|short|int|long)\d?|u?int\d+_t|half\d?|float\d?|"
                           r"simdgroup_\w+\dx\d)\b", code))
    return {word for word in called | attributes | types
            if word not in defined | CPP_WORDS and not word.startswith("emul::")}


def findings(text):
    """[(line, what)] of a kernel's text."""
    code = without_comments(text)
    includes = [(number, line) for number, line in enumerate(text.split("\n"), 1)
                if re.match(r"\s*#\s*include", line)]
    found = [(number, "an include, expected <metal_stdlib>, metal/args.h or a .msl file")
             for number, line in includes
             if not re.search(r'<metal_stdlib>|"metal/(args\.h|\w+\.msl)"', line)]
    for pattern, what in FORBIDDEN:
        found += [(code.count("\n", 0, one.start()) + 1, what)
                  for one in re.finditer(pattern, code)]
    for one in (*POINTER.finditer(code), *CAST.finditer(code)):
        if not SPACES & set(one[1].split()):
            found.append((code.count("\n", 0, one.start(2)) + 1,
                          f"a pointer or reference to {one[2]} without an address space"))
    return sorted(found + list(recursions(code)))
