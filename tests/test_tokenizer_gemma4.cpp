// Gemma 4's BPE: merges by rank on text as it stands, with "\u2581" for a space.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/text/tokenizer.h"
#include "tests/catch.h"
#include "tests/small_vocab.h"

#include <string>
#include <utility>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Texts = std::vector<std::string>;
using Entries = std::vector<std::pair<std::string, GgufValue>>;

/// The tokens of a text, spelled as the vocabulary spells them.
Texts pieces(const Vocab& vocab, std::string_view text, bool add_special = false) {
    const Tokenizer tokenizer(vocab);
    Texts result;
    for (const int32_t id : tokenizer.encode(text, add_special)) {
        result.push_back(tokenizer.vocab().tokens.at(size_t(id)));
    }
    return result;
}

Vocab small() {
    return gemma4_vocab({"\u2581", "a", "b", "c", "\u4E2D", "\n", "\n\n", "\n\n\n"},
                        {"\u2581 a", "b c", "a b", "\u2581a bc", "\u4E2D \u2581", "\u2581 \u2581"});
}

const Entries k_special = {{"tokenizer.ggml.bos_token_id", uint32_t(2)},
                           {"tokenizer.ggml.eos_token_id", uint32_t(1)}};

Vocab read_back(const Vocab& vocab, Entries entries) {
    entries.insert(entries.end(), k_special.begin(), k_special.end());
    const VocabFile file(vocab, entries);
    return read_vocab(file.open());
}

}  // namespace

TEST_CASE("gemma4: merges by rank across words, spaces as U+2581") {
    CHECK(pieces(small(), "ab") == Texts{"ab"});
    CHECK(pieces(small(), "abc") == Texts{"a", "bc"});  // b c comes first
    CHECK(pieces(small(), " abc") == Texts{"\u2581abc"});
    CHECK(pieces(small(), "a abc b") == Texts{"a", "\u2581abc", "\u2581", "b"});
    CHECK(pieces(small(), "   a") == Texts{"\u2581\u2581", "\u2581a"});  // the space and a first
    // One word from end to end: a merge takes a letter and the space behind it.
    CHECK(pieces(small(), "\u4E2D b") == Texts{"\u4E2D\u2581", "b"});
    CHECK(pieces(small(), "").empty());
    CHECK(pieces(small(), "a", true) == Texts{"<bos>", "a"});
    CHECK(pieces(small(), "", true) == Texts{"<bos>"});
}

TEST_CASE("gemma4: a run of newlines that is a token is taken whole") {
    CHECK(pieces(small(), "\n\n\n") == Texts{"\n\n\n"});
    CHECK(pieces(small(), "a\n\n b\n") == Texts{"a", "\n\n", "\u2581", "b", "\n"});
    // Only whole: no merge makes three of four, and none crosses the end of a line.
    CHECK(pieces(small(), "\n\n\n\n") == Texts{"\n", "\n", "\n", "\n"});
    Vocab vocab = small();
    vocab.merges.insert(vocab.merges.begin(), {"\n \n", "a \n"});
    CHECK(pieces(vocab, "\n\n\n\n\n") == Texts{"\n\n", "\n\n", "\n"});
    CHECK(pieces(vocab, "\n\n\n") == Texts{"\n\n\n"});  // before the merges
    CHECK(pieces(vocab, "a\n") == Texts{"a", "\n"});
    CHECK(pieces(vocab, "a\r\n") == Texts{"a", "<0x0D>", "\n"});
    // A word of another kind is not: "bca" is a token, but merges do not make it.
    add_token(vocab, "bca", TokenType::normal);
    CHECK(pieces(vocab, "bca") == Texts{"bc", "a"});
}

TEST_CASE("gemma4: characters that are no tokens become their bytes") {
    CHECK(pieces(small(), "a\u00E9") == Texts{"a", "<0xC3>", "<0xA9>"});
    CHECK(pieces(small(), "\U0001F999") == Texts{"<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"});
    CHECK(pieces(small(), "\xE4\xB8") ==  // no UTF-8: U+FFFD twice
          Texts{"<0xEF>", "<0xBF>", "<0xBD>", "<0xEF>", "<0xBF>", "<0xBD>"});
    CHECK(pieces(small(), "<0x41>!").size() == 7);  // text, not the token of that name
    // The work of a merge that names no token, likewise; and characters known to merges alone.
    Vocab vocab = small();
    vocab.merges.insert(vocab.merges.end(), {"c c", "x y", "xy a"});
    add_token(vocab, "xya", TokenType::normal);
    CHECK(pieces(vocab, "ccb") == Texts{"<0x63>", "<0x63>", "b"});
    CHECK(pieces(vocab, "xya") == Texts{"xya"});
    CHECK(pieces(vocab, "xy") == Texts{"<0x78>", "<0x79>"});
    // Without a token for a byte, it is lost.
    vocab.tokens[4 + 0xC3] = "zzz";
    vocab.types[4 + 0xC3] = TokenType::normal;
    CHECK(pieces(vocab, "\u00E9a") == Texts{"<0xA9>", "a"});
}

TEST_CASE("gemma4: tokens and their text") {
    Vocab vocab = small();
    add_token(vocab, "<|tool>", TokenType::user_defined);
    add_token(vocab, "\u2581\u2581\u2581", TokenType::user_defined);
    const Tokenizer tokenizer(vocab);
    for (const char* text : {"a  abc\n\n b", " a", "\u00E9\U0001F999\r\n", "<|tool> a"}) {
        CHECK(tokenizer.decode(tokenizer.encode(text, false)) == text);
    }
    CHECK(tokenizer.decode(tokenizer.encode("\u2581", false)) == " ");
    CHECK(tokenizer.decode(tokenizer.encode(" a", true)) == "<bos> a");
    // Found in the text before spaces are marked: three spaces are not that token.
    CHECK(pieces(vocab, "   ") == Texts{"\u2581\u2581", "\u2581"});
    CHECK(pieces(vocab, "\u2581\u2581\u2581") == Texts{"\u2581\u2581\u2581"});
    CHECK(pieces(vocab, "a<|tool> a") == Texts{"a", "<|tool>", "\u2581a"});
}

TEST_CASE("gemma4: what a file says and what it does not") {
    const Vocab plain = read_back(small(), {});
    CHECK(plain.notices.empty());
    CHECK(plain.pre == "gemma4");
    CHECK(plain.add_bos);
    CHECK_FALSE(plain.ignore_merges);
    CHECK(plain.unk == -1);
    CHECK(plain.ends == std::set<int32_t>{1});
    // Another name for its words changes nothing.
    Vocab other = small();
    other.pre = "default";
    CHECK(read_back(other, {}).pre == "gemma4");
    CHECK(read_back(other, {}).notices.empty());
    // BOS is added whatever the file says, aloud.
    const Vocab without = read_back(small(), {{"tokenizer.ggml.add_bos_token", false}});
    CHECK(without.add_bos);
    CHECK(without.notices ==
          Texts{"the file asks for no BOS (tokenizer.ggml.add_bos_token), without which Gemma 4's "
                "texts do not go: it is added"});
    Vocab lossy = small();
    lossy.tokens[4] = "zero";
    lossy.types[4] = TokenType::normal;
    CHECK(read_back(lossy, {}).notices ==
          Texts{"the vocabulary has no token (<0x00> to <0xFF>) for 1 of the 256 bytes: characters "
                "that are no tokens lose them"});
    // Turns end; words struck out by <s> and </s> do not.
    Vocab turns = small();
    for (const char* text : {"<turn|>", "<|tool_response>", "</s>", "<|turn>"}) {
        add_token(turns, text, TokenType::user_defined);
    }
    const Vocab found = read_back(turns, {});
    const int32_t n = int32_t(found.tokens.size());
    CHECK(found.ends == std::set<int32_t>{1, n - 4, n - 3});
    CHECK(found.types[size_t(n - 2)] == TokenType::normal);
}

TEST_CASE("gemma4: files that contradict themselves") {
    // No BOS, which every text begins with, and none is usual; nor is EOS.
    const VocabFile without(small(), {});
    const Vocab vocab = read_vocab(without.open());
    CHECK(vocab.bos == -1);
    CHECK(vocab.eos == -1);
    CHECK(vocab.notices == Texts{"the file names no BOS, and there is no usual one",
                                 "the file names no EOS, and there is no usual one"});
    try {
        Tokenizer::from_gguf(without.open());
        FAIL("texts that begin with no token were accepted");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::bad_file);
        CHECK(error.what() ==
              without.path() + ": vocabulary: BOS is to be added to texts, but there is none");
    }
    Vocab words = small();
    words.pre = "gpt-2";
    try {
        Tokenizer{words};
        FAIL("Gemma 4's model with GPT-2's words was accepted");
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::bad_argument);
        CHECK(std::string(error.what()) ==
              "vocabulary: model gemma4: expected pre-tokenizer gemma4, found 'gpt-2'");
    }
    Vocab merges = small();
    merges.merges = {"ab"};
    CHECK_THROWS_AS(Tokenizer(merges), Error);
    merges.merges.clear();  // none are written, and one is needed
    const VocabFile silent(merges, k_special);
    CHECK_THROWS_AS(read_vocab(silent.open()), Error);
}

TEST_CASE("gemma4: as the pre-tokenizer of a gpt2 vocabulary") {
    Vocab vocab = small();
    vocab.model = "gpt2";
    CHECK(pieces(vocab, "a abc\u00E9") == Texts{"a", "\u2581abc", "<0xC3>", "<0xA9>"});
    const VocabFile file(vocab, {});
    const Tokenizer tokenizer = Tokenizer::from_gguf(file.open());
    CHECK(tokenizer.adds_bos());
    CHECK(tokenizer.bos() == 11);  // as usual in gpt2's
    CHECK(tokenizer.vocab().notices == Texts{"the file names no BOS, 11 ('<0x07>') is assumed",
                                             "the file names no EOS, 11 ('<0x07>') is assumed"});
    CHECK(tokenizer.decode(tokenizer.encode(" a\u00E9", false)) == " a\u00E9");
}
