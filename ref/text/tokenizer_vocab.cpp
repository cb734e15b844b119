// The vocabulary out of a GGUF file, with what llama.cpp assumes where the file is silent or wrong.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/text/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <sstream>
#include <string_view>

namespace rotkv {
namespace {

#define ROTKV_BAR "\xEF\xBD\x9C"    // U+FF5C, in DeepSeek's special tokens
#define ROTKV_SPACE "\xE2\x96\x81"  // U+2581

// Many files give a wrong type to tokens that end a turn or mark code to be filled in. llama.cpp
// knows them by their text and makes them control tokens, the latter unless a key of the file names
// a token for the task. So a text that spells one out is plain text. Some of them end a text that a
// model writes.
struct ControlTexts {
    const char* texts;  ///< with spaces between
    bool ends;
    const char* key = nullptr;
    const char* old_key = nullptr;
};
constexpr ControlTexts k_control_texts[] = {
    {"<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <|eom_id|> <EOT> "
     "_<EOT> [EOT] [EOS] <end_of_turn> <end_of_utterance> <|end_of_text|> <|endoftext|> </s> "
     "<eos> <turn|> <|tool_response> [e~[ "
     "<" ROTKV_BAR "end" ROTKV_SPACE "of" ROTKV_SPACE "sentence" ROTKV_BAR ">",
     true},
    {"<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> " ROTKV_SPACE
     "<PRE> <|code_prefix|> <|prefix|> <" ROTKV_BAR "fim" ROTKV_SPACE "begin" ROTKV_BAR ">",
     false, "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
    {"<|fim_suffix|> <fim-suffix> <fim_suffix> <SUF> " ROTKV_SPACE
     "<SUF> <|code_suffix|> <|suffix|> <" ROTKV_BAR "fim" ROTKV_SPACE "hole" ROTKV_BAR ">",
     false, "tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
    {"<|fim_middle|> <fim-middle> <fim_middle> <MID> " ROTKV_SPACE
     "<MID> <|code_middle|> <|middle|> <" ROTKV_BAR "fim" ROTKV_SPACE "end" ROTKV_BAR ">",
     false, "tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
    {"<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]", true, "tokenizer.ggml.fim_pad_token_id"},
    {"<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>", true,
     "tokenizer.ggml.fim_rep_token_id"},
    {"<|file_sep|>", true, "tokenizer.ggml.fim_sep_token_id"},
};

#undef ROTKV_BAR
#undef ROTKV_SPACE

// A special token's id: the file's if it is in the vocabulary, else the model's usual one, else -1.
int32_t special_id(const GgufFile& file, const char* key, int32_t usual, size_t n_vocab) {
    if (usual >= 0 && size_t(usual) >= n_vocab) usual = -1;
    if (key == nullptr || file.find(key) == nullptr) return usual;
    const uint32_t id = file.get_u32(key);
    return id < n_vocab ? int32_t(id) : usual;
}

// What the texts of tokens say beside the file.
struct Marks {
    std::map<std::string, TokenType, std::less<>> types;  // by text
    std::set<std::string, std::less<>> ends;              // texts behind which a text is over
    std::set<int32_t> end_ids;                            // likewise, tokens that a key names
};

Marks marks_of(const GgufFile& file, const Vocab& vocab) {
    const size_t n_vocab = vocab.tokens.size();
    Marks marks;
    for (const ControlTexts& row : k_control_texts) {
        const int32_t named =
            special_id(file, row.key, special_id(file, row.old_key, -1, n_vocab), n_vocab);
        if (named >= 0) {
            if (row.ends) marks.end_ids.insert(named);
            continue;
        }
        std::istringstream texts(row.texts);
        for (std::string text; texts >> text;) {
            marks.types[text] = TokenType::control;
            if (row.ends) marks.ends.insert(text);
        }
    }
    for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
        marks.end_ids.insert(special_id(file, key, -1, n_vocab));
    }
    marks.end_ids.insert(vocab.eos);
    // gpt-oss: the marks of a message are part of its text.
    for (const char* text : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
        marks.types[text] = TokenType::user_defined;
    }
    return marks;
}

// Gives the tokens that `marks` knows their types, and the vocabulary its ends.
void apply_marks(Marks marks, Vocab& vocab) {
    const auto has = [&](std::string_view text) {
        return std::find(vocab.tokens.begin(), vocab.tokens.end(), text) != vocab.tokens.end();
    };
    std::set<std::string, std::less<>> goes_on;  // no ends, whatever a key says
    // gpt-oss and its like end a message many times before they end a text.
    if ((has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>"))) {
        marks.types["<|end|>"] = TokenType::user_defined;
        goes_on.insert("<|end|>");
    }
    // Gemma 4 strikes words out by <s> and </s>.
    if (has("<|tool_response>")) {
        marks.types["</s>"] = TokenType::normal;
        goes_on.insert("</s>");
    }
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
        const std::string& text = vocab.tokens[id];
        const auto type = marks.types.find(text);
        if (type != marks.types.end()) vocab.types[id] = type->second;
        const bool ends = marks.ends.contains(text) || marks.end_ids.contains(int32_t(id));
        if (ends && !goes_on.contains(text)) vocab.ends.insert(int32_t(id));
    }
}

std::vector<TokenType> read_types(const GgufFile& file, Vocab& vocab) {
    if (file.find("tokenizer.ggml.token_type") == nullptr) {
        vocab.notices.push_back("the file gives no token types: all tokens are taken for normal");
        return std::vector<TokenType>(vocab.tokens.size(), TokenType::normal);
    }
    std::vector<TokenType> types;
    for (const int32_t type : file.get_i32s("tokenizer.ggml.token_type")) {
        const bool known = type >= 0 && type <= int32_t(TokenType::byte);
        types.push_back(known ? TokenType(type) : TokenType::undefined);
    }
    return types;
}

std::vector<float> read_scores(const GgufFile& file, Vocab& vocab) {
    if (file.find("tokenizer.ggml.scores") != nullptr) {
        return file.get_f32s("tokenizer.ggml.scores");
    }
    vocab.notices.push_back("the file gives no scores of tokens: 0 is assumed for each");
    return std::vector<float>(vocab.tokens.size(), 0.0f);
}

constexpr const char* k_unk = "tokenizer.ggml.unknown_token_id";

// Says so where a special token is not the file's own.
void note_assumed(const GgufFile& file, const char* name, const char* key, int32_t id,
                  Vocab& vocab) {
    std::string notice = std::string("the file names no ") + name;
    if (file.find(key) != nullptr) {
        const uint32_t named = file.get_u32(key);
        if (named < vocab.tokens.size()) return;
        notice = std::string("the file's ") + name + " is " + std::to_string(named) +
                 ", beyond its " + std::to_string(vocab.tokens.size()) + " tokens";
    }
    if (id < 0) {
        vocab.notices.push_back(notice + ", and there is no usual one");
        return;
    }
    const std::string& token = vocab.tokens[size_t(id)];
    const bool spelled =
        vocab.model == "gpt2" && !vocab.raw() && vocab.types[size_t(id)] == TokenType::normal;
    const std::string text = spelled ? BpeEncoder::decode(token) : token;
    vocab.notices.push_back(notice + ", " + std::to_string(id) + " (" + in_quotes(text) +
                            ") is assumed");
}

void read_special(const GgufFile& file, Vocab& vocab) {
    const bool spm = vocab.model == "llama", gemma4 = vocab.model == "gemma4";
    const auto id = [&](const char* key, int32_t usual) {
        return special_id(file, key, usual, vocab.tokens.size());
    };
    constexpr const char* k_bos = "tokenizer.ggml.bos_token_id";
    constexpr const char* k_eos = "tokenizer.ggml.eos_token_id";
    const PreType* type = find_pre_type(vocab.pre);
    const bool without_bos = gemma4 || (type != nullptr && !type->usual_bos);
    vocab.bos = id(k_bos, spm ? 1 : without_bos ? -1 : 11);
    vocab.eos = id(k_eos, spm ? 2 : gemma4 ? -1 : 11);
    vocab.unk = id(k_unk, spm ? 0 : -1);
    if (vocab.types.size() != vocab.tokens.size()) return;  // which the tokenizer refuses
    if (vocab.add_bos) note_assumed(file, "BOS", k_bos, vocab.bos, vocab);
    note_assumed(file, "EOS", k_eos, vocab.eos, vocab);
    apply_marks(marks_of(file, vocab), vocab);
}

// How many bytes have no token <0x00> to <0xFF>, nor, where that counts, one that is the byte.
int bytes_without_token(const Vocab& vocab, bool plain_counts) {
    const std::set<std::string_view> tokens(vocab.tokens.begin(), vocab.tokens.end());
    int count = 0;
    for (int byte = 0; byte < 256; ++byte) {
        const char itself = char(byte);
        const bool plain = plain_counts && tokens.contains({&itself, 1});
        if (!plain && !tokens.contains(byte_text(uint8_t(byte)))) ++count;
    }
    return count;
}

// Says so where bytes of a text would become the unknown token, in which they are all alike. (What
// llama.cpp refuses to cut.)
void note_unknown_bytes(const GgufFile& file, Vocab& vocab) {
    const int unknown = bytes_without_token(vocab, true);
    if (unknown == 0 || vocab.unk < 0) return;
    if (vocab.types.size() == vocab.tokens.size()) {  // else the tokenizer refuses it
        note_assumed(file, "unknown token", k_unk, vocab.unk, vocab);
    }
    vocab.notices.push_back("the vocabulary has no token for " + std::to_string(unknown) +
                            " of the 256 bytes: in a text they become the unknown token, " +
                            std::to_string(vocab.unk) + " (" +
                            in_quotes(vocab.tokens[size_t(vocab.unk)]) + ")");
}

// Says so where a character that is no token would lose bytes: llama.cpp drops them too.
void note_lost_bytes(Vocab& vocab) {
    const int lost = bytes_without_token(vocab, false);
    if (lost == 0) return;
    vocab.notices.push_back("the vocabulary has no token (<0x00> to <0xFF>) for " +
                            std::to_string(lost) +
                            " of the 256 bytes: characters that are no tokens lose them");
}

// The keys of BPE, and what a pre-type says where they are silent.
void read_bpe(const GgufFile& file, Vocab& vocab) {
    constexpr const char* k_merges = "tokenizer.ggml.merges";
    if (vocab.model == "gemma4") vocab.pre = "gemma4";  // whatever the file calls it
    if (vocab.pre.empty()) {
        vocab.notices.push_back(
            "the file names no pre-tokenizer (tokenizer.ggml.pre): 'default' is assumed");
    }
    if (vocab.pre == "kimi-k2" && file.find(k_merges) == nullptr) {
        vocab.notices.push_back("the file gives no merges: each byte of a text becomes a token");
    } else {
        const std::vector<std::string_view>& merges = file.get_strings(k_merges);
        vocab.merges.assign(merges.begin(), merges.end());
    }
    if (const PreType* type = find_pre_type(vocab.pre)) {
        vocab.ignore_merges = type->ignore_merges;
        vocab.add_bos = type->add_bos;
    }
    if (vocab.raw()) note_lost_bytes(vocab);
}

// Whether texts start with BOS: as the file says, but Gemma 4's always do.
void read_add_bos(const GgufFile& file, Vocab& vocab) {
    constexpr const char* k_add_bos = "tokenizer.ggml.add_bos_token";
    vocab.add_bos = file.get_bool(k_add_bos, vocab.add_bos);
    if (vocab.add_bos || !vocab.raw()) return;
    vocab.add_bos = true;
    vocab.notices.push_back(std::string("the file asks for no BOS (") + k_add_bos +
                            "), without which Gemma 4's texts do not go: it is added");
}

}  // namespace

Vocab read_vocab(const GgufFile& file) {
    Vocab vocab;
    vocab.model = file.get_string("tokenizer.ggml.model");
    vocab.pre = file.get_string("tokenizer.ggml.pre", "");
    const std::vector<std::string_view>& tokens = file.get_strings("tokenizer.ggml.tokens");
    vocab.tokens.assign(tokens.begin(), tokens.end());
    vocab.types = read_types(file, vocab);

    const bool spm = vocab.model == "llama";
    if (spm) {
        vocab.scores = read_scores(file, vocab);
        vocab.add_bos = true;
    } else if (vocab.model == "gpt2" || vocab.model == "gemma4") {
        read_bpe(file, vocab);
    }
    read_add_bos(file, vocab);
    vocab.add_eos = file.get_bool("tokenizer.ggml.add_eos_token", false);
    constexpr const char* k_space = "tokenizer.ggml.add_space_prefix";
    vocab.add_space_prefix = file.get_bool(k_space, spm);
    if (spm && file.find(k_space) == nullptr) {
        vocab.notices.push_back(std::string("no key ") + k_space + ", true is assumed");
    }
    read_special(file, vocab);
    if (spm) note_unknown_bytes(file, vocab);
    // Phi-3's tokenizer has this rule, its files do not say so.
    std::string name(file.get_string("general.name", ""));
    for (char& c : name) c = char(std::tolower(uint8_t(c)));
    vocab.strip_after_special =
        name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
    return vocab;
}

}  // namespace rotkv
