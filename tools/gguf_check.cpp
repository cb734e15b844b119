#include "tools/gguf_check.h"

#include "ref/error.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "ref/quant.h"
#include "ref/text/tokenizer.h"
#include "tools/gguf_words.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>

namespace rotkv::tools {
namespace {

/// What is known of one part of a file. Not checked: there is nothing that would run here.
struct Verdict {
    enum class State { ok, not_checked, refused } state = State::ok;
    std::string words;  ///< why; of what is ok, what was seen
};
using State = Verdict::State;

const char* words_of(State state) {
    switch (state) {
        case State::ok:
            return "ok";
        case State::not_checked:
            return "not checked";
        case State::refused:
            return "refused";
    }
    return "";
}

Verdict verdict_of(const std::function<void()>& check) {
    try {
        check();
        return {};
    } catch (const Error& error) {
        return {State::refused, error.what()};
    }
}

/// A NaN or infinity in a scale spoils all it touches.
void check_rows(const GgufFile& file, const GgufTensor& tensor) {
    const int64_t n = tensor.n[0], rows = tensor.view.rows();
    std::vector<float> row(static_cast<std::size_t>(n));
    for (int64_t r = 0; r < rows; ++r) {
        ref::dequantize_row(tensor.type, row.data(),
                            tensor.view.data + r * row_bytes(tensor.type, n), n);
        for (int64_t i = 0; i < n; ++i) {
            if (std::isfinite(row[std::size_t(i)])) continue;
            throw Error(ErrorCode::bad_file,
                        fmt::format("{}: tensor {}: row {}, column {}: expected a number, found {}",
                                    file.path(), tensor.name, r, i, row[std::size_t(i)]));
        }
    }
}

Verdict check_weights(const GgufFile& file) {
    int64_t values = 0, unread = 0;
    std::string first_unread;
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.empty()) continue;
        if (!tensor.readable) {
            if (unread++ == 0) first_unread = in_quotes(tensor.name) + ": " + type_words(tensor);
            continue;
        }
        check_rows(file, tensor);
        values += tensor.n[0] * tensor.view.rows();
    }
    const std::string finite = fmt::format("{} finite values", values);
    if (unread == 0) return {State::ok, finite};
    return {State::not_checked, fmt::format("{} of {} tensors, first {}; {} in the others", unread,
                                            file.tensors().size(), first_unread, finite)};
}

Verdict check_tokenizer(const GgufFile& file) {
    if (file.find("tokenizer.ggml.model") == nullptr) {
        return {State::not_checked, "the file has no vocabulary"};
    }
    return verdict_of([&]() { Tokenizer::from_gguf(file); });
}

/// Why the file holds no model that could run here, as far as that is no fault of the file.
std::string no_model_here(const GgufFile& file, const MaybeConfig& model) {
    if (file.n_parts() > 1) return fmt::format("one of {} parts of a split model", file.n_parts());
    if (file.tensors().empty()) return "the file has no tensors";
    const GgufValue* name = file.find("general.architecture");
    if (name == nullptr) return "the file names no architecture";
    const std::string_view* text = std::get_if<std::string_view>(name);
    if (text == nullptr) return "";
    const bool known = std::ranges::any_of(
        architectures(), [&](const Architecture& row) { return *text == row.name; });
    return known ? "" : model.reason;
}

Verdict check_model(const GgufFile& file, const MaybeConfig& model) {
    const std::string nothing = no_model_here(file, model);
    if (!nothing.empty()) return {State::not_checked, nothing};
    return verdict_of([&]() {
        const std::unique_ptr<Backend> backend = make_ref_backend();
        Model(file, *backend, {.context = 1});
    });
}

}  // namespace

MaybeConfig config_of(const GgufFile& file) {
    try {
        return {read_config(file, 1), ""};
    } catch (const Error& error) {
        return {std::nullopt, error.what()};
    }
}

std::vector<std::string> notices_of(const GgufFile& file, const MaybeConfig& model) {
    std::vector<std::string> notices;
    try {
        notices = Tokenizer::from_gguf(file).vocab().notices;
    } catch (const Error&) {  // without a vocabulary nothing is assumed of it
    }
    if (model.config) {
        const std::vector<std::string>& more = model.config->notices;
        notices.insert(notices.end(), more.begin(), more.end());
    }
    return notices;
}

CheckResult check_gguf(const GgufFile& file, std::FILE* out) {
    CheckResult result;
    result.json = {{"file", file.path()}, {"tensors", file.tensors().size()}};
    std::string last;  // "format ok, model not checked"
    const auto report = [&](const char* what, const Verdict& verdict) {
        const std::string words = printable(verdict.words);
        const bool ok = verdict.state == State::ok;
        const std::string line =
            words_of(verdict.state) + (words.empty() ? "" : (ok ? ", " : ": ") + words);
        fmt::print(out, "{}: {}\n", what, line);
        result.json[what] = line;
        if (last.empty() || !ok) {
            last += fmt::format("{}{} {}", last.empty() ? "" : ", ", what, words_of(verdict.state));
        }
        return ok;
    };
    const MaybeConfig model = config_of(file);
    result.ok = report("format", {});
    result.ok &= report("weights", check_weights(file));
    result.ok &= report("tokenizer", check_tokenizer(file));
    result.ok &= report("model", check_model(file, model));
    if (result.ok) last = "ok";
    const std::vector<std::string> notices = notices_of(file, model);
    say_notices("rotkv-gguf", file.path(), notices);
    result.json["notices"] = notices;
    result.json["result"] = last;
    fmt::print(out, "{}\n", last);
    return result;
}

}  // namespace rotkv::tools
