// BPE by rank. A word starts as its bytes, one symbol each; then, again and again, the adjacent
// pair that stands first in the list of merges becomes one symbol, the leftmost if there are
// several, until no merge applies. GPT-2's vocabularies spell bytes as printable characters.
// Gemma 4's ("raw") have text as it stands: a symbol starts as a character, and a symbol that is no
// token in the end falls back to tokens for its bytes.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <queue>

namespace rotkv {
namespace {

// GPT-2's spelling: a byte that Latin-1 prints stands for itself, the 68 others are U+0100, U+0101
// and so on in order, so that a space is U+0120.
constexpr bool is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

constexpr std::array<char32_t, 256> make_spelling() {
    std::array<char32_t, 256> spelling{};
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
        spelling[size_t(byte)] = is_printable(byte) ? char32_t(byte) : next++;
    }
    return spelling;
}

constexpr std::array<char32_t, 256> k_spelling = make_spelling();

std::string spell(std::string_view bytes) {
    std::string text;
    for (const char byte : bytes) append_utf8(text, k_spelling[uint8_t(byte)]);
    return text;
}

// What is neither token nor part of a merge.
constexpr int32_t k_no_symbol = std::numeric_limits<int32_t>::max();

uint64_t pair_key(int32_t left, int32_t right) { return uint64_t(left) << 32 | uint64_t(right); }

// A symbol and its right neighbour, which a merge joins; out of date once their length is another
// one.
struct Candidate {
    int32_t rank, result;
    int64_t left;
    size_t bytes;  // of both together

    bool operator<(const Candidate& other) const {  // the queue hands out the greatest first
        return rank != other.rank ? rank > other.rank : left > other.left;
    }
};

}  // namespace

// A stretch of the word, and its neighbours among those that are left.
struct BpeEncoder::Symbol {
    int32_t id;
    size_t begin, bytes;     // bytes 0: swallowed by the symbol before
    int64_t previous, next;  // -1: none
};

BpeEncoder::BpeEncoder(const Vocab& vocab, const TokenIds& ids)
    : ids_(&ids),
      n_vocab_(int32_t(vocab.tokens.size())),
      ignore_merges_(vocab.ignore_merges),
      pre_tokenizer_(vocab.pre),
      raw_(vocab.raw()) {
    for (size_t rank = 0; rank < vocab.merges.size(); ++rank) {
        const std::string& merge = vocab.merges[rank];
        const size_t space = merge.find(' ', 1);
        if (space == std::string::npos || space + 1 == merge.size()) {
            throw Error(ErrorCode::bad_argument,
                        "vocabulary: merge " + std::to_string(rank) +
                            ": expected two parts with a space between, found " + in_quotes(merge));
        }
        const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
        merges_.try_emplace(pair_key(symbol_of_merge(left), symbol_of_merge(right)),
                            Merge{int32_t(rank), symbol_of_merge(left + right)});
    }
    for (size_t byte = 0; byte < 256; ++byte) {
        const char itself = char(byte);
        byte_symbol_[byte] = symbol(raw_ ? byte_text(uint8_t(byte)) : spell({&itself, 1}));
    }
}

int32_t BpeEncoder::symbol(std::string_view text) const {
    const auto token = ids_->find(text);
    if (token != ids_->end()) return token->second;
    const auto other = others_.find(std::string(text));
    return other == others_.end() ? k_no_symbol : other->second;
}

int32_t BpeEncoder::symbol_of_merge(const std::string& text) {
    const int32_t known = symbol(text);
    if (known != k_no_symbol) return known;
    return others_.try_emplace(text, n_vocab_ + int32_t(others_.size())).first->second;
}

std::vector<BpeEncoder::Symbol> BpeEncoder::split(std::string_view word) const {
    std::vector<Symbol> symbols;
    for (size_t at = 0; at < word.size();) {
        const size_t bytes = raw_ ? size_t(first_char(word.substr(at)).bytes) : 1;
        const int32_t id = raw_ ? symbol(word.substr(at, bytes)) : byte_symbol_[uint8_t(word[at])];
        const int64_t index = int64_t(symbols.size());
        symbols.push_back({id, at, bytes, index - 1, index + 1});
        at += bytes;
    }
    symbols.back().next = -1;
    return symbols;
}

void BpeEncoder::merge(std::vector<Symbol>& symbols) const {
    std::priority_queue<Candidate> candidates;
    const auto consider = [&](int64_t left) {
        if (left < 0 || symbols[size_t(left)].next < 0) return;
        const Symbol& symbol = symbols[size_t(left)];
        const Symbol& next = symbols[size_t(symbol.next)];
        const auto merge = merges_.find(pair_key(symbol.id, next.id));
        if (merge == merges_.end()) return;
        const auto [rank, result] = merge->second;
        candidates.push({rank, result, left, symbol.bytes + next.bytes});
    };
    for (int64_t i = 0; i < int64_t(symbols.size()); ++i) consider(i);
    while (!candidates.empty()) {
        const Candidate best = candidates.top();
        candidates.pop();
        Symbol& left = symbols[size_t(best.left)];
        if (left.bytes == 0 || left.next < 0) continue;
        Symbol& right = symbols[size_t(left.next)];
        if (left.bytes + right.bytes != best.bytes) continue;
        left.id = best.result;
        left.bytes = best.bytes;
        left.next = right.next;
        right.bytes = 0;
        if (left.next >= 0) symbols[size_t(left.next)].previous = best.left;
        consider(left.previous);
        consider(best.left);
    }
}

void BpeEncoder::encode_word(std::string_view word, std::vector<int32_t>& tokens) const {
    std::vector<Symbol> symbols = split(word);
    merge(symbols);
    for (int64_t i = 0; i >= 0; i = symbols[size_t(i)].next) {
        const Symbol& symbol = symbols[size_t(i)];
        if (symbol.id < n_vocab_) {
            tokens.push_back(symbol.id);
            continue;
        }
        // A text that is no token: what the vocabulary lacks, or the work of a merge that names no
        // token. Of spelled bytes llama.cpp keeps those that are printable ASCII and drops the
        // rest, of raw text those that have a token; tokens must be equal, so it is done here too.
        for (const char byte : word.substr(symbol.begin, symbol.bytes)) {
            const int32_t id = byte_symbol_[uint8_t(byte)];
            const bool kept = raw_ || (byte > ' ' && byte <= '~');
            if (kept && id < n_vocab_) tokens.push_back(id);
        }
    }
}

void BpeEncoder::encode(std::string_view text, std::vector<int32_t>& tokens) const {
    const std::string clean = clean_utf8(raw_ ? mark_spaces(text) : text);
    for (const std::string_view word : pre_tokenizer_.split(clean)) {
        const bool newlines = raw_ && word[0] == '\n';
        if (ignore_merges_ || newlines) {
            const auto whole = ids_->find(raw_ ? std::string(word) : spell(word));
            if (whole != ids_->end()) {
                tokens.push_back(whole->second);
                continue;
            }
        }
        encode_word(word, tokens);
    }
}

std::string BpeEncoder::decode(std::string_view token) {
    std::string bytes;
    while (!token.empty()) {
        const Utf8Char next = first_char(token);
        const auto at = std::find(k_spelling.begin(), k_spelling.end(), next.code);
        if (at != k_spelling.end()) {
            bytes += char(at - k_spelling.begin());
        } else {
            bytes += token.substr(0, size_t(next.bytes));  // no spelling of a byte: as it stands
        }
        token.remove_prefix(size_t(next.bytes));
    }
    return bytes;
}

}  // namespace rotkv
