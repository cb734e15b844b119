#pragma once
// What BPE does before it merges: cut the text into words, which no token may cross.
// Which cuts those are is fixed when a model is trained; GGUF files name them
// (tokenizer.ggml.pre), and the table in pretokenizer.cpp says what each name means.
// Docs: docs/16-text.md

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;  // PCRE2's compiled regex, for UTF-8

namespace rotkv {

/// One name that tokenizer.ggml.pre may hold.
struct PreType {
    const char* name;
    std::span<const char* const> regexes;  ///< applied one after another, each to all pieces so far
    bool ignore_merges;     ///< a word that is a token is taken whole, whatever the merges say
    bool add_bos;           ///< where the file does not say whether texts start with BOS
    bool usual_bos = true;  ///< token 11 is BOS where the file names none
    bool raw = false;  ///< tokens are text as it stands, "\u2581" for a space, not spelled bytes
};

/// The row called `name`, or null; "" is "default".
const PreType* find_pre_type(std::string_view name);

/// The compiled regexes of one pre-type.
class PreTokenizer {
  public:
    /// Throws: Error(unsupported) for a pre-type that is not in the table, listing those that are.
    explicit PreTokenizer(std::string_view pre_type);

    /// Cuts text into words that follow each other without gaps; what no regex matches is a word
    /// of its own.
    /// Shapes: text in UTF-8 (encoded surrogates are let through); the words are windows on it.
    /// Cost:   linear in the text.
    /// Throws: Error(bad_argument) where PCRE2 gives up.
    std::vector<std::string_view> split(std::string_view text) const;

  private:
    std::vector<std::shared_ptr<pcre2_real_code_8>> codes_;
};

/// The text as llama.cpp's BPE reads it: each byte that starts no UTF-8 sequence becomes U+FFFD,
/// and overlong sequences become the character they stand for. Valid UTF-8 is returned unchanged.
std::string clean_utf8(std::string_view bytes);

/// How many bytes start no UTF-8 sequence.
int64_t count_not_utf8(std::string_view bytes);

/// One character, whatever its bytes say, and how many of them it takes.
struct Utf8Char {
    char32_t code;
    int64_t bytes;
};

/// The character that starts at text[0]; {U+FFFD, 1} where none does. text is not empty.
Utf8Char first_char(std::string_view text);

/// Appends one character in UTF-8.
void append_utf8(std::string& text, char32_t code);

}  // namespace rotkv
