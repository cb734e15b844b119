#include "tools/parity/shared_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace rotkv::tools {

namespace {

using Set = std::vector<bool>;  // of the cases of one operation

Set operator&(const Set& a, const Set& b) {
    Set both(a.size());
    for (size_t i = 0; i < a.size(); ++i) both[i] = a[i] && b[i];
    return both;
}

Set without(const Set& a) {
    Set rest = a;
    rest.flip();
    return rest;
}

int64_t size_of(const Set& a) { return std::count(a.begin(), a.end(), true); }
bool within(const Set& a, const Set& b) { return (a & b) == a; }

// "with rot-v", "without rot-v": some cases, and the words that say which.
struct Part {
    std::string words;
    Set cases;
};

std::vector<std::string> fields_of(const std::string& name) {
    std::vector<std::string> fields;
    size_t begin = name.find('/');
    while (begin < name.size()) {
        const size_t end = std::min(name.find('/', begin + 1), name.size());
        fields.push_back(name.substr(begin + 1, end - begin - 1));
        begin = end;
    }
    return fields;
}

// What a name says: its keys, its fields, and which rotations have signs.
std::set<std::string> words_of(const std::string& name) {
    std::set<std::string> words;
    for (const std::string& field : fields_of(name)) {
        const size_t equals = field.find('=');
        if (equals == std::string::npos) continue;
        words.insert(field.substr(0, equals));
        words.insert(field);
        if (field.find(':') != std::string::npos)
            words.insert("signs in " + field.substr(0, equals));
    }
    return words;
}

// Keys before fields, "with" before "without"; of the same cases one part, which names both words.
std::vector<Part> parts_of(const std::vector<std::string>& names) {
    std::map<std::string, Set> keys, fields;
    for (size_t i = 0; i < names.size(); ++i) {
        for (const std::string& word : words_of(names[i])) {
            Set& set = (word.find('=') == std::string::npos ? keys : fields)[word];
            set.resize(names.size());
            set[i] = true;
        }
    }
    std::vector<Part> parts;
    std::map<Set, std::string> named = {{Set(names.size(), true), ""}};
    for (const auto* some : {&keys, &fields}) {
        for (const auto& [word, set] : *some) {
            const auto [same, added] = named.emplace(set, word);
            if (!added && some == &keys) same->second += " (also " + word + ")";
        }
    }
    for (const auto* some : {&keys, &fields}) {
        for (const auto& [word, set] : *some) {
            const std::string& words = named[set];
            if (words.compare(0, word.size(), word) != 0) continue;  // another one's
            parts.push_back({"with " + words, set});
            parts.push_back({"without " + words, without(set)});
        }
    }
    return parts;
}

// A part, or two together, that are the cases that fail, or those that pass.
std::string rule(const std::vector<Part>& parts, const Set& failed) {
    const Set passed = without(failed);
    for (const Part& one : parts) {
        if (one.cases == failed) {
            return fmt::format("every case {} fails, every other one passes", one.words);
        }
    }
    for (size_t i = 0; i < parts.size() && size_of(failed) > 2; ++i) {
        for (size_t j = i + 1; j < parts.size(); ++j) {
            const Set both = parts[i].cases & parts[j].cases;
            if (both == failed || both == passed) {
                const bool bad = both == failed;
                return fmt::format("every case {} and {} {}, every other one {}", parts[i].words,
                                   parts[j].words, bad ? "fails" : "passes",
                                   bad ? "passes" : "fails");
            }
        }
    }
    return "";
}

// Where no rule holds both ways: what all that fail share, and where everything fails.
std::string hints(const std::vector<Part>& parts, const Set& failed) {
    const Set passed = without(failed);
    const Part *shared = nullptr, *hopeless = nullptr;
    for (const Part& one : parts) {
        if (within(failed, one.cases) &&
            (shared == nullptr || size_of(one.cases) < size_of(shared->cases))) {
            shared = &one;
        }
        if (within(one.cases, failed) && size_of(one.cases) > 2 &&
            (hopeless == nullptr || size_of(one.cases) > size_of(hopeless->cases))) {
            hopeless = &one;
        }
    }
    std::string text;
    if (shared != nullptr) {
        text =
            fmt::format("all {} that fail are {}, and so are {} of {} that pass", size_of(failed),
                        shared->words, size_of(shared->cases & passed), size_of(passed));
    }
    if (hopeless != nullptr) {
        text += fmt::format("{}every one of the {} {} fails", text.empty() ? "" : "; ",
                            size_of(hopeless->cases), hopeless->words);
    }
    return text.empty() ? fmt::format("no field tells the {} that fail from the {} that pass",
                                      size_of(failed), size_of(passed))
                        : text;
}

std::string op_of(const std::string& name) { return name.substr(0, name.find('/')); }

}  // namespace

std::vector<std::string> shared_fields(std::span<const std::string> failed,
                                       std::span<const std::string> passed) {
    std::vector<std::string> ops, sentences;
    for (const std::string& name : failed) {
        if (std::find(ops.begin(), ops.end(), op_of(name)) == ops.end()) ops.push_back(op_of(name));
    }
    for (const std::string& op : ops) {
        std::vector<std::string> names;
        Set fails;
        for (const auto& [some, bad] : {std::pair(failed, true), std::pair(passed, false)}) {
            for (const std::string& name : some) {
                if (op_of(name) != op) continue;
                names.push_back(name);
                fails.push_back(bad);
            }
        }
        if (size_of(fails) < 2) continue;
        if (size_of(fails) == int64_t(fails.size())) {
            sentences.push_back(fmt::format("{}: all {} cases fail", op, fails.size()));
            continue;
        }
        const std::vector<Part> parts = parts_of(names);
        const std::string whole = rule(parts, fails);
        sentences.push_back(op + ": " + (whole.empty() ? hints(parts, fails) : whole));
    }
    return sentences;
}

}  // namespace rotkv::tools
