#pragma once
// Vocabularies small enough to know by heart, and GGUF files of them.
// Docs: docs/16-text.md

#include "ref/files/gguf.h"
#include "ref/text/tokenizer.h"

#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace rotkv::test {

/// How a byte is spelled in a gpt2 vocabulary; only for ASCII.
inline std::string spelled(char byte) {
    const int offset = uint8_t(byte);
    if (byte > ' ' && byte <= '~') return std::string(1, byte);
    if (byte == '\x7F') return "\u0121";
    std::string character = "\u0100";  // U+0100 to U+0120
    character[1] = char(uint8_t(character[1]) + offset);
    return character;
}

/// ASCII as tokens 0 to 127, then the results of the merges, in their order.
inline Vocab bpe_vocab(const std::vector<std::string>& merges) {
    Vocab vocab;
    vocab.model = "gpt2";
    vocab.pre = "gpt-2";
    for (int byte = 0; byte < 128; ++byte) vocab.tokens.push_back(spelled(char(byte)));
    vocab.merges = merges;
    for (const std::string& merge : merges) {
        const size_t space = merge.find(' ');
        vocab.tokens.push_back(merge.substr(0, space) + merge.substr(space + 1));
    }
    vocab.types.assign(vocab.tokens.size(), TokenType::normal);
    return vocab;
}

inline void add_token(Vocab& vocab, const std::string& text, TokenType type, float score = 0) {
    vocab.tokens.push_back(text);
    vocab.types.push_back(type);
    if (vocab.model == "llama") vocab.scores.push_back(score);
}

/// <unk>, <s>, </s>, then all bytes as tokens 3 to 258, then what a test adds.
inline Vocab spm_vocab() {
    Vocab vocab;
    vocab.model = "llama";
    vocab.unk = 0;
    vocab.bos = 1;
    vocab.eos = 2;
    vocab.add_bos = true;
    vocab.add_space_prefix = true;
    add_token(vocab, "<unk>", TokenType::unknown);
    add_token(vocab, "<s>", TokenType::control);
    add_token(vocab, "</s>", TokenType::control);
    for (int byte = 0; byte < 256; ++byte) {
        add_token(vocab, byte_text(uint8_t(byte)), TokenType::byte);
    }
    return vocab;
}

/// <pad>, <eos>, <bos>, <unk>, then all bytes as tokens 4 to 259, then characters and the results
/// of the merges, in their order.
inline Vocab gemma4_vocab(const std::vector<std::string>& characters,
                          const std::vector<std::string>& merges) {
    Vocab vocab;
    vocab.model = vocab.pre = "gemma4";
    vocab.eos = 1;
    vocab.bos = 2;
    vocab.unk = 3;
    vocab.add_bos = true;
    for (const char* text : {"<pad>", "<eos>", "<bos>", "<unk>"}) {
        add_token(vocab, text, TokenType::control);
    }
    for (int byte = 0; byte < 256; ++byte) {
        add_token(vocab, byte_text(uint8_t(byte)), TokenType::byte);
    }
    for (const std::string& text : characters) add_token(vocab, text, TokenType::normal);
    vocab.merges = merges;
    for (const std::string& merge : merges) {
        const size_t space = merge.find(' ');
        add_token(vocab, merge.substr(0, space) + merge.substr(space + 1), TokenType::normal);
    }
    return vocab;
}

/// A GGUF file that holds a vocabulary and further entries; gone with the object.
class VocabFile {
  public:
    VocabFile(const Vocab& vocab, const std::vector<std::pair<std::string, GgufValue>>& entries)
        : path_((std::filesystem::temp_directory_path() /
                 ("rotkv-vocab-" + std::to_string(std::random_device()()) + ".gguf"))
                    .string()) {
        GgufWriter writer;
        writer.add("general.architecture", std::string_view("llama"));
        writer.add("tokenizer.ggml.model", std::string_view(vocab.model));
        if (!vocab.pre.empty()) writer.add("tokenizer.ggml.pre", std::string_view(vocab.pre));
        writer.add("tokenizer.ggml.tokens", views(vocab.tokens));
        std::vector<int32_t> types;
        for (const TokenType type : vocab.types) types.push_back(int32_t(type));
        if (!types.empty()) writer.add("tokenizer.ggml.token_type", GgufArray(types));
        if (!vocab.scores.empty()) writer.add("tokenizer.ggml.scores", GgufArray(vocab.scores));
        if (!vocab.merges.empty()) writer.add("tokenizer.ggml.merges", views(vocab.merges));
        for (const auto& [key, value] : entries) writer.add(key, value);
        writer.write(path_);
    }
    ~VocabFile() { std::filesystem::remove(path_); }
    VocabFile(const VocabFile&) = delete;
    VocabFile& operator=(const VocabFile&) = delete;

    GgufFile open() const { return GgufFile::open(path_); }
    const std::string& path() const { return path_; }

  private:
    static GgufArray views(const std::vector<std::string>& texts) {
        return std::vector<std::string_view>(texts.begin(), texts.end());
    }
    std::string path_;
};

}  // namespace rotkv::test
