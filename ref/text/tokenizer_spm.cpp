// SentencePiece as llama.cpp's "llama" vocabularies use it. The text, spaces written as U+2581,
// starts as its characters; then, again and again, the adjacent pair whose joined text is the token
// of the best score becomes one piece, the leftmost of equals, until no pair is a token. A
// character that is no token falls back to tokens for its bytes.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/text/tokenizer.h"

#include <algorithm>
#include <queue>

namespace rotkv {
namespace {

// A stretch of the text, and its neighbours among those that are left.
struct Piece {
    size_t begin, bytes;     // bytes 0: swallowed by the piece before
    int64_t previous, next;  // -1: none
};

// A piece and its right neighbour, whose joined text is a token; out of date once their length is
// another one.
struct Candidate {
    float score;
    uint32_t bytes;  // of both together
    int64_t left;

    bool operator<(const Candidate& other) const {  // the queue hands out the greatest first
        return score != other.score ? score < other.score : left > other.left;
    }
};

// How long the character that `lead` starts claims to be; a stray byte is a character of its own.
size_t char_bytes(char lead) {
    const uint8_t byte = uint8_t(lead);
    return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

std::vector<Piece> split_chars(std::string_view text) {
    std::vector<Piece> pieces;
    for (size_t at = 0; at < text.size();) {
        const size_t bytes = std::min(char_bytes(text[at]), text.size() - at);
        const int64_t index = int64_t(pieces.size());
        pieces.push_back({at, bytes, index - 1, index + 1});
        at += bytes;
    }
    pieces.back().next = -1;
    return pieces;
}

}  // namespace

SpmEncoder::SpmEncoder(const Vocab& vocab, const TokenIds& ids)
    : ids_(&ids), scores_(vocab.scores) {
    for (const std::string& token : vocab.tokens) longest_ = std::max(longest_, token.size());
    for (size_t byte = 0; byte < 256; ++byte) {
        const char itself = char(byte);
        byte_token_[byte] = find(byte_text(uint8_t(byte)));
        if (byte_token_[byte] < 0) byte_token_[byte] = find({&itself, 1});
        if (byte_token_[byte] < 0) byte_token_[byte] = vocab.unk;
    }
}

int32_t SpmEncoder::find(std::string_view piece) const {
    if (piece.size() > longest_) return -1;
    const auto found = ids_->find(piece);
    return found == ids_->end() ? -1 : found->second;
}

void SpmEncoder::encode(std::string_view text, std::vector<int32_t>& tokens) const {
    if (text.empty()) return;
    const std::string marked = mark_spaces(text);
    std::vector<Piece> pieces = split_chars(marked);
    std::priority_queue<Candidate> candidates;
    const auto consider = [&](int64_t left) {
        if (left < 0 || pieces[size_t(left)].next < 0) return;
        const Piece& piece = pieces[size_t(left)];
        const size_t bytes = piece.bytes + pieces[size_t(piece.next)].bytes;
        const int32_t id = find(std::string_view(marked).substr(piece.begin, bytes));
        if (id >= 0) candidates.push({scores_[size_t(id)], uint32_t(bytes), left});
    };
    for (int64_t i = 0; i < int64_t(pieces.size()); ++i) consider(i);

    while (!candidates.empty()) {
        const Candidate best = candidates.top();
        candidates.pop();
        Piece& left = pieces[size_t(best.left)];
        if (left.bytes == 0 || left.next < 0) continue;
        Piece& right = pieces[size_t(left.next)];
        if (left.bytes + right.bytes != best.bytes) continue;
        left.bytes = best.bytes;
        left.next = right.next;
        right.bytes = 0;
        if (left.next >= 0) pieces[size_t(left.next)].previous = best.left;
        consider(left.previous);
        consider(best.left);
    }

    for (int64_t i = 0; i >= 0; i = pieces[size_t(i)].next) {
        const Piece& piece = pieces[size_t(i)];
        const std::string_view part = std::string_view(marked).substr(piece.begin, piece.bytes);
        const int32_t id = find(part);
        if (id >= 0) {
            tokens.push_back(id);
            continue;
        }
        for (const char byte : part) {
            const int32_t token = byte_token_[uint8_t(byte)];
            if (token < 0) {
                throw Error(ErrorCode::bad_argument, "the vocabulary has no token for byte " +
                                                         std::to_string(int(uint8_t(byte))) +
                                                         " and none for unknowns");
            }
            tokens.push_back(token);
        }
    }
}

}  // namespace rotkv
