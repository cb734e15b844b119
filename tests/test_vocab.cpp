// What a vocabulary is taken to be where its file is silent or wrong, that it is said, and behind
// which tokens a text ends.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/text/tokenizer.h"
#include "tests/catch.h"
#include "tests/small_vocab.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ids = std::vector<int32_t>;
using Entries = std::vector<std::pair<std::string, GgufValue>>;

// What SentencePiece files name beside these, or not.
constexpr const char* k_space_prefix = "tokenizer.ggml.add_space_prefix";

Vocab read_back(const Vocab& vocab, Entries entries) {
    if (vocab.model == "llama") entries.push_back({k_space_prefix, vocab.add_space_prefix});
    const VocabFile file(vocab, entries);
    return read_vocab(file.open());
}

constexpr const char* k_unk = "tokenizer.ggml.unknown_token_id";
const Entries k_bos_eos = {{"tokenizer.ggml.bos_token_id", uint32_t(1)},
                           {"tokenizer.ggml.eos_token_id", uint32_t(2)}};

/// The first notice on an spm_vocab() that has no token for one byte, whose file says this too.
std::string first_notice_without_a_byte(Entries entries) {
    Vocab vocab = spm_vocab();
    vocab.tokens[3] = "zero";
    entries.insert(entries.end(), k_bos_eos.begin(), k_bos_eos.end());
    return read_back(vocab, entries).notices.at(0);
}

/// The texts behind which a text ends, of spm_vocab() with some more tokens.
std::set<std::string> end_texts(const std::vector<std::string>& more, Entries entries = {}) {
    Vocab vocab = spm_vocab();
    vocab.tokens[2] = "<e>";
    for (const std::string& text : more) add_token(vocab, text, TokenType::normal);
    entries.insert(entries.begin(), k_bos_eos.begin(),
                   entries.empty() ? k_bos_eos.end() : k_bos_eos.begin() + 1);
    const Vocab found = read_back(vocab, entries);
    std::set<std::string> texts;
    for (const int32_t id : found.ends) texts.insert(found.tokens.at(size_t(id)));
    return texts;
}

using Texts = std::set<std::string>;

}  // namespace

TEST_CASE("vocab: a file that says everything leaves nothing to be said") {
    CHECK(read_back(spm_vocab(), k_bos_eos).notices.empty());
    CHECK(read_back(bpe_vocab({"a b"}), k_bos_eos).notices.empty());
    // No text begins with BOS: that none is named does not matter.
    CHECK(read_back(bpe_vocab({"a b"}), {k_bos_eos[1]}).notices.empty());
}

TEST_CASE("vocab: what is assumed is said") {
    const struct {
        const char* name;
        bool spm;
        void (*change)(Vocab&);
        Entries entries;
        const char* says;
    } rows[] = {
        {"EOS", false, [](Vocab&) {}, {}, "the file names no EOS, 11 ('\\x0b') is assumed"},
        {"EOS of SentencePiece",
         true,
         [](Vocab&) {},
         {k_bos_eos[0]},
         "the file names no EOS, 2 ('</s>') is assumed"},
        {"EOS out of range",
         false,
         [](Vocab&) {},
         {{"tokenizer.ggml.eos_token_id", uint32_t(4294967295)}},
         "the file's EOS is 4294967295, beyond its 129 tokens, 11 ('\\x0b') is assumed"},
        {"BOS",
         false,
         [](Vocab&) {},
         {{"tokenizer.ggml.add_bos_token", true}, k_bos_eos[1]},
         "the file names no BOS, 11 ('\\x0b') is assumed"},
        {"BOS of SentencePiece",
         true,
         [](Vocab&) {},
         {k_bos_eos[1]},
         "the file names no BOS, 1 ('<s>') is assumed"},
        {"pre-tokenizer", false, [](Vocab& v) { v.pre.clear(); }, k_bos_eos,
         "the file names no pre-tokenizer (tokenizer.ggml.pre): 'default' is assumed"},
        {"types", false, [](Vocab& v) { v.types.clear(); }, k_bos_eos,
         "the file gives no token types: all tokens are taken for normal"},
        {"scores", true, [](Vocab& v) { v.scores.clear(); }, k_bos_eos,
         "the file gives no scores of tokens: 0 is assumed for each"},
        {"bytes",
         true,
         [](Vocab& v) { v.tokens[3 + 'a'] = "a", v.tokens[3] = v.tokens[4] = "zero"; },
         {k_bos_eos[0], k_bos_eos[1], {k_unk, uint32_t(0)}},
         "the vocabulary has no token for 2 of the 256 bytes: in a text they become the unknown "
         "token, 0 ('<unk>')"},
    };
    for (const auto& row : rows) {
        INFO(row.name);
        Vocab vocab = row.spm ? spm_vocab() : bpe_vocab({"a b"});
        row.change(vocab);
        CHECK(read_back(vocab, row.entries).notices == std::vector<std::string>{row.says});
    }
    CHECK(first_notice_without_a_byte({}) ==
          "the file names no unknown token, 0 ('<unk>') is assumed");
    CHECK(first_notice_without_a_byte({{k_unk, uint32_t(999)}}) ==
          "the file's unknown token is 999, beyond its 259 tokens, 0 ('<unk>') is assumed");
    CHECK(first_notice_without_a_byte({{k_unk, uint32_t(5)}}) ==
          "the vocabulary has no token for 1 of the 256 bytes: in a text they become the unknown "
          "token, 5 ('<0x02>')");
    Vocab small = bpe_vocab({"a b"});
    small.tokens.resize(5);
    small.types.resize(5);
    const Vocab without = read_back(small, {});
    CHECK(without.eos == -1);
    CHECK(without.notices ==
          std::vector<std::string>{"the file names no EOS, and there is no usual one"});
    CHECK(without.ends.empty());
}

TEST_CASE("vocab: a space in front that the file does not speak of is assumed aloud") {
    const VocabFile silent(spm_vocab(), k_bos_eos);
    const Vocab assumed = read_vocab(silent.open());
    CHECK(assumed.add_space_prefix);
    CHECK(assumed.notices ==
          std::vector<std::string>{"no key tokenizer.ggml.add_space_prefix, true is assumed"});
    for (const bool adds : {true, false}) {
        Vocab vocab = spm_vocab();
        vocab.add_space_prefix = adds;
        const Vocab named = read_back(vocab, k_bos_eos);
        CHECK(named.add_space_prefix == adds);
        CHECK(named.notices.empty());
    }
}

TEST_CASE("vocab: GLM's pre-types know no usual BOS") {
    for (const char* pre : {"glm4", "glm5", "chatglm-bpe", "qwen2"}) {
        INFO(pre);
        Vocab vocab = bpe_vocab({"a b", "c d"});
        vocab.pre = pre;
        add_token(vocab, "abcd", TokenType::normal);
        const bool usual = std::string(pre) == "qwen2";
        CHECK(read_back(vocab, {}).bos == (usual ? 11 : -1));
        CHECK(read_back(vocab, {}).eos == 11);
        CHECK(read_back(vocab, k_bos_eos).bos == 1);
        // A file that asks for BOS and names none cannot be used.
        const VocabFile file(vocab, {{"tokenizer.ggml.add_bos_token", true}, k_bos_eos[1]});
        if (usual) {
            CHECK(Tokenizer::from_gguf(file.open()).encode("ab", true) == Ids{11, 128});
        } else {
            CHECK_THROWS_AS(Tokenizer::from_gguf(file.open()), Error);
        }
        // glm4 and glm5 take a word that is a token whole.
        const VocabFile plain(vocab, k_bos_eos);
        const bool whole = std::string(pre).starts_with("glm");
        CHECK(Tokenizer::from_gguf(plain.open()).encode("abcd", false) ==
              (whole ? Ids{130} : Ids{128, 129}));
    }
}

TEST_CASE("vocab: Kimi's files may have no merges") {
    Vocab vocab = bpe_vocab({});
    add_token(vocab, "ab", TokenType::normal);
    vocab.pre = "kimi-k2";
    const VocabFile file(vocab, k_bos_eos);
    const Tokenizer tokenizer = Tokenizer::from_gguf(file.open());
    CHECK(
        tokenizer.vocab().notices ==
        std::vector<std::string>{"the file gives no merges: each byte of a text becomes a token"});
    CHECK(tokenizer.encode("ab", false) == Ids{'a', 'b'});
    vocab.merges = {"a b"};
    CHECK(read_back(vocab, k_bos_eos).notices.empty());
    vocab.merges.clear();
    vocab.pre = "gpt-4o";
    CHECK_THROWS_AS(read_back(vocab, k_bos_eos), Error);  // others need them
}

TEST_CASE("vocab: a text without types or scores is still cut as llama.cpp cuts it") {
    Vocab vocab = spm_vocab();
    add_token(vocab, "a", TokenType::normal);
    add_token(vocab, "aa", TokenType::normal);
    vocab.scores.clear();
    vocab.types.clear();
    const VocabFile file(vocab, k_bos_eos);
    const Tokenizer tokenizer = Tokenizer::from_gguf(file.open());
    CHECK(tokenizer.vocab().types[1] == TokenType::normal);
    CHECK(tokenizer.vocab().types[2] == TokenType::control);  // </s>, by its text
    CHECK(tokenizer.encode("aaa", false) == Ids{0xE2 + 3, 0x96 + 3, 0x81 + 3, 260, 259});
}

TEST_CASE("vocab: tokens behind which a text ends") {
    for (const char* text : {"<|eot_id|>",
                             "<|im_end|>",
                             "<|end|>",
                             "<|return|>",
                             "<|call|>",
                             "<|calls|>",
                             "<|flush|>",
                             "<|eom_id|>",
                             "<EOT>",
                             "_<EOT>",
                             "[EOT]",
                             "[EOS]",
                             "<end_of_turn>",
                             "<end_of_utterance>",
                             "<|end_of_text|>",
                             "<|endoftext|>",
                             "</s>",
                             "<eos>",
                             "<turn|>",
                             "<|tool_response>",
                             "[e~[",
                             "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
                             "<|fim_pad|>",
                             "<fim-pad>",
                             "<fim_pad>",
                             "<PAD>",
                             "[PAD]",
                             "<|fim_repo|>",
                             "<|repo_name|>",
                             "<fim-repo>",
                             "<REPO>",
                             "<reponame>",
                             "<|file_sep|>"}) {
        CHECK(end_texts({text}) == Texts{"<e>", text});
    }
    for (const char* text : {"<|user|>", "<file_sep>", "<|fim_prefix|>", "<|fim_suffix|>",
                             "<|fim_middle|>", "<|im_start|>", "<EOS>", "<|endofprompt|>"}) {
        CHECK(end_texts({text}) == Texts{"<e>"});
    }
}

TEST_CASE("vocab: tokens that only look as if a text ended behind them") {
    // gpt-oss and Solar: a message ends, the text does not; two of the other marks tell.
    CHECK(end_texts({"<|end|>", "<|call|>", "<|return|>"}) ==
          Texts{"<e>", "<|call|>", "<|return|>"});
    CHECK(end_texts({"<|end|>", "<|calls|>", "<|flush|>"}) ==
          Texts{"<e>", "<|calls|>", "<|flush|>"});
    CHECK(end_texts({"<|end|>", "<|return|>"}) == Texts{"<e>", "<|end|>", "<|return|>"});
    CHECK(end_texts({"</s>", "<|tool_response>"}) == Texts{"<e>", "<|tool_response>"});
    // Not even where a key of the file names them.
    CHECK(end_texts({"<|end|>", "<|call|>", "<|return|>"},
                    {{"tokenizer.ggml.eos_token_id", uint32_t(259)}}) ==
          Texts{"<|call|>", "<|return|>"});
}

TEST_CASE("vocab: keys that name an end") {
    const Entries eos = {k_bos_eos[1]};
    for (const char* key : {"eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) {
        INFO(key);
        Entries entries = eos;
        entries.push_back({"tokenizer.ggml." + std::string(key) + "_token_id", uint32_t(259)});
        CHECK(end_texts({"zzz"}, entries) == Texts{"<e>", "zzz"});
        entries.back().second = uint32_t(300);  // out of range: as if it were not there
        CHECK(end_texts({"zzz", "<|fim_pad|>"}, entries) == Texts{"<e>", "<|fim_pad|>"});
    }
    for (const char* key : {"fim_pre", "fim_suf", "fim_mid"}) {
        Entries entries = eos;
        entries.push_back({"tokenizer.ggml." + std::string(key) + "_token_id", uint32_t(259)});
        CHECK(end_texts({"zzz"}, entries) == Texts{"<e>"});
    }
    // A key takes the place of the texts that stand for the same task.
    Entries entries = eos;
    entries.push_back({"tokenizer.ggml.fim_pad_token_id", uint32_t(259)});
    CHECK(end_texts({"zzz", "<|fim_pad|>"}, entries) == Texts{"<e>", "zzz"});
}

TEST_CASE("vocab: a text that goes on has BOS in front and no EOS behind") {
    Vocab vocab = bpe_vocab({"a b"});
    vocab.bos = vocab.eos = 5;
    for (const bool add_bos : {false, true}) {
        for (const bool add_eos : {false, true}) {
            vocab.add_bos = add_bos;
            vocab.add_eos = add_eos;
            const Tokenizer tokenizer(vocab);
            CHECK(tokenizer.encode_beginning("ab") == (add_bos ? Ids{5, 128} : Ids{128}));
            CHECK(tokenizer.encode_beginning("") == (add_bos ? Ids{5} : Ids{}));
        }
    }
}
