// Class Tokenizer: the checks of a vocabulary, the tokens that are cut out of a text before
// anything else, and the two directions.
// Docs: docs/16-text.md

#include "ref/text/tokenizer.h"

#include "ref/error.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>

namespace rotkv {
namespace {

[[noreturn]] void refuse(const std::string& message) {
    throw Error(ErrorCode::bad_argument, "vocabulary: " + message);
}

// The byte that a token of type `byte` spells, "<0x0A>", or -1.
int spelled_byte(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    unsigned byte = 0;
    const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
    return error == std::errc() && end == token.data() + 5 ? int(byte) : -1;
}

void check_special(const char* name, int32_t id, bool added, size_t n_vocab) {
    if (id < -1 || (id >= 0 && size_t(id) >= n_vocab)) {
        refuse(std::string(name) + ": expected one of " + std::to_string(n_vocab) +
               " tokens, found " + std::to_string(id));
    }
    if (added && id < 0) refuse(std::string(name) + " is to be added to texts, but there is none");
}

void check(const Vocab& vocab) {
    if (vocab.model != "gpt2" && vocab.model != "gemma4" && vocab.model != "llama") {
        throw Error(ErrorCode::unsupported, "unknown tokenizer model " + in_quotes(vocab.model) +
                                                "; known are gpt2 (byte-level BPE), gemma4 (Gemma "
                                                "4's BPE) and llama (SentencePiece)");
    }
    if (vocab.model == "gemma4" && vocab.pre != "gemma4") {
        refuse("model gemma4: expected pre-tokenizer gemma4, found " + in_quotes(vocab.pre));
    }
    const size_t n_vocab = vocab.tokens.size();
    if (n_vocab == 0 || n_vocab > size_t(INT32_MAX) / 4) {
        refuse("expected 1 to " + std::to_string(INT32_MAX / 4) + " tokens, found " +
               std::to_string(n_vocab));
    }
    if (vocab.merges.size() > size_t(INT32_MAX) / 4) {
        refuse("expected at most " + std::to_string(INT32_MAX / 4) + " merges, found " +
               std::to_string(vocab.merges.size()));
    }
    if (vocab.types.size() != n_vocab) {
        refuse("expected a type for each of " + std::to_string(n_vocab) + " tokens, found " +
               std::to_string(vocab.types.size()));
    }
    if (vocab.model == "llama" && vocab.scores.size() != n_vocab) {
        refuse("expected a score for each of " + std::to_string(n_vocab) + " tokens, found " +
               std::to_string(vocab.scores.size()));
    }
    for (size_t id = 0; id < n_vocab; ++id) {
        const std::string& token = vocab.tokens[id];
        if (vocab.types[id] == TokenType::byte && spelled_byte(token) < 0) {
            refuse("token " + std::to_string(id) + ", a byte: expected <0x00> to <0xFF>, found " +
                   in_quotes(token));
        }
        if (vocab.model == "llama" && std::isnan(vocab.scores[id])) {
            refuse("the score of token " + std::to_string(id) + " is not a number");
        }
    }
    check_special("BOS", vocab.bos, vocab.add_bos, n_vocab);
    check_special("EOS", vocab.eos, vocab.add_eos, n_vocab);
    check_special("UNK", vocab.unk, false, n_vocab);
}

Vocab checked(Vocab vocab) {
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
        std::string& token = vocab.tokens[id];
        if (token.empty()) token = "[EMPTY_" + std::to_string(id) + "]";  // llama.cpp's name for it
    }
    check(vocab);
    return vocab;
}

TokenIds index_tokens(const Vocab& vocab) {
    TokenIds ids;
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
        const auto [same, added] = ids.try_emplace(vocab.tokens[id], int32_t(id));
        if (!added) {
            refuse("tokens " + std::to_string(same->second) + " and " + std::to_string(id) +
                   " are both " + in_quotes(vocab.tokens[id]));
        }
    }
    return ids;
}

std::variant<BpeEncoder, SpmEncoder> make_encoder(const Vocab& vocab, const TokenIds& ids) {
    if (vocab.model == "llama") return SpmEncoder(vocab, ids);
    return BpeEncoder(vocab, ids);
}

bool is_special(TokenType type, bool parse_special) {
    if (type == TokenType::user_defined) return true;
    return parse_special && (type == TokenType::control || type == TokenType::unknown);
}

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

constexpr std::string_view k_space_mark = "\xE2\x96\x81";  // U+2581

}  // namespace

bool Vocab::raw() const {
    const PreType* type = find_pre_type(pre);
    return model != "llama" && type != nullptr && type->raw;
}

std::string mark_spaces(std::string_view text) {
    std::string marked;
    for (const char c : text) {
        if (c == ' ') {
            marked += k_space_mark;
        } else {
            marked += c;
        }
    }
    return marked;
}

std::string unmark_spaces(std::string_view text) {
    std::string plain;
    while (!text.empty()) {
        const bool space = text.starts_with(k_space_mark);
        plain += space ? ' ' : text[0];
        text.remove_prefix(space ? k_space_mark.size() : 1);
    }
    return plain;
}

std::string byte_text(uint8_t byte) {
    constexpr const char* k_digits = "0123456789ABCDEF";
    return std::string("<0x") + k_digits[byte >> 4] + k_digits[byte & 15] + ">";
}

// A stretch of text, or a token that was cut out.
struct Tokenizer::Fragment {
    std::string_view text;
    int32_t token = -1;  // -1: text
};

Tokenizer Tokenizer::from_gguf(const GgufFile& file) {
    Vocab vocab = read_vocab(file);
    try {
        return Tokenizer(std::move(vocab));
    } catch (const Error& error) {
        const bool argument = error.code() == ErrorCode::bad_argument;
        throw Error(argument ? ErrorCode::bad_file : error.code(),
                    file.path() + ": " + error.what());
    }
}

Tokenizer::Tokenizer(Vocab vocab)
    : vocab_(std::make_unique<const Vocab>(checked(std::move(vocab)))),
      marks_spaces_(vocab_->model == "llama" || vocab_->raw()),
      ids_(std::make_unique<const TokenIds>(index_tokens(*vocab_))),
      encoder_(make_encoder(*vocab_, *ids_)) {
    std::map<size_t, SpecialLength, std::greater<>> lengths;
    for (size_t id = 0; id < vocab_->tokens.size(); ++id) {
        const std::string& token = vocab_->tokens[id];
        if (!is_special(vocab_->types[id], true)) continue;
        const auto length =
            lengths.try_emplace(token.size(), SpecialLength{token.size(), {}}).first;
        length->second.first[uint8_t(token[0])] = true;
    }
    for (const auto& [bytes, length] : lengths) special_lengths_.push_back(length);
}

std::vector<Tokenizer::Fragment> Tokenizer::cut_special(std::string_view text,
                                                        const SpecialLength& length,
                                                        bool parse_special) const {
    std::vector<Fragment> fragments;
    size_t begin = 0;  // of the text not yet in a fragment
    for (size_t at = 0; at + length.bytes <= text.size();) {
        const auto found = length.first[uint8_t(text[at])]
                               ? ids_->find(text.substr(at, length.bytes))
                               : ids_->end();
        if (found == ids_->end() ||
            !is_special(vocab_->types[size_t(found->second)], parse_special)) {
            ++at;
            continue;
        }
        if (at > begin) fragments.push_back({text.substr(begin, at - begin)});
        fragments.push_back({{}, found->second});
        at += length.bytes;
        const std::string_view token = found->first;
        if (vocab_->strip_after_special && token != "<s>" && token != "<unk>" &&
            token != "<|endoftext|>") {
            while (at < text.size() && is_ascii_space(text[at])) ++at;
        }
        begin = at;
    }
    if (begin < text.size()) fragments.push_back({text.substr(begin)});
    return fragments;
}

// The longest special tokens first, wherever they stand: what a long one took, a shorter one cannot
// have, even where it would start earlier. Of one length the leftmost is first (llama.cpp's order
// among those is whatever its sort leaves; it matters only where two of them overlap).
std::vector<Tokenizer::Fragment> Tokenizer::cut_special(std::string_view text,
                                                        bool parse_special) const {
    std::vector<Fragment> fragments;
    if (!text.empty()) fragments.push_back({text});
    for (const SpecialLength& length : special_lengths_) {
        std::vector<Fragment> finer;
        for (const Fragment& fragment : fragments) {
            if (fragment.token >= 0) {
                finer.push_back(fragment);
                continue;
            }
            for (const Fragment& part : cut_special(fragment.text, length, parse_special)) {
                finer.push_back(part);
            }
        }
        fragments = std::move(finer);
    }
    return fragments;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special,
                                       bool parse_special) const {
    std::vector<int32_t> tokens;
    if (add_special && vocab_->add_bos) tokens.push_back(vocab_->bos);
    const char* prefix = vocab_->model == "llama" && vocab_->add_space_prefix ? " " : "";
    for (const Fragment& fragment : cut_special(text, parse_special)) {
        if (fragment.token >= 0) {
            tokens.push_back(fragment.token);
        } else {
            const std::string part = prefix + std::string(fragment.text);
            std::visit([&](const auto& encoder) { encoder.encode(part, tokens); }, encoder_);
        }
    }
    if (add_special && vocab_->add_eos) tokens.push_back(vocab_->eos);
    return tokens;
}

std::vector<int32_t> Tokenizer::encode_beginning(std::string_view text, bool parse_special) const {
    std::vector<int32_t> tokens = encode(text, false, parse_special);
    if (vocab_->add_bos) tokens.insert(tokens.begin(), vocab_->bos);
    return tokens;
}

std::string Tokenizer::piece(int32_t id) const {
    const std::string& token = vocab_->tokens[size_t(id)];
    switch (vocab_->types[size_t(id)]) {
        case TokenType::normal:
            return marks_spaces_ ? unmark_spaces(token) : BpeEncoder::decode(token);
        case TokenType::byte:
            return std::string(1, char(spelled_byte(token)));
        case TokenType::control:
        case TokenType::unknown:
        case TokenType::user_defined:
            return token;
        case TokenType::undefined:
        case TokenType::unused:
            break;
    }
    return "";
}

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
    const bool prefix = vocab_->model == "llama" && vocab_->add_space_prefix;
    std::string text;
    for (size_t i = 0; i < tokens.size(); ++i) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab()) {
            throw Error(ErrorCode::bad_argument,
                        "token " + std::to_string(i) + " of " + std::to_string(tokens.size()) +
                            ": expected an id from 0 to " + std::to_string(n_vocab() - 1) +
                            ", found " + std::to_string(tokens[i]));
        }
        text += piece(tokens[i]);
        if (i == 0 && prefix && text.starts_with(' ')) text.erase(0, 1);
    }
    return text;
}

}  // namespace rotkv
