// Text to tokens and back: the tokens of llama.cpp where its files are at hand, and a small
// vocabulary for each rule. What is meant to break something: test_tokenizer_hostile.cpp.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/text/tokenizer.h"
#include "tests/catch.h"
#include "tests/small_vocab.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ids = std::vector<int32_t>;

std::string read_text(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    REQUIRE(in.good());
    return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> cut_at(const std::string& text, const std::string& mark) {
    std::vector<std::string> parts;
    size_t begin = 0;
    for (size_t at; (at = text.find(mark, begin)) != std::string::npos;) {
        parts.push_back(text.substr(begin, at - begin));
        begin = at + mark.size();
    }
    parts.push_back(text.substr(begin));
    return parts;
}

/// The tokens of `ids`, spelled as the vocabulary spells them.
std::vector<std::string> texts(const Tokenizer& tokenizer, const Ids& ids) {
    std::vector<std::string> result;
    for (const int32_t id : ids) result.push_back(tokenizer.vocab().tokens.at(size_t(id)));
    return result;
}

using Texts = std::vector<std::string>;

std::string vocab_path(const std::string& data, const std::string& name) {
    return data + "/vocab/ggml-vocab-" + name + ".gguf";
}

/// llama.cpp's strings for a vocabulary, and its tokens for them.
void check_test_strings(const std::string& data, const std::string& name) {
    const std::string path = vocab_path(data, name);
    const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(path));
    const Texts inputs = cut_at(read_text(path + ".inp"), "\n__ggml_vocab_test__\n");
    const Texts outputs = cut_at(read_text(path + ".out"), "\n");
    REQUIRE(outputs.size() >= inputs.size());
    CHECK(inputs.size() > 40);
    for (size_t i = 0; i < inputs.size(); ++i) {
        INFO(name << ", string " << i << ": '" << inputs[i] << "'");
        std::istringstream line(outputs[i]);
        const Ids expected{std::istream_iterator<int32_t>(line), {}};
        const Ids ids = tokenizer.encode(inputs[i], false);
        CHECK(ids == expected);
        CHECK(tokenizer.decode(ids) == inputs[i]);
    }
}

}  // namespace

TEST_CASE("tokenizer: llama.cpp's test strings") {
    const std::string data = data_dir();
    if (data.empty()) return skip("ROTKV_DATA is not set");
    for (const char* name : {"gpt-2", "llama-spm", "qwen2"}) check_test_strings(data, name);
}

TEST_CASE("tokenizer: llama.cpp's test strings, where its other vocabularies are") {
    const std::string data = data_dir();
    if (data.empty()) return skip("ROTKV_DATA is not set");
    std::string absent;
    for (const char* name : {"gemma-4", "qwen35", "command-r", "llama-bpe", "deepseek-llm",
                             "deepseek-coder", "falcon", "refact", "starcoder", "mpt", "phi-3"}) {
        if (std::filesystem::exists(vocab_path(data, name))) {
            check_test_strings(data, name);
        } else {
            absent += std::string(" ") + name;
        }
    }
    if (!absent.empty()) skip("these are not there:" + absent);
}

TEST_CASE("tokenizer: tokens of the golden models") {
    const std::string data = data_dir();
    if (data.empty()) return skip("ROTKV_DATA is not set");
    std::string text = read_text(data + "/golden/text.txt");
    if (text.ends_with('\n')) text.pop_back();
    for (const char* name : {"llama-hd64", "llama3-hd128", "qwen3-hd128", "gemma3-hd64"}) {
        INFO(name);
        const std::string path = data + "/golden/" + name;
        const Tokenizer tokenizer = Tokenizer::from_gguf(GgufFile::open(path + ".gguf"));
        const std::string base = read_text(path + ".f32.f32.nofa.kld");
        int32_t header[3] = {};  // n_ctx, n_vocab, n_chunk
        REQUIRE(base.size() > 8 + sizeof header);
        std::memcpy(header, base.data() + 8, sizeof header);
        CHECK(header[1] == tokenizer.n_vocab());
        Ids stored(size_t(header[0]) * size_t(header[2]));
        REQUIRE(base.size() > 20 + 4 * stored.size());
        std::memcpy(stored.data(), base.data() + 20, 4 * stored.size());
        Ids ids = tokenizer.encode(text, true);
        CHECK(tokenizer.adds_bos());
        CHECK(ids.front() == tokenizer.bos());
        REQUIRE(ids.size() >= stored.size());
        ids.resize(stored.size());
        CHECK(ids == stored);
    }
}

TEST_CASE("tokenizer: a long text has llama.cpp's tokens") {
    const std::string data = data_dir();
    if (data.empty()) return skip("ROTKV_DATA is not set");
    const struct {
        const char* name;
        size_t tokens;
        uint64_t hash;  // FNV-1a over ids; both from llama.cpp b11549
    } rows[] = {{"gpt-2", 286221, 0x28D9DEE1173DCA30u},
                {"llama-spm", 335687, 0xEC46EDD748AC3153u},
                {"qwen2", 299078, 0xA8E457172FDC8B92u}};
    const std::string text = read_text(data + "/data/wiki.test.raw");
    for (const auto& row : rows) {
        INFO(row.name);
        const Tokenizer tokenizer =
            Tokenizer::from_gguf(GgufFile::open(vocab_path(data, row.name)));
        const Ids ids = tokenizer.encode(text, false);
        CHECK(ids.size() == row.tokens);
        uint64_t hash = 0xCBF29CE484222325u;
        for (const int32_t id : ids) hash = (hash ^ uint32_t(id)) * 0x100000001B3u;
        CHECK(hash == row.hash);
        CHECK((tokenizer.decode(ids) == text));  // in brackets: not to be printed
    }
}

TEST_CASE("tokenizer: BPE merges by rank, then from the left") {
    Vocab vocab = bpe_vocab({"b c", "a b", "a a", "aa a", "\u0120 a", "bc \u0120a", "d bc"});
    vocab.merges.push_back("b c");  // once more: the first place counts
    const Tokenizer tokenizer(vocab);
    const auto pieces = [&](const char* text) {
        return texts(tokenizer, tokenizer.encode(text, false));
    };
    CHECK(pieces("abc") == Texts{"a", "bc"});  // b c comes first, though a b is further left
    CHECK(pieces("ab") == Texts{"ab"});
    CHECK(pieces("aaaa") == Texts{"aa", "aa"});
    CHECK(pieces("aaaaa") == Texts{"aa", "aaa"});
    CHECK(pieces("aaa") == Texts{"aaa"});
    CHECK(pieces("dbc") == Texts{"dbc"});             // a merge makes a new pair to its left
    CHECK(pieces("bc a") == Texts{"bc", "\u0120a"});  // no merge crosses a word
    CHECK(pieces("x\n") == Texts{"x", "\u010A"});
    CHECK(pieces("").empty());
}

TEST_CASE("tokenizer: the spelling of bytes") {
    const struct {
        const char* spelling;
        uint8_t byte;
    } rows[] = {{"!", 0x21},      {"~", 0x7E},      {"\u0100", 0x00}, {"\u010A", 0x0A},
                {"\u0120", 0x20}, {"\u0121", 0x7F}, {"\u0122", 0x80}, {"\u0142", 0xA0},
                {"\u00A1", 0xA1}, {"\u00AC", 0xAC}, {"\u0143", 0xAD}, {"\u00AE", 0xAE},
                {"\u00FF", 0xFF}};
    for (const auto& row : rows) {
        CHECK(BpeEncoder::decode(row.spelling) == std::string(1, char(row.byte)));
    }
    CHECK(BpeEncoder::decode("\u0144\u4E2D") == "\u0144\u4E2D");  // no spelling
}

TEST_CASE("tokenizer: whole words first where the vocabulary ignores merges") {
    Vocab vocab = bpe_vocab({"a b", "c d"});
    add_token(vocab, "abcd", TokenType::normal);
    CHECK(texts(Tokenizer(vocab), Tokenizer(vocab).encode("abcd abcd", false)) ==
          Texts{"ab", "cd", "\u0120", "ab", "cd"});
    vocab.ignore_merges = true;
    CHECK(texts(Tokenizer(vocab), Tokenizer(vocab).encode("abcd abcd", false)) ==
          Texts{"abcd", "\u0120", "ab", "cd"});
}

TEST_CASE("tokenizer: merges that name no tokens") {
    // "ab" and "x " are no tokens; merges go through them all the same.
    Vocab vocab = bpe_vocab({});
    vocab.merges = {"a b", "ab c", "x \u00E9", "q q", "\u0120 z", "! ~"};
    add_token(vocab, "abc", TokenType::normal);
    const Tokenizer tokenizer(vocab);
    const auto pieces = [&](const char* text) {
        return texts(tokenizer, tokenizer.encode(text, false));
    };
    CHECK(pieces("abc") == Texts{"abc"});
    CHECK(pieces("abd") == Texts{"a", "b", "d"});
    CHECK(pieces("qqq") == Texts{"q", "q", "q"});
    CHECK(pieces("!~") == Texts{"!", "~"});        // the first and the last that print
    CHECK(pieces("z z") == Texts{"z", "z"});       // of no token " z", llama.cpp keeps the ASCII
    CHECK(pieces("a\u00E9b") == Texts{"a", "b"});  // no token for these bytes
}

TEST_CASE("tokenizer: SentencePiece merges by score, then from the left") {
    Vocab vocab = spm_vocab();
    const char* const names[] = {"\u2581", "a",       "b",      "c",      "ab",         "bc",
                                 "aa",     "\u2581a", "\u4E2D", "\u00DF", "\U0001F999", "cabc"};
    const float scores[] = {-9, -9, -9, -9, -2, -1, -3, -4, -9, -9, -9, 0};
    for (size_t i = 0; i < std::size(names); ++i) {
        add_token(vocab, names[i], TokenType::normal, scores[i]);
    }
    vocab.add_space_prefix = false;
    const Tokenizer bare(vocab);
    const auto pieces = [&](const char* text) { return texts(bare, bare.encode(text, false)); };
    CHECK(pieces("abc") == Texts{"a", "bc"});
    CHECK(pieces("aba") == Texts{"ab", "a"});
    CHECK(pieces("aaa") == Texts{"aa", "a"});
    CHECK(pieces(" a b") == Texts{"\u2581a", "\u2581", "b"});
    CHECK(pieces("\u00DF\u4E2D\U0001F999") == Texts{"\u00DF", "\u4E2D", "\U0001F999"});
    CHECK(pieces("cabc") == Texts{"c", "a", "bc"});  // cabc is out of reach: no pair gives it
    CHECK(pieces("a\u00E9\xFF") == Texts{"a", "<0xC3>", "<0xA9>", "<0xFF>"});
    CHECK(pieces("\xE4\xB8") == Texts{"<0xE4>", "<0xB8>"});  // half a character
    CHECK(bare.decode(bare.encode(" a b", false)) == " a b");

    vocab.add_space_prefix = true;
    const Tokenizer prefixed(vocab);
    CHECK(texts(prefixed, prefixed.encode("a", false)) == Texts{"\u2581a"});
    CHECK(texts(prefixed, prefixed.encode("a", true)) == Texts{"<s>", "\u2581a"});
    CHECK(prefixed.encode("", false).empty());
    CHECK(prefixed.encode("", true) == Ids{1});
    for (const char* text : {"a b", " a", "", " ", "\u00E9 \xFF"}) {
        CHECK(prefixed.decode(prefixed.encode(text, false)) == text);
    }
    CHECK(prefixed.decode(prefixed.encode("a", true)) == "<s> a");
}

TEST_CASE("tokenizer: a merge of SentencePiece makes new pairs on both sides") {
    Vocab vocab = spm_vocab();
    vocab.add_space_prefix = false;
    for (const char* text : {"a", "b", "c", "d", "bc"}) {
        add_token(vocab, text, TokenType::normal, -1);
    }
    add_token(vocab, "abc", TokenType::normal, -2);
    add_token(vocab, "bcd", TokenType::normal, -3);
    const Tokenizer tokenizer(vocab);
    const auto pieces = [&](const char* text) {
        return texts(tokenizer, tokenizer.encode(text, false));
    };
    CHECK(pieces("abc") == Texts{"abc"});
    CHECK(pieces("bcd") == Texts{"bcd"});
    CHECK(pieces("abcd") == Texts{"abc", "d"});  // the better score
}

TEST_CASE("tokenizer: bytes without a token") {
    Vocab vocab;
    vocab.model = "llama";
    add_token(vocab, "<unk>", TokenType::unknown);
    add_token(vocab, "a", TokenType::normal);
    add_token(vocab, "\xFF", TokenType::normal);  // a byte as it stands
    vocab.unk = 0;
    CHECK(Tokenizer(vocab).encode("aba\xFF", false) == Ids{1, 0, 1, 2});
    vocab.unk = -1;
    CHECK(Tokenizer(vocab).encode("aa", false) == Ids{1, 1});
    CHECK_THROWS_AS(Tokenizer(vocab).encode("aba", false), Error);
}

TEST_CASE("tokenizer: special tokens") {
    Vocab vocab = bpe_vocab({"a b"});
    add_token(vocab, "<|x|>", TokenType::control);
    add_token(vocab, "  ", TokenType::user_defined);
    add_token(vocab, "   ", TokenType::user_defined);
    add_token(vocab, "<u>", TokenType::user_defined);
    add_token(vocab, "b<u>", TokenType::unused);
    add_token(vocab, "<?>", TokenType::unknown);
    vocab.bos = vocab.eos = 128 + 1;
    const Tokenizer tokenizer(vocab);
    const auto pieces = [&](const char* text, bool parse_special) {
        return texts(tokenizer, tokenizer.encode(text, false, parse_special));
    };
    CHECK(pieces("ab<u>ab", false) == Texts{"ab", "<u>", "ab"});
    CHECK(pieces("a     b", false) == Texts{"a", "   ", "  ", "b"});
    CHECK(pieces("a<|x|>", false) == Texts{"a", "<", "|", "x", "|", ">"});
    CHECK(pieces("a<|x|><?>", true) == Texts{"a", "<|x|>", "<?>"});
    CHECK(pieces("<u><u>", true) == Texts{"<u>", "<u>"});
    CHECK(tokenizer.decode(tokenizer.encode("a<|x|>  <u>", false, true)) == "a<|x|>  <u>");
    CHECK(tokenizer.encode("b", true) == Ids{'b'});

    vocab.add_bos = vocab.add_eos = true;
    CHECK(Tokenizer(vocab).encode("b", true) == Ids{129, 'b', 129});
    CHECK(Tokenizer(vocab).encode("b", false) == Ids{'b'});
    CHECK(Tokenizer(vocab).encode("", true) == Ids{129, 129});
}

TEST_CASE("tokenizer: the longest special token wins, even from behind") {
    Vocab vocab = bpe_vocab({});
    add_token(vocab, "abc", TokenType::user_defined);
    add_token(vocab, "bcde", TokenType::user_defined);
    const Tokenizer tokenizer(vocab);
    CHECK(texts(tokenizer, tokenizer.encode("abcde", false)) == Texts{"a", "bcde"});
    CHECK(texts(tokenizer, tokenizer.encode("abcbcde", false)) == Texts{"abc", "bcde"});
}

TEST_CASE("tokenizer: Phi-3's special tokens swallow white space") {
    Vocab vocab = spm_vocab();
    for (const char* text : {"<|user|>", "<|end|>", "<|endoftext|>"}) {
        add_token(vocab, text, TokenType::control);
    }
    add_token(vocab, "\u2581", TokenType::normal, -1);
    add_token(vocab, "a", TokenType::normal, -1);
    const char* text = "<|user|> \n a<|end|>\n<|endoftext|> a</s> a<s>\t";
    const Tokenizer plain(vocab);
    CHECK(texts(plain, plain.encode(text, false, true)) ==
          Texts{"<|user|>", "\u2581",  "\u2581", "<0x0A>", "\u2581",
                "a",        "<|end|>", "\u2581", "<0x0A>", "<|endoftext|>",
                "\u2581",   "\u2581",  "a",      "</s>",   "\u2581",
                "\u2581",   "a",       "<s>",    "\u2581", "<0x09>"});
    vocab.strip_after_special = true;
    const Tokenizer phi3(vocab);
    CHECK(texts(phi3, phi3.encode(text, false, true)) ==
          Texts{"<|user|>", "\u2581", "a", "<|end|>", "<|endoftext|>", "\u2581", "\u2581", "a",
                "</s>", "\u2581", "a", "<s>", "\u2581", "<0x09>"});
}

TEST_CASE("tokenizer: as Gemma's vocabulary") {
    Vocab vocab = spm_vocab();
    vocab.add_space_prefix = false;
    for (const char* text : {"\n", "\n\n", "  ", "<b>"}) {
        add_token(vocab, text, TokenType::user_defined);
    }
    for (const char* text : {"a", "\u2581", "\u2581a"}) {
        add_token(vocab, text, TokenType::normal, -1);
    }
    const Tokenizer tokenizer(vocab);
    const std::string text = "a a\n\n\n   a<b>a";
    const Ids ids = tokenizer.encode(text, true);
    CHECK(texts(tokenizer, ids) ==
          Texts{"<s>", "a", "\u2581a", "\n\n", "\n", "  ", "\u2581a", "<b>", "a"});
    CHECK(tokenizer.decode(std::span(ids).subspan(1)) == text);
}

TEST_CASE("tokenizer: a vocabulary read from a file") {
    Vocab vocab = spm_vocab();
    add_token(vocab, "a", TokenType::normal, -1);
    add_token(vocab, "<|im_end|>", TokenType::user_defined);
    add_token(vocab, "<|fim_prefix|>", TokenType::user_defined);
    add_token(vocab, "<|message|>", TokenType::control);
    const int32_t n = int32_t(vocab.tokens.size());
    const VocabFile plain(vocab, {});
    const Tokenizer tokenizer = Tokenizer::from_gguf(plain.open());
    CHECK(tokenizer.n_vocab() == n);
    CHECK(tokenizer.bos() == 1);
    CHECK(tokenizer.eos() == 2);
    CHECK(tokenizer.vocab().unk == 0);
    CHECK(tokenizer.adds_bos());
    CHECK_FALSE(tokenizer.vocab().add_eos);
    CHECK(tokenizer.vocab().add_space_prefix);
    CHECK_FALSE(tokenizer.vocab().strip_after_special);
    // Types that llama.cpp corrects by the text.
    CHECK(tokenizer.vocab().types[size_t(n - 3)] == TokenType::control);
    CHECK(tokenizer.vocab().types[size_t(n - 2)] == TokenType::control);
    CHECK(tokenizer.vocab().types[size_t(n - 1)] == TokenType::user_defined);

    const VocabFile phi3(vocab, {{"general.name", std::string_view("My Phi-3 mini")},
                                 {"tokenizer.ggml.add_bos_token", false},
                                 {"tokenizer.ggml.add_eos_token", true},
                                 {"tokenizer.ggml.add_space_prefix", false},
                                 {"tokenizer.ggml.bos_token_id", uint32_t(n)},  // out of range
                                 {"tokenizer.ggml.eos_token_id", uint32_t(7)},
                                 {"tokenizer.ggml.fim_pre_token_id", uint32_t(8)}});
    const Tokenizer other = Tokenizer::from_gguf(phi3.open());
    CHECK(other.bos() == 1);
    CHECK(other.eos() == 7);
    CHECK_FALSE(other.adds_bos());
    CHECK(other.vocab().add_eos);
    CHECK_FALSE(other.vocab().add_space_prefix);
    CHECK(other.vocab().strip_after_special);
    CHECK(other.vocab().types[size_t(n - 2)] == TokenType::user_defined);
}

TEST_CASE("tokenizer: what llama.cpp assumes of byte-level BPE") {
    const VocabFile file(bpe_vocab({"a b"}), {});
    const Tokenizer tokenizer = Tokenizer::from_gguf(file.open());
    CHECK(tokenizer.bos() == 11);
    CHECK(tokenizer.eos() == 11);
    CHECK(tokenizer.vocab().unk == -1);
    CHECK_FALSE(tokenizer.adds_bos());
    CHECK_FALSE(tokenizer.vocab().ignore_merges);
    Vocab vocab = bpe_vocab({"a b"});
    vocab.pre = "llama-bpe";
    const VocabFile llama3(vocab, {});
    const Tokenizer other = Tokenizer::from_gguf(llama3.open());
    CHECK(other.adds_bos());
    CHECK(other.vocab().ignore_merges);
    CHECK(other.encode("ab", true) == Ids{11, 128});
}
