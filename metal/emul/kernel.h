#pragma once
// Kernels as the emulation knows them: what their text says of each argument ([[buffer(n)]], the
// address space), what C++ says (size, alignment), and how to call them.
// Docs: docs/22-metal.md

#include "metal/emul/lanes.h"

#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace rotkv::metal::emul {

/// Where the value of a kernel's argument comes from: what stands in its [[...]].
enum class Source {
    buffer,       ///< [[buffer(n)]]
    threadgroup,  ///< [[threadgroup(n)]]
    threadgroup_position_in_grid,
    thread_index_in_threadgroup,
    thread_index_in_simdgroup,
    simdgroup_index_in_threadgroup,
    threads_per_threadgroup,
};

/// How an argument is declared to C++.
struct CppParameter {
    bool pointer = false, reference = false;  ///< or a value
    std::size_t size = 0, alignment = 1;      ///< of what it points or refers to, or of the value
    bool read_only = false;
    bool shared = false;  ///< in memory of the threadgroup, which the emulation makes volatile
};

/// One argument.
struct Parameter {
    std::string name;
    Source source = Source::buffer;
    unsigned number = 0;  ///< n of a buffer or of threadgroup memory
    CppParameter cpp{};
};

/// What a lane's call is made of.
struct Arguments {
    std::byte* const* buffers;  ///< by their number
    const Parameter* parameters;
    Extent threads;
};

/// One kernel, or one instance of a template.
struct Kernel {
    std::string name;      ///< by which the host asks for it
    std::string function;  ///< "hadamard" of "hadamard<F32, 2>"
    std::vector<CppParameter> cpp;
    void (*code)();
    void (*call)(void (*code)(), const Arguments& arguments, const Lane& lane);
    std::vector<Parameter> parameters{};  ///< parameters_of(text, ...)
};

/// The kernels of a file and its text.
struct KernelFile {
    std::string path, text;
    std::vector<Kernel> kernels;
};

/// Every kernel of the room, from all its files. Throws std::logic_error naming file and argument
/// where a text and its C++ meaning part.
const std::vector<Kernel>& all_kernels();

/// What the text says of the arguments of `function`.
/// Throws std::logic_error with the argument's name: without an address space or with the wrong
/// one, without [[...]] or with one that the emulation does not know, with a number given twice.
std::vector<Parameter> parameters_of(const std::string& text, const std::string& function,
                                     const std::vector<CppParameter>& cpp);

/// The value of an argument that says where a lane is, x, y, z.
Extent place_of(Source source, const Arguments& arguments, const Lane& lane);

// How a lane's argument is made, by its C++ type.

template <class T>
struct Taken {  // a number
    static T from(const Arguments& arguments, const Lane& lane, std::size_t i) {
        return T(place_of(arguments.parameters[i].source, arguments, lane));
    }
};
template <class T>
struct Taken<T*> {
    static T* from(const Arguments& arguments, const Lane& lane, std::size_t i) {
        const Parameter& one = arguments.parameters[i];
        std::byte* const memory =
            one.source == Source::buffer ? arguments.buffers[one.number] : lane.memory[one.number];
        return (T*)memory;  // C's cast: into an address space too, where the compiler knows them
    }
};
template <class T>
struct Taken<T&> {
    static T& from(const Arguments& arguments, const Lane& lane, std::size_t i) {
        return *Taken<T*>::from(arguments, lane, i);
    }
};
template <>
struct Taken<unsigned> {
    static unsigned from(const Arguments& arguments, const Lane& lane, std::size_t i) {
        return place_of(arguments.parameters[i].source, arguments, lane).x;
    }
};

template <class T>
CppParameter cpp_parameter() {
    using Target = std::remove_pointer_t<std::remove_reference_t<T>>;
    return {std::is_pointer_v<T>, std::is_reference_v<T>,  sizeof(Target),
            alignof(Target),      std::is_const_v<Target>, std::is_volatile_v<Target>};
}

template <class... P, std::size_t... I>
void call_with(void (*code)(P...), const Arguments& arguments, const Lane& lane,
               std::index_sequence<I...>) {
    code(Taken<P>::from(arguments, lane, I)...);
}

/// Puts a kernel into a file's list. written: "hadamard<F32, 2>".
template <class... P>
bool add_kernel(std::vector<Kernel>& kernels, const char* name, const std::string& written,
                void (*code)(P...)) {
    kernels.push_back({name,
                       written.substr(0, written.find('<')),
                       {cpp_parameter<P>()...},
                       reinterpret_cast<void (*)()>(code),
                       [](void (*any)(), const Arguments& arguments, const Lane& lane) {
                           call_with(reinterpret_cast<void (*)(P...)>(any), arguments, lane,
                                     std::index_sequence_for<P...>());
                       }});
    return true;
}

}  // namespace rotkv::metal::emul
