// Vocabularies that contradict themselves, ids and bytes that cannot be, and texts that a careless
// tokenizer would take hours for.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/text/tokenizer.h"
#include "tests/catch.h"
#include "tests/small_vocab.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ids = std::vector<int32_t>;

/// What the error says that `action` ends with; it must have this code and one line.
std::string error_of(ErrorCode code, const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        CHECK(error.code() == code);
        CHECK(std::string(error.what()).find('\n') == std::string::npos);
        return error.what();
    }
    FAIL("no error");
    return "";
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::string repeated(const std::string& piece, int64_t times) {
    std::string text;
    for (int64_t i = 0; i < times; ++i) text += piece;
    return text;
}

struct Broken {
    const char* name;
    bool spm;
    std::function<void(Vocab&)> damage;
    const char* says;
};

const Broken k_broken[] = {
    {"no tokens", true, [](Vocab& v) { v.tokens.clear(); }, "found 0"},
    {"a type too few", true, [](Vocab& v) { v.types.pop_back(); }, "259 tokens, found 258"},
    {"a type too many", false, [](Vocab& v) { v.types.push_back(TokenType::normal); }, "found 130"},
    {"a score too few", true, [](Vocab& v) { v.scores.pop_back(); }, "a score for each of 259"},
    {"no scores", true, [](Vocab& v) { v.scores.clear(); }, "found 0"},
    {"a score that is none", true, [](Vocab& v) { v.scores[5] = std::nanf(""); }, "token 5"},
    {"two equal tokens", false, [](Vocab& v) { v.tokens[12] = v.tokens[70] = "\n"; },
     "tokens 12 and 70"},
    {"a byte that is none", true, [](Vocab& v) { v.tokens[9] = "<0x0G>"; }, "<0x0G>"},
    {"a long byte", true, [](Vocab& v) { v.tokens[9] = "<0x06>>"; }, "token 9"},
    {"BOS out of range", true, [](Vocab& v) { v.bos = 259; }, "BOS"},
    {"BOS below none", true, [](Vocab& v) { v.bos = -2; }, "BOS"},
    {"BOS added, none there", true, [](Vocab& v) { v.bos = -1; }, "BOS"},
    {"EOS out of range", true, [](Vocab& v) { v.eos = std::numeric_limits<int32_t>::max(); },
     "EOS"},
    {"EOS added, none there", false, [](Vocab& v) { v.add_eos = true; }, "EOS"},
    {"UNK out of range", true, [](Vocab& v) { v.unk = 1000; }, "UNK"},
    {"a merge of one part", false,
     [](Vocab& v) {
         v.merges = {"a b", "ab"};
     },
     "merge 1"},
    {"a merge without a right part", false, [](Vocab& v) { v.merges = {"a "}; }, "merge 0"},
    {"a merge of nothing", false, [](Vocab& v) { v.merges = {""}; }, "merge 0"},
    {"a merge of a space", false, [](Vocab& v) { v.merges = {" "}; }, "merge 0"},
};

}  // namespace

TEST_CASE("tokenizer: broken vocabularies are refused") {
    for (const Broken& broken : k_broken) {
        INFO(broken.name);
        Vocab vocab = broken.spm ? spm_vocab() : bpe_vocab({"a b"});
        broken.damage(vocab);
        const std::string message =
            error_of(ErrorCode::bad_argument, [&] { Tokenizer tokenizer(vocab); });
        INFO(message);
        CHECK(contains(message, broken.says));
    }
}

TEST_CASE("tokenizer: models and pre-types that are not known") {
    Vocab vocab = bpe_vocab({"a b"});
    vocab.pre = "no-such";
    std::string message = error_of(ErrorCode::unsupported, [&] { Tokenizer tokenizer(vocab); });
    CHECK(contains(message, "no-such"));
    CHECK(contains(message, "llama-bpe"));
    const VocabFile file(vocab, {});
    message = error_of(ErrorCode::unsupported, [&] { Tokenizer::from_gguf(file.open()); });
    CHECK(contains(message, file.path()));
    for (const char* model : {"bert", "t5", "rwkv", ""}) {
        vocab.model = model;
        message = error_of(ErrorCode::unsupported, [&] { Tokenizer tokenizer(vocab); });
        CHECK(contains(message, "gpt2"));
    }
}

TEST_CASE("tokenizer: broken files are named") {
    Vocab vocab = bpe_vocab({"a b"});
    vocab.types.pop_back();
    const VocabFile short_types(vocab, {});
    std::string message =
        error_of(ErrorCode::bad_file, [&] { Tokenizer::from_gguf(short_types.open()); });
    CHECK(contains(message, short_types.path() + ": vocabulary: "));
    vocab = bpe_vocab({});  // and no key for merges
    const VocabFile no_merges(vocab, {});
    message = error_of(ErrorCode::bad_file, [&] { Tokenizer::from_gguf(no_merges.open()); });
    CHECK(contains(message, "tokenizer.ggml.merges"));
    const VocabFile wrong_type(vocab, {{"tokenizer.ggml.merges", uint32_t(1)}});
    message = error_of(ErrorCode::bad_file, [&] { Tokenizer::from_gguf(wrong_type.open()); });
    CHECK(contains(message, wrong_type.path()));
    // Types that are no types, and a token without a text, are a file's right.
    vocab = bpe_vocab({"a b"});
    vocab.types[5] = TokenType(-7);
    vocab.types[6] = TokenType(99);
    vocab.tokens[7] = "";
    const VocabFile odd(vocab, {});
    const Tokenizer tokenizer = Tokenizer::from_gguf(odd.open());
    CHECK(tokenizer.vocab().tokens[7] == "[EMPTY_7]");
    CHECK(tokenizer.decode(Ids{5, 'a', 6}) == "a");
}

TEST_CASE("tokenizer: ids that are none are refused") {
    const Tokenizer tokenizer(bpe_vocab({"a b"}));
    for (const int32_t id :
         {-1, 129, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
        const std::string message = error_of(ErrorCode::bad_argument, [&] {
            tokenizer.decode(Ids{1, id});
        });
        CHECK(contains(message, std::to_string(id)));
        CHECK(contains(message, "0 to 128"));
    }
    CHECK(tokenizer.decode({}).empty());
}

TEST_CASE("tokenizer: any bytes at all") {
    Vocab bpe = bpe_vocab({"a b"});
    bpe.tokens.push_back("\u00FF");
    bpe.types.push_back(TokenType::normal);
    Vocab spm = spm_vocab();
    add_token(spm, "\u2581", TokenType::normal);
    const Tokenizer bpe_tokenizer(bpe), spm_tokenizer(spm);
    std::mt19937 random(11);
    for (int i = 0; i < 2000; ++i) {
        std::string bytes;
        for (uint64_t n = random() % 40; n > 0; --n) bytes += char(random() % 256);
        for (const bool parse_special : {false, true}) {
            for (const int32_t id : bpe_tokenizer.encode(bytes, true, parse_special)) {
                CHECK((id >= 0 && id < bpe_tokenizer.n_vocab()));
            }
        }
        // Bytes fall back to themselves; only a space behind half a character does not come back.
        std::replace(bytes.begin(), bytes.end(), ' ', '_');
        const Ids ids = spm_tokenizer.encode(bytes, false);
        CHECK((spm_tokenizer.decode(ids) == bytes));
    }
    const std::string zeros(3, '\0');
    CHECK(bpe_tokenizer.encode(zeros, false) == Ids{0, 0, 0});
    CHECK(spm_tokenizer.decode(spm_tokenizer.encode(zeros, false)) == zeros);
}

TEST_CASE("tokenizer: long runs of one character") {
    Vocab bpe = bpe_vocab({"a a", "aa aa", "\u0120 \u0120", "< <"});
    Vocab spm = spm_vocab();
    spm.add_space_prefix = false;
    for (const char* text : {"a", "aa", "aaaa", "\u2581", "\u2581\u2581", "<<"}) {
        add_token(spm, text, TokenType::normal, -float(std::string(text).size()));
    }
    for (Vocab* vocab : {&bpe, &spm}) {
        for (int i = 1; i <= 30; ++i) {
            add_token(*vocab, repeated("\n", i), TokenType::user_defined);
            add_token(*vocab, "<" + repeated("<", i) + ">", TokenType::user_defined);
        }
    }
    const std::clock_t start = std::clock();
    for (const Vocab& vocab : {bpe, spm}) {
        const Tokenizer tokenizer(vocab);
        for (const char* piece : {"a", " ", "<"}) {
            const std::string text = repeated(piece, 1000000);
            const Ids ids = tokenizer.encode(text, false, true);
            CHECK((tokenizer.decode(ids) == text));  // in brackets: not to be printed
            CHECK(ids.size() <= 500000);
        }
        CHECK(tokenizer.encode(repeated("\n", 3000), false).size() == 100);
    }
    // Seconds when the work grows with n log n, hours when it is quadratic.
    CHECK(std::clock() - start < 300 * CLOCKS_PER_SEC);
}
