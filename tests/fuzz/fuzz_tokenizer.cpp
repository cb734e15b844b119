// Any bytes as a text. BPE gives valid UTF-8 back as it was, under every rule for cutting words
// (Gemma 4's without the sign that stands for a space); nothing leaves encode or decode but tokens,
// text, or an Error.
#include "ref/error.h"
#include "tests/small_vocab.h"

#include <cstring>
#include <stdexcept>

using namespace rotkv;
using namespace rotkv::test;

// All bytes, some merges (two of them inside one character), a token found in any text, and one
// only where it is asked for.
static Tokenizer bpe_tokenizer(const char* pre) {
    Vocab vocab =
        bpe_vocab({"h e", "l l", "he ll", "hell o", "\u0120 \u0120", "\u0120 hello", "1 2"});
    vocab.pre = pre;
    int next =
        0x122;  // bytes that are no printable Latin-1 take characters from U+0100 on, in turn
    for (int byte = 0x80; byte <= 0xFF; ++byte) {
        std::string token;
        const bool printable = byte > 0xA0 && byte != 0xAD;
        append_utf8(token, char32_t(printable ? byte : next++));
        add_token(vocab, token, TokenType::normal);
    }
    add_token(vocab, "\u00C3\u00A9", TokenType::normal);  // the two bytes of U+00E9
    vocab.merges.push_back("\u00C3 \u00A9");
    add_token(vocab, "<tool>", TokenType::user_defined);
    add_token(vocab, "<|end|>", TokenType::control);
    vocab.eos = int32_t(vocab.tokens.size()) - 1;
    return Tokenizer(vocab);
}

static Tokenizer spm_tokenizer() {
    Vocab vocab = spm_vocab();
    float score = 0;
    for (const char* token :
         {"he", "ll", "hell", "hello", "\u2581", "\u2581hello", "\u2581\u2581"}) {
        add_token(vocab, token, TokenType::normal, score--);
    }
    add_token(vocab, "<tool>", TokenType::user_defined);
    return Tokenizer(vocab);
}

static Tokenizer gemma4_tokenizer() {
    Vocab vocab = gemma4_vocab({"\u2581", "h", "e", "l", "o", "\u00E9", "\n", "\n\n\n"},
                               {"h e", "l l", "he ll", "\u2581 \u2581", "hell o", "\n \n"});
    add_token(vocab, "<tool>", TokenType::user_defined);
    return Tokenizer(vocab);
}

// By the table of the Unicode standard (3-7): no overlong forms, no surrogates, up to U+10FFFF.
static bool valid_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const auto byte = [&](size_t j) { return i + j < text.size() ? uint8_t(text[i + j]) : 0; };
        const int lead = byte(0), second = byte(1);
        const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        const int least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        const int most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if ((lead >= 0x80 && lead < 0xC2) || lead > 0xF4) return false;
        if (length > 1 && (second < least || second > most)) return false;
        for (size_t j = 2; j < length; ++j) {
            if (byte(j) < 0x80 || byte(j) > 0xBF) return false;
        }
        i += length;
    }
    return true;
}

static void check_text(const Tokenizer& tokenizer, std::string_view text) {
    const bool bpe = tokenizer.vocab().model != "llama" &&
                     (!tokenizer.vocab().raw() || text.find("\u2581") == text.npos);
    for (const bool parse_special : {false, true}) {
        try {
            tokenizer.encode(text, true, parse_special);
            const std::string back = tokenizer.decode(tokenizer.encode(text, false, parse_special));
            if (bpe && valid_utf8(text) && back != text) {
                throw std::logic_error(tokenizer.vocab().pre + ": decode(encode(x)) is not x");
            }
        } catch (const Error&) {
            if (bpe && valid_utf8(text)) throw std::logic_error("valid UTF-8 was refused");
        }
    }
}

// The input again, two bytes a token: most ids exist, some do not.
static void check_ids(const Tokenizer& tokenizer, std::string_view text) {
    std::vector<int16_t> numbers(text.size() / 2);
    if (!numbers.empty()) std::memcpy(numbers.data(), text.data(), numbers.size() * 2);
    std::vector<int32_t> ids(numbers.begin(), numbers.end());
    try {
        tokenizer.decode(ids);
    } catch (const Error&) {
    }
    for (int32_t& id : ids) id = (id & 0x7FFF) % tokenizer.n_vocab();
    tokenizer.decode(ids);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const std::vector<Tokenizer> tokenizers = [] {
        std::vector<Tokenizer> result;
        result.push_back(spm_tokenizer());
        for (const char* pre : {"default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35",
                                "gpt-4o", "tekken", "falcon", "deepseek-llm", "deepseek-coder",
                                "deepseek-v3", "seed-coder", "kimi-k2", "tiny_aya"}) {
            result.push_back(bpe_tokenizer(pre));
        }
        result.push_back(gemma4_tokenizer());
        return result;
    }();
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const Tokenizer& tokenizer : tokenizers) {
        check_text(tokenizer, text);
        check_ids(tokenizer, text);
    }
    return 0;
}
