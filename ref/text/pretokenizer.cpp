// Pre-tokenization: the table of regexes, and the loop that applies them with PCRE2.
// Source: the regexes are those of the models' own tokenizers in the form that llama.cpp applies
// them (src/llama-vocab.cpp, src/unicode.cpp), written for an engine that knows Unicode.
// Docs: docs/16-text.md

#define PCRE2_CODE_UNIT_WIDTH 8
#include "ref/text/pretokenizer.h"

#include "ref/error.h"
#include "ref/files/gguf.h"

#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

namespace rotkv {
namespace {

// How to read a regex: alternatives are tried from left to right at each place of the text, and
// the first that matches is a word. \p{L} letter, \p{N} number, \p{M} accent, \p{P} punctuation,
// \p{S} symbol, \p{Z} separator, \p{C} control or unassigned; \s white space, \S anything else;
// a trailing \s+(?!\S) leaves the last space of a run to the word that follows.
// [^\P{L}a-z] reads "not a non-letter, not a-z": a letter other than a-z.

#define ROTKV_CONTRACTIONS "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"

constexpr const char* k_gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr const char* k_rules_gpt2[] = {k_gpt2};

// Every digit is a word.
constexpr const char* k_rules_smollm[] = {R"(\p{N})", k_gpt2};

// Up to three digits; a newline ends a run of punctuation; any sign may lead a word.
constexpr const char* k_rules_llama3[] = {
    ROTKV_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr const char* k_rules_qwen2[] = {
    ROTKV_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

// As qwen2, with newlines not part of the signs before them.
constexpr const char* k_rules_seed_coder[] = {
    ROTKV_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+)"};

// As qwen2, with accents as part of the word.
constexpr const char* k_rules_qwen35[] = {
    ROTKV_CONTRACTIONS
    R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)"};

// A capital starts a new word ("camelCase"); contractions stay with theirs.
constexpr const char* k_rules_gpt4o[] = {
    R"([^\r\n\p{L}\p{N}]?[^\P{L}a-z]*[^\P{L}A-Z]+(?:)" ROTKV_CONTRACTIONS R"()?)"
    R"(|[^\r\n\p{L}\p{N}]?[^\P{L}a-z]+[^\P{L}A-Z]*(?:)" ROTKV_CONTRACTIONS R"()?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr const char* k_rules_tekken[] = {
    R"([^\r\n\p{L}\p{N}]?[^\P{L}a-z]*[^\P{L}A-Z]+|[^\r\n\p{L}\p{N}]?[^\P{L}a-z]+[^\P{L}A-Z]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

// Runs of Han (whole blocks of it) are words; so are those of all other letters, whatever their
// case, each with its contraction.
#define ROTKV_HAN                                                                                  \
    R"(\x{3400}-\x{4DBF}\x{4E00}-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF})" \
    R"(\x{2F800}-\x{2FA1F})"
constexpr const char* k_rules_kimi_k2[] = {
    "[" ROTKV_HAN R"(]+|[^\r\n\p{L}\p{N}]?[^\P{L})" ROTKV_HAN "]+(?:" ROTKV_CONTRACTIONS
    ")?"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};
#undef ROTKV_HAN

// Digits in threes from the right; what is before a number stays with its first group until the
// second regex. That one knows no case: accents are part of the word, contractions stay with it.
constexpr const char* k_rules_tiny_aya[] = {
    R"((?:\P{N}++|(?<!\p{N}))(?:\p{N}{1,2}(?=(?:\p{N}{3})*+(?!\p{N}))|\p{N}{3})|\p{N}{3}|\P{N}+)",
    R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:)" ROTKV_CONTRACTIONS R"()?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"};

constexpr const char* k_rules_falcon[] = {R"([\p{P}$+<=>^~|`]+)", k_gpt2, "[0-9][0-9][0-9]"};

constexpr const char* k_rules_default[] = {R"([\p{P}$+<=>^~|]+)", k_gpt2, R"(\p{N}+)",
                                           "[0-9][0-9][0-9]"};

// U+0800 to U+9FA5 and U+AC00 to U+D7FF, white space excepted: what is neither space nor outside.
constexpr const char* k_east_asian = R"([^\s\x{0}-\x{7FF}\x{9FA6}-\x{ABFF}\x{E000}-\x{10FFFF}]+)";

// Its letters are a list: those with a case, as an older Unicode had them.
constexpr const char* k_rules_deepseek_llm[] = {
    R"([\r\n])",
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})"
    R"(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})"
    R"(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D})"
    R"(\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943}]+)",
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}\x{3002}]+)",
    R"((?<!\s)\s+\z)",  // \s+$ that does not start again inside the same run
    k_east_asian,
    R"(\p{N}+)"};

constexpr const char* k_rules_deepseek_coder[] = {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                                  k_east_asian, R"(\p{N})"};

// ASCII punctuation leads ASCII letters; other signs do not.
constexpr const char* k_rules_deepseek_v3[] = {
    R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+)",
    (R"([!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
     R"(|\s*[\r\n]+|\s+(?!\S)|\s+)")};

#undef ROTKV_CONTRACTIONS

// Merges go through a line from end to end; runs of newlines are apart.
constexpr const char* k_rules_gemma4[] = {R"([^\n]+|\n+)"};

// name, regexes, ignore_merges, add_bos, usual_bos, raw (the last four as llama.cpp has them)
constexpr PreType k_pre_types[] = {
    {"default", k_rules_default, false, false},
    {"gpt-2", k_rules_gpt2, false, false},
    {"phi-2", k_rules_gpt2, false, false},
    {"mpt", k_rules_gpt2, false, false},
    {"olmo", k_rules_gpt2, false, false},
    {"jais", k_rules_gpt2, false, false},
    {"gigachat", k_rules_gpt2, false, false},
    {"a.x-4.0", k_rules_gpt2, false, false},
    {"mellum", k_rules_gpt2, false, false},
    {"exaone4", k_rules_gpt2, false, false},
    {"trillion", k_rules_gpt2, false, false},
    {"granite-docling", k_rules_gpt2, false, false},
    {"smollm", k_rules_smollm, false, false},
    {"starcoder", k_rules_smollm, false, false},
    {"refact", k_rules_smollm, false, false},
    {"command-r", k_rules_smollm, false, false},
    {"codeshell", k_rules_smollm, false, false},
    {"exaone", k_rules_smollm, false, false},
    {"minerva-7b", k_rules_smollm, false, false},
    {"llama-bpe", k_rules_llama3, true, true},
    {"llama3", k_rules_llama3, true, true},
    {"llama-v3", k_rules_llama3, true, true},
    {"falcon3", k_rules_llama3, true, true},
    {"falcon-h1", k_rules_llama3, true, true},
    {"pixtral", k_rules_llama3, true, true},
    {"midm-2.0", k_rules_llama3, true, true},
    {"lfm2", k_rules_llama3, true, true},
    {"dbrx", k_rules_llama3, false, false},
    {"smaug-bpe", k_rules_llama3, false, false},
    {"glm4", k_rules_llama3, true, false, false},
    {"glm5", k_rules_llama3, true, false, false},
    {"chatglm-bpe", k_rules_llama3, false, false, false},
    {"qwen2", k_rules_qwen2, false, false},
    {"deepseek-r1-qwen", k_rules_qwen2, false, false},
    {"stablelm2", k_rules_qwen2, false, false},
    {"hunyuan", k_rules_qwen2, false, false},
    {"megrez", k_rules_qwen2, false, false},
    {"solar-open", k_rules_qwen2, false, false},
    {"kormo", k_rules_qwen2, false, false},
    {"seed-coder", k_rules_seed_coder, false, false},
    {"qwen35", k_rules_qwen35, false, false},
    {"gpt-4o", k_rules_gpt4o, false, false},
    {"llama4", k_rules_gpt4o, false, false},
    {"kanana2", k_rules_gpt4o, false, false},
    {"minimax-m2", k_rules_gpt4o, false, false},
    {"talkie", k_rules_gpt4o, false, false},
    {"tiny_aya", k_rules_tiny_aya, false, false},
    {"cohere2moe", k_rules_tiny_aya, false, false},
    {"kimi-k2", k_rules_kimi_k2, false, false},
    {"tekken", k_rules_tekken, true, true},
    {"falcon", k_rules_falcon, false, false},
    {"deepseek-llm", k_rules_deepseek_llm, false, false},
    {"deepseek-coder", k_rules_deepseek_coder, false, false},
    {"deepseek-v3", k_rules_deepseek_v3, false, false},
    {"hunyuan-dense", k_rules_deepseek_v3, false, false},
    {"joyai-llm", k_rules_deepseek_v3, false, false},
    {"hy_v4", k_rules_deepseek_v3, false, false},
    {"gemma4", k_rules_gemma4, false, true, true, true},
};

std::string pcre2_message(int code) {
    PCRE2_UCHAR text[256];
    const int length = pcre2_get_error_message(code, text, sizeof text);
    return length < 0 ? "error " + std::to_string(code) : reinterpret_cast<const char*>(text);
}

// PCRE2's \s takes U+180E for white space, which Unicode and llama.cpp do not.
std::string with_unicode_spaces(std::string_view regex) {
    std::string result;
    for (size_t i = 0; i < regex.size(); ++i) {
        const std::string_view shorthand = regex.substr(i, 2);
        if (shorthand == R"(\s)" || shorthand == R"(\S)") {
            result += shorthand == R"(\s)" ? R"(\p{White_Space})" : R"(\P{White_Space})";
            ++i;
        } else {
            result += regex[i];
        }
    }
    return result;
}

std::shared_ptr<pcre2_real_code_8> compile(const char* regex) {
    const std::string pattern = with_unicode_spaces(regex);
    int code = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()),
                                         pattern.size(), PCRE2_UTF, &code, &offset, nullptr);
    if (compiled == nullptr) {
        throw Error(ErrorCode::unsupported, "PCRE2 (10.40 or later is needed) cannot compile " +
                                                pattern + ": " + pcre2_message(code));
    }
    return {compiled, pcre2_code_free};
}

// One match in UTF-8 text after another. PCRE2 is run without its JIT, so that a long match needs
// no stack; the limits hold it to what the regexes above can need.
class Matcher {
  public:
    explicit Matcher(int64_t text_bytes)
        : context_(pcre2_match_context_create(nullptr), pcre2_match_context_free),
          data_(pcre2_match_data_create(1, nullptr), pcre2_match_data_free) {
        require(context_ && data_, ErrorCode::bad_argument, "out of memory for a regex match");
        constexpr int64_t most = std::numeric_limits<uint32_t>::max();
        pcre2_set_match_limit(context_.get(), uint32_t(std::min(most, 1000 + 10 * text_bytes)));
        pcre2_set_heap_limit(context_.get(), 1024);  // KiB
    }

    /// The first match at or after `start` as {begin, end}; {text.size(), text.size()} without one.
    std::pair<size_t, size_t> find(const pcre2_code* code, std::string_view text, size_t start) {
        const int found =
            pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                        PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, data_.get(), context_.get());
        if (found == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
        if (found < 0) {
            throw Error(ErrorCode::bad_argument,
                        "cannot cut the text into words after byte " + std::to_string(start) +
                            " of " + std::to_string(text.size()) + ": " + pcre2_message(found));
        }
        const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data_.get());
        return {span[0], span[1]};
    }

  private:
    std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context_;
    std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data_;
};

// Encoded surrogates (ED A0..BF xx) are no UTF-8 to PCRE2. U+E000 (EE 80 80) has their length and,
// like them, is neither letter, number, accent, punctuation, symbol nor space.
std::string hide_surrogates(std::string text) {
    for (size_t i = 0; i + 1 < text.size(); ++i) {
        if (text[i] == '\xED' && uint8_t(text[i + 1]) >= 0xA0) {
            text[i] = '\xEE';
            text[i + 1] = '\x80';
        }
    }
    return text;
}

}  // namespace

const PreType* find_pre_type(std::string_view name) {
    if (name.empty()) name = "default";
    for (const PreType& type : k_pre_types) {
        if (name == type.name) return &type;
    }
    return nullptr;
}

PreTokenizer::PreTokenizer(std::string_view pre_type) {
    const PreType* type = find_pre_type(pre_type);
    if (type == nullptr) {
        std::string known;
        for (const PreType& row : k_pre_types) known += std::string(" ") + row.name;
        throw Error(ErrorCode::unsupported,
                    "unknown pre-tokenizer " + in_quotes(pre_type) + "; known are" + known);
    }
    for (const char* regex : type->regexes) codes_.push_back(compile(regex));
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
    const std::string subject = hide_surrogates(std::string(text));
    Matcher matcher(int64_t(text.size()));
    std::vector<std::string_view> words{subject};
    for (const std::shared_ptr<pcre2_real_code_8>& code : codes_) {
        std::vector<std::string_view> pieces;
        for (const std::string_view word : words) {
            for (size_t at = 0; at < word.size();) {
                const auto [begin, end] = matcher.find(code.get(), word, at);
                if (begin > at) pieces.push_back(word.substr(at, begin - at));
                if (end > begin) pieces.push_back(word.substr(begin, end - begin));
                at = end;
            }
        }
        words = std::move(pieces);
    }
    for (std::string_view& word : words) {
        word = text.substr(size_t(word.data() - subject.data()), word.size());
    }
    return words;
}

Utf8Char first_char(std::string_view text) {
    const auto byte = [&](size_t i) { return char32_t(uint8_t(text[i])); };
    const char32_t lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC0 || lead >= 0xF8 || text.size() < length) return {0xFFFD, 1};
    char32_t code = lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1};
        code = code << 6 | (byte(i) & 0x3F);
    }
    if (code > 0x10FFFF) return {0xFFFD, 1};
    return {code, int64_t(length)};
}

void append_utf8(std::string& text, char32_t code) {
    const auto tail = [&](int shift) { text += char(0x80 | (code >> shift & 0x3F)); };
    if (code < 0x80) {
        text += char(code);
    } else if (code < 0x800) {
        text += char(0xC0 | code >> 6);
        tail(0);
    } else if (code < 0x10000) {
        text += char(0xE0 | code >> 12);
        tail(6);
        tail(0);
    } else {
        text += char(0xF0 | code >> 18);
        tail(12);
        tail(6);
        tail(0);
    }
}

std::string clean_utf8(std::string_view bytes) {
    std::string text;
    text.reserve(bytes.size());
    while (!bytes.empty()) {
        const Utf8Char next = first_char(bytes);
        append_utf8(text, next.code);
        bytes.remove_prefix(size_t(next.bytes));
    }
    return text;
}

int64_t count_not_utf8(std::string_view bytes) {
    int64_t count = 0;
    while (!bytes.empty()) {
        const Utf8Char next = first_char(bytes);
        count += next.bytes == 1 && next.code == 0xFFFD;
        bytes.remove_prefix(size_t(next.bytes));
    }
    return count;
}

}  // namespace rotkv
