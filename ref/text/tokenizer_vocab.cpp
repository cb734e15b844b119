// The vocabulary out of a GGUF file, with what llama.cpp assumes where the file is silent or wrong.
// Docs: docs/16-text.md

#include "ref/error.h"
#include "ref/text/tokenizer.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <sstream>

namespace rotkv {
namespace {

#define ROTKV_BAR "\xEF\xBD\x9C"    // U+FF5C, in DeepSeek's special tokens
#define ROTKV_SPACE "\xE2\x96\x81"  // U+2581

// Many files give a wrong type to tokens that end a turn or mark code to be filled in. llama.cpp
// knows them by their text and makes them control tokens, the latter unless a key of the file names
// a token for the task. So a text that spells one out is plain text.
struct ControlTexts {
    const char* texts;  ///< with spaces between
    const char* key = nullptr;
    const char* old_key = nullptr;
};
constexpr ControlTexts k_control_texts[] = {
    {"<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|calls|> <|flush|> <|eom_id|> <EOT> "
     "_<EOT> [EOT] [EOS] <end_of_turn> <end_of_utterance> <|end_of_text|> <|endoftext|> </s> "
     "<eos> <turn|> <|tool_response> [e~[ "
     "<" ROTKV_BAR "end" ROTKV_SPACE "of" ROTKV_SPACE "sentence" ROTKV_BAR ">"},
    {"<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> " ROTKV_SPACE
     "<PRE> <|code_prefix|> <|prefix|> <" ROTKV_BAR "fim" ROTKV_SPACE "begin" ROTKV_BAR ">",
     "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
    {"<|fim_suffix|> <fim-suffix> <fim_suffix> <SUF> " ROTKV_SPACE
     "<SUF> <|code_suffix|> <|suffix|> <" ROTKV_BAR "fim" ROTKV_SPACE "hole" ROTKV_BAR ">",
     "tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
    {"<|fim_middle|> <fim-middle> <fim_middle> <MID> " ROTKV_SPACE
     "<MID> <|code_middle|> <|middle|> <" ROTKV_BAR "fim" ROTKV_SPACE "end" ROTKV_BAR ">",
     "tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
    {"<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]", "tokenizer.ggml.fim_pad_token_id"},
    {"<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>", "tokenizer.ggml.fim_rep_token_id"},
    {"<|file_sep|>", "tokenizer.ggml.fim_sep_token_id"},
};

#undef ROTKV_BAR
#undef ROTKV_SPACE

void correct_types(const GgufFile& file, Vocab& vocab) {
    std::map<std::string, TokenType> type_of;
    for (const ControlTexts& row : k_control_texts) {
        if (row.key != nullptr && file.find(row.key) != nullptr) continue;
        if (row.old_key != nullptr && file.find(row.old_key) != nullptr) continue;
        std::istringstream texts(row.texts);
        for (std::string text; texts >> text;) type_of[text] = TokenType::control;
    }
    // gpt-oss: the marks of a message are part of its text, and with them its end.
    for (const char* text : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
        type_of[text] = TokenType::user_defined;
    }
    const auto has = [&](std::string_view text) {
        return std::find(vocab.tokens.begin(), vocab.tokens.end(), text) != vocab.tokens.end();
    };
    if ((has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>"))) {
        type_of["<|end|>"] = TokenType::user_defined;
    }
    for (size_t id = 0; id < vocab.tokens.size(); ++id) {
        const auto found = type_of.find(vocab.tokens[id]);
        if (found != type_of.end()) vocab.types[id] = found->second;
    }
}

// A special token's id: the file's if it is in the vocabulary, else the model's usual one, else -1.
int32_t special_id(const GgufFile& file, const char* key, int32_t usual, size_t n_vocab) {
    if (usual >= 0 && size_t(usual) >= n_vocab) usual = -1;
    if (file.find(key) == nullptr) return usual;
    const uint32_t id = file.get_u32(key);
    return id < n_vocab ? int32_t(id) : usual;
}

std::vector<TokenType> read_types(const GgufFile& file, size_t n_vocab) {
    if (file.find("tokenizer.ggml.token_type") == nullptr) {
        return std::vector<TokenType>(n_vocab, TokenType::normal);
    }
    std::vector<TokenType> types;
    for (const int32_t type : file.get_i32s("tokenizer.ggml.token_type")) {
        const bool known = type >= 0 && type <= int32_t(TokenType::byte);
        types.push_back(known ? TokenType(type) : TokenType::undefined);
    }
    return types;
}

}  // namespace

Vocab read_vocab(const GgufFile& file) {
    Vocab vocab;
    vocab.model = file.get_string("tokenizer.ggml.model");
    vocab.pre = file.get_string("tokenizer.ggml.pre", "");
    const std::vector<std::string_view>& tokens = file.get_strings("tokenizer.ggml.tokens");
    vocab.tokens.assign(tokens.begin(), tokens.end());
    vocab.types = read_types(file, tokens.size());
    if (vocab.types.size() == tokens.size()) correct_types(file, vocab);

    const bool spm = vocab.model == "llama";
    if (spm) {
        vocab.scores.assign(tokens.size(), 0.0f);
        if (file.find("tokenizer.ggml.scores") != nullptr) {
            vocab.scores = file.get_f32s("tokenizer.ggml.scores");
        }
        vocab.add_bos = true;
    } else if (vocab.model == "gpt2") {
        const std::vector<std::string_view>& merges = file.get_strings("tokenizer.ggml.merges");
        vocab.merges.assign(merges.begin(), merges.end());
        if (const PreType* type = find_pre_type(vocab.pre)) {
            vocab.ignore_merges = type->ignore_merges;
            vocab.add_bos = type->add_bos;
        }
    }
    vocab.add_bos = file.get_bool("tokenizer.ggml.add_bos_token", vocab.add_bos);
    vocab.add_eos = file.get_bool("tokenizer.ggml.add_eos_token", false);
    vocab.add_space_prefix = file.get_bool("tokenizer.ggml.add_space_prefix", spm);
    const auto id = [&](const char* key, int32_t usual) {
        return special_id(file, key, usual, tokens.size());
    };
    vocab.bos = id("tokenizer.ggml.bos_token_id", spm ? 1 : 11);
    vocab.eos = id("tokenizer.ggml.eos_token_id", spm ? 2 : 11);
    vocab.unk = id("tokenizer.ggml.unknown_token_id", spm ? 0 : -1);
    // Phi-3's tokenizer has this rule, its files do not say so.
    std::string name(file.get_string("general.name", ""));
    for (char& c : name) c = char(std::tolower(uint8_t(c)));
    vocab.strip_after_special =
        name.find("phi-3") != std::string::npos || name.find("phi3") != std::string::npos;
    return vocab;
}

}  // namespace rotkv
