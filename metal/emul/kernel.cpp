#include "metal/emul/kernel.h"

#include <map>
#include <set>
#include <stdexcept>

namespace rotkv::metal::emul {

std::vector<KernelFile (*)()> kernel_files();  // written by CMake, from the names of the files

namespace {

const std::map<std::string, Source> k_sources = {
    {"buffer", Source::buffer},
    {"threadgroup", Source::threadgroup},
    {"threadgroup_position_in_grid", Source::threadgroup_position_in_grid},
    {"thread_index_in_threadgroup", Source::thread_index_in_threadgroup},
    {"thread_index_in_simdgroup", Source::thread_index_in_simdgroup},
    {"simdgroup_index_in_threadgroup", Source::simdgroup_index_in_threadgroup},
    {"threads_per_threadgroup", Source::threads_per_threadgroup},
};

// The words of a declaration, each sign that is no part of one a word of its own.
std::vector<std::string> words_of(const std::string& text) {
    std::vector<std::string> words;
    bool joined = false;
    for (const char c : text) {
        const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
        if (letter && joined) {
            words.back() += c;
        } else if (std::isspace(static_cast<unsigned char>(c)) == 0) {
            words.emplace_back(1, c);
        }
        joined = letter;
    }
    return words;
}

// "(a, b<c, d>)" from its opening bracket on: what stands between the commas.
std::vector<std::string> declarations(const std::string& text, std::size_t open) {
    std::vector<std::string> all = {""};
    int depth = 0;
    for (std::size_t i = open + 1; i < text.size(); ++i) {
        const char c = text[i];
        if (c == ')' && depth == 0) return all;
        depth += (c == '(' || c == '<' || c == '[') - (c == ')' || c == '>' || c == ']');
        if (c == ',' && depth == 0) {
            all.emplace_back();
        } else {
            all.back() += c;
        }
    }
    throw std::logic_error("a kernel's list of arguments never ends");
}

[[noreturn]] void refuse(const std::string& function, const std::string& argument,
                         const std::string& what) {
    throw std::logic_error("kernel " + function + ", argument '" + argument + "': " + what);
}

// device, constant, threadgroup or "" of a declaration.
std::string space_of(const std::vector<std::string>& words) {
    for (const std::string& word : words) {
        if (word == "device" || word == "constant" || word == "threadgroup") return word;
        if (word == "[") break;  // of an attribute
    }
    return "";
}

void check_space(const std::string& function, const Parameter& one, const std::string& space) {
    const bool points = one.cpp.pointer || one.cpp.reference;
    const bool memory = one.source == Source::buffer || one.source == Source::threadgroup;
    if (points != memory) refuse(function, one.name, "a pointer or not, its [[...]] says else");
    if (!points) return;
    if (space.empty()) refuse(function, one.name, "no address space");
    if ((space == "threadgroup") != (one.source == Source::threadgroup)) {
        refuse(function, one.name, "address space " + space + ", its [[...]] says another");
    }
    if (space == "constant" && !one.cpp.read_only) refuse(function, one.name, "not constant");
    if ((space == "threadgroup") != one.cpp.shared) refuse(function, one.name, "not shared");
}

Parameter parameter_of(const std::string& function, const std::string& declaration,
                       const CppParameter& cpp) {
    const std::vector<std::string> words = words_of(declaration);
    Parameter one{"", Source::buffer, 0, cpp};
    std::size_t at = 0;
    while (at + 1 < words.size() && !(words[at] == "[" && words[at + 1] == "[")) ++at;
    one.name = at > 0 ? words[at - 1] : declaration;
    if (at + 2 >= words.size()) refuse(function, one.name, "no [[...]]");
    const auto source = k_sources.find(words[at + 2]);
    if (source == k_sources.end()) {
        refuse(function, one.name, "[[" + words[at + 2] + "]], which the emulation does not know");
    }
    one.source = source->second;
    if (words[at + 3] == "(") one.number = unsigned(std::stoul(words[at + 4]));
    check_space(function, one, space_of(words));
    return one;
}

}  // namespace

std::vector<Parameter> parameters_of(const std::string& text, const std::string& function,
                                     const std::vector<CppParameter>& cpp) {
    std::size_t found = text.find("kernel void " + function + "(");
    if (found == std::string::npos) found = text.find("[[kernel]] void " + function + "(");
    if (found == std::string::npos) throw std::logic_error("no kernel " + function);
    const std::vector<std::string> written = declarations(text, text.find('(', found));
    if (written.size() != cpp.size()) {
        throw std::logic_error("kernel " + function + ": another number of arguments in its text");
    }
    std::vector<Parameter> all;
    std::set<std::pair<Source, unsigned>> taken;
    for (std::size_t i = 0; i < cpp.size(); ++i) {
        all.push_back(parameter_of(function, written[i], cpp[i]));
        if (!taken.emplace(all.back().source, all.back().number).second) {
            refuse(function, all.back().name, "another has this [[...]]");
        }
    }
    return all;
}

const std::vector<Kernel>& all_kernels() {
    static const std::vector<Kernel> kernels = [] {
        std::vector<Kernel> all;
        for (KernelFile (*file)() : kernel_files()) {
            const KernelFile one = file();
            for (Kernel kernel : one.kernels) {
                kernel.parameters = parameters_of(one.text, kernel.function, kernel.cpp);
                all.push_back(kernel);
            }
        }
        return all;
    }();
    return kernels;
}

Extent place_of(Source source, const Arguments& arguments, const Lane& lane) {
    switch (source) {
        case Source::threadgroup_position_in_grid:
            return lane.threadgroup;
        case Source::thread_index_in_threadgroup:
            return {lane.index, 0, 0};
        case Source::thread_index_in_simdgroup:
            return {lane.in_simdgroup(), 0, 0};
        case Source::simdgroup_index_in_threadgroup:
            return {lane.simdgroup(), 0, 0};
        case Source::threads_per_threadgroup:
            return arguments.threads;
        case Source::buffer:
        case Source::threadgroup:
            break;
    }
    return {0, 0, 0};
}

}  // namespace rotkv::metal::emul
