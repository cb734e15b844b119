#pragma once
// Text to tokens and back, token for token as llama.cpp does it. Four steps:
//   0 a vocabulary and its rules come out of a GGUF file              tokenizer_vocab.cpp
//   1 special tokens ("<|im_end|>") are cut out of the text           tokenizer.cpp
//   2 what is between them becomes tokens, in one of three ways:
//     byte-level BPE   words by regex, then merges by rank            pretokenizer.cpp and
//                      of spelled bytes                               tokenizer_bpe.cpp
//     Gemma 4's BPE    lines, then merges by rank of characters       the same
//     SentencePiece    the whole text at once, merges by score        tokenizer_spm.cpp
//   3 BOS and EOS are added where the vocabulary asks for them        tokenizer.cpp
// Source: llama.cpp, src/llama-vocab.cpp.
// Docs: docs/16-text.md

#include "ref/files/gguf.h"
#include "ref/text/pretokenizer.h"

#include <array>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace rotkv {

/// What a token is for; the numbers are GGUF's (tokenizer.ggml.token_type).
enum class TokenType : int32_t {
    undefined = 0,
    normal = 1,
    unknown = 2,       ///< stands for what no token can spell
    control = 3,       ///< BOS, "<|im_end|>": found in a text only where the caller asks for it
    user_defined = 4,  ///< found in any text, before all else
    unused = 5,
    byte = 6,  ///< "<0x0A>": one byte
};

/// A vocabulary and its rules.
struct Vocab {
    std::string model;                ///< "gpt2": BPE, "gemma4": Gemma 4's, "llama": SentencePiece
    std::string pre;                  ///< BPE: how words are cut, a name in pretokenizer.cpp
    std::vector<std::string> tokens;  ///< by id, all different
    std::vector<TokenType> types;     ///< by id
    std::vector<float> scores;        ///< llama: by id, the highest is merged first
    std::vector<std::string> merges;  ///< BPE: "left right", the first is merged first
    int32_t bos = -1, eos = -1, unk = -1;  ///< ids, -1 for none
    bool add_bos = false, add_eos = false;
    std::set<int32_t> ends;         ///< behind these a text is over: EOS, "<|im_end|>", ...
    bool add_space_prefix = false;  ///< llama: text starts with a space, behind special tokens too
    bool ignore_merges = false;     ///< BPE: a word that is a token is taken whole
    bool strip_after_special = false;  ///< special tokens swallow white space behind them (Phi-3)
    std::vector<std::string> notices;  ///< what was assumed of the file

    /// Whether this is BPE whose tokens are text as it stands: see PreType::raw.
    bool raw() const;
};

/// tokenizer.ggml.*, with what llama.cpp assumes where the file is silent or known to be wrong;
/// what changes tokens, or where a text ends, is said in `notices`.
/// Throws: Error(bad_file) for a missing key or one of another type.
Vocab read_vocab(const GgufFile& file);

/// Ids by text. The keys are windows on Vocab::tokens.
using TokenIds = std::unordered_map<std::string_view, int32_t>;

/// A text with "\u2581" for each space, as SentencePiece and Gemma 4 have it, and the way back.
std::string mark_spaces(std::string_view text);
std::string unmark_spaces(std::string_view text);

/// The text of a token of type `byte`: "<0x0A>".
std::string byte_text(uint8_t byte);

/// BPE by rank: byte-level or, where the pre-type says raw, on text as it stands. Holds windows on
/// its arguments, which must outlive it.
class BpeEncoder {
  public:
    BpeEncoder(const Vocab& vocab, const TokenIds& ids);

    /// Appends the tokens of a text, special ones not considered.
    /// Cost:   n log n in the longest word, linear in the text.
    /// Source: Sennrich et al. 2016 (merges); GPT-2 (bytes as characters).
    void encode(std::string_view text, std::vector<int32_t>& tokens) const;

    /// The bytes that a normal token of a byte-level vocabulary stands for.
    static std::string decode(std::string_view token);

  private:
    struct Merge {
        int32_t rank, result;
    };
    struct Symbol;
    int32_t symbol(std::string_view text) const;
    int32_t symbol_of_merge(const std::string& text);
    std::vector<Symbol> split(std::string_view word) const;
    void merge(std::vector<Symbol>& symbols) const;
    void encode_word(std::string_view word, std::vector<int32_t>& tokens) const;

    const TokenIds* ids_;
    int32_t n_vocab_;
    bool ignore_merges_;
    PreTokenizer pre_tokenizer_;
    bool raw_;
    // A symbol is the id of a token or, from n_vocab_ on, a text that no token has.
    std::unordered_map<std::string, int32_t> others_;  ///< what is part of merges but no token
    std::array<int32_t, 256> byte_symbol_;             ///< its spelling or, where raw, its token
    std::unordered_map<uint64_t, Merge> merges_;       ///< by left symbol << 32 | right symbol
};

/// SentencePiece's BPE. Holds windows on its arguments, which must outlive it.
class SpmEncoder {
  public:
    SpmEncoder(const Vocab& vocab, const TokenIds& ids);

    /// Appends the tokens of a text, special ones not considered.
    /// Cost:   n log n in the text.
    /// Throws: Error(bad_argument) for a byte that the vocabulary has no token for.
    /// Source: Kudo and Richardson 2018.
    void encode(std::string_view text, std::vector<int32_t>& tokens) const;

  private:
    int32_t find(std::string_view piece) const;

    const TokenIds* ids_;
    std::span<const float> scores_;
    size_t longest_ = 0;                   ///< bytes of the longest token
    std::array<int32_t, 256> byte_token_;  ///< -1: none
};

/// A vocabulary ready for use. Move-only; encode and decode may run on several threads at once.
class Tokenizer {
  public:
    /// read_vocab, with errors that name the file. It may be closed afterwards.
    static Tokenizer from_gguf(const GgufFile& file);

    /// Throws: Error(bad_argument) for a vocabulary that contradicts itself, Error(unsupported)
    ///         for a model or pre-type not known here, listing those that are.
    explicit Tokenizer(Vocab vocab);

    /// The tokens of a text.
    /// add_special:   BOS in front and EOS behind, as far as the vocabulary asks for them.
    /// parse_special: control tokens are found in the text too, not only user-defined ones.
    /// Exact?: equal to llama_tokenize for characters that PCRE2's Unicode version knows.
    /// Throws: Error(bad_argument) as the encoders do.
    std::vector<int32_t> encode(std::string_view text, bool add_special,
                                bool parse_special = false) const;

    /// The tokens of a text that goes on: BOS in front as the vocabulary asks, never EOS behind.
    std::vector<int32_t> encode_beginning(std::string_view text, bool parse_special = false) const;

    /// The text of tokens, special ones spelled out. Inverts encode(text, false) for valid UTF-8 in
    /// BPE (Gemma 4's: without "\u2581", which comes back as a space). SentencePiece: a space added
    /// in front of the first token is removed. Throws: Error(bad_argument) for an id outside the
    /// vocabulary.
    std::string decode(std::span<const int32_t> tokens) const;

    const Vocab& vocab() const { return *vocab_; }
    int32_t n_vocab() const { return int32_t(vocab_->tokens.size()); }
    int32_t bos() const { return vocab_->bos; }
    int32_t eos() const { return vocab_->eos; }
    bool adds_bos() const { return vocab_->add_bos; }

  private:
    struct Fragment;
    struct SpecialLength {
        size_t bytes;
        std::array<bool, 256> first;  ///< bytes that a special token of this length starts with
    };
    std::vector<Fragment> cut_special(std::string_view text, bool parse_special) const;
    std::vector<Fragment> cut_special(std::string_view text, const SpecialLength& length,
                                      bool parse_special) const;
    std::string piece(int32_t id) const;

    std::unique_ptr<const Vocab> vocab_;
    bool marks_spaces_;  ///< tokens have "\u2581" for a space
    std::unique_ptr<const TokenIds> ids_;
    std::variant<BpeEncoder, SpmEncoder> encoder_;
    std::vector<SpecialLength> special_lengths_;  ///< longest first
};

}  // namespace rotkv
