// llama.cpp's command lines in terms that CLI11 can parse, declared in tools/cli.h.
#include "ref/error.h"
#include "tools/cli.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace rotkv::tools {

namespace {

enum class Value { none, one, maybe };  // maybe: only on, off, auto and the like

struct IgnoredFlag {
    std::string_view name;
    Value value;
};

// What llama.cpp's tools know and nothing here depends on: where layers live, how files are read.
constexpr IgnoredFlag k_ignored[] = {
    {"-ngl", Value::one},
    {"--gpu-layers", Value::one},
    {"--n-gpu-layers", Value::one},
    {"-fa", Value::maybe},
    {"--flash-attn", Value::maybe},
    {"-ub", Value::one},
    {"--ubatch-size", Value::one},
    {"-s", Value::one},
    {"--seed", Value::one},
    {"-tb", Value::one},
    {"--threads-batch", Value::one},
    {"-sm", Value::one},
    {"--split-mode", Value::one},
    {"-mg", Value::one},
    {"--main-gpu", Value::one},
    {"-dev", Value::one},
    {"--device", Value::one},
    {"-nkvo", Value::none},
    {"--no-kv-offload", Value::none},
    {"--mmap", Value::none},
    {"--no-mmap", Value::none},
    {"--mlock", Value::none},
    {"--no-warmup", Value::none},
};

// One thing has one spelling in a program that takes one cache, another where it takes lists of
// them or whole caches as words, a third in another project (-khad: ik_llama.cpp): who types
// another one is told this program's.
struct Spelling {
    std::string_view name, there, expected;  // a program that has `there` says it as `expected`
};
constexpr Spelling k_spellings[] = {
    {"--rot", "--rot-k", "--rot-k WHAT and --rot-v WHAT"},
    {"--rot", "--variant", "rot=WHAT in --variant"},
    {"--rot-k", "--rot", "--rot LIST, of both sides"},
    {"--rot-k", "--variant", "rot-k=WHAT in --variant"},
    {"--rot-v", "--rot", "--rot LIST, of both sides"},
    {"--rot-v", "--variant", "rot-v=WHAT in --variant"},
    {"--rot-signs", "--rot", "--rot BLOCK:SEED"},
    {"--rot-signs", "--variant", "signs=SEED in --variant"},
    {"-ctk", "--variant", "k=TYPE in --variant"},
    {"--cache-type-k", "--variant", "k=TYPE in --variant"},
    {"-ctv", "--variant", "v=TYPE in --variant"},
    {"--cache-type-v", "--variant", "v=TYPE in --variant"},
    {"-khad", "--rot-k", "--rot-k on"},
    {"-khad", "--rot", "--rot on, of both sides"},
    {"-khad", "--variant", "rot-k=on in --variant"},
    {"-vhad", "--rot-v", "--rot-v on"},
    {"-vhad", "--rot", "--rot on, of both sides"},
    {"-vhad", "--variant", "rot-v=on in --variant"},
    {"--windows", "--chunks", "--chunks N"},
    {"--format", "--output", "-o FORMAT"},
};

void refuse_other_spelling(const std::string& name,
                           const std::function<bool(const std::string&)>& own) {
    if (own(name == "-ctk" ? "--cache-type-k" : name == "-ctv" ? "--cache-type-v" : name)) return;
    for (const Spelling& spelling : k_spellings) {
        if (name != spelling.name || !own(std::string(spelling.there))) continue;
        throw Error(ErrorCode::usage, name + ": expected " + std::string(spelling.expected));
    }
}

const IgnoredFlag* find_ignored(std::string_view name) {
    for (const IgnoredFlag& flag : k_ignored) {
        if (flag.name == name) return &flag;
    }
    return nullptr;
}

bool is_switch_value(const std::string& text) {
    return text == "on" || text == "off" || text == "auto" || text == "0" || text == "1";
}

bool is_letter(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; }
bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

bool is_long(const std::string& text) { return text.size() > 2 && text.substr(0, 2) == "--"; }

bool is_short(const std::string& text) {
    return text.size() == 2 && text[0] == '-' && is_letter(text[1]);
}

bool is_negative_number(const std::string& text) {
    return text.size() > 1 && text[0] == '-' && (is_digit(text[1]) || text[1] == '.');
}

}  // namespace

Rewritten rewrite_llama_spellings(const CLI::App& app, const std::vector<std::string>& arguments) {
    const auto own = [&app](const std::string& name) {
        return app.get_option_no_throw(name) != nullptr;
    };
    Rewritten result;
    std::vector<std::string>& out = result.arguments;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& text = arguments[i];
        const std::string name = text.substr(0, text.find('='));
        const bool last = i + 1 == arguments.size();
        refuse_other_spelling(name, own);
        if (text.size() > 2 && text.starts_with("--") && text.back() == '=') {
            throw Error(ErrorCode::usage, name + ": expected a value, found ''");
        }
        if (const IgnoredFlag* flag = own(name) ? nullptr : find_ignored(name)) {
            result.ignored.push_back(name);
            if (name != text || flag->value == Value::none) continue;
            if (flag->value == Value::one && last) {
                throw Error(ErrorCode::usage, name + ": expected a value");
            }
            if (flag->value == Value::one || (!last && is_switch_value(arguments[i + 1]))) ++i;
        } else if (text == "-ctk") {
            out.push_back("--cache-type-k");
        } else if (text == "-ctv") {
            out.push_back("--cache-type-v");
        } else if (text == "-hf" || name == "--hf-repo") {
            throw Error(ErrorCode::usage, name + ": models are not fetched; name a file with -m");
        } else if (text.size() > 2 && text[0] == '-' && is_letter(text[1])) {
            throw Error(ErrorCode::usage, text + ": unknown flag");
        } else if (is_negative_number(text) && !out.empty() &&
                   (is_long(out.back()) || is_short(out.back()))) {
            out.back() += (is_long(out.back()) ? "=" : "") + text;  // "-1" alone would be a flag
        } else {
            out.push_back(text);
        }
    }
    std::reverse(out.begin(), out.end());
    return result;
}

}  // namespace rotkv::tools
