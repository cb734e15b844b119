#include "tools/parity/case_files.h"

#include "ref/error.h"
#include "ref/files/output_file.h"
#include "ref/kernels.h"
#include "tools/cli.h"
#include "tools/parity/likely_mistake.h"
#include "tools/parity/parity.h"
#include "tools/parity/shared_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xnpy.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>

namespace rotkv::tools {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

// What an array in a file looks like: numbers of its own type, or the bytes of packed rows.
enum class Stored { f32, f64, i32, u8 };

Stored stored_as(DType type) {
    if (type == DType::f32) return Stored::f32;
    if (type == DType::f64) return Stored::f64;
    return type == DType::i32 ? Stored::i32 : Stored::u8;
}

std::vector<size_t> shape_in_file(const CaseTensor& tensor) {
    std::vector<size_t> shape(tensor.extents.begin(), tensor.extents.end());
    if (stored_as(tensor.type) == Stored::u8) shape.back() = size_t(tensor.bytes_of_row());
    return shape;
}

template <class T>
std::string npy_of(const std::vector<size_t>& shape, std::span<const std::byte> bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return xt::dump_npy(xt::adapt(values, shape));
}

std::string npy_of(const CaseTensor& tensor, std::span<const std::byte> bytes) {
    const std::vector<size_t> shape = shape_in_file(tensor);
    switch (stored_as(tensor.type)) {
        case Stored::f32:
            return npy_of<float>(shape, bytes);
        case Stored::f64:
            return npy_of<double>(shape, bytes);
        case Stored::i32:
            return npy_of<int32_t>(shape, bytes);
        case Stored::u8:
            break;
    }
    return npy_of<uint8_t>(shape, bytes);
}

struct Header {
    std::vector<size_t> shape;
    size_t data_bytes = 0;  ///< behind the header
};

// What an .npy file says before its numbers: what it would make us allocate is known before we do.
Header npy_header(const std::string& text, const std::string& path) {
    const std::string beginning = text.substr(0, 1024);
    const size_t key = beginning.find("'shape': ("), begin = key + 10;
    const size_t end = beginning.find(')', std::min(begin, beginning.size()));
    const size_t last = beginning.find('\n');
    if (beginning.compare(0, 6, "\x93NUMPY") != 0 || key == std::string::npos ||
        end == std::string::npos || last == std::string::npos) {
        throw Error(ErrorCode::bad_file, path + ": expected an .npy file with a shape");
    }
    Header header{{}, text.size() - last - 1};
    std::istringstream numbers(beginning.substr(begin, end - begin));
    size_t n = 0;
    while (numbers >> n) {
        header.shape.push_back(n);
        numbers.ignore(1, ',');
    }
    return header;
}

std::string words(const std::vector<size_t>& shape) {
    return fmt::format("[{}]", fmt::join(shape, ", "));
}

template <class T>
std::vector<std::byte> load(const std::string& text) {
    std::istringstream stream(text);
    const xt::xarray<T> values = xt::load_npy<T>(stream);
    const std::span<const std::byte> bytes = std::as_bytes(std::span(values.data(), values.size()));
    return {bytes.begin(), bytes.end()};
}

// Throws Error(bad_file) for another shape or element type than the tensor's.
std::vector<std::byte> read_npy(const std::string& path, const CaseTensor& tensor) {
    if (fs::exists(path) && !fs::is_regular_file(path)) {  // a pipe would be waited for
        throw Error(ErrorCode::bad_file, path + ": expected a regular file");
    }
    const std::string text = read_text(path);
    const std::vector<size_t> shape = shape_in_file(tensor);
    const Header found = npy_header(text, path);
    if (found.shape != shape) {
        throw Error(ErrorCode::bad_file, fmt::format("{}: expected the shape {}, found {}", path,
                                                     words(shape), words(found.shape)));
    }
    const size_t bytes = size_t(tensor.rows() * tensor.bytes_of_row());
    if (found.data_bytes < bytes) {
        throw Error(ErrorCode::bad_file, fmt::format("{}: expected {} bytes behind the header, "
                                                     "found {}",
                                                     path, bytes, found.data_bytes));
    }
    const Stored stored = stored_as(tensor.type);
    try {
        return stored == Stored::f32   ? load<float>(text)
               : stored == Stored::f64 ? load<double>(text)
               : stored == Stored::i32 ? load<int32_t>(text)
                                       : load<uint8_t>(text);
    } catch (const std::runtime_error& error) {
        constexpr const char* names[] = {"f32", "f64", "i32", "u8"};
        throw Error(ErrorCode::bad_file, fmt::format("{}: expected elements of type {}: {}", path,
                                                     names[int(stored)], error.what()));
    }
}

std::string folder_of(size_t i) { return fmt::format("{:04}", i); }

// The files of one tensor, and their entry in the index.
Json dump_tensor(const Case& one, const Expected& expected, size_t i, OutputFolder& out,
                 const std::string& folder) {
    const CaseTensor& tensor = expected.tensors[i];
    const std::string stem = folder + "/" + tensor.name;
    Json entry = {{"name", tensor.name},
                  {"role", !tensor.output ? "input"
                           : tensor.input ? "changed"
                                          : "output"},
                  {"type", type_info(tensor.type).name},
                  {"extents", tensor.extents},
                  {"file", stem + ".npy"}};
    if (!tensor.output) {
        out.write(stem + ".npy", npy_of(tensor, tensor.bytes));
        return entry;
    }
    if (tensor.input) {
        entry["before"] = stem + ".before.npy";
        out.write(stem + ".before.npy", npy_of(tensor, tensor.bytes));
    }
    entry["expected"] = stem + ".expected.npy";
    out.write(stem + ".expected.npy", npy_of(tensor, expected.results[i]));
    if (one.foreign_agreement() == Agreement::nmse)
        entry["nmse"] = bound_of(one, expected, i, true).at(0);
    if (one.foreign_agreement() != Agreement::rounding) return entry;
    const std::vector<double> bound = bound_of(one, expected, i, true);
    if (bound.empty()) return entry;
    entry["bound"] = stem + ".bound.npy";
    const std::vector<size_t> shape(tensor.extents.begin(), tensor.extents.end());
    out.write(stem + ".bound.npy", npy_of<double>(shape, std::as_bytes(std::span(bound))));
    return entry;
}

// "7" and "0.5" become numbers, "f16" stays a word, and a rotation too, with signs or without.
Json value_of(const std::string& key, const std::string& text) {
    if (key.compare(0, 3, "rot") == 0) return text;
    const Json parsed = Json::parse(text, nullptr, false);
    return parsed.is_number() ? parsed : Json(text);
}

Json dump_case(const Case& one, OutputFolder& out, const std::string& folder) {
    out.make_folder(folder);
    const Expected expected = expected_results(one);
    Json fields = Json::object();
    for (const auto& [key, value] : one.fields()) fields[key] = value_of(key, value);
    Json constants = Json::object();
    for (const auto& [key, value] : one.constants()) constants[key] = value;
    Json entry = {{"name", one.name()},
                  {"op", one.op()},
                  {"fields", fields},
                  {"constants", constants},
                  {"agreement", agreement_name(one.foreign_agreement())},
                  {"folder", folder}};
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
        entry["tensors"].push_back(dump_tensor(one, expected, i, out, folder));
    }
    return entry;
}

}  // namespace

int64_t dump_cases(const std::string& folder, const std::vector<std::string>& names) {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    std::vector<std::unique_ptr<Case>> asked;
    for (const std::string& name : names) {
        std::unique_ptr<Case> one = make_case(name);
        if (one->for_other_engines() && one->reference_supports(*ref).yes) {
            asked.push_back(std::move(one));
        }
    }
    if (asked.empty()) {
        throw Error(ErrorCode::usage,
                    fmt::format("none of the {} cases named is for other engines: layouts in "
                                "memory, saved caches and refused shapes are not",
                                names.size()));
    }
    OutputFolder out(folder);
    Json cases = Json::array();
    for (const std::unique_ptr<Case>& one : asked) {
        cases.push_back(dump_case(*one, out, folder_of(cases.size())));
    }
    out.write("index.json",
              Json{{"version", 1}, {"rotkv", version_of_build()}, {"cases", cases}}.dump(1) + "\n");
    out.finish();
    return int64_t(cases.size());
}

namespace {

Json read_index(const fs::path& root) {
    const std::string path = (root / "index.json").string();
    const Json index = Json::parse(read_text(path), nullptr, false);
    if (!index.is_object() || index.value("version", Json()) != 1 || !index.contains("cases") ||
        !index["cases"].is_array()) {
        throw Error(ErrorCode::bad_file, path + ": expected an index of cases, version 1");
    }
    for (const Json& entry : index["cases"]) {
        if (entry.is_object() && entry.value("name", Json()).is_string() &&
            entry.value("folder", Json()).is_string()) {
            continue;
        }
        throw Error(ErrorCode::bad_file, path + ": expected a name and a folder for every case");
    }
    return index;
}

// One case of the folder.
struct Judged {
    bool there = false, ok = true, exact = true;
    bool says_something = false;  // a wrong engine could have missed it
    std::string text, line;       // the report, and its first line

    void add(const char* tensor, const std::string& report, const std::string& summary) {
        if (report.empty()) return;
        const char* const between = text.empty() ? "" : "; ";
        text += fmt::format("{}{}: {}", between, tensor, report);
        line += fmt::format("{}{}: {}", between, tensor, summary);
    }
};

// Is there a number that a wrong engine could have missed? Zeros and infinities come by themselves.
bool tells(DType type, const std::vector<std::byte>& result) {
    const std::vector<double> numbers = numbers_of(type, result);
    return std::any_of(numbers.begin(), numbers.end(),
                       [](double x) { return std::isfinite(x) && x != 0; });
}

void judge_tensor(const Case& one, const Expected& expected, size_t i, const std::string& path,
                  bool as_ours, Judged& judged, LikelyMistakes& likely) {
    const CaseTensor& tensor = expected.tensors[i];
    std::vector<std::byte> found;
    try {
        found = read_npy(path, tensor);
    } catch (const Error& error) {
        judged.ok = judged.exact = false;
        return judged.add(tensor.name, error.what(), error.what());
    }
    const Verdict verdict = judge(one, expected, i, found, !as_ours);
    const bool exact = compare_exact(tensor.type, expected.results[i], found).ok;
    judged.exact &= exact;
    judged.ok &= verdict.ok;
    if (!verdict.ok) likely.add(one, expected, i, found);
    std::string summary = verdict.summary();
    if (summary.empty() && verdict.worst > 0) {
        summary = fmt::format("{:.3f} of the bound", verdict.worst);
    }
    if (summary.empty() && !exact) {
        summary = "the same values in other bytes";
    }
    judged.add(tensor.name, verdict.ok ? summary : verdict.report(tensor.extents), summary);
}

Judged judge_case(const Case& one, const fs::path& folder, bool as_ours, LikelyMistakes& likely) {
    Judged judged;
    const std::vector<CaseTensor> tensors = one.tensors();
    const auto path = [&](const CaseTensor& tensor) {
        return (folder / (std::string(tensor.name) + ".npy")).string();
    };
    for (const CaseTensor& tensor : tensors) {
        judged.there |= tensor.output && fs::exists(path(tensor));
    }
    if (!judged.there) return judged;
    const Expected expected = expected_results(one);
    for (size_t i = 0; i < tensors.size(); ++i) {
        if (!tensors[i].output) continue;
        judged.says_something |= tells(tensors[i].type, expected.results[i]);
        judge_tensor(one, expected, i, path(tensors[i]), as_ours, judged, likely);
    }
    return judged;
}

// Those whose name contains the pattern; a name in full selects that case alone.
std::vector<Json> selected(const Json& index, const fs::path& root, const std::string& pattern) {
    std::vector<Json> chosen;
    for (const Json& entry : index["cases"]) {
        const std::string name = entry["name"];
        if (name == pattern) return {entry};
        if (name.find(pattern) != std::string::npos) chosen.push_back(entry);
    }
    if (!pattern.empty() && chosen.empty()) {
        throw Error(ErrorCode::usage,
                    "--case '" + pattern + "' is part of no case's name in " + root.string());
    }
    return chosen;
}

}  // namespace

CheckReport check_cases(const std::string& folder, const std::string& pattern, bool exact) {
    const fs::path root(folder);
    CheckReport report;
    report.json = Json::array();
    std::vector<std::string> failed, passed;
    LikelyMistakes likely;
    const Json index = read_index(root);
    const Json by = index.value("rotkv", Json());
    report.written_by = by.is_string() ? "rotkv " + by.get<std::string>() : "an unnamed version";
    for (const Json& entry : selected(index, root, pattern)) {
        const std::string name = entry["name"];
        const std::unique_ptr<Case> one = make_case(name);
        ++report.cases;
        const Judged judged =
            judge_case(*one, root / entry["folder"].get<std::string>(), exact, likely);
        report.missing += !judged.there;
        if (!judged.there) continue;
        report.ok += judged.ok;
        report.exact += judged.exact;
        if (!judged.ok) {
            report.failures.push_back({name + ": " + judged.text, name + ": " + judged.line});
            failed.push_back(name);
        } else if (judged.says_something) {
            passed.push_back(name);
        }
        if (judged.ok && !judged.exact) report.notes.push_back("ok   " + name + ": " + judged.text);
        report.json.push_back({{"case", name},
                               {"outcome", judged.ok ? "ok" : "FAIL"},
                               {"exact", judged.exact},
                               {"text", judged.text}});
    }
    report.shared_fields = shared_fields(failed, passed);
    report.likely_mistakes = likely.sentences();
    return report;
}

}  // namespace rotkv::tools
