// Cutting text into words: each pre-type's characteristic cuts, what happens to bytes that are no
// UTF-8, and long runs of one character.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/text/pretokenizer.h"
#include "tests/catch.h"

#include <ctime>
#include <random>
#include <string>
#include <vector>

using namespace rotkv;

namespace {

// One pre-type for each set of regexes.
const char* const k_rules[] = {"default",      "gpt-2",          "smollm",      "llama-bpe",
                               "qwen2",        "qwen35",         "gpt-4o",      "tekken",
                               "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",
                               "seed-coder",   "kimi-k2",        "tiny_aya",    "gemma4"};

struct Row {
    const char* pre;
    std::string text;
    std::vector<std::string> words;
};

// llama.cpp makes the same cuts: its tokens for these texts with a vocabulary of all pairs of bytes
// are the ones that these words give.
const Row k_rows[] = {
    // Contractions: lower case, any case, none, part of the word.
    {"gpt-2", "it's IT'S", {"it", "'s", " IT", "'", "S"}},
    {"smollm", "we'll WE'LL", {"we", "'ll", " WE", "'", "LL"}},
    {"llama-bpe", "it's IT'S", {"it", "'s", " IT", "'S"}},
    {"qwen2", "I'Ve I'dx", {"I", "'Ve", " I", "'d", "x"}},
    {"gpt-4o", "it's IT'S", {"it's", " IT'S"}},
    {"tekken", "it's IT'S", {"it", "'s", " IT", "'S"}},
    {"falcon", "it's", {"it", "'", "s"}},
    {"default", "it's", {"it", "'", "s"}},
    {"deepseek-v3", "it's 's", {"it", "'s", " '", "s"}},
    {"seed-coder", "I'Ve I'dx", {"I", "'Ve", " I", "'d", "x"}},
    {"kimi-k2", "it's IT'Sx 's", {"it's", " IT'S", "x", " '", "s"}},
    {"tiny_aya", "it's IT'Sx", {"it's", " IT'S", "x"}},
    // Digits: all together, one by one, by three from the left.
    {"gpt-2", "12 1234567", {"12", " 1234567"}},
    {"smollm", "12 34", {"1", "2", " ", "3", "4"}},
    {"starcoder", "x12", {"x", "1", "2"}},
    {"refact", "x12", {"x", "1", "2"}},
    {"command-r", "x12", {"x", "1", "2"}},
    {"llama-bpe", "12 1234567", {"12", " ", "123", "456", "7"}},
    {"qwen2", "12 34", {"1", "2", " ", "3", "4"}},
    {"gpt-4o", "a12345", {"a", "123", "45"}},
    {"tekken", "a12", {"a", "1", "2"}},
    {"falcon", "12 1234567", {"12", " ", "123", "456", "7"}},
    {"falcon", " 12", {" 12"}},
    {"default", " 12 1234", {" ", "12", " ", "123", "4"}},
    {"deepseek-llm", "12 1234567", {"12", " ", "1234567"}},
    {"deepseek-coder", "12 34", {"1", "2", " ", "3", "4"}},
    {"deepseek-v3", "a 1234", {"a", " ", "123", "4"}},
    {"seed-coder", "12 34", {"1", "2", " ", "3", "4"}},
    {"kimi-k2", "a12345", {"a", "123", "45"}},
    {"gemma4", "a 1234", {"a 1234"}},
    // From the right. What is before a number is no piece of its own: of two spaces one is left
    // to the digits, where it cannot go.
    {"tiny_aya", "1234567", {"1", "234", "567"}},
    {"tiny_aya", "12345,123 1234", {"12", "345", ",", "123", " ", "1", "234"}},
    {"tiny_aya", "a  12345", {"a", " ", " ", "12", "345"}},
    {"tiny_aya", "123456 ", {"123", "456", " "}},
    // Numbers are not only ASCII's, but three digits in a row are, for falcon.
    {"llama-bpe", "\u0661\u0662\u0663\u0664", {"\u0661\u0662\u0663", "\u0664"}},
    {"falcon", " \u0661\u0662\u0663\u0664", {" \u0661\u0662\u0663\u0664"}},
    {"smollm", "x\u00B2\u00BD", {"x", "\u00B2", "\u00BD"}},
    // Spaces: the last one of a run goes to the word behind it, except to digits and newlines.
    {"gpt-2", "a   b  ", {"a", "  ", " b", "  "}},
    {"gpt-2", "a \n\n b", {"a", " \n\n", " b"}},
    {"gpt-2", "a\tb", {"a", "\t", "b"}},
    {"llama-bpe", "a\tb", {"a", "\tb"}},
    {"llama-bpe", "a  \n\n  b", {"a", "  \n\n", " ", " b"}},
    {"qwen2", "a.\r\n\tb", {"a", ".\r\n", "\tb"}},
    {"gpt-4o", "a.\n/b", {"a", ".\n/", "b"}},
    {"deepseek-llm", "a\n\n b  ", {"a", "\n", "\n", " b", "  "}},
    {"deepseek-coder", "\r\na", {"\r", "\n", "a"}},
    {"deepseek-v3", "!\n\n a", {"!\n\n", " a"}},
    {"seed-coder", "a.\n\nb", {"a", ".", "\n\n", "b"}},
    {"kimi-k2", "a.\n/b", {"a", ".\n", "/b"}},
    {"tiny_aya", "a.\n/b", {"a", ".\n/", "b"}},
    {"gemma4", "a b\n\n\n c\r\n\n", {"a b", "\n\n\n", " c\r", "\n\n"}},
    // White space is what Unicode says: U+3000 and U+00A0 are, U+180E and U+200B are not.
    {"gpt-2", "a\u3000 b", {"a", "\u3000", " b"}},
    {"gpt-2", "\u3000!\u2003?", {"\u3000", "!", "\u2003", "?"}},
    {"gpt-2", "\u180E!", {"\u180E!"}},
    {"gpt-2", "a\u180E\u200Bb", {"a", "\u180E\u200B", "b"}},
    {"qwen2", "a\u00A0b", {"a", "\u00A0b"}},
    {"deepseek-coder", "\u4E2D\u3000\u6587", {"\u4E2D", "\u3000", "\u6587"}},
    // Capitals inside a word.
    {"gpt-2", "camelCase", {"camelCase"}},
    {"gpt-4o", "camelCaseXML", {"camel", "Case", "XML"}},
    {"tekken", "HTTPServer", {"HTTPServer"}},
    {"tekken", "aB\u00C9\u00E9C", {"a", "B\u00C9\u00E9", "C"}},
    {"kimi-k2", "camelCaseXML", {"camelCaseXML"}},
    {"tiny_aya", "camelCaseXML", {"camelCaseXML"}},
    // East Asian text and accents.
    {"gpt-2", "a\u4E2D\u6587\uAC00", {"a\u4E2D\u6587\uAC00"}},
    {"deepseek-llm", "a\u4E2D\u6587\u3002", {"a", "\u4E2D\u6587", "\u3002"}},
    {"deepseek-llm", "\u0416\u0437 \u00E9t", {"\u0416\u0437", " \u00E9", "t"}},
    {"deepseek-coder", "a\u4E2D\u6587b", {"a", "\u4E2D\u6587", "b"}},
    {"deepseek-v3", "a\u4E2D\u3042\uAC00", {"a", "\u4E2D\u3042", "\uAC00"}},
    {"kimi-k2", "a\u4E2D\u6587b \u4E2D", {"a", "\u4E2D\u6587", "b", " ", "\u4E2D"}},
    {"kimi-k2", "\u3042\u4E2D\u30AB\uAC00", {"\u3042", "\u4E2D", "\u30AB\uAC00"}},
    {"kimi-k2", "\u33FF\u3400\u4DBF\u4DC0", {"\u33FF", "\u3400\u4DBF", "\u4DC0"}},
    {"kimi-k2", "\uFAFF!\uFAFF", {"\uFAFF", "!\uFAFF"}},  // no character, yet in a block of Han
    {"kimi-k2", "!\U00020000\U0002EBEF\U0002F800", {"!", "\U00020000\U0002EBEF\U0002F800"}},
    {"kimi-k2", "e\u0301a", {"e", "\u0301a"}},
    {"tiny_aya", "e\u0301a\u0301!", {"e\u0301a\u0301", "!"}},
    {"qwen2", "e\u0301a", {"e", "\u0301a"}},
    {"qwen35", "e\u0301a\u0301!", {"e\u0301a\u0301", "!"}},
    {"deepseek-v3", "e\u0301a", {"e\u0301a"}},
    // Punctuation and symbols.
    {"gpt-2", "a+b=?!", {"a", "+", "b", "=?!"}},
    {"llama-bpe", "(a) $b", {"(a", ")", " $", "b"}},
    {"falcon", "a `b` $~", {"a", " ", "`", "b", "`", " ", "$~"}},
    {"default", " `b` $~", {" `", "b", "`", " ", "$~"}},
    {"default", "\u00BFa\u20AC", {"\u00BF", "a", "\u20AC"}},
    {"deepseek-coder", "a!? +", {"a", "!?", " +"}},
    {"deepseek-v3", "~a ~ +\u20AC", {"~a", " ~", " +\u20AC"}},
    {"deepseek-v3", "+\u00E9", {"+", "\u00E9"}},
    {"gpt-2", "\U0001F999\u200D\U0001F680 a", {"\U0001F999\u200D\U0001F680", " a"}},
};

std::vector<std::string> split(const char* pre, std::string_view text) {
    std::vector<std::string> words;
    for (const std::string_view word : PreTokenizer(pre).split(text)) words.emplace_back(word);
    return words;
}

std::string repeated(const std::string& piece, int64_t times) {
    std::string text;
    for (int64_t i = 0; i < times; ++i) text += piece;
    return text;
}

}  // namespace

TEST_CASE("pretokenizer: words of every rule") {
    for (const Row& row : k_rows) {
        INFO(row.pre << ": " << row.text);
        CHECK(split(row.pre, row.text) == row.words);
    }
}

TEST_CASE("pretokenizer: names") {
    CHECK(find_pre_type("") == find_pre_type("default"));
    REQUIRE(find_pre_type("llama3") != nullptr);
    CHECK(find_pre_type("llama3")->ignore_merges);
    CHECK(find_pre_type("llama3")->add_bos);
    CHECK_FALSE(find_pre_type("qwen2")->ignore_merges);
    CHECK_FALSE(find_pre_type("qwen2")->add_bos);
    CHECK(find_pre_type("gpt-5\n") == nullptr);
    // Llama 3's family and Mistral's tekken take whole words first and begin with BOS.
    for (const char* name : {"llama-bpe", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
                             "lfm2", "tekken"}) {
        INFO(name);
        CHECK(find_pre_type(name)->ignore_merges);
        CHECK(find_pre_type(name)->add_bos);
    }
    for (const char* name :
         {"default",     "gpt-2",         "smollm",     "dbrx",     "smaug-bpe",
          "qwen2",       "qwen35",        "gpt-4o",     "falcon",   "deepseek-llm",
          "deepseek-v3", "hunyuan-dense", "joyai-llm",  "hy_v4",    "kanana2",
          "minimax-m2",  "kimi-k2",       "seed-coder", "tiny_aya", "solar-open"}) {
        INFO(name);
        CHECK_FALSE(find_pre_type(name)->ignore_merges);
        CHECK_FALSE(find_pre_type(name)->add_bos);
        CHECK(find_pre_type(name)->usual_bos);
        CHECK_FALSE(find_pre_type(name)->raw);
    }
    for (const char* name : {"glm4", "glm5", "chatglm-bpe"}) {
        INFO(name);
        CHECK(find_pre_type(name)->ignore_merges == (std::string(name) != "chatglm-bpe"));
        CHECK_FALSE(find_pre_type(name)->add_bos);
        CHECK_FALSE(find_pre_type(name)->usual_bos);
    }
    CHECK(find_pre_type("gemma4")->raw);
    CHECK(find_pre_type("gemma4")->add_bos);
    try {
        PreTokenizer unknown("gpt-5\n");
        FAIL("an unknown pre-type was accepted");
    } catch (const Error& error) {
        const std::string message = error.what();
        CHECK(error.code() == ErrorCode::unsupported);
        for (const char* name : k_rules) CHECK(message.find(name) != std::string::npos);
        CHECK(message.find('\n') == std::string::npos);
    }
}

TEST_CASE("pretokenizer: names of one rule") {
    const struct {
        const char* rule;
        std::vector<const char*> names;
    } rows[] = {{"gpt-2", {"exaone4", "phi-2", "olmo"}},
                {"smollm", {"refact", "command-r", "starcoder"}},
                {"llama-bpe", {"dbrx", "smaug-bpe", "glm4", "glm5", "chatglm-bpe"}},
                {"qwen2", {"solar-open", "kormo", "hunyuan"}},
                {"gpt-4o", {"llama4", "kanana2", "minimax-m2", "talkie"}},
                {"deepseek-v3", {"hunyuan-dense", "joyai-llm", "hy_v4"}},
                {"tiny_aya", {"cohere2moe"}}};
    const char* text = "it's IT'S camelCase  12345 a.\n/b \u4E2D\u3042\uAC00 e\u0301 `b` ~a\r\n";
    for (const auto& row : rows) {
        for (const char* name : row.names) {
            INFO(name);
            REQUIRE(find_pre_type(name) != nullptr);
            CHECK(split(name, text) == split(row.rule, text));
        }
    }
    for (size_t i = 0; i < std::size(k_rules); ++i) {  // and no two rules agree on it
        for (size_t j = 0; j < i; ++j) {
            INFO(k_rules[i] << ", " << k_rules[j]);
            CHECK(split(k_rules[i], text) != split(k_rules[j], text));
        }
    }
}

TEST_CASE("pretokenizer: the words are the text") {
    const std::string pool[] = {" ",      "  ",     "\n",         "\r",     "\t", "a",   "Z",
                                "7",      "'s",     ".",          "\u00E9", "~",  "$",   "\u0301",
                                "\u4E2D", "\u3000", "\U0001F999", "\u0661", "",   "\x7F"};
    std::mt19937 random(7);
    for (const char* pre : k_rules) {
        const PreTokenizer pre_tokenizer(pre);
        for (int i = 0; i < 200; ++i) {
            std::string text;
            for (uint64_t n = random() % 20; n > 0; --n) text += pool[random() % std::size(pool)];
            size_t at = 0;
            for (const std::string_view word : pre_tokenizer.split(text)) {
                INFO(pre << ": " << text);
                CHECK_FALSE(word.empty());
                REQUIRE(word.data() == text.data() + at);
                at += word.size();
            }
            CHECK(at == text.size());
        }
    }
}

TEST_CASE("pretokenizer: bytes that are no UTF-8") {
    const std::string bad = "\xEF\xBF\xBD";  // U+FFFD
    const struct {
        std::string bytes, text;
    } rows[] = {
        {"", ""},
        {"a\u00E9\u4E2D\U0001F999", "a\u00E9\u4E2D\U0001F999"},
        {"\x80\xBF", bad + bad},
        {"\xC3", bad},
        {"\xC3(", bad + "("},
        {"\xE4\xB8", bad + bad},
        {"\xE4\xB8"
         "a",
         bad + bad + "a"},
        {"\xF0\x9F\xA6", bad + bad + bad},
        {"\xF8\x80\x80\x80\x80", repeated(bad, 5)},
        {"\xFF\xFE", bad + bad},
        {"\xF4\x90\x80\x80", repeated(bad, 4)},  // past U+10FFFF
        {"\xC1\xA1", "a"},                       // overlong
        {"\xE0\x80\xAF", "/"},
        {"\xED\xA0\x80", "\xED\xA0\x80"},  // a surrogate on its own
    };
    for (const auto& row : rows) {
        INFO(row.text);
        CHECK(clean_utf8(row.bytes) == row.text);
        CHECK(clean_utf8(row.text) == row.text);
    }
    // A surrogate is neither letter nor space to the regexes, whatever is beside it.
    CHECK(split("gpt-2", "a\xED\xA0\x80\xED\xBF\xBF b") ==
          std::vector<std::string>{"a", "\xED\xA0\x80\xED\xBF\xBF", " b"});
}

TEST_CASE("pretokenizer: long runs") {
    const int64_t n = 300000;
    const std::string runs[] = {
        repeated("a", n),       repeated("A", n),          repeated(" ", n),
        repeated(" ", n) + "1", repeated("\n", n),         repeated("\t", n) + "a",
        repeated("1", n),       repeated("!", n),          repeated("'", n),
        repeated("Aa", n / 2),  repeated(" \n", n),        repeated(" ", n) + "\U0001F999",
        repeated("\u4E2D", n),  repeated("e\u0301", n / 2)};
    const std::clock_t start = std::clock();
    for (const char* pre : k_rules) {
        const PreTokenizer pre_tokenizer(pre);
        for (const std::string& run : runs) {
            int64_t bytes = 0;
            for (const std::string_view word : pre_tokenizer.split(run)) {
                bytes += int64_t(word.size());
            }
            CHECK(bytes == int64_t(run.size()));
        }
    }
    // Seconds when the work is linear in a run, minutes when it is not.
    CHECK(std::clock() - start < 60 * CLOCKS_PER_SEC);
}
