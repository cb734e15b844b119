#!/usr/bin/env python3
"""The room metal as others would read it: kernels keep the rules that Metal has and C++ has not, a
compiler with address spaces takes them, and the host compiles against Apple's own metal-cpp (in the
folder that ROTKV_METAL_CPP names).

Usage: tests/test_metal.py [FOLDER_WITH_THE_PROGRAMS] [unittest arguments]"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import metal_rules

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")

# One line for each rule, and a word of what must be said of it.
BROKEN = [
    ("static float f(float x) { double y = x; return y; }", "double"),
    ("static float f(float x) { return std::abs(x); }", "std::"),
    ("static void f() { throw 1; }", "exceptions"),
    ("static void f() { try { g(); } catch (int) {} }", "exceptions"),
    ("static void f(thread float* x) { x = new float; }", "heap"),
    ("static void f() { goto end; }", "goto"),
    ("struct S { virtual void f(); };", "virtual"),
    ("struct S : public T { int x; };", "derived"),
    ("static void f() noexcept {}", "noexcept"),
    ("static bool f(int x) { return typeid(x) == typeid(int); }", "run time"),
    ("static thread_local int x;", "storage class"),
    ("static void f(void (*g)(int)) { g(1); }", "function pointer"),
    ("using F = void (*)(int);", "function pointer"),
    ("static void f(void (&g)(int)) { g(1); }", "function pointer"),
    ("static void f() { auto g = [](int x) { return x; }; }", "lambda"),
    ("static void f() { threadgroup float x[]; }", "without a size"),
    ("static void f() { threadgroup float x[32]; }", "expected an argument"),
    ("static float f(float x) { return exp(x); }", "not precise"),
    ("static float f(float x) { return fast::sqrt(x); }", "not precise"),
    ("constant float x = 0x1p-24f;", "hexadecimal"),
    ("static float f(float x) { return 0.5 * x; }", "double in C++"),
    ("constant float x = 1e-15;", "double in C++"),
    ("static int f(int x) { return x > 0 ? f(x - 1) : 0; }", "calls itself"),
    ("static int g(int x) { return f(x); }\nstatic int f(int x) { return g(x); }", "calls itself"),
    ("static float f(float* x) { return *x; }", "address space"),
    ("static float f(const float& x) { return x; }", "address space"),
    ("static void f(device float* x) { float* y = x; }", "address space"),
    ("static float f(device uchar* x) { return *(float*)x; }", "address space"),
    ("struct S { float* x; };", "address space"),
    ("#include <cmath>", "include"),
    ('#include "ref/quant.h"', "include"),
]

# What metal-cpp's headers ask of a system that has no Objective-C: names, nothing behind them.
STUBS = {
    "objc/runtime.h": """
        #pragma once
        #include <cstddef>
        struct objc_object { struct objc_class* isa; };
        typedef objc_object* id;
        typedef struct objc_class* Class;
        typedef struct objc_selector* SEL;
        typedef signed char BOOL;
        typedef struct Protocol Protocol;
        extern "C" SEL sel_registerName(const char*);
        extern "C" Class objc_lookUpClass(const char*);
        extern "C" Protocol* objc_getProtocol(const char*);""",
    "objc/message.h": """
        #pragma once
        #include <objc/runtime.h>
        extern "C" void objc_msgSend();
        extern "C" void objc_msgSend_stret();
        extern "C" void objc_msgSend_fpret();""",
    "CoreFoundation/CoreFoundation.h": """
        #pragma once
        #include <math.h>
        typedef double CFTimeInterval;
        typedef struct dispatch_queue_s* dispatch_queue_t;
        typedef struct dispatch_data_s* dispatch_data_t;""",
    "IOSurface/IOSurfaceRef.h": "typedef struct __IOSurface* IOSurfaceRef;",
    "TargetConditionals.h": "",
}

# Every function of metal-cpp that the host calls, and its type, in Apple's words.
CALLS = [
    ("NS::AutoreleasePool::alloc", "NS::AutoreleasePool* (*)()"),
    ("NS::AutoreleasePool::init", "NS::AutoreleasePool* (NS::AutoreleasePool::*)()"),
    ("NS::Error::localizedDescription", "NS::String* (NS::Error::*)() const"),
    ("NS::RetainPtr", "NS::SharedPtr<MTL::Buffer> (*)(MTL::Buffer*)"),
    ("NS::SharedPtr<MTL::Buffer>::get", "MTL::Buffer* (NS::SharedPtr<MTL::Buffer>::*)() const"),
    ("NS::String::string", "NS::String* (*)(const char*, NS::StringEncoding)"),
    ("NS::String::utf8String", "const char* (NS::String::*)() const"),
    ("NS::TransferPtr", "NS::SharedPtr<MTL::Buffer> (*)(MTL::Buffer*)"),
    ("MTL::Buffer::contents", "void* (MTL::Buffer::*)()"),
    ("MTL::Buffer::length", "NS::UInteger (MTL::Buffer::*)() const"),
    ("MTL::CommandBuffer::commit", "void (MTL::CommandBuffer::*)()"),
    ("MTL::CommandBuffer::computeCommandEncoder",
     "MTL::ComputeCommandEncoder* (MTL::CommandBuffer::*)()"),
    ("MTL::CommandBuffer::error", "NS::Error* (MTL::CommandBuffer::*)() const"),
    ("MTL::CommandBuffer::status", "MTL::CommandBufferStatus (MTL::CommandBuffer::*)() const"),
    ("MTL::CommandBuffer::waitUntilCompleted", "void (MTL::CommandBuffer::*)()"),
    ("MTL::CommandQueue::commandBuffer", "MTL::CommandBuffer* (MTL::CommandQueue::*)()"),
    ("MTL::ComputeCommandEncoder::dispatchThreadgroups",
     "void (MTL::ComputeCommandEncoder::*)(MTL::Size, MTL::Size)"),
    ("MTL::ComputeCommandEncoder::endEncoding", "void (MTL::ComputeCommandEncoder::*)()"),
    ("MTL::ComputeCommandEncoder::setBuffer", "void (MTL::ComputeCommandEncoder::*)"
     "(const MTL::Buffer*, NS::UInteger, NS::UInteger)"),
    ("MTL::ComputeCommandEncoder::setBytes", "void (MTL::ComputeCommandEncoder::*)"
     "(const void*, NS::UInteger, NS::UInteger)"),
    ("MTL::ComputeCommandEncoder::setComputePipelineState",
     "void (MTL::ComputeCommandEncoder::*)(const MTL::ComputePipelineState*)"),
    ("MTL::ComputeCommandEncoder::setThreadgroupMemoryLength",
     "void (MTL::ComputeCommandEncoder::*)(NS::UInteger, NS::UInteger)"),
    ("MTL::ComputePipelineState::maxTotalThreadsPerThreadgroup",
     "NS::UInteger (MTL::ComputePipelineState::*)() const"),
    ("MTL::ComputePipelineState::threadExecutionWidth",
     "NS::UInteger (MTL::ComputePipelineState::*)() const"),
    ("MTL::CreateSystemDefaultDevice", "MTL::Device* (*)()"),
    ("MTL::Device::name", "NS::String* (MTL::Device::*)() const"),
    ("MTL::Device::newBuffer",
     "MTL::Buffer* (MTL::Device::*)(NS::UInteger, MTL::ResourceOptions)"),
    ("MTL::Device::newBuffer", "MTL::Buffer* (MTL::Device::*)"
     "(const void*, NS::UInteger, MTL::ResourceOptions, BLOCK)"),
    ("MTL::Device::newCommandQueue", "MTL::CommandQueue* (MTL::Device::*)()"),
    ("MTL::Device::newComputePipelineState",
     "MTL::ComputePipelineState* (MTL::Device::*)(const MTL::Function*, NS::Error**)"),
    ("MTL::Device::newLibrary", "MTL::Library* (MTL::Device::*)(const NS::String*, NS::Error**)"),
    ("MTL::Library::newFunction", "MTL::Function* (MTL::Library::*)(const NS::String*)"),
]


RUNS_ONE_KERNEL = r"""
    #include "metal/emul/kernel.h"
    #include "metal/emul/metal_cpp.h"
    #include <cstdio>
    namespace rotkv::metal::emul {
    KernelFile kernel_file_broken_kernels();
    std::vector<KernelFile (*)()> kernel_files();
    std::vector<KernelFile (*)()> kernel_files() { return {kernel_file_broken_kernels}; }
    }
    int main(int, char** arguments) {
        NS::AutoreleasePool* pool = NS::AutoreleasePool::alloc()->init();
        MTL::Device* device = MTL::CreateSystemDefaultDevice();
        NS::Error* error = nullptr;
        MTL::Library* library = device->newLibrary(NS::String::string("", NS::UTF8StringEncoding), &error);
        MTL::Function* function =
            library->newFunction(NS::String::string(arguments[1], NS::UTF8StringEncoding));
        MTL::Buffer* y = device->newBuffer(4096, MTL::ResourceStorageModeShared);
        MTL::Buffer* x = device->newBuffer(4096, MTL::ResourceStorageModeShared);
        for (int i = 0; i < 1024; ++i) static_cast<float*>(x->contents())[i] = float(i);
        MTL::CommandBuffer* commands = device->newCommandQueue()->commandBuffer();
        MTL::ComputeCommandEncoder* encoder = commands->computeCommandEncoder();
        encoder->setComputePipelineState(device->newComputePipelineState(function, &error));
        encoder->setBuffer(y, 0, 0);
        encoder->setBuffer(x, 0, 1);
        encoder->setThreadgroupMemoryLength(4096, 0);
        encoder->dispatchThreadgroups(MTL::Size(1, 1, 1), MTL::Size(64, 1, 1));
        encoder->endEncoding();
        commands->commit();
        commands->waitUntilCompleted();
        if (commands->error() != nullptr) {
            std::printf("%s\n", commands->error()->localizedDescription()->utf8String());
        }
        pool->release();
    }
"""


def texts():
    """(path, text) of every kernel's file and of what they include."""
    for path in sorted(glob.glob("metal/*.metal") + glob.glob("metal/*.msl")):
        with open(path, encoding="utf-8") as file:
            yield path, file.read()


def clang(*arguments):
    """What the compiler says, nothing where it agrees."""
    done = subprocess.run(["clang++", "-std=c++20", "-fsyntax-only", "-I.", *arguments],
                          capture_output=True, text=True)
    return done.stderr if done.returncode else ""


def calls_of_the_host():
    """The names in CALLS and in the emulation's header that files of the host call."""
    host = ""
    for path in glob.glob("metal/*.cpp") + glob.glob("metal/*.h"):
        with open(path, encoding="utf-8") as file:
            host += metal_rules.without_comments(file.read())
    with open("metal/emul/metal_cpp.h", encoding="utf-8") as file:
        declared = set(re.findall(r"\b(\w+)\(", metal_rules.without_comments(file.read())))
    called = set(re.findall(r"(?:->|\.|::)(\w+)\(", host)) & declared
    return called - {"c_str", "move", "Size"}  # the standard library's; no function


def typed_calls(block):
    """C++ that compiles where every function of CALLS has its type."""
    return '#include "metal/metal_cpp.h"\n' + "".join(
        f"[[maybe_unused]] constexpr auto call_{i} = static_cast<{of}>(&{name});\n"
        for i, (name, of) in enumerate(CALLS)).replace("BLOCK", block)


class Rules(unittest.TestCase):
    def test_kernels_keep_them(self):
        for path, text in texts():
            self.assertEqual([f"{path}:{line}: {what}" for line, what in metal_rules.findings(text)],
                             [])

    def test_each_is_found(self):
        for text, word in BROKEN:
            with self.subTest(text=text):
                self.assertIn(word, " ".join(what for _, what in metal_rules.findings(text)))

    def test_every_word_of_the_library_has_its_section(self):
        used = metal_rules.words_of_the_library([text for _, text in texts()])
        self.assertIn("simd_shuffle_xor", used)
        with open("docs/22-metal.md", encoding="utf-8") as file:
            page = file.read()
        table = page[page.index("| word | section |"):].split("\n\n")[0]
        listed = set(re.findall(r"[\w:]+", " ".join(re.findall(r"`([^`]+)`", table))))
        self.assertEqual(sorted(used - listed), [])

    def test_comments_are_no_code(self):
        self.assertEqual(metal_rules.findings("// a double, std::exp(x)\n/* throw */"), [])


@unittest.skipUnless(shutil.which("clang++"), "no clang++")
class AddressSpaces(unittest.TestCase):
    FLAGS = ("-x", "c++", "-Imetal/emul", "-DROTKV_ADDRESS_SPACES", "-Wno-unknown-attributes",
             "-Wno-deprecated-volatile")

    def test_kernels_keep_apart_what_lies_apart(self):
        for path, _ in texts():
            if path.endswith(".metal"):
                self.assertEqual(self.check(f'#include "{path}"'), "")

    def test_a_pointer_that_leaves_its_space_is_found(self):
        for text in ("static float f(thread float* x) { return *x; }"
                     "static float g(device float* x) { return f(x); }",
                     "static float f(device float* x) { return *x; }"
                     "static float g(constant float* x) { return f(x); }",
                     "static float f(thread float* x) { return *x; }"
                     "static float g(threadgroup float* x) { return f(x); }",
                     "static void f(constant float* x) { *x = 1; }"):
            self.assertIn("error", self.check("#include <metal_stdlib>\n" + text))

    def check(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write('#include "metal/emul/kernel.h"\n'
                       "static std::vector<rotkv::metal::emul::Kernel> k_kernels;\n" + text + "\n")
            file.flush()
            return clang(*self.FLAGS, file.name)


@unittest.skipUnless(shutil.which("clang++") and shutil.which("cmake"), "no clang++ or cmake")
class Races(unittest.TestCase):
    """Lanes as threads, watched by ThreadSanitizer."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        main, kernels = (os.path.join(cls.folder.name, name) for name in ("main.cpp", "kernels.cpp"))
        cls.program = os.path.join(cls.folder.name, "program")
        with open(main, "w", encoding="utf-8") as file:
            file.write("int main() {}\n")  # a program: libraries do not link the runtime
        if said := cls.compile(main):
            raise unittest.SkipTest("no ThreadSanitizer: " + said.partition("\n")[0])
        with open(main, "w", encoding="utf-8") as file:
            file.write(RUNS_ONE_KERNEL)
        subprocess.run(["cmake", "-DFILE=tests/broken_kernels.metal", "-DROOT=.", f"-DOUT={kernels}",
                        "-P", "metal/emul/wrap.cmake"], check=True)
        if said := cls.compile(main, kernels, *glob.glob("metal/emul/*.cpp")):
            raise AssertionError(said)

    @classmethod
    def compile(cls, *arguments):
        """What the compiler says where it fails."""
        done = subprocess.run(["clang++", "-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread",
                               "-I.", "-Imetal/emul", "-Wno-unknown-attributes", *arguments, "-o",
                               cls.program], capture_output=True, text=True)
        return done.stderr or "no reason given" if done.returncode else ""

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def said(self, kernel):
        done = subprocess.run([self.program, kernel], capture_output=True, text=True)
        return done.stdout + done.stderr

    def line_of(self, beginning):
        with open("tests/broken_kernels.metal", encoding="utf-8") as file:
            lines = file.read().split("\n")
        start = next(i for i, line in enumerate(lines) if "reversed_without_barrier" in line)
        return next(i for i in range(start, len(lines)) if beginning in lines[i]) + 1

    def test_a_right_kernel_is_silent(self):
        self.assertEqual(self.said("reversed"), "")

    def test_a_missing_barrier_is_a_race_with_its_lines(self):
        said = self.said("reversed_without_barrier")
        self.assertIn("data race", said)
        for beginning in ("all[i] = x[i]", "y[i] = all["):
            self.assertIn(f"broken_kernels.metal:{self.line_of(beginning)}", said)

    def test_lanes_that_part_are_found_by_threads_too(self):
        self.assertIn("simd_max at broken_kernels.metal", self.said("lanes_that_part"))
        self.assertIn("has returned", self.said("barrier_of_one_simdgroup"))


class Calls(unittest.TestCase):
    """What the host asks of metal-cpp: a list, which both headers must fit."""

    def test_they_are_listed(self):
        self.assertEqual({name.rpartition("::")[2] for name, _ in CALLS}, calls_of_the_host())
        with open("metal/README.md", encoding="utf-8") as file:
            self.assertIn(f"calls {len(CALLS)} functions of theirs", " ".join(file.read().split()))

    @unittest.skipUnless(shutil.which("clang++"), "no clang++")
    def test_the_emulation_declares_them_alike(self):
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write(typed_calls("void (*)(void*, NS::UInteger)"))
            file.flush()
            self.assertEqual(clang("-Wall", "-Wextra", "-Werror", file.name), "")


@unittest.skipUnless(shutil.which("clang++"), "no clang++")
@unittest.skipIf(sys.platform == "darwin", "the build itself uses them here")
@unittest.skipUnless(os.environ.get("ROTKV_METAL_CPP"),
                     "no folder of Apple's metal-cpp in ROTKV_METAL_CPP")
class AppleHeaders(unittest.TestCase):
    """The judge of every call that the host makes: Apple's declarations."""

    def check(self, *sources):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in STUBS.items():
                path = os.path.join(folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text + "\n")
            return clang("-fblocks", "-Wall", "-Wextra", "-Werror", "-isystem", folder, "-isystem",
                         os.environ["ROTKV_METAL_CPP"], "-DROTKV_METAL_CPP",
                         '-DROTKV_METAL_NAME="metal"', '-DROTKV_METALLIB="rotkv.metallib"', *sources)

    def test_the_host_compiles_against_them(self):
        for path in sorted(glob.glob("metal/*.cpp")):
            self.assertEqual(self.check(path), "", path)

    def test_every_call_has_the_type_that_they_declare(self):
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write(typed_calls("void (^)(void*, NS::UInteger)"))
            file.flush()
            self.assertEqual(self.check(file.name), "")

    def test_a_call_that_they_have_not_is_found(self):
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write('#include "metal/metal_cpp.h"\n'
                       "void f(MTL::Device* device) { device->newBuffer(\"16 bytes\"); }\n")
            file.flush()
            self.assertIn("no matching member function", self.check(file.name))


if __name__ == "__main__":
    if sys.argv[1:] and os.path.isdir(sys.argv[1]):
        sys.argv.pop(1)  # the programs' folder, which every test of tools is given
    os.chdir(ROOT)
    unittest.main()
